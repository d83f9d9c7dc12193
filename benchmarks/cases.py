"""The work that is timed. A case names its contestants and the float64 numbers that all of them must reproduce.

To add a case, write a function that returns a `Setup` and enter it with `case(...)` at the end of this file; the runner,
the tables and the JSON take it from there. A contestant prepares everything that a user would prepare once (arrays on
the peer's own device and in its own type, compiled functions), so that what is timed is one call to its end.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
Array = Any
Run = Callable[[], Any]


@dataclass(frozen=True)
class Contestant:
    """One way to do a case's work.

    peer: "jitgrad", "JAX", "PyTorch" or "micrograd"; how: the formulation, since a peer may enter with several
    make: prepares, and answers a function that does the work once, to the end
    numbers: the work's result as arrays in the order of `Setup.expected`
    """

    peer: str
    how: str
    make: Callable[[], Run]
    numbers: Callable[[Any], list[Array]]


@dataclass(frozen=True)
class Setup:
    """A case made concrete.

    expected: float64 arrays, computed without jitgrad; tolerance: of each array, relative to its largest element
    flops, bytes: of one run at the least, for the fraction of the machine's limits; None where that says nothing
    """

    contestants: tuple[Contestant, ...]
    expected: tuple[Array, ...]
    tolerance: float
    flops: float | None = None
    bytes: float | None = None


@dataclass(frozen=True)
class Case:
    """name: for the command line; title: for the tables; n: examples a run; headline: shown in the README."""

    name: str
    title: str
    n: int
    setup: Callable[[], Setup]
    headline: bool


CASES: dict[str, Case] = {}


def case(name: str, title: str, n: int, setup: Callable[[], Setup], headline: bool = True) -> None:
    """Enter a case."""
    CASES[name] = Case(name, title, n, setup, headline)


def arrays(*results: Any) -> list[Array]:
    """Results of jitgrad or JAX: a number or an array each."""
    return [np.asarray(r, np.float64) for r in results]


@cache
def torch() -> Any:
    """PyTorch, told to use the cores that the others may use too."""
    import torch as module
    module.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return module


def done(result: Any) -> Any:
    """Wait for JAX."""
    import jax
    return jax.block_until_ready(result)


SMALL, WIDE, WIDER = (2, 16, 16, 1), (16, 64, 64, 1), (256, 256, 256, 1)


# A multilayer perceptron with hinge loss: the mean over the batch and the gradient of every parameter.

def mlp_parameters(sizes: tuple[int, ...]) -> dict[str, Array]:
    """Layer k: W{k} (outputs, inputs) and b{k} (outputs,), float32."""
    rng = np.random.default_rng(0)
    params: dict[str, Array] = {}
    for k, (inputs, outputs) in enumerate(pairwise(sizes), 1):
        params[f"W{k}"] = (rng.uniform(-1, 1, (outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)
        params[f"b{k}"] = rng.uniform(-0.1, 0.1, outputs).astype(np.float32)
    return params


def mlp_data(sizes: tuple[int, ...], n: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, sizes[0])).astype(np.float32), np.where(rng.random(n) < 0.5, -1, 1).astype(np.float32)


def mlp_in_float64(params: dict[str, Array], x: Array, y: Array) -> list[Array]:
    """Value and gradients by NumPy, in the order of `params`."""
    wide = {name: p.astype(np.float64) for name, p in params.items()}
    depth, inputs = len(params) // 2, [x.astype(np.float64)]
    for k in range(1, depth + 1):
        z = inputs[-1] @ wide[f"W{k}"].T + wide[f"b{k}"]
        inputs.append(np.maximum(z, 0) if k < depth else z)
    margin = 1 - y * inputs[-1][:, 0]
    delta = (np.where(margin > 0, -y, 0.0) / len(y))[:, None]
    grads: dict[str, Array] = {}
    for k in range(depth, 0, -1):
        grads[f"W{k}"], grads[f"b{k}"] = delta.T @ inputs[k - 1], delta.sum(axis=0)
        delta = (delta @ wide[f"W{k}"]) * (inputs[k - 1] > 0)
    return [np.maximum(margin, 0).mean(), *(grads[name] for name in params)]


def mlp(sizes: tuple[int, ...], n: int, with_micrograd: bool = False) -> Setup:
    params, (x, y) = mlp_parameters(sizes), mlp_data(sizes, n)
    depth = len(sizes) - 1

    def by_name(result: Any) -> list[Array]:
        value, grads = result
        return arrays(value, *(grads[name] for name in params))

    def jitgrad() -> Run:
        import jitgrad as jg

        def objective(p: dict[str, Any], x: Any, y: Any) -> Any:
            for k in range(1, depth):
                x = jg.relu(p[f"W{k}"] @ x + p[f"b{k}"])
            return jg.losses.hinge((p[f"W{depth}"] @ x + p[f"b{depth}"])[0], y)
        step = jg.value_and_grad(objective)
        return lambda: step(params, x, y)

    def jax_form(example_by_example: bool) -> Callable[[], Run]:
        def make() -> Run:
            import jax
            import jax.numpy as jnp

            def score(p: dict[str, Any], x: Any) -> Any:
                for k in range(1, depth + 1):
                    x = x @ p[f"W{k}"].T + p[f"b{k}"]
                    x = jax.nn.relu(x) if k < depth else x
                return x[..., 0]

            def loss(p: dict[str, Any], x: Any, y: Any) -> Any:
                scores = jax.vmap(score, (None, 0))(p, x) if example_by_example else score(p, x)
                return jnp.mean(jax.nn.relu(1 - y * scores))
            step = jax.jit(jax.value_and_grad(loss))
            p, a, b = jax.tree.map(jnp.asarray, params), jnp.asarray(x), jnp.asarray(y)
            return lambda: done(step(p, a, b))
        return make

    def pytorch() -> Run:
        t = torch()
        p = {name: t.tensor(value, requires_grad=True) for name, value in params.items()}
        a, b = t.tensor(x), t.tensor(y)
        linear = t.nn.functional.linear

        def step() -> Any:
            h = a
            for k in range(1, depth):
                h = t.relu(linear(h, p[f"W{k}"], p[f"b{k}"]))
            loss = t.relu(1 - b * linear(h, p[f"W{depth}"], p[f"b{depth}"])[:, 0]).mean()
            return loss.detach(), dict(zip(p, t.autograd.grad(loss, list(p.values())), strict=True))
        return step

    contestants = [
        Contestant("jitgrad", "value_and_grad", jitgrad, by_name),
        Contestant("JAX", "jit, batched", jax_form(False), by_name),
        Contestant("JAX", "jit(vmap)", jax_form(True), by_name),
        Contestant("PyTorch", "eager, batched", pytorch, by_name),
    ]
    if with_micrograd:
        contestants.append(scalar_mlp("micrograd", "micrograd.nn", sizes, n))
    weights = sum(p.size for name, p in params.items() if name[0] == "W")
    return Setup(tuple(contestants), tuple(mlp_in_float64(params, x, y)), 2e-4, flops=6.0 * weights * n)


def scalar_mlp(peer: str, module: str, sizes: tuple[int, ...], n: int, recorded: bool = False) -> Contestant:
    """The same network and loss in micrograd's own words; only the import differs between the two that can run it.

    recorded: the loss is built once and given to jg.compile; a run replays it and its gradient.
    """
    params, (x, y) = mlp_parameters(sizes), mlp_data(sizes, n)

    def make() -> Run:
        nn = __import__(module, fromlist=["MLP"])
        random.seed(0)
        model = nn.MLP(sizes[0], list(sizes[1:]))
        for k, layer in enumerate(model.layers, 1):
            for neuron, row, b in zip(layer.neurons, params[f"W{k}"].tolist(), params[f"b{k}"].tolist(), strict=True):
                neuron.b.data = b
                for w, data in zip(neuron.w, row, strict=True):
                    w.data = data
        inputs, labels = x.tolist(), y.tolist()

        def forward() -> Any:
            scores = [model(xi) for xi in inputs]
            return sum((1 + -yi * s).relu() for yi, s in zip(labels, scores, strict=True)) * (1.0 / len(labels))

        def step() -> Any:
            loss = forward()
            model.zero_grad()
            loss.backward()
            return loss, model
        if not recorded:
            return step
        import jitgrad as jg
        loss = forward()
        program = jg.compile(loss, wrt=model.parameters())

        def replay() -> Any:
            program.backward()
            return loss, model
        return replay

    def numbers(result: Any) -> list[Array]:
        loss, model = result
        found = [np.array(loss.data)]
        for layer in model.layers:
            found += [np.array([[w.grad for w in neuron.w] for neuron in layer.neurons], np.float64),
                      np.array([neuron.b.grad for neuron in layer.neurons], np.float64)]
        return found
    return Contestant(peer, "compile(loss)" if recorded else "a scalar at a time", make, numbers)


def micrograd_script(recorded: bool) -> Setup:
    expected = mlp_in_float64(mlp_parameters(SMALL), *mlp_data(SMALL, 100))
    return Setup((scalar_mlp("jitgrad", "jitgrad.nn", SMALL, 100, recorded),
                  scalar_mlp("micrograd", "micrograd.nn", SMALL, 100)), tuple(expected), 1e-6)


# Elementwise losses: the sum over the batch, and the derivative by each prediction.

def elementwise(kind: str, n: int) -> Setup:
    rng = np.random.default_rng(2)
    a = rng.normal(size=n).astype(np.float32)
    b = rng.normal(size=n).astype(np.float32) if kind == "mse" else (rng.random(n) < 0.5).astype(np.float32)
    z, y = a.astype(np.float64), b.astype(np.float64)
    if kind == "mse":
        expected = (np.sum((z - y)**2), 2 * (z - y))
    else:
        expected = (np.sum(np.logaddexp(0, z) - y * z), 1 / (1 + np.exp(-z)) - y)

    def jitgrad() -> Run:
        import jitgrad as jg
        loss = jg.losses.mse if kind == "mse" else jg.losses.binary_cross_entropy
        step = jg.value_and_grad(lambda p, t: loss(p, t), in_axes=(0, 0), reduce="sum")
        return lambda: step(a, b)

    def jax_form(how: str) -> Callable[[], Run]:
        def make() -> Run:
            import jax
            import jax.numpy as jnp
            forms: dict[str, Callable[[Any, Any], Any]] = {
                "jit": lambda p, t: (p - t)**2,
                "jit, softplus": lambda z, y: y * jax.nn.softplus(-z) + (1 - y) * jax.nn.softplus(z),
                "jit, log1p": lambda z, y: jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z))),
            }
            step = jax.jit(jax.value_and_grad(lambda p, t: jnp.sum(forms[how](p, t))))
            p, t = jnp.asarray(a), jnp.asarray(b)
            return lambda: done(step(p, t))
        return make

    def pytorch() -> Run:
        t = torch()
        f = t.nn.functional
        loss = f.mse_loss if kind == "mse" else f.binary_cross_entropy_with_logits
        p, target = t.tensor(a, requires_grad=True), t.tensor(b)

        def step() -> Any:
            value = loss(p, target, reduction="sum")
            return value.detach(), *t.autograd.grad(value, [p])
        return step
    forms = ["jit"] if kind == "mse" else ["jit, softplus", "jit, log1p"]
    return Setup((Contestant("jitgrad", "value_and_grad", jitgrad, lambda r: arrays(*r)),
                  *(Contestant("JAX", how, jax_form(how), lambda r: arrays(*r)) for how in forms),
                  Contestant("PyTorch", "nn.functional", pytorch, lambda r: arrays(*r))),
                 expected, 1e-5, bytes=12.0 * n)


# Black & Scholes 1973: the price of a European call, and its derivatives by all five arguments, for each option.

def black_scholes_in_float64(s: Array, k: Array, t: Array, r: Array, v: Array) -> list[Array]:
    from scipy.special import ndtr
    root = np.sqrt(t)
    d1 = (np.log(s / k) + (r + v * v / 2) * t) / (v * root)
    d2 = d1 - v * root
    density, discount = np.exp(-d1 * d1 / 2) / np.sqrt(2 * np.pi), np.exp(-r * t)
    return [s * ndtr(d1) - k * discount * ndtr(d2), ndtr(d1), -discount * ndtr(d2),
            s * density * v / (2 * root) + r * k * discount * ndtr(d2), k * t * discount * ndtr(d2), s * density * root]


def black_scholes(n: int) -> Setup:
    rng = np.random.default_rng(3)
    limits = ((80, 120), (80, 120), (0.1, 2.0), (0.0, 0.05), (0.1, 0.5))
    data = [rng.uniform(low, high, n).astype(np.float32) for low, high in limits]

    def price_by(m: Any, erf: Callable[[Any], Any]) -> Callable[..., Any]:
        def price(s: Any, k: Any, t: Any, r: Any, v: Any) -> Any:
            d1 = (m.log(s / k) + (r + 0.5 * v * v) * t) / (v * m.sqrt(t))
            d2 = d1 - v * m.sqrt(t)

            def normal(d: Any) -> Any:
                return 0.5 * (1 + erf(d * 0.7071067811865476))
            return s * normal(d1) - k * m.exp(-r * t) * normal(d2)
        return price

    def jitgrad() -> Run:
        import jitgrad as jg
        step = jg.value_and_grad(price_by(jg, jg.erf), argnums=(0, 1, 2, 3, 4), in_axes=0, reduce=None)
        return lambda: step(*data)

    def jax_form(example_by_example: bool) -> Callable[[], Run]:
        def make() -> Run:
            import jax
            import jax.numpy as jnp
            price, five = price_by(jnp, jax.lax.erf), (0, 1, 2, 3, 4)
            if example_by_example:
                step = jax.jit(jax.vmap(jax.value_and_grad(price, five)))
            else:
                def total(*args: Any) -> Any:
                    prices = price(*args)
                    return prices.sum(), prices
                both = jax.value_and_grad(total, five, has_aux=True)

                def batched(*args: Any) -> Any:
                    (_, prices), grads = both(*args)
                    return prices, grads
                step = jax.jit(batched)
            given = [jnp.asarray(d) for d in data]
            return lambda: done(step(*given))
        return make

    def pytorch() -> Run:
        t = torch()
        price, given = price_by(t, t.erf), [t.tensor(d, requires_grad=True) for d in data]

        def step() -> Any:
            prices = price(*given)
            return prices.detach(), t.autograd.grad(prices.sum(), given)
        return step

    def numbers(result: Any) -> list[Array]:
        prices, grads = result
        return arrays(prices, *grads)
    return Setup((Contestant("jitgrad", "value_and_grad, reduce=None", jitgrad, numbers),
                  Contestant("JAX", "jit(vmap)", jax_form(True), numbers),
                  Contestant("JAX", "jit, batched", jax_form(False), numbers),
                  Contestant("PyTorch", "eager, batched", pytorch, numbers)),
                 tuple(black_scholes_in_float64(*(d.astype(np.float64) for d in data))), 2e-5, bytes=44.0 * n)


# Compilation: a long formula, from the Python function to its first result.

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


def compilation(operations: int, gradient: bool) -> Setup:
    data = list(np.random.default_rng(5).uniform(-1, 1, (8, 1_000)).astype(np.float32))
    plain, wide, every = straight_line(np, operations), [x.astype(np.float64) for x in data], tuple(range(8))
    expected = [plain(*wide)]
    if gradient:
        step = 1e-30                                      # the complex step: a derivative without cancellation
        expected += [np.imag(plain(*(x + 1j * step * (k == j) for j, x in enumerate(wide)))) / step for k in every]

    def jitgrad() -> Run:
        import jitgrad as jg

        def run() -> Any:
            function = straight_line(jg, operations)
            with tempfile.TemporaryDirectory(prefix="jitgrad-benchmarks-") as empty:
                os.environ["JITGRAD_CACHE_DIR"] = empty
                if gradient:
                    return jg.value_and_grad(function, every, in_axes=0, reduce=None)(*data)
                return jg.jit(function, in_axes=0, reduce=None)(*data)
        return run

    def jax_form(example_by_example: bool) -> Callable[[], Run]:
        def make() -> Run:
            import jax
            import jax.numpy as jnp
            given = [jnp.asarray(x) for x in data]

            def run() -> Any:
                function = straight_line(jnp, operations)
                if example_by_example:
                    return done(jax.jit(jax.vmap(jax.value_and_grad(function, every) if gradient else function))(*given))
                if not gradient:
                    return done(jax.jit(function)(*given))

                def total(*x: Any) -> Any:
                    values = function(*x)
                    return values.sum(), values
                (_, values), grads = done(jax.jit(jax.value_and_grad(total, every, has_aux=True))(*given))
                return values, grads
            return run
        return make

    def numbers(result: Any) -> list[Array]:
        return arrays(result[0], *result[1]) if gradient else arrays(result)
    return Setup((Contestant("jitgrad", "first call", jitgrad, numbers),
                  Contestant("JAX", "jit, batched, first call", jax_form(False), numbers),
                  Contestant("JAX", "jit(vmap), first call", jax_form(True), numbers)), tuple(expected), 1e-3)


# A whole process: start Python, import, write down a small network, get the first gradient, exit.

COLD = {
    "jitgrad": """
import numpy as np, jitgrad as jg
x, w = np.linspace(-1, 1, 200, dtype=np.float32).reshape(100, 2), np.full((16, 2), 0.5, np.float32)
def loss(w, x): return np.sum(jg.tanh(w @ x)) ** 2
value, grad = jg.value_and_grad(loss)(w, x)
""",
    "JAX": """
import numpy as np, jax, jax.numpy as jnp
x, w = np.linspace(-1, 1, 200, dtype=np.float32).reshape(100, 2), np.full((16, 2), 0.5, np.float32)
def loss(w, x): return jnp.sum(jnp.tanh(w @ x)) ** 2
value, grad = jax.jit(jax.value_and_grad(lambda w: jnp.mean(jax.vmap(loss, (None, 0))(w, x))))(w)
""",
    "PyTorch": """
import numpy as np, torch
x, w = np.linspace(-1, 1, 200, dtype=np.float32).reshape(100, 2), np.full((16, 2), 0.5, np.float32)
x, w = torch.tensor(x), torch.tensor(w, requires_grad=True)
value = (torch.tanh(x @ w.T).sum(1) ** 2).mean()
grad, value = torch.autograd.grad(value, [w])[0], value.detach()
""",
}


def python(code: str, caches: str) -> str:
    """What a new interpreter prints, the checkout on its path, its compilers' caches in the folder `caches`."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    variables = {"PYTHONPATH": path, "JITGRAD_CACHE_DIR": f"{caches}/jitgrad", "NUMBA_CACHE_DIR": f"{caches}/numba",
                 "JAX_COMPILATION_CACHE_DIR": f"{caches}/jax", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                 "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def process(code: str, filled: bool) -> Callable[[], Run]:
    """Run `code` in new processes: each with empty caches, or all with those that the first one filled."""
    def make() -> Run:
        kept = tempfile.TemporaryDirectory(prefix="jitgrad-benchmarks-")

        def run() -> str:
            if filled:
                return python(code, kept.name)
            with tempfile.TemporaryDirectory(prefix="jitgrad-benchmarks-") as empty:
                return python(code, empty)
        return run
    return make


def printed(text: str) -> list[Array]:
    return [np.array(text.split(), np.float64)]


def cold_start(filled: bool) -> Setup:
    x = np.linspace(-1, 1, 200, dtype=np.float32).reshape(100, 2).astype(np.float64)
    t = np.tanh(x @ np.full((16, 2), 0.5).T)
    value = np.mean(t.sum(axis=1)**2)
    grad = np.einsum("n,nk,nj->kj", 2 * t.sum(axis=1), 1 - t * t, x) / len(x)
    show = "print(float(value), *np.asarray(grad).ravel())"
    how = "a new process, caches filled" if filled else "a new process, caches empty"
    return Setup(tuple(Contestant(peer, how, process(code + show, filled), printed) for peer, code in COLD.items()),
                 (np.array([value, *grad.ravel()]),), 2e-5)


def importing() -> Setup:
    modules = {"jitgrad": "jitgrad", "JAX": "jax, jax.numpy", "PyTorch": "torch", "micrograd": "micrograd.engine"}
    return Setup(tuple(Contestant(peer, "a new process", process(f"import {names}; print(1)", True), printed)
                       for peer, names in modules.items()), (np.ones(1),), 0.0)


# Entered in the order in which the tables show them.

case("micrograd-script/100", "micrograd's own code, only the import changed, N = 100", 100,
     lambda: micrograd_script(False))
case("micrograd-replay/100", "the same loss recorded once by `jg.compile`, replayed", 100, lambda: micrograd_script(True))
case("mlp-2-16-16-1/100", "2-16-16-1 MLP, hinge, loss and gradient, N = 100", 100,
     lambda: mlp(SMALL, 100, with_micrograd=True))
case("mlp-2-16-16-1/10k", "2-16-16-1 MLP, hinge, loss and gradient, N = 10,000", 10_000, lambda: mlp(SMALL, 10_000))
case("mlp-2-16-16-1/1M", "2-16-16-1 MLP, hinge, loss and gradient, N = 1,000,000", 1_000_000,
     lambda: mlp(SMALL, 1_000_000))
case("mlp-16-64-64-1/10k", "16-64-64-1 MLP, hinge, loss and gradient, N = 10,000", 10_000, lambda: mlp(WIDE, 10_000))
case("mlp-256-256-256-1/10k", "256-256-256-1 MLP, hinge, loss and gradient, N = 10,000", 10_000,
     lambda: mlp(WIDER, 10_000))
case("mse/1M", "squared error and its gradient by each of 1,000,000 predictions", 1_000_000,
     lambda: elementwise("mse", 1_000_000))
case("bce/1M", "binary cross-entropy and its gradient by each of 1,000,000 logits", 1_000_000,
     lambda: elementwise("bce", 1_000_000))
case("black-scholes/1M", "Black-Scholes price and five derivatives of 1,000,000 options", 1_000_000,
     lambda: black_scholes(1_000_000))
case("compile-1000", "first call of a function of 1,000 operations", 1_000, lambda: compilation(1_000, False))
case("compile-300-grad", "first call of value and gradient of 300 operations", 1_000, lambda: compilation(300, True))
case("cold-start/empty", "process start to first gradient, nothing cached", 100, lambda: cold_start(False))
case("cold-start/filled", "process start to first gradient, compiled code cached on disk", 100, lambda: cold_start(True))
case("import", "process that only imports", 1, importing, headline=False)
