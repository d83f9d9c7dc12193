"""The transforms' contract: which arguments, which axes, which structures, shapes and dtypes come back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from referees import FLOAT32, FLOAT64, assert_close

import jitgrad as jg
from jitgrad import Value, errors

device = pytest.mark.parametrize("device", ["interpret", "cpu", "jax"])
compiled = pytest.mark.parametrize("device", ["interpret", "cpu"])
RANDOM = np.random.default_rng(0)
X, Y, W = RANDOM.normal(size=(5, 3)), RANDOM.normal(size=5), RANDOM.normal(size=3)


def squares(w: Any, x: Any, y: Any) -> Any:
    return (w @ x - y) ** 2


def residual_gradient(w: Any = W, x: Any = X, y: Any = Y) -> Any:
    """(per-example value, gradients by w, x and y) of `squares`."""
    r = x @ w - y
    return r**2, 2 * r[:, None] * x, 2 * r[:, None] * w, -2 * r


# argnums.


@device
def test_argnums(device: str) -> None:
    value, by_w, by_x, by_y = residual_gradient()
    for argnums, in_axes, expected in [
        (0, None, by_w.mean(axis=0)), (-3, None, by_w.mean(axis=0)), ((0,), None, (by_w.mean(axis=0),)),
        (1, (None, 0, 0), by_x / 5), (2, (None, 0, 0), by_y / 5), (-1, (None, 0, 0), by_y / 5),
        ((2, 0), (None, 0, 0), (by_y / 5, by_w.mean(axis=0))), ([0, -1], (None, 0, 0), (by_w.mean(axis=0), by_y / 5)),
    ]:
        found_value, found = jg.value_and_grad(squares, argnums, in_axes, device=device)(W, X, Y)
        assert_close(found_value, value.mean(), FLOAT64)
        if isinstance(expected, tuple):
            assert type(found) is tuple
            assert len(found) == len(expected)
        for a, b in zip(*((found, expected) if isinstance(expected, tuple) else ((found,), (expected,))), strict=True):
            assert a.shape == b.shape
            assert_close(a, b, FLOAT64, f"argnums {argnums}")
        alone = jg.grad(squares, argnums, in_axes, device=device)(W, X, Y)
        np.testing.assert_array_equal(np.concatenate(alone, axis=None), np.concatenate(found, axis=None))


@device
def test_a_batched_argument_has_a_gradient_for_each_example(device: str) -> None:
    """Summing over the batch leaves each example's own row alone; the mean divides it by n."""
    _, _, by_x, _ = residual_gradient()
    for reduce, scale in [("sum", 1.0), ("mean", 0.2), (None, 1.0)]:
        found = jg.grad(squares, 1, (None, 0, 0), reduce, device)(W, X, Y)
        assert_close(found, by_x * scale, FLOAT64)
    many = jg.grad(squares, 0, (0, 0, 0), "sum", device)(np.tile(W, (5, 1)), X, Y)
    assert_close(many, residual_gradient()[1], FLOAT64)


# reduce.


@device
def test_reductions(device: str) -> None:
    value, by_w, _, _ = residual_gradient()
    for reduce, expected, expected_grad in [
        ("mean", value.mean(), by_w.mean(axis=0)), ("sum", value.sum(), by_w.sum(axis=0)), (None, value, by_w)]:
        found, grad = jg.value_and_grad(squares, reduce=reduce, device=device)(W, X, Y)
        assert_close(found, expected, FLOAT64)
        assert_close(grad, expected_grad, FLOAT64)
        assert_close(jg.jit(squares, reduce=reduce, device=device)(W, X, Y), expected, FLOAT64)
    scalar, (grad_s, grad_w) = jg.value_and_grad(lambda s, w, x: s * (w @ x).tanh(), (0, 1), reduce=None, device=device)(
        2.0, np.ones((3,)), X)
    assert (scalar.shape, grad_s.shape, grad_w.shape) == ((5,), (5,), (5, 3))


@compiled
def test_nothing_batched_is_one_example(device: str) -> None:
    step = jg.value_and_grad(lambda w: np.sum(w * w), device=device)
    value, grad = step(np.array([1.0, 2.0]))
    assert np.shape(value) == ()
    assert_close(value, 5.0, FLOAT64)
    assert_close(grad, [2.0, 4.0], FLOAT64)
    per_example = jg.value_and_grad(lambda w: np.sum(w * w), reduce=None, device=device)(np.array([1.0, 2.0]))
    assert np.shape(per_example[0]) == ()
    assert_close(per_example[1], [2.0, 4.0], FLOAT64)


@compiled
def test_jit_returns_any_structure(device: str) -> None:
    def predict(w: Any, x: Any) -> Any:
        return {"score": w @ x, "pair": (x[0] * 2, [np.outer(w, x)]), "constant": 1.5, "hot": x[0] < x[1]}

    found = jg.jit(predict, reduce=None, device=device)(W, X)
    assert_close(found["score"], X @ W, FLOAT64)
    assert_close(found["pair"][0], 2 * X[:, 0], FLOAT64)
    assert_close(found["pair"][1][0], W[:, None] * X[:, None, :], FLOAT64)
    assert_close(found["constant"], np.full(5, 1.5), FLOAT64)
    assert_close(found["hot"], X[:, 0] < X[:, 1], FLOAT64)
    mean = jg.jit(predict, device=device)(W, X)
    assert_close(mean["pair"][1][0], np.outer(W, X.mean(axis=0)), FLOAT64)
    assert np.shape(mean["score"]) == ()


# in_axes.


@device
def test_axes(device: str) -> None:
    value, by_w, by_x, _ = residual_gradient()
    for in_axes, args in [
        (None, (W, X, Y)), ((None, 0, 0), (W, X, Y)), ([None, -2, -1], (W, X, Y)), ((None, 1, 0), (W, X.T, Y)),
        ((None, -1, 0), (W, X.T, Y)), (0, (np.tile(W, (5, 1)), X, Y)), ((1, 0, 0), (np.tile(W[:, None], (1, 5)), X, Y)),
    ]:
        found, grad = jg.value_and_grad(squares, 0, in_axes, "sum", device)(*args)
        assert_close(found, value.sum(), FLOAT64, f"in_axes {in_axes}")
        shared = in_axes in (None,) or (not isinstance(in_axes, int) and in_axes[0] is None)
        expected = by_w.sum(axis=0) if shared else by_w if grad.shape == (5, 3) else by_w.T
        assert grad.shape == args[0].shape
        assert_close(grad, expected, FLOAT64, f"in_axes {in_axes}")
    grad = jg.grad(squares, 1, (None, 1, 0), "sum", device)(W, X.T, Y)
    assert grad.shape == (3, 5)
    assert_close(grad, by_x.T, FLOAT64)


@compiled
def test_axes_by_leaf(device: str) -> None:
    def loss(params: Any, data: Any) -> Any:
        (x, y), scale = data["xy"], data["scale"]
        return scale * (params["w"] @ x + params["shift"] - y) ** 2

    params = {"w": W, "shift": RANDOM.normal(size=5)}
    axes = ({"w": None, "shift": 0}, {"xy": 0, "scale": None})
    value, grads = jg.value_and_grad(loss, 0, axes, "sum", device)(params, {"xy": (X, Y), "scale": 2.0})
    r = X @ W + params["shift"] - Y
    assert_close(value, 2 * (r**2).sum(), FLOAT64)
    assert_close(grads["w"], 4 * r @ X, FLOAT64)
    assert_close(grads["shift"], 4 * r, FLOAT64)
    middle = np.moveaxis(RANDOM.normal(size=(5, 2, 3)), 0, 1)          # (2, 5, 3), the batch in the middle
    grad = jg.grad(lambda a: np.sum(a * a), 0, (1,), "sum", device)(middle)
    assert grad.shape == middle.shape
    assert_close(grad, 2 * middle, FLOAT64)


def test_axes_beside_leaves_that_are_none() -> None:
    def loss(params: Any, x: Any, y: Any) -> Any:
        assert params["bias"][1] is None
        return (params["w"] @ x + params["bias"][0] - y) ** 2

    params = {"w": np.tile(W, (5, 1)), "bias": [0.5, None]}
    for bias in (None, [None, None]):
        for number in (int, np.int64):
            axes = ({"w": number(0), "bias": bias}, number(0), 0)
            value, grads = jg.value_and_grad(loss, number(0), axes, "sum", "interpret")(params, X, Y)
            r = X @ W + 0.5 - Y
            assert_close(value, (r**2).sum(), FLOAT64)
            assert_close(grads["w"], 2 * r[:, None] * X, FLOAT64)
            assert_close(grads["bias"][0], 2 * r.sum(), FLOAT64)
            assert grads["bias"][1] is None


def test_values_as_parameters_are_real() -> None:
    """micrograd's biases begin as Value(0), and are trained."""
    def loss(params: Any, x: Any) -> Any:
        return (params[0] * x[0] + params[1]) ** 2

    for bias in (Value(0), Value(False), Value(0.0)):
        value, (dw, db) = jg.value_and_grad(loss, device="interpret")([Value(2.0), bias], X)
        assert_close(value, (4 * X[:, 0]**2).mean(), FLOAT64)
        assert_close([dw, db], [(4 * X[:, 0]**2).mean(), (4 * X[:, 0]).mean()], FLOAT64)


@compiled
def test_integers_are_exact_or_refused(device: str) -> None:
    step = jg.jit(lambda k, c: k - c, in_axes=(0, None), reduce=None, device=device)
    for dtype, exact in ((np.float32, [0, 1, -1, 2**24, -2**24, 2**40]), (np.float64, [3, -2**53, 2**60, -2**63])):
        found = step(np.array(exact), dtype(0))
        assert found.dtype == dtype
        assert found.tolist() == exact
    assert step(np.array([2**64 - 2**11], np.uint64), 0.0).tolist() == [2**64 - 2**11]
    for dtype, rounded in ((np.float32, 2**24 + 1), (np.float32, -2**24 - 1), (np.float64, 2**53 + 1)):
        with pytest.raises(errors.DtypeError, match=f"holds {rounded}"):
            step(np.array([0, -1, rounded]), dtype(0))


# Structures.


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass(frozen=True)
class Model:
    weights: Any
    bias: Any
    name: Any = None

    def __post_init__(self) -> None:
        # Must not run on tracers: a dataclass may check and convert.
        if not isinstance(self.bias, float | np.floating | np.ndarray):
            raise TypeError("a bias is a number")


@compiled
def test_gradients_have_the_structure_of_the_parameters(device: str) -> None:
    params = {"z": [W, (1.5, np.ones((2, 2)))], "a": Pair(np.float64(0.5), {"deep": np.zeros((1, 1, 3))}),
              "model": Model(W * 2, 0.25), "none": None}

    def loss(params: Any, x: Any) -> Any:
        model = params["model"]
        assert type(model) is Model
        assert type(params["a"]) is Pair
        assert params["none"] is None
        assert params["a"].second["deep"].shape == (1, 1, 3)
        return (params["z"][0] @ x + params["z"][1][0] + np.sum(params["z"][1][1]) * params["a"].first
                + np.sum(params["a"].second["deep"]) + (model.weights @ x) * model.bias)

    value, grads = jg.value_and_grad(loss, device=device)(params, X)
    mean = X.mean(axis=0)
    assert set(grads) == set(params)
    assert_close(grads["z"][0], mean, FLOAT64)
    assert type(grads["z"][1]) is tuple
    assert_close(grads["z"][1][0], 1.0, FLOAT64)
    assert_close(grads["z"][1][1], np.full((2, 2), 0.5), FLOAT64)
    assert type(grads["a"]) is Pair
    assert_close(grads["a"].first, 4.0, FLOAT64)
    assert_close(grads["a"].second["deep"], np.ones((1, 1, 3)), FLOAT64)
    assert type(grads["model"]) is Model
    assert_close(grads["model"].weights, 0.25 * mean, FLOAT64)
    assert_close(grads["model"].bias, 2 * W @ mean, FLOAT64)
    assert grads["none"] is None
    assert_close(value, (X @ W + 1.5 + 2 + 0.25 * 2 * X @ W).mean(), FLOAT64)


@compiled
def test_arrays_arrive_as_arrays_and_scalars_as_values(device: str) -> None:
    seen = {}

    def loss(a: Any, b: Any, c: Any, s: Any) -> Any:
        seen.update(a=a.shape, b=b.shape, c=c.shape, s=isinstance(s, jg.Value), dtype=a.dtype)
        return np.sum(a[:, 1:] @ c[1:]) + np.sum(b[0, ..., 0]) * s + np.max(np.shape(a))

    args = (np.ones((2, 3)), np.ones((2, 1, 4)), np.arange(15.0).reshape(5, 3), np.arange(5.0))
    value, grads = jg.value_and_grad(loss, (0, 1), (None, None, 0, 0), device=device)(*args)
    assert seen == {"a": (2, 3), "b": (2, 1, 4), "c": (3,), "s": True, "dtype": object}
    assert grads[0].shape == (2, 3)
    assert grads[1].shape == (2, 1, 4)
    assert_close(grads[0], np.tile([0.0, args[2].mean(axis=0)[1], args[2].mean(axis=0)[2]], (2, 1)), FLOAT64)
    assert_close(value, (2 * args[2][:, 1:].sum(axis=1) + args[3] + 3).mean(), FLOAT64)


@device
def test_numpys_own_functions_of_arrays(device: str) -> None:
    for of_example, expected in [
            (lambda x: x.var(), X.var(axis=1)), (lambda x: np.std(x, ddof=1), X.std(axis=1, ddof=1)),
            (lambda x: np.vdot(x, x), (X**2).sum(axis=1)), (lambda x: np.linalg.norm(x), np.linalg.norm(X, axis=1)),
            (lambda x: np.cumsum(x)[-1] * np.mean(x), X.sum(axis=1) * X.mean(axis=1)),
            (lambda x: copy.deepcopy({"x": x})["x"] @ copy.copy(x[0] * x), X[:, 0] * (X**2).sum(axis=1))]:
        assert_close(jg.jit(of_example, in_axes=0, reduce=None, device=device)(X), expected, FLOAT64)


def test_keyword_arguments_and_defaults() -> None:
    def loss(w: Any, x: Any, scale: Any = 2.0) -> Any:
        return w * x * scale

    step = jg.value_and_grad(loss, in_axes=(None, 0), device="interpret")
    assert step(w=3.0, x=np.ones(2))[0] == 6.0
    assert step(3.0, x=np.ones(2))[0] == 6.0
    shared = jg.value_and_grad(loss, in_axes=(None, 0, None), device="interpret")
    assert shared(3.0, np.ones(2), scale=5.0)[0] == 15.0
    assert step.__name__ == "loss"
    with pytest.raises(errors.CallError, match=r"loss\(w.*\) was called with 1 arguments: missing a required argument: 'x'"):
        step(3.0)
    assert issubclass(errors.CallError, TypeError)
    masked = np.ma.masked_greater(np.arange(4.0), 2.5)
    with pytest.raises(errors.DataError, match="argument x is a masked array, of which 1 elements are missing"):
        step(3.0, masked)
    assert step(3.0, masked[:3])[0] == 6.0
    with pytest.raises(errors.ArgumentError, match="keyword-only"):
        jg.jit(lambda x, *, k: x * k, device="interpret")(1.0, k=2.0)


# dtypes.


@device
def test_dtype_follows_the_inputs(device: str) -> None:
    narrow = tuple(a.astype(np.float32) for a in (W, X, Y))
    value, by_w, _, _ = residual_gradient()
    for args, dtype, grad_dtype in [
        (narrow, np.float32, np.float32), ((W, X, Y), np.float64, np.float64), ((narrow[0], X, Y), np.float64, np.float32),
        ((W, narrow[1], narrow[2]), np.float64, np.float64)]:
        found, grad = jg.value_and_grad(squares, device=device)(*args)
        assert (found.dtype, grad.dtype) == (dtype, grad_dtype)
        assert_close(found, value.mean(), FLOAT32)
        assert_close(grad, by_w.mean(axis=0), FLOAT32)
        per_example, grads = jg.value_and_grad(squares, reduce=None, device=device)(*args)
        assert (per_example.dtype, grads.dtype) == (dtype, grad_dtype)


@compiled
def test_python_numbers_are_weak_and_integers_do_not_widen(device: str) -> None:
    x = np.array([0.1, 0.2], np.float32)
    integers = np.array([1, 2], np.int64)

    def loss(w: Any, x: Any, k: Any) -> Any:
        return w * x * 3.0 + k * 0.5

    for w in (0.3, 1.0):
        value, grad = jg.value_and_grad(loss, device=device)(w, x, integers)
        assert value.dtype == np.float32
        assert grad.dtype == np.float64, "a Python float is float64"
        assert_close(value, np.mean(w * x.astype(float) * 3 + integers * 0.5), FLOAT32)
    assert jg.value_and_grad(loss, device=device)(np.float64(0.3), x, integers)[0].dtype == np.float64
    assert jg.value_and_grad(loss, device=device)(np.float32(0.3), x, integers)[0].dtype == np.float32
    assert jg.value_and_grad(loss, device=device)(0.3, integers, integers)[0].dtype == np.float64
    flags = np.array([True, False])
    assert_close(jg.jit(lambda c, x: jg.where(c, x, 0.0), in_axes=0, reduce=None, device=device)(flags, x), [x[0], 0.0],
                 FLOAT32)
    # Nothing is narrowed on the way: a float64 that float32 cannot hold comes back whole.
    exact = jg.jit(lambda x: x, in_axes=0, reduce=None, device=device)(np.array([1 + 2**-40, 1e300]))
    np.testing.assert_array_equal(exact, [1 + 2**-40, 1e300])


@compiled
@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64, np.bool_])
def test_integers_of_any_width(kind: type, device: str) -> None:
    k = np.array([0, 1, 1, 0, 1], kind)
    value, grad = jg.value_and_grad(lambda w, x, k: jg.take([w @ x, x[0] * 2], k) + k * w[1], device=device)(W, X, k)
    expected = np.where(k == 0, X @ W, 2 * X[:, 0]) + k * W[1]
    assert_close(value, expected.mean(), FLOAT64)
    assert_close(grad, (X * (k == 0)[:, None]).mean(axis=0) + np.array([0, k.mean(), 0]), FLOAT64)


# take.


@device
def test_take_gathers_and_its_gradient_scatters(device: str) -> None:
    table, index = RANDOM.normal(size=(4, 2)), np.array([3, 0, 3, 3, 1])

    def loss(table: Any, k: Any, x: Any) -> Any:
        row = jg.take(table, k)
        assert row.shape == (2,)
        return row[0] * x[0] + jg.take(table[:, 1], k) * x[1]

    value, grad = jg.value_and_grad(loss, reduce="sum", device=device)(table, index, X)
    expected = np.zeros((4, 2))
    np.add.at(expected, index, X[:, :2])
    assert_close(value, (table[index] * X[:, :2]).sum(), FLOAT64)
    assert_close(grad, expected, FLOAT64)
    pairs = jg.jit(lambda t, k: np.sum(jg.take(t, [k, 2])), reduce=None, device=device)(table, index)
    assert_close(pairs, table[index].sum(axis=1) + table[2].sum(), FLOAT64)


# Options.


@pytest.mark.parametrize(("wrong", "named"), [
    ({"reduce": "avg"}, "'avg'"), ({"reduce": ""}, "''"), ({"device": "tpu"}, "tpu"), ({"argnums": 3}, "argument 3"),
    ({"argnums": -4}, "argument -4")])
def test_an_unknown_option_is_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(errors.JitgradError, match=named):
        jg.value_and_grad(squares, **{"device": "interpret", **wrong})(W, X, Y)


def test_the_environment_names_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITGRAD_DEVICE", "interpret")
    assert jg.jit(squares).lower(W, X, Y).device == "interpret"
    assert jg.jit(squares, device="cpu").lower(W, X, Y).device == "cpu", "asking by name comes first"
    monkeypatch.setenv("JITGRAD_DEVICE", "abacus")
    with pytest.raises(errors.DeviceError, match=r"abacus.*JITGRAD_DEVICE"):
        jg.jit(squares)
    monkeypatch.delenv("JITGRAD_DEVICE")
    assert jg.jit(squares).lower(W, X, Y).device == "cpu", "small work stays on the CPU"


# lower.


def forms(device: str) -> dict[str, Callable[[str], bool]]:
    return {"graph": lambda t: "= mul" in t and "return value" in t, "tape": lambda t: t.startswith("rows 0:"),
            **({"llvm": lambda t: "define void" in t and "fmul" in t,
                "asm": lambda t: "jitgrad_body" in t and "\n" in t} if device == "cpu" else {}),
            **({"jaxpr": lambda t: "lambda" in t and "mul" in t} if device == "jax" else {})}


@device
def test_everything_generated_can_be_read(device: str) -> None:
    lowered = jg.value_and_grad(squares, device=device).lower(W, X, Y)
    assert device in repr(lowered)
    for form, holds in forms(device).items():
        assert holds(lowered.as_text(form)), (form, lowered.as_text(form)[:300])
    for form in {"graph", "llvm", "asm", "ptx", "sass", "jaxpr", "nonsense"} - set(forms(device)):
        with pytest.raises(errors.ArgumentError, match=form):
            lowered.as_text(form)
    cost = lowered.cost_analysis()
    assert {"flops", "bytes", "registers", "spills"} <= cost.keys()
    assert cost["bytes"] == 8 * 4, "three features and a target are read, nothing is written"
    assert 10 <= cost["flops"] <= 40
    wider = jg.value_and_grad(squares, reduce=None, device=device).lower(W, X, Y).cost_analysis()
    assert wider["bytes"] == 8 * (4 + 1 + 3)


def test_lower_runs_nothing() -> None:
    """A batch of NaN is lowered without a complaint, and the function is recorded once for lower and call."""
    count = []

    def loss(w: Any, x: Any) -> Any:
        count.append(1)
        return w * x

    step = jg.value_and_grad(loss, device="interpret")
    with jg.debug_nans():
        step.lower(1.0, np.full(3, np.nan))
    step(1.0, np.ones(4))
    assert len(count) == 1


def test_a_function_may_promise_to_be_recorded_once() -> None:
    from jitgrad.api import recorded_once
    calls = []

    def square(w: Any, x: Any) -> Any:
        calls.append(1)
        return (w * x) ** 2

    w, x = np.array(2.0), np.arange(3.0)
    for _ in range(2):
        jg.value_and_grad(square)(w, x)
    assert len(calls) == 2
    recorded_once(square)
    calls.clear()
    for _ in range(2):
        assert jg.value_and_grad(square)(w, x)[0] == jg.jit(square)(w, x)
        assert jg.grad(square, argnums=1, in_axes=(None, 0))(w, x).tolist() == [0.0, 8.0 / 3, 16.0 / 3]
    assert len(calls) == 3                                  # once for each transform
    for size in (*range(1, 30), 29, 1):                     # the oldest are forgotten
        jg.jit(square)(w, np.ones((2, size)))
    assert len(calls) == 3 + 29 + 1
