"""Long formulas: what the first call costs, from the Python function to its first result, and what later calls do."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.case import Array, Case, Contestant, Run, Setup, arrays
from benchmarks.cases.formulas import per_example
from benchmarks.cases.networks import jax_step
from benchmarks.models import mlp
from benchmarks.peers import done, environment

JAX_LIMIT = 3_000                                  # XLA takes more than linear time
EXAMPLES = 1_000


@contextmanager
def empty_cache() -> Iterator[None]:
    """jitgrad's machine code is looked for in an empty folder."""
    with tempfile.TemporaryDirectory(prefix="jitgrad-benchmarks-") as folder, environment(JITGRAD_CACHE_DIR=folder):
        yield


def straight_line(m: Any, operations: int) -> Callable[..., Any]:
    """A chain of `operations` operations on eight inputs: + - * with one of them, every fourth a sin, cos or tanh."""
    choice = random.Random(4)
    plan = [(choice.choice(("sin", "cos", "tanh") if at % 4 == 3 else ("add", "sub", "mul")), choice.randrange(8))
            for at in range(operations)]

    def function(*x: Any) -> Any:
        newest = x[0]
        for name, k in plan:
            newest = (newest + x[k] if name == "add" else newest - x[k] if name == "sub"
                      else newest * x[k] if name == "mul" else getattr(m, name)(newest))
        return newest
    return function


def _inputs(n: int) -> list[Array]:
    return list(np.random.default_rng(5).uniform(-1, 1, (8, n)).astype(np.float32))


def _in_float64(data: list[Array], operations: int, gradient: bool) -> list[Array]:
    plain, wide = straight_line(np, operations), [x.astype(np.float64) for x in data]
    if not gradient:
        return [plain(*wide)]
    step = 1e-30                                   # the complex step: a derivative without cancellation
    slopes = [np.imag(plain(*(x + 1j * step * (k == j) for j, x in enumerate(wide)))) / step for k in range(8)]
    return [plain(*wide), *slopes]


def _jitgrad(operations: int, gradient: bool) -> Callable[..., Any]:
    import jitgrad as jg
    function = straight_line(jg, operations)
    if gradient:
        return jg.value_and_grad(function, tuple(range(8)), in_axes=0, reduce=None)
    return jg.jit(function, in_axes=0, reduce=None)


def _jax(operations: int, gradient: bool) -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp
    function = straight_line(jnp, operations)
    return per_example(function, tuple(range(8)), False) if gradient else jax.jit(function)


def compilation(operations: int, gradient: bool) -> Setup:
    data = _inputs(EXAMPLES)

    def jitgrad() -> Run:
        def run() -> Any:
            with empty_cache():
                return _jitgrad(operations, gradient)(*data)
        return run

    def jax() -> Run:
        import jax.numpy as jnp
        given = [jnp.asarray(x) for x in data]
        return lambda: done(_jax(operations, gradient)(*given))

    numbers = _numbers(gradient)
    contestants = [Contestant("jitgrad", "first call", jitgrad, numbers, fresh=True)]
    if operations <= JAX_LIMIT:
        contestants.append(Contestant("JAX", "jit, first call", jax, numbers, fresh=True))
    return Setup(tuple(contestants), tuple(_in_float64(data, operations, gradient)), 1e-3)


def _numbers(gradient: bool) -> Callable[[Any], list[Array]]:
    return (lambda result: arrays(result[0], *result[1])) if gradient else arrays


def running(operations: int, n: int = 10_000) -> Setup:
    data = _inputs(n)

    def jitgrad() -> Run:
        function = _jitgrad(operations, False)
        return lambda: function(*data)

    def jax() -> Run:
        import jax.numpy as jnp
        function, given = _jax(operations, False), [jnp.asarray(x) for x in data]
        return lambda: done(function(*given))
    contestants = [Contestant("jitgrad", "jit, reduce=None", jitgrad, arrays)]
    if operations <= JAX_LIMIT:
        contestants.append(Contestant("JAX", "jit", jax, arrays))
    return Setup(tuple(contestants), tuple(_in_float64(data, operations, False)), 1e-3, n, flops=float(operations) * n)


# A classifier of handwritten digits: 120,000 scalar operations for one example.

DIGITS = (784, 50, 10)


def by_matrices(p: Any, x: Any, y: Any) -> Any:
    import jitgrad as jg
    return jg.losses.cross_entropy(p["W2"] @ jg.relu(p["W1"] @ x + p["b1"]) + p["b2"], y)


def by_loops(p: Any, x: Any, y: Any) -> Any:
    import jitgrad as jg

    def layer(weights: Any, biases: Any, values: Any) -> list[Any]:
        return [sum((w * v for w, v in zip(row, values, strict=True)), b) for row, b in zip(weights, biases, strict=True)]
    return jg.losses.cross_entropy(layer(p["W2"], p["b2"], [z.relu() for z in layer(p["W1"], p["b1"], x)]), y)


def classifier(hidden: int, objective: Callable[..., Any]) -> Setup:
    sizes = (DIGITS[0], hidden, DIGITS[2])
    params, (x, y) = mlp.parameters(sizes), mlp.data(sizes, 32)

    def numbers(result: Any) -> list[Array]:
        value, grads = result
        return arrays(value, *(grads[name] for name in params))

    def jitgrad() -> Run:
        import jitgrad as jg

        def run() -> Any:
            with empty_cache():
                return jg.value_and_grad(lambda p, x, y: objective(p, x, y))(params, x, y)
        return run
    return Setup((Contestant("jitgrad", "first call", jitgrad, numbers, fresh=True),
                  Contestant("JAX", "jit, batched, first call", lambda: lambda: jax_step(params, x, y, False)(), numbers,
                             fresh=True)), tuple(mlp.in_float64(params, x, y)), 2e-4)


def cases() -> Iterator[Case]:
    lengths = (100, 1_000, 3_000, 10_000, 20_000)
    for count in lengths:
        yield Case(f"compile-{count}", f"first call of a formula of {count:,} operations", lambda k: compilation(k, False),
                   count, 30, headline=count == 1_000)
    yield Case("compile-300-grad", "first call of value and gradient of 300 operations", lambda k: compilation(k, True),
               300, 30)
    for count in lengths:
        yield Case(f"run-{count}", f"a formula of {count:,} operations, N = 10,000", running, count, 30)
    for form, text, objective in (("matrices", "W @ x", by_matrices), ("loops", "loops over scalars", by_loops)):
        yield Case(f"classifier/{form}", f"first call of a 784-50-10 digit classifier written with {text}, N = 32",
                   lambda hidden, objective=objective: classifier(hidden, objective), DIGITS[1], 2,
                   headline=form == "matrices")
