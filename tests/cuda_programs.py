"""Programs that the CUDA tests compile, simulate and measure: one for each kind of kernel."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import numpy as np

import jitgrad as jg
from jitgrad import losses
from jitgrad.compiler.graph import OPS, Graph
from jitgrad.compiler.program import Leaf, Program

Array = Any


def network(sizes: tuple[int, ...], loss: Callable[[Any, Any], Any], dtype: Any) -> tuple[Any, dict[str, Array]]:
    """A ReLU network with `loss` on its outputs, and parameters for it."""
    rng = np.random.default_rng(0)
    layers = list(enumerate(pairwise(sizes)))
    params = {f"W{k}": (rng.normal(size=(b, a)) / np.sqrt(a)).astype(dtype) for k, (a, b) in layers}
    params |= {f"b{k}": rng.normal(size=b).astype(dtype) for k, (_, b) in layers}

    def objective(p: Any, x: Any, y: Any) -> Any:
        for k, _ in layers:
            x = p[f"W{k}"] @ x + p[f"b{k}"]
            if k < len(layers) - 1:
                x = jg.relu(x)
        return loss(x, y)
    return objective, params


def program(fun: Callable[..., Any], *args: Any, **options: Any) -> Program:
    """What the transforms make of a function; the first axis of every argument but the first is the batch."""
    options = {"argnums": 0, "device": "interpret"} | options
    return jg.value_and_grad(fun, **options).lower(*args).program


def mlp(sizes: tuple[int, ...], dtype: Any, **options: Any) -> Program:
    fun, params = network(sizes, lambda out, y: losses.hinge(out[0], y), dtype)
    return program(fun, params, np.ones((2, sizes[0]), dtype), np.ones(2, dtype), **options)


def _linear(loss: Callable[[Any, Any], Any], dtype: Any) -> Program:
    return program(lambda w, x, y: loss(w[:-1] @ x + w[-1], y), np.ones(4, dtype), np.ones((2, 3), dtype),
                   np.ones(2, dtype))


def _digits(dtype: Any) -> Program:
    fun, params = network((64, 32, 10), losses.cross_entropy, dtype)
    return program(fun, params, np.ones((2, 64), dtype), np.ones(2, int))


def _attention(dtype: Any) -> Program:
    """Three tokens of two numbers that attend to each other: products of numbers that both differ between examples."""
    def loss(p: Any, x: Any) -> Any:
        q, k = ([p[row] @ x[2 * t:2 * t + 2] for t in range(3) for row in rows] for rows in ((slice(0, 2),), (slice(2, 4),)))
        scores = [jg.exp(a @ b) for a in q for b in k]
        return sum(score * x[t % 6] for t, score in enumerate(scores)) / sum(scores)
    return program(loss, np.ones((4, 2), dtype), np.ones((2, 6), dtype))


def _divergence(z: Any, t: Any) -> Any:
    """Kullback and Leibler's, of softmax(t) and softmax(z)."""
    of_z, of_t = z - jg.logsumexp(z), t - jg.logsumexp(t)
    return sum(jg.exp(of_t) * (of_t - of_z))


def _smoothed(z: Any, y: Any) -> Any:
    """Cross-entropy with smoothed labels (Szegedy et al. 2016)."""
    powers = z - jg.logsumexp(z)
    return -0.9 * jg.take(powers, y) - 0.1 / len(z) * np.sum(powers)


def _normalised(p: Any, x: Any, y: Any) -> Any:
    """Logistic loss of a layer norm (Ba et al. 2016)."""
    centred = x - np.sum(x) / len(x)
    deviation = jg.sqrt(np.sum(centred * centred) / len(x) + 1e-5)
    return losses.binary_cross_entropy(sum(p["w"] * (centred / deviation) + p["b"]), y)


def _rows(fun: Callable[..., Any], count: int, label: bool, **options: Any) -> Callable[[Any, int], Program]:
    """A loss of `count` rows an example, and of a class or not, as a program of dtype and width."""
    def made(t: Any, width: int) -> Program:
        args = [np.ones((2, width), t)] * count + [np.ones(2, int)] * label
        return program(fun, *args, **{"in_axes": (0,) * len(args), "reduce": "sum"} | options)
    return made


def _forward(fun: Callable[..., Any], t: Any, width: int) -> Program:
    return jg.jit(fun, in_axes=0, reduce=None, device="interpret").lower(np.ones((2, width), t)).program


# Losses of whole rows: what an example's lanes share.
ROWS: dict[str, Callable[[Any, int], Program]] = {
    "cross_entropy": _rows(losses.cross_entropy, 1, True),
    "cross_entropy an example": _rows(losses.cross_entropy, 1, True, reduce=None),
    "mean cross_entropy": _rows(losses.cross_entropy, 1, True, reduce="mean"),
    "smoothed": _rows(_smoothed, 1, True),
    "divergence": _rows(_divergence, 2, False, argnums=(0, 1)),
    "cosine": _rows(lambda a, b: (a @ b) / jg.sqrt((a @ a) * (b @ b)), 2, False, argnums=(0, 1), reduce=None),
    "margins": _rows(lambda z, y: sum(jg.relu(z - jg.take(z, y) + 1.0)), 1, True),
    "probabilities": _rows(lambda z, t: sum((jg.softmax(z) - t)**2), 2, False),
    "smallest": _rows(lambda z, t: sum(jg.exp(jg.stop_gradient(reduce(jg.minimum, z)) - z) * t), 2, False),
    "bias": lambda t, w: program(lambda b, z, y: losses.cross_entropy(z + b, y), np.ones(w, t), np.ones((2, w), t),
                                 np.ones(2, int)),
    "logistic": lambda t, w: program(lambda p, x, y: losses.binary_cross_entropy(p["w"] @ x + p["b"], y),
                                     {"w": np.ones(w, t), "b": t.type(0)}, np.ones((2, w), t), np.ones(2, t)),
    "bias last": lambda t, w: program(lambda p, x, y: losses.hinge(p[:-1] @ x + p[-1], y), np.ones(w + 1, t),
                                      np.ones((2, w), t), np.ones(2, t)),
    "bias first": lambda t, w: program(lambda p, x, y: losses.huber(p[1:] @ x + p[0], y), np.ones(w + 1, t),
                                       np.ones((2, w), t), np.ones(2, t)),
    "layer norm": lambda t, w: program(_normalised, {"w": np.ones(w, t), "b": np.ones(w, t)}, np.ones((2, w), t),
                                       np.ones(2, t)),
    "mean": _rows(lambda z: np.sum(z) / len(z), 1, False),
    "forward": lambda t, w: _forward(lambda z: [jg.logsumexp(z), *jg.softmax(z)], t, w),
}

PROGRAMS: dict[str, Callable[[Any], Program]] = {
    # A derivative an example: 12 bytes in and out, and hardly any arithmetic.
    "elementwise": lambda t: program(losses.mse, np.ones(2, t), np.ones(2, t), in_axes=(0, 0), reduce="sum"),
    "mse": lambda t: _linear(losses.mse, t),
    "hinge": lambda t: _linear(losses.hinge, t),
    "binary_cross_entropy": lambda t: _linear(losses.binary_cross_entropy, t),
    "huber": lambda t: _linear(losses.huber, t),
    "cross_entropy": lambda t: program(lambda w, x, y: losses.cross_entropy(w @ x, y), np.ones((10, 4), t),
                                       np.ones((2, 4), t), np.ones(2, int)),
    # Many numbers alive at once: where the registers end.
    "wide_softmax": lambda t: program(lambda w, x, y: losses.cross_entropy(w @ x, y), np.ones((10, 44), t),
                                      np.ones((2, 44), t), np.ones(2, int)),
    "mlp_2_16_16_1": lambda t: mlp((2, 16, 16, 1), t),
    "tape_64_32_10": _digits,
    "attention": _attention,
    # Weights that are used at every step: their gradients are sums of several outer products.
    "recurrent": lambda t: program(lambda w, x: sum((w @ (w @ (w @ x)))**2), np.ones((4, 4), t), np.ones((2, 4), t)),
    "per_example": lambda t: mlp((2, 4, 3, 1), t, reduce=None),
    # One parameter set an example: nothing is shared, and the gradient has rows.
    "batched_parameters": lambda t: program(
        lambda p, x, y: losses.mse(p[0] * jg.exp(p[1] * x) + p[2], y), np.ones((2, 3), t), np.ones(2, t), np.ones(2, t),
        in_axes=(0, 0, 0)),
    "without_a_batch": lambda t: program(lambda p: p[0] * p[0] + p[1], np.ones(2, t)),
    "rows_cross_entropy_1024": lambda t: ROWS["cross_entropy"](t, 1024),
    "rows_cross_entropy_1000": lambda t: ROWS["cross_entropy"](t, 1000),
    "rows_cross_entropy_32000": lambda t: ROWS["cross_entropy"](t, 32_000),
    "rows_divergence_512": lambda t: ROWS["divergence"](t, 512),
    "rows_logistic_256": lambda t: ROWS["logistic"](t, 256),
}


def every_operation(dtype: Any) -> Program:
    """One example through every operation of the table, its arguments batched; a result an operation."""
    graph = Graph()
    widest = max(op.arity for op in OPS.values()) + 2
    inputs = [graph.input(k) for k in range(widest)]
    leaf = Leaf("x", (widest,), False, "real", 0)
    ops = [op for op in OPS.values() if op.arity or op.variadic]
    index = graph.add(OPS["where"], graph.add(OPS["lt"], inputs[0], 0.0), 0.0, 1.0)
    results = [graph.add(op, *(index if op.name == "take" and k == 0 else x
                               for k, x in enumerate(inputs[:op.arity + 2 * op.variadic]))) for op in ops]
    values = [graph.add(OPS["where"], r, 1.0, 0.0) if r.kind == "bool" else r for r in results]
    return Program(graph, [leaf], values, [], [], True, dtype)


def rows_at_their_corners(dtype: str) -> tuple[Program, Array, Array]:
    """Cross-entropy of nine rows: infinite and huge logits, NaN, a row of equals, and labels that are none."""
    made = ROWS["cross_entropy an example"](np.dtype(dtype), 70)
    z = np.random.default_rng(0).normal(size=(9, 70)).astype(dtype)
    z[0, 69], z[1, 3], z[2, 5], z[3] = np.inf, -np.inf, np.nan, 1e4
    z[4], z[5] = -1e4, 0.0
    z[5, ::2] = -0.0
    y = np.array([69, 3, 0, 1, 2, 3, 70, -1, 69], dtype)[:, None]
    return made, z, y


def batch_for(made: Program, n: int, seed: int = 0) -> tuple[Array, list[Array]]:
    """Random shared numbers and batched leaves for a program; whole numbers 0 and 1 where a label may be asked for."""
    rng = np.random.default_rng(seed)
    shared = (0.5 * rng.normal(size=made.shared_size)).astype(made.dtype)
    batched = []
    for leaf in made.batched:
        labels = leaf.path == "y" or leaf.kind == "int"
        drawn = rng.integers(0, 2, (n, leaf.width)) if labels else rng.normal(size=(n, leaf.width))
        batched.append(drawn.astype(made.dtype))
    return shared, batched


@st.composite
def row_losses(draw: Any) -> Callable[..., Any]:
    """A loss of two rows in a handful of steps, each of what was made before: on rows, on numbers, from one to the other."""
    steps = draw(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 5), st.integers(0, 5)),
                          min_size=2, max_size=6))

    def loss(a: Any, b: Any, y: Any) -> Any:
        rows, numbers = [a, b], [np.sum(a) / len(a)]
        for name, j, k in steps:
            row, other, number = rows[j % len(rows)], rows[k % len(rows)], numbers[k % len(numbers)]
            made = STEPS[name](row, other, number, y)
            (rows if isinstance(made, np.ndarray) else numbers).append(made)
        return np.sum(rows[-1]) + sum(numbers)
    return loss


STEPS: dict[str, Callable[..., Any]] = {
    "together": lambda row, other, number, y: row - 0.5 * other,
    "product": lambda row, other, number, y: 0.1 * row * other,
    "shifted": lambda row, other, number, y: jg.tanh(row + number),
    "chosen": lambda row, other, number, y: np.array([jg.where(a < b, a, jg.sin(number))
                                                      for a, b in zip(row, other, strict=True)]),
    "sum": lambda row, other, number, y: np.sum(row * other) / len(row),
    "largest": lambda row, other, number, y: jg.stop_gradient(reduce(jg.maximum, row)),
    "smallest": lambda row, other, number, y: jg.stop_gradient(reduce(jg.minimum, other)) * number,
    "element": lambda row, other, number, y: jg.take(row, y),
    "number": lambda row, other, number, y: jg.cos(number),
}
