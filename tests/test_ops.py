"""Every operation of the table, on every backend: generated from OPS, so that a new paragraph is tested by being there."""

from __future__ import annotations

import itertools
import math
import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest
from referees import BACKENDS, DIFFERENCES, EMULATED, FLOAT32, FLOAT64, OURS, assert_close, assert_same_bits, bits, forced

import jitgrad as jg
from jitgrad.compiler.ops import OPS, Corner, Op
from jitgrad.value import Value, apply, derivative, reference

INF, NAN = math.inf, math.nan
N = 61  # prime: no vector width divides it
TABLE = [op for op in OPS.values() if op.arity or op.variadic]
DIFFERENTIABLE = [op for op in TABLE if op.vjp is not None]
FIXED = [op for op in TABLE if not op.variadic]
SPECIAL = (0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -3.0, 1e300, -1e300, INF, -INF, NAN)
Result = tuple[Any, Any]  # values (n,), gradients (n, width) or None

every = pytest.mark.parametrize("op", TABLE, ids=lambda op: op.name)
every_differentiable = pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)


def width(op: Op) -> int:
    """How many numbers the tests give an operation: a list operation gets a list of three."""
    return op.arity + 3 * op.variadic


def sample(op: Op) -> Any:
    """Points (N, width) inside the operation's domain, the domain's ends among them."""
    random = np.random.default_rng(zlib.crc32(op.name.encode()))
    columns = []
    for k in range(width(op)):
        low, high = op.inside[min(k, len(op.inside) - 1)]
        column = random.uniform(low, high, N)
        column[:2] = random.permutation([low, high])
        if k in op.conditions:
            column = random.integers(0, 2, N).astype(float)
        elif op.variadic and k < op.arity:
            column = random.integers(-1, 4, N).astype(float)  # a place in a list of three, or outside it
        columns.append(column)
    return np.stack(columns, axis=1)


WEIGHTS = {op.name: np.random.default_rng(k).uniform(0.5, 2.0, N) for k, op in enumerate(DIFFERENTIABLE)}
POINTS = {op.name: sample(op) for op in TABLE}


def run(backend: str, points: dict[str, Any], weights: dict[str, Any] | None = None,
        dtype: type = np.float64) -> dict[str, Result]:
    """All operations named in `points`, each at its own points (n, width), in one program for values and gradients."""
    points = {name: p.astype(dtype) for name, p in points.items()}
    scales = {} if weights is None else {name: w.astype(dtype) for name, w in weights.items() if name in points}

    def values(points: Any) -> Any:
        return {name: apply(OPS[name], *row) for name, row in points.items()}

    def total(points: Any, scales: Any) -> Any:
        terms = [(scales[name] * made if name in scales else made) for name, made in values(points).items()]
        return sum(terms[1:], terms[0])

    smooth = {name: p for name, p in points.items() if OPS[name].vjp is not None}
    with forced(backend) as device:
        found = jg.jit(values, in_axes=0, reduce=None, device=device)(points)
        grads = jg.grad(total, in_axes=0, reduce=None, device=device)(smooth, scales) if smooth else {}
    assert all(v.dtype == dtype for v in found.values())
    assert all(g.dtype == dtype for g in grads.values())
    return {name: (found[name], grads.get(name)) for name in points}


def eagerly(op: Op, row: Any, weight: float = 1.0) -> Result:
    """(value, gradient) from micrograd-style Values, by the public function where the kernels have a list operation."""
    numbers = [float(x) for x in row]
    if op.name == "take":
        if not 0 <= numbers[0] < len(numbers) - 1:
            return NAN, [0.0] * len(numbers)  # an error there, tested in test_errors.py
        leaves = [Value(x) for x in numbers[1:]]
        made, head = jg.take(leaves, int(numbers[0])), [0.0]
    elif op.name == "sum":
        leaves, head = [Value(x) for x in numbers], []
        made = sum(leaves[1:], leaves[0])
    else:
        leaves, head = [Value(x) for x in numbers], []
        made = apply(op, *leaves)
    value = made.data
    if op.vjp is not None:
        (made * weight).backward()
    return value, head + [leaf.grad for leaf in leaves]


@cache
def sampled(backend: str, dtype: type = np.float64) -> dict[str, Result]:
    return run(backend, POINTS, WEIGHTS, dtype)


# Inside the domain.


@every
@pytest.mark.parametrize("backend", [*BACKENDS, *EMULATED])
def test_value_and_gradient_are_the_eager_ones(op: Op, backend: str) -> None:
    values, grads = sampled(backend)[op.name]
    weights = WEIGHTS.get(op.name, np.ones(N))
    expected = [eagerly(op, row, w) for row, w in zip(POINTS[op.name], weights, strict=True)]
    assert_close(values, [v for v, _ in expected], FLOAT64, f"{op.name} on {backend}")
    if op.vjp is not None:
        assert_close(grads, [g for _, g in expected], FLOAT64, f"derivative of {op.name} on {backend}")


@every
@pytest.mark.parametrize("backend", [*BACKENDS, *EMULATED])
def test_float32_is_near_float64(op: Op, backend: str) -> None:
    rounded = POINTS[op.name].astype(np.float32).astype(np.float64)
    weights = WEIGHTS.get(op.name, np.ones(N)).astype(np.float32).astype(np.float64)
    values, grads = sampled(backend, np.float32)[op.name]
    expected = [eagerly(op, row, w) for row, w in zip(rounded, weights, strict=True)]
    assert_close(values, [v for v, _ in expected], FLOAT32, f"{op.name} on {backend}")
    if op.vjp is not None:
        assert_close(grads, [g for _, g in expected], FLOAT32, f"derivative of {op.name} on {backend}")


@pytest.mark.parametrize("op", [op for op in DIFFERENTIABLE if op.smooth and not op.variadic], ids=lambda op: op.name)
def test_the_derivative_is_the_slope(op: Op) -> None:
    """Against central differences of the reference value: no library's derivative is asked."""
    function, step = reference(op), np.finfo(float).eps ** (1 / 3)
    for row in POINTS[op.name]:
        _, grads = eagerly(op, row)
        for k in range(op.arity):
            if k in op.conditions:
                assert grads[k] == 0
                continue
            up, down = row.copy(), row.copy()
            up[k], down[k] = up[k] + step, down[k] - step
            slope = (function(*up.tolist()) - function(*down.tolist())) / (up[k] - down[k])
            assert_close(grads[k], slope, DIFFERENCES, f"derivative {k} of {op.name} at {row.tolist()}")


@every
@pytest.mark.parametrize("backend", OURS)
def test_the_answer_is_the_same_bits_at_any_place_of_a_batch(op: Op, backend: str) -> None:
    """A vector's tail, and the scalar loop after it, compute what the vector does."""
    values, grads = run(backend, {op.name: np.repeat(POINTS[op.name][5:6], N, axis=0)})[op.name]
    assert_same_bits(values, values[0])
    if grads is not None:
        assert_same_bits(grads, grads[:1])


# Exact promises.


def corners(op: Op) -> tuple[Corner, ...]:
    return tuple(c for c in op.corners if len(c.args) == width(op))


CORNERS = {op.name: np.array([c.args for c in corners(op)]) for op in TABLE if corners(op)}
promised = pytest.mark.parametrize("op", [OPS[name] for name in CORNERS], ids=lambda op: op.name)


@cache
def at_corners(backend: str, dtype: type) -> dict[str, Result]:
    """Every corner of every operation in one program, each a row of its own: a batch of three equal examples."""
    points = {name: np.broadcast_to(a, (3, *a.shape)).astype(dtype) for name, a in CORNERS.items()}

    def values(points: Any) -> Any:
        return {name: [apply(OPS[name], *row) for row in rows] for name, rows in points.items()}

    def total(points: Any) -> Any:
        terms = [made for rows in values(points).values() for made in rows]
        return sum(terms[1:], terms[0])

    smooth = {name: p for name, p in points.items() if OPS[name].vjp is not None}
    with forced(backend) as device:
        found = jg.jit(values, in_axes=0, reduce=None, device=device)(points)
        grads = jg.grad(total, in_axes=0, reduce=None, device=device)(smooth)
    for g in grads.values():
        assert_same_bits(g[1:], g[:1])
    return {name: ([float(v[0]) for v in found[name]], grads[name][0] if name in grads else None) for name in points}


def broken(corner: Corner, value: float, grad: Any, zero: float = -0.0) -> str:
    """How an answer breaks a promise, or nothing. `zero`: what a gradient was added to (-0.0 changes nothing)."""
    if bits(value) != bits(corner.value):
        return f"value at {corner.args} is {value!r}, not {corner.value!r} ({corner.why})\n"
    if corner.grad is not None and [bits(g) for g in grad] != [bits(g + zero) for g in corner.grad]:
        return f"gradient at {corner.args} is {[float(g) for g in grad]}, not {list(corner.grad)} ({corner.why})\n"
    return ""


def representable(corner: Corner) -> bool:
    with np.errstate(over="ignore"):
        return all(bits(float(np.float32(x))) == bits(x) for x in (*corner.args, corner.value, *(corner.grad or ())))


@promised
def test_corners_eagerly(op: Op) -> None:
    story = ""
    for c in corners(op):
        story += broken(c, *eagerly(op, c.args), zero=0)
        if op.vjp is not None and not op.variadic:  # before a Value adds it to 0, which takes the sign off a zero
            story += broken(c, reference(op)(*c.args), derivative(op)(1.0, reference(op)(*c.args), *c.args))
    assert not story, story


@promised
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("backend", [*OURS, *EMULATED])
def test_corners_in_kernels(op: Op, backend: str, dtype: type) -> None:
    values, grads = at_corners(backend, dtype)[op.name]
    rows = grads if grads is not None else [None] * len(values)
    story = "".join(broken(c, v, g) for c, v, g in zip(corners(op), values, rows, strict=True)
                    if dtype is np.float64 or representable(c))
    assert not story, story


@promised
def test_corners_in_jax(op: Op) -> None:
    values, grads = at_corners("jax", np.float64)[op.name]
    rows = grads if grads is not None else [None] * len(values)
    # JAX scatters an element's gradient into an array of zeros.
    story = "".join(broken(c, v, g, zero=0.0) for c, v, g in zip(corners(op), values, rows, strict=True) if c.jax)
    assert not story, story


def test_every_corner_has_a_place_in_the_tests() -> None:
    assert sum(map(len, CORNERS.values())) == sum(len(op.corners) for op in TABLE)
    assert not any(op.corners for op in OPS.values() if op not in TABLE)


# Everywhere else: outside the domain no backend raises, and all give the same kind of number.


@cache
def at_special(backend: str) -> tuple[dict[str, Any], dict[str, Result]]:
    found: dict[str, Result] = {}
    points = {}
    for arity in (1, 2, 3):
        grid = np.array(list(itertools.product(SPECIAL, repeat=arity)))
        if arity == 3:
            grid = grid[:: 7]
        group = {op.name: grid for op in FIXED if op.arity == arity}
        points |= group
        found |= run(backend, group)
    return points, found


def kinds(numbers: Any) -> Any:
    """NaN, an infinity's sign, or finite."""
    return np.where(np.isfinite(numbers), 0.0, np.asarray(numbers, float))


@pytest.mark.parametrize("op", FIXED, ids=lambda op: op.name)
@pytest.mark.parametrize("backend", [*BACKENDS, *EMULATED])
def test_special_values(op: Op, backend: str) -> None:
    points, found = at_special(backend)
    values, _ = found[op.name]
    expected = np.array([float(reference(op)(*row)) for row in points[op.name].tolist()])
    assert_same_bits(kinds(values), kinds(expected), None)
    finite = np.isfinite(expected)
    assert_close(values[finite], expected[finite], FLOAT64, f"{op.name} on {backend}")
    if not callable(op.spelling) and op.spelling.startswith("f") and op.name != "pow":
        assert_same_bits(values, expected)


@pytest.mark.parametrize("op", [op for op in DIFFERENTIABLE if not op.variadic], ids=lambda op: op.name)
@pytest.mark.parametrize("backend", [*OURS, *EMULATED])
def test_special_gradients(op: Op, backend: str) -> None:
    """The derivative rule means the same on Python numbers, on arrays and in machine code."""
    points, found = at_special(backend)
    expected = np.array([eagerly(op, row)[1] for row in points[op.name]], float)
    assert_same_bits(kinds(found[op.name][1]), kinds(expected))
    finite = np.isfinite(expected)
    assert_close(found[op.name][1][finite], expected[finite], FLOAT64, f"derivative of {op.name} on {backend}")


# What a paragraph must hold.


@every
def test_a_paragraph_is_whole(op: Op) -> None:
    assert OPS[op.name] is op
    assert op.doc
    assert op.result in ("real", "same", "bool")
    assert (op.vjp is None) == (op.result == "bool"), "conditions have no derivative, everything else has one"
    assert len(op.inside) == op.arity + op.variadic
    assert all(low < high for low, high in op.inside)
    for corner in op.corners:
        assert len(corner.args) == width(op), f"a corner with {len(corner.args)} arguments"
        assert corner.grad is None or len(corner.grad) == width(op)
        assert corner.why


@pytest.mark.parametrize("op", [op for op in FIXED if op.result != "bool"], ids=lambda op: op.name)
def test_the_public_function_is_the_operation(op: Op) -> None:
    function = getattr(jg, op.name) if op.name in dir(jg) else jg.functions.PUBLIC[op.name]
    rows = POINTS[op.name][:4]
    expected = [eagerly(op, row)[0] for row in rows]
    numbers = [function(*map(float, row)) for row in rows]
    assert not any(isinstance(x, Value) for x in numbers)
    assert_same_bits(numbers, expected)
    arrays = function(*rows.T)
    assert isinstance(arrays, np.ndarray)
    assert arrays.dtype != object
    assert_same_bits(arrays, expected)
    lists = function(*rows.T.tolist())
    assert isinstance(lists, list)
    assert_same_bits(lists, expected)
    values = function(*[[Value(x) for x in column] for column in rows.T.tolist()])
    assert_same_bits([v.data for v in values], expected)
    with pytest.raises(TypeError, match="argument"):
        function(*[1.0] * (op.arity + 1))
