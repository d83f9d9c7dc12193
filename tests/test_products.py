"""Sums of products on the CPU's tape interpreter: whatever is found to be a dense layer computes what the tape says."""

from __future__ import annotations

import functools
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from referees import assert_trees_close, forced

import jitgrad as jg
from jitgrad.compiler import products
from jitgrad.compiler.program import Program

# The same products and sums in another association or with one rounding less: a few ulp of the largest term.
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-4}
SIZES = (1, 7, 64, 131, 1031)                               # below, at and beyond a vector, a tile and a chunk


def arguments(n: int, wide: int, dtype: type) -> tuple[Any, Any]:
    draw = np.random.default_rng(n)
    params = {"W": draw.normal(size=(wide, 5)), "V": draw.normal(size=(wide, wide)), "b": draw.normal(size=wide), "s": 0.6}
    data = {"x": draw.normal(size=(n, 5)), "m": draw.normal(size=(n, wide, 5)), "y": draw.normal(size=n)}
    return ({k: np.asarray(v, dtype)[()] for k, v in params.items()}, {k: v.astype(dtype) for k, v in data.items()})


def layer(p: Any, d: Any) -> Any:
    return np.sum(jg.tanh(p["V"] @ jg.relu(p["W"] @ d["x"] + p["b"])))


PROGRAMS: dict[str, Callable[[Any, Any], Any]] = {
    "layers": layer,
    "factors on the other side": lambda p, d: np.sum(jg.tanh(d["x"] @ p["W"].T)) * p["s"],
    "the bias first": lambda p, d: sum(jg.tanh(sum((w * x for w, x in zip(row, d["x"], strict=True)), b))
                                       for row, b in zip(p["W"], p["b"], strict=True)),
    "the bias in the middle": lambda p, d: jg.tanh(p["W"][0, 0] * d["x"][0] + p["b"][0] + p["W"][0, 1] * d["x"][1]
                                                   + p["W"][0, 2] * d["x"][2]),
    "weights of each example": lambda p, d: np.sum(jg.tanh(d["m"] @ d["x"])) * p["s"] + np.sum(d["m"] @ p["W"][0]),
    "mixed": lambda p, d: jg.tanh(p["W"][0] @ d["x"] + d["m"][0] @ d["x"] + d["m"][0] @ p["W"][0]) * p["s"],
    "squares": lambda p, d: d["x"] @ d["x"] * p["s"] + p["W"][0] @ p["W"][0] + np.sum((p["W"] @ d["x"]) ** 2),
    "a product read twice": lambda p, d: jg.tanh(sum(q := list(p["W"][0] * d["x"]))) + jg.sin(q[0]) * q[1],
    "one list of x, many blocks": lambda p, d: np.sum(
        np.concatenate([p["W"], p["W"] * 2.0, p["V"][:, :1] * p["W"]]) @ d["x"]),
    "reversed and repeated x": lambda p, d: jg.tanh(p["W"][0] @ d["x"][::-1] + p["W"][0] @ d["x"]) + p["W"][0] @ np.array(
        [d["x"][0]] * 5),
    "a convolution": lambda p, d: sum(jg.tanh(p["W"][0, 0] * d["x"][k] + p["W"][0, 1] * d["x"][k + 1]
                                              + p["W"][0, 2] * d["x"][k + 2]) for k in range(3)),
    "constants": lambda p, d: 2.0 * d["x"][0] + 3.0 * d["x"][1] + 0.5 * d["x"][2] + p["s"] * d["x"][3] + 1.0 * d["y"],
    "mostly plain terms": lambda p, d: jg.tanh(d["x"][0] + d["x"][1] + p["s"] * d["x"][2] + d["x"][3] + d["y"]) * p["s"],
    "conditions": lambda p, d: jg.tanh((d["x"][0] < d["x"][1]) * p["s"] + (d["x"][2] < 0.0) * d["x"][3]
                                       + p["W"][0] @ d["x"]),
    "an outer product": lambda p, d: np.sum(np.outer(p["b"], d["x"]) * d["m"]),
    "attention": lambda p, d: jg.softmax(d["m"] @ d["x"]) @ (p["V"] @ p["b"]) + jg.softmax(d["m"] @ p["W"][0]) @ p["b"],
    "a layer at every step": lambda p, d: sum(np.sum(jg.tanh(p["W"] @ step)) for step in d["m"]),
    "a recurrence": lambda p, d: functools.reduce(lambda h, step: jg.tanh(p["V"] @ h + p["W"] @ step + p["b"]), d["m"],
                                                  p["b"]) @ p["b"],
    "a weight twice at one step and once at another": lambda p, d: sum(
        jg.tanh(p["W"][0, 0] * x + p["W"][0, 1] * x * x) for x in d["x"]) + p["W"][0] @ d["x"],
    "nothing but a product": lambda p, d: p["s"] * d["y"],
}


def run(function: Any, args: Any, backend: str, **options: Any) -> Any:
    with forced(backend) as device:
        return jg.value_and_grad(function, device=device, **options)(*args)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", PROGRAMS)
def test_products_and_their_sums(name: str, dtype: type) -> None:
    for n in SIZES:
        for wide in (1, 3, 4, 9) if n == 131 else (5,):
            args = arguments(n, wide, dtype)
            found, expected = (run(PROGRAMS[name], args, b) for b in ("cpu-tape", "interpret"))
            assert_trees_close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("name", PROGRAMS)
def test_per_example_results_and_batched_parameters(name: str) -> None:
    params, data = arguments(37, 4, np.float64)
    options: list[tuple[Any, dict[str, Any]]] = [
        ((params, data), {"reduce": None}),
        ((params, data), {"argnums": (0, 1), "in_axes": (None, 0), "reduce": "sum"}),
        (({**params, "W": np.random.default_rng(1).normal(size=(4, 5, 37))}, data),
         {"in_axes": ({"W": 2, "V": None, "b": None, "s": None}, 0), "reduce": "sum"})]
    for args, chosen in options:
        found, expected = (run(PROGRAMS[name], args, b, **chosen) for b in ("cpu-tape", "interpret"))
        assert_trees_close(found, expected, TOLERANCE[np.float64])


@pytest.mark.parametrize("seed", range(20))
def test_random_sums_of_products(seed: int) -> None:
    """Products and sums in any order over shared and batched numbers, some read again, some returned."""
    def function(p: Any, d: Any) -> Any:
        draw = random.Random(seed)
        pool = [*p["W"].flat, *p["b"], p["s"], *d["x"], *d["m"].flat, 1.0, -2.5]
        for _ in range(12):
            terms = []
            for _ in range(draw.randrange(1, 9)):
                a, b = draw.choice(pool), draw.choice(pool)
                terms.append(a * b if draw.random() < 0.8 else a)
            pool += [jg.tanh(sum(terms)), *draw.sample(terms, 1)] if draw.random() < 0.8 else [sum(terms) * 0.1]
        return sum(jg.tanh(v) for v in pool[-6:] if isinstance(v, jg.Value)) + 0.0 * p["s"]

    for n in (1, 70):
        args = arguments(n, 3, np.float64)
        for reduce in ("sum", None):
            found, expected = (run(function, args, b, reduce=reduce) for b in ("cpu-tape", "interpret"))
            assert_trees_close(found, expected, TOLERANCE[np.float64])


def test_weights_used_at_every_step_are_rows_of_products() -> None:
    """A gradient that sums over steps and batch is added up in one go: no step's sum is stored, or made one by one."""
    params, data = arguments(3, 8, np.float64)
    program: Program = jg.value_and_grad(PROGRAMS["a recurrence"], device="interpret").lower(params, data).program
    tape, _ = program.rolled
    tables = products.tabulate(tape, program.reduced_rows, np.zeros(0, np.int32))
    blocks = Counter((rows, n) for rows, n, _ in tables.reductions if rows)
    assert blocks[4, 5] == 2 * 8, "W: at each step two blocks of four rows of five"
    assert blocks[4, 8] == 2 * 8, "V"
    assert not [line for line in tables.lines if line[0] == products.PAIR]


@pytest.mark.parametrize("n", [1, 70])
def test_tables_read_at_every_step(n: int) -> None:
    """Embeddings: rows that nobody reads have a gradient of exactly 0, also where another's is not finite."""
    draw = np.random.default_rng(2)
    params = {"E": draw.normal(size=(7, 5)), "W": draw.normal(size=(4, 5))}
    data = {"k": draw.integers(0, 6, (n, 3)), "y": draw.integers(0, 4, (n, 3))}

    def loss(p: Any, d: Any) -> Any:
        return sum(jg.losses.cross_entropy(p["W"] @ row, y) for row, y in zip(jg.take(p["E"], d["k"]), d["y"], strict=True))

    found, expected = (run(loss, (params, data), b) for b in ("cpu-tape", "interpret"))
    assert_trees_close(found, expected, TOLERANCE[np.float64])
    assert_trees_close(found, run(loss, (params, data), "jax"), TOLERANCE[np.float64])
    params["E"][0, 0] = np.inf
    data["k"][0, 0] = 0
    with np.errstate(invalid="ignore"):
        value, grads = run(loss, (params, data), "cpu-tape")
    assert np.isnan(value)
    np.testing.assert_array_equal(grads["E"][6], np.zeros(5))
    assert np.isnan(grads["E"][0]).any()
    program: Program = jg.value_and_grad(loss, device="interpret").lower(params, data).program
    compared = sum(i.hi - i.lo for i in program.rolled[0].instructions if i.op.name == "eq")
    assert compared <= 3 * 7 + 3 * 4 + 3 * 4, "a step's index is compared with each row once, not once for each column"


# Reads of a table of 40 rows by one or several of three indices k; y is 0, 0.5, 1, …
TABLES: dict[str, Callable[[Any, Any], Any]] = {
    "embeddings": lambda p, d: sum(np.sum(jg.take(p["E"], k) ** 2) * d["y"] for k in d["k"]),
    "two": lambda p, d: np.sum((jg.take(p["E"], d["k"][0]) - jg.take(p["E"], d["k"][1])) ** 2),
    "read and multiplied": lambda p, d: jg.losses.cross_entropy(
        p["E"] @ jg.tanh(jg.take(p["E"], d["k"][0]) + jg.take(p["E"], d["k"][1])), d["k"][2]),
    "twice the same": lambda p, d: jg.take(p["s"], d["k"][0]) * (d["y"] + jg.take(p["s"], d["k"][0])),
    "by cotangents of one": lambda p, d: sum(jg.take(p["s"], k) for k in d["k"]),
    "read otherwise too": lambda p, d: jg.take(p["s"], d["k"][0]) * p["s"][3] + p["s"][5] * d["y"] + jg.take(p["s"], 7),
    "an index made of it": lambda p, d: jg.take(p["s"], jg.where(d["k"][0] > 20, d["k"][0], 0) + 1 * (d["k"][0] < 3)),
    "a column": lambda p, d: jg.take(p["E"][:, 1], d["k"][0]) * d["y"],
    "a table of results": lambda p, d: jg.take(jg.tanh(p["s"]), d["k"][0]) * d["y"],
    "by hand": lambda p, d: sum(jg.where(d["y"] == r, p["s"][r], 0.0) for r in range(40)),
    "by hand, few of many": lambda p, d: sum(jg.where(d["k"][0] == r * 1000, p["s"][r], 0.0) for r in range(40)),
    "far apart": lambda p, d: jg.where(d["k"][0] == 10.0**9, 1.0, 0.0) + jg.take(p["s"], d["k"][0]),
}
SCATTERED = [name for name in TABLES if name not in ("a table of results", "by hand, few of many")]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", TABLES)
def test_tables_read_by_an_index(name: str, dtype: type) -> None:
    for n in (1, 7, 131, 1031):
        draw = np.random.default_rng(n)
        params = {"E": draw.normal(size=(40, 3)).astype(dtype), "s": draw.normal(size=40).astype(dtype)}
        data = {"k": draw.integers(0, 40, (n, 3)), "y": (draw.integers(0, 80, n) / 2).astype(dtype)}
        for reduce in ("mean", "sum", None):
            found, expected = (run(TABLES[name], (params, data), b, reduce=reduce) for b in ("cpu-tape", "interpret"))
            assert_trees_close(found, expected, TOLERANCE[dtype])
    program: Program = jg.value_and_grad(TABLES[name], device="interpret").lower(params, data).program
    tape, outputs = program.rolled
    tables = products.tabulate(tape, program.reduced_rows, np.zeros(0, np.int32))
    assert any(rows == -1 for rows, _, _ in tables.reductions) == (name in SCATTERED)
    per_example = products.tabulate(tape, program.reduced_rows[:1], np.concatenate(outputs[1:]))
    assert not any(rows == -1 for rows, _, _ in per_example.reductions), "where each example has a row there is no sum"


def test_a_table_is_not_written_out_as_a_straight_line() -> None:
    """200 by 4 is 1,839 operations, of which the interpreter does 40."""
    def loss(p: Any, k: Any) -> Any:
        return jg.tanh(jg.take(p["E"], k)) @ p["w"]

    for rows, fused in ((5, True), (200, False)):
        kernel = jg.grad(loss, device="cpu").lower({"E": np.ones((rows, 4)), "w": np.ones(4)}, np.arange(3)).kernel
        assert kernel.plan.fused == fused
    per_example = jg.grad(loss, device="cpu", reduce=None).lower({"E": np.ones((200, 4)), "w": np.ones(4)}, np.arange(3))
    assert per_example.kernel.plan.fused


def test_a_large_table_costs_an_example_what_a_small_one_does() -> None:
    def loss(p: Any, k: Any) -> Any:
        return np.sum(jg.tanh(jg.take(p, k)) ** 2)

    sizes = []
    for rows in (50, 500):
        program: Program = jg.value_and_grad(loss, device="interpret").lower(np.ones((rows, 8)), np.arange(3)).program
        tables = products.tabulate(program.rolled[0], program.reduced_rows, np.zeros(0, np.int32))
        sizes.append((tables.v_size, [(line[0], line[2] - line[1]) for line in tables.lines]))
    assert sizes[0] == sizes[1]


def test_nan_and_infinity_pass_through_dense_layers() -> None:
    """A zero weight times infinity is NaN; lanes beside it are untouched."""
    params, data = arguments(70, 4, np.float64)
    params["W"][1, 2] = 0.0
    data["x"][3, 2], data["x"][68, 0] = np.inf, np.nan
    found, expected = (run(layer, (params, data), b, reduce=None) for b in ("cpu-tape", "interpret"))
    assert_trees_close(found, expected, TOLERANCE[np.float64])
    assert np.isnan(found[0][[3, 68]]).all()
    assert np.isfinite(np.delete(found[0], [3, 68])).all()


def test_layers_are_found() -> None:
    """What the tests above call dense is made of dense blocks: products are not stored."""
    params, data = arguments(3, 8, np.float64)
    program: Program = jg.value_and_grad(layer, device="interpret").lower(params, data).program
    tape, _ = program.rolled
    tables = products.tabulate(tape, program.reduced_rows, np.zeros(0, np.int32))
    multiplications = sum(i.hi - i.lo for i in tape.instructions if i.op.name == "mul" and not i.uniform)
    dense = [line for line in tables.lines if line[0] == products.DOT]
    assert {hi - lo for _, lo, hi, _, _ in dense} == {4}, "blocks of four neurons"
    assert multiplications > 200
    assert tables.v_size + tables.w_size < tape.size - 150


# The same classifier, written in different ways; W lies as (out, in), or for `x @ W` as (in, out).


def by_loops(params: Any, x: Any, y: Any) -> Any:
    for k, (weights, biases) in enumerate(params):
        outputs = []
        for row, bias in zip(weights, biases, strict=True):
            total = bias
            for weight, number in zip(row, x, strict=True):
                total = total + weight * number
            outputs.append(total)
        x = outputs if k == len(params) - 1 else [jg.relu(v) for v in outputs]
    return jg.losses.cross_entropy(x, y)


def by_sums(params: Any, x: Any, y: Any) -> Any:
    for k, (weights, biases) in enumerate(params):
        x = [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weights, biases, strict=True)]
        x = x if k == len(params) - 1 else [v.relu() for v in x]
    return jg.losses.cross_entropy(x, y)


def by_matrices(params: Any, x: Any, y: Any) -> Any:
    for k, (weights, biases) in enumerate(params):
        x = weights @ x + biases
        x = x if k == len(params) - 1 else jg.relu(x)
    return jg.losses.cross_entropy(x, y)


def by_transposed_matrices(params: Any, x: Any, y: Any) -> Any:
    for k, (weights, biases) in enumerate(params):
        x = x @ weights + biases
        x = x if k == len(params) - 1 else jg.relu(x)
    return jg.losses.cross_entropy(x, y)


SIZES_OF_LAYERS = (30, 12, 8)


def classifier_arguments(n: int) -> tuple[Any, ...]:
    draw = np.random.default_rng(0)
    params = [(draw.normal(size=(o, i)) / i, draw.normal(size=o)) for i, o in itertools.pairwise(SIZES_OF_LAYERS)]
    return params, draw.normal(size=(n, SIZES_OF_LAYERS[0])), draw.integers(0, SIZES_OF_LAYERS[-1], n)


def shape_of_program(function: Any, args: Any) -> tuple[int, list[Any], list[Any]]:
    """Rows of the tape; its instructions; the blocks of dense layers and weight gradients that the CPU runs."""
    program: Program = jg.value_and_grad(function, device="interpret").lower(*args).program
    tape, _ = program.rolled
    tables = products.tabulate(tape, program.reduced_rows, np.zeros(0, np.int32))
    instructions = [(i.op.name, i.hi - i.lo, i.uniform) for i in tape.instructions]
    blocks = [("dense", hi - lo, length) for kind, lo, hi, _, length in tables.lines if kind == products.DOT]
    blocks += [("gradient", rows, n) for rows, n, _ in tables.reductions]
    return tape.size, instructions, sorted(blocks)


def test_loops_and_matrix_products_are_one_program() -> None:
    args = classifier_arguments(5)
    size, instructions, blocks = shape_of_program(by_matrices, args)
    assert shape_of_program(by_loops, args) == (size, instructions, blocks)
    assert len(instructions) < 50
    assert Counter(kind for kind, rows, _ in blocks if rows == 4)["dense"] == (12 + 8 + 12) // 4, "layers and delta"
    assert Counter(kind for kind, rows, _ in blocks if rows == 4)["gradient"] == (12 + 8) // 4

    zero_first, its_instructions, its_blocks = shape_of_program(by_sums, args)
    assert (zero_first, its_instructions) == (size, instructions), "sum() begins with 0, which is a constant the loss has"
    assert [b[:2] for b in its_blocks] == [b[:2] for b in blocks]

    turned = [(w.T.copy(), b) for w, b in args[0]], *args[1:]
    found, others, its_blocks = shape_of_program(by_transposed_matrices, turned)
    assert (found, others) == (size, instructions)
    assert {rows for kind, rows, _ in its_blocks if kind == "dense"} == {4}
    assert Counter(rows for kind, rows, _ in its_blocks if kind == "gradient")[1] <= 2, "rows of W are blocks of four too"


@pytest.mark.parametrize("n", [1, 70])
def test_loops_and_matrix_products_agree(n: int) -> None:
    args = classifier_arguments(n)
    expected = run(by_matrices, args, "interpret")
    for function in (by_loops, by_sums, by_matrices):
        assert_trees_close(run(function, args, "cpu-tape"), expected, TOLERANCE[np.float64])
    turned = [(w.T.copy(), b) for w, b in args[0]], *args[1:]
    value, grads = run(by_transposed_matrices, turned, "cpu-tape")
    assert_trees_close((value, [(w.T, b) for w, b in grads]), expected, TOLERANCE[np.float64])


def test_parameters_may_be_lists_of_lists_of_numbers() -> None:
    params, x, y = classifier_arguments(9)
    value, grads = run(by_loops, ([(w.tolist(), b.tolist()) for w, b in params], x, y), "cpu-tape")
    expected = run(by_loops, (params, x, y), "cpu-tape")
    assert_trees_close((value, [(np.array(w), np.array(b)) for w, b in grads]), expected, 0.0)
