"""Random scalar losses out of all operations: value and every gradient within 1e-10 of JAX's own differentiation."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from referees import FLOAT64, OURS, assert_trees_close, forced

import jitgrad as jg
from jitgrad.backends.cpu import CpuKernel
from jitgrad.compiler.ops import OPS

N = 7


def bounded(x: Any) -> Any:
    """A number within (-2, 2), however large x became."""
    return 2.0 * jg.tanh(0.5 * x)


# Each makes a number from up to three others, inside every operation's domain and smooth almost everywhere.
FORMS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "add": lambda a, b, c: a + b, "radd": lambda a, b, c: 0.5 + a, "sub": lambda a, b, c: a - b,
    "rsub": lambda a, b, c: 1.5 - a, "mul": lambda a, b, c: bounded(a) * b, "neg": lambda a, b, c: -a,
    "div": lambda a, b, c: a / (1.25 + jg.tanh(b)), "rdiv": lambda a, b, c: 1.0 / (2.0 + jg.sin(a)),
    "pow": lambda a, b, c: (0.3 + jg.sigmoid(a)) ** (2.0 * jg.tanh(b)), "square": lambda a, b, c: bounded(a) ** 2,
    "cube": lambda a, b, c: bounded(a) ** 3, "rpow": lambda a, b, c: 1.7 ** bounded(a),
    "reciprocal": lambda a, b, c: (2.0 + jg.cos(a)) ** -1, "relu": lambda a, b, c: jg.relu(a) + 0.1 * b,
    "method": lambda a, b, c: (a - 0.2).relu(), "abs": lambda a, b, c: abs(a), "sign": lambda a, b, c: jg.sign(a) * b,
    "maximum": lambda a, b, c: jg.maximum(a, b), "minimum": lambda a, b, c: jg.minimum(a, 0.3),
    "clip": lambda a, b, c: jg.clip(a, -0.5, b + 1.0), "stop": lambda a, b, c: a * jg.stop_gradient(bounded(b)),
    "exp": lambda a, b, c: jg.exp(bounded(a)), "log": lambda a, b, c: jg.log(0.2 + a * a),
    "log1p": lambda a, b, c: jg.log1p(jg.exp(bounded(a))), "sigmoid": lambda a, b, c: jg.sigmoid(a),
    "softplus": lambda a, b, c: jg.softplus(a), "tanh": lambda a, b, c: jg.tanh(a),
    "sqrt": lambda a, b, c: jg.sqrt(0.1 + a * a), "sin": lambda a, b, c: jg.sin(a), "cos": lambda a, b, c: jg.cos(a),
    "erf": lambda a, b, c: jg.erf(a), "lt": lambda a, b, c: jg.where(a < b, a, c),
    "le": lambda a, b, c: jg.where(a <= 0.1, 0.5, b), "and": lambda a, b, c: jg.where((a > b) & (b >= c), a, b * 0.5),
    "or": lambda a, b, c: jg.where((a > 1) | ~(b > c), b, c), "eq": lambda a, b, c: jg.where(a == b, 0.0, a),
    "ne": lambda a, b, c: jg.where(a != b, a, 0.0), "mask": lambda a, b, c: (a < b) * c,
    "logsumexp": lambda a, b, c: jg.logsumexp([a, b, c]), "softmax": lambda a, b, c: jg.softmax([a, b, c])[1],
    "sum": lambda a, b, c: a + b + c + a, "np.sum": lambda a, b, c: np.sum(np.array([a, b, c], object)),
    "mse": lambda a, b, c: jg.losses.mse(bounded(a), b), "huber": lambda a, b, c: jg.losses.huber(a, b, 0.7),
    "crossentropy": lambda a, b, c: jg.losses.cross_entropy([a, b, c], 1),
}


@dataclass(frozen=True)
class Case:
    """A loss of (params, shared, x, index), its arguments and how it is differentiated."""

    loss: Callable[..., Any]
    args: tuple[Any, ...]
    argnums: tuple[int, ...]
    in_axes: tuple[Any, ...]
    reduce: str | None


def case(draw: random.Random, size: int) -> Case:
    """A random case of `size` forms; the same draws give the same case."""
    numbers = np.random.default_rng(draw.randrange(2**31))
    rows, columns = draw.randrange(1, 4), draw.randrange(1, 4)
    params = {"W": numbers.normal(size=(rows, columns)), "b": numbers.normal(size=rows), "s": 0.7,
              "unused": numbers.normal(size=2)}
    shared = numbers.normal(size=3)
    data = [numbers.normal(size=(N, columns)), (numbers.normal(size=N), numbers.normal(size=(N, 2, 2)))]
    index = numbers.integers(0, rows + 2, size=N)
    seed = draw.randrange(2**31)

    def loss(params: Any, shared: Any, x: Any, index: Any) -> Any:
        again = random.Random(seed)
        hidden = params["W"] @ x[0] + params["b"]
        nodes = [*hidden, *shared, *params["b"], params["s"], *x[0], x[1][0], *x[1][1].flat, index * 0.5]
        nodes.append(jg.take([*hidden, nodes[0] * 2.0, nodes[-3]], index))
        for _ in range(size):
            form = FORMS[again.choice(names)]
            a, b, c = (again.choice(nodes[-25:] if again.random() < 0.7 else nodes) for _ in range(3))
            made = form(a, b, c)
            nodes.append(made)
        rest = [bounded(n) for n in nodes[-12:]]
        return sum(w * n for w, n in enumerate(rest, 1)) * 0.1

    names = list(FORMS)
    draw.shuffle(names)
    argnums = draw.choice([(0,), (0, 1), (0, 2), (2, 0), (1,), (0, 1, 2)])
    per_example = draw.random() < 0.25
    axes: list[Any] = [{"W": None, "b": None, "s": None, "unused": None}, None, [0, (0, -3)], 0]
    if per_example:                                     # a parameter set for each example
        params["b"] = numbers.normal(size=(rows, N))
        axes[0] = {**axes[0], "b": 1}
    return Case(loss, (params, shared, data, index), argnums, tuple(axes), draw.choice(["mean", "sum", None]))


def compare(one: Case, backend: str) -> None:
    def step(name: str) -> Any:
        with forced(name) as device:
            return jg.value_and_grad(one.loss, one.argnums, one.in_axes, one.reduce, device)(*one.args)

    found, expected = step(backend), step("jax")
    assert_trees_close(found, expected, FLOAT64)
    assert np.isfinite(found[0]).all()


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("seed", range(6))
def test_large_random_losses(seed: int, backend: str) -> None:
    one = case(random.Random(seed), 70)
    key = (seed,)
    if key not in REFEREED:
        REFEREED[key] = jg.value_and_grad(one.loss, one.argnums, one.in_axes, one.reduce, "jax")(*one.args)
    with forced(backend) as device:
        step = jg.value_and_grad(one.loss, one.argnums, one.in_axes, one.reduce, device)
        found = step(*one.args)
        kernel = step.lower(*one.args).kernel
    if isinstance(kernel, CpuKernel):
        assert kernel.plan.fused == (backend == "cpu")
    assert_trees_close(found, REFEREED[key], FLOAT64)
    gradients = [g for tree in found[1] for g in (tree.values() if isinstance(tree, dict) else [tree])
                 if isinstance(g, np.ndarray)]
    assert any(np.abs(g).max() > 1e-3 for g in gradients), "a loss that depends on nothing tests nothing"


REFEREED: dict[Any, Any] = {}


@pytest.mark.slow
@settings(max_examples=25)
@given(st.randoms(use_true_random=False), st.integers(1, 14))
def test_small_random_losses_interpreted(draw: random.Random, size: int) -> None:
    compare(case(draw, size), "interpret")


@pytest.mark.slow
@settings(max_examples=8)
@given(st.randoms(use_true_random=False), st.integers(1, 14))
def test_small_random_losses_on_the_tape_interpreter(draw: random.Random, size: int) -> None:
    compare(case(draw, size), "cpu-tape")


@pytest.mark.slow
@settings(max_examples=8)
@given(st.randoms(use_true_random=False), st.integers(1, 14))
def test_small_random_losses_compiled(draw: random.Random, size: int) -> None:
    compare(case(draw, size), "cpu")


@pytest.mark.parametrize("backend", OURS)
def test_every_form_on_its_own(backend: str) -> None:
    """Each form as a loss of its own, so that a wrong one is named; all in one program, differentiated per example."""
    numbers = np.random.default_rng(3)
    args = {name: numbers.normal(size=(N, 3)) for name in FORMS}

    def loss(args: Any) -> Any:
        made = [form(*args[name]) for name, form in FORMS.items()]
        return sum(made[1:], made[0])

    with forced(backend) as device:
        grads = jg.grad(loss, in_axes=0, reduce=None, device=device)(args)
    if "forms" not in REFEREED:
        REFEREED["forms"] = jg.grad(loss, in_axes=0, reduce=None, device="jax")(args)
    for name in FORMS:
        assert_trees_close({name: grads[name]}, {name: REFEREED["forms"][name]}, FLOAT64)


def test_the_forms_use_every_operation() -> None:
    """A new operation has to be put to random use as well, unless only its own tests can (a condition's `sign`)."""
    args = {name: np.random.default_rng(3).normal(size=(N, 3)) for name in FORMS}
    step = jg.jit(lambda args, k: [jg.take([1.0, 2.0], k), *(form(*args[name]) for name, form in FORMS.items())],
                  in_axes=0, reduce=None, device="interpret")
    used = {n.op.name for n in step.lower(args, np.zeros(N, int)).program.graph.nodes}
    assert set(OPS) - used <= {"sum"}, "`sum` is what the tape makes of chains of `+`"


@pytest.mark.parametrize("backend", OURS)
def test_float32_losses_are_near(backend: str) -> None:
    one = case(random.Random(11), 30)
    params, shared, (x, (y, z)), index = one.args
    def narrow(a: Any) -> Any:
        return np.asarray(a, np.float32)[()]
    args = ({k: narrow(v) for k, v in params.items()}, narrow(shared), [narrow(x), (narrow(y), narrow(z))], index)
    with forced(backend) as device:
        value, grads = jg.value_and_grad(one.loss, (0, 1), one.in_axes, "mean", device)(*args)
    expected, expected_grads = jg.value_and_grad(one.loss, (0, 1), one.in_axes, "mean", "interpret")(*one.args)
    assert value.dtype == np.float32
    assert all(np.asarray(g).dtype == np.float32 for g in (*grads[0].values(), grads[1]))
    assert_trees_close((value, grads), (expected, expected_grads), 1e-4)
