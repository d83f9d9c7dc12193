"""Bad input: the error's class, the user's line or the argument's path, what to do, and nothing left half-written."""

from __future__ import annotations

import contextlib
import gc
import inspect
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import jitgrad as jg
from jitgrad import Value, errors, losses

X, Y, W = np.arange(6.0).reshape(3, 2), np.array([1.0, -1.0, 1.0]), np.array([0.5, -0.5])


def fine(params: Any, x: Any, y: Any) -> Any:
    return (params["w"] @ x - y) ** 2


PARAMS = {"w": W}


@dataclass(frozen=True)
class Bad:
    """A call that is refused: by which class and which builtin one it also is, saying what."""

    call: Callable[[], Any]
    kinds: tuple[type[Exception], type[Exception]]
    says: str


def step(**options: Any) -> Any:
    return jg.value_and_grad(fine, device="interpret", **options)


SHAPE, DTYPE = (errors.ShapeError, ValueError), (errors.DtypeError, TypeError)
OPTION = errors.ArgumentError, ValueError
ARGUMENTS = {
    "batch sizes differ": Bad(lambda: step()(PARAMS, X, Y[:2]), SHAPE, r"x has 3.*y has 2 examples"),
    "batch sizes differ inside": Bad(
        lambda: jg.jit(lambda d: d["a"][0] * d["b"], in_axes=0, device="interpret")({"a": [Y], "b": Y[:1]}),
        SHAPE, r"d\['a'\]\[0\] has 3.*d\['b'\] has 1"),
    "an empty batch": Bad(lambda: step()(PARAMS, X[:0], Y[:0]), SHAPE, r"empty(.|\n)*argument x"),
    "no batch axis": Bad(lambda: step()(PARAMS, X, 1.0), SHAPE, r"argument y has shape \(\).*axis 0"),
    "a batch axis beyond": Bad(lambda: step(in_axes=(None, 0, 3))(PARAMS, X, Y), SHAPE, "argument y.*3"),
    "in_axes too short": Bad(lambda: step(in_axes=(None, 0))(PARAMS, X, Y), SHAPE, "2 entries.*3"),
    "in_axes of another structure": Bad(lambda: step(in_axes=({"v": None}, 0, 0))(PARAMS, X, Y), SHAPE,
                                        "in_axes does not fit"),
    "in_axes of words": Bad(lambda: step(in_axes=("w", 0, 0))(PARAMS, X, Y), SHAPE, "'w'"),
    "strings": Bad(lambda: step()(PARAMS, X, np.array(["a", "b", "c"])), DTYPE, "argument y.*<U1"),
    "a string among the parameters": Bad(lambda: step()({"w": W, "name": ["mlp"]}, X, Y), DTYPE,
                                         r"argument params\['name'\]\[0\].*<U3"),
    "complex": Bad(lambda: step()(PARAMS, X * 1j, Y), DTYPE, "argument x.*complex128"),
    "a complex number": Bad(lambda: step()({"w": 1j}, X, Y), DTYPE, r"params\['w'\].*complex"),
    "objects": Bad(lambda: step()(PARAMS, X, np.array([None, 1.0, 2.0])), DTYPE, "argument y.*object"),
    "dates": Bad(lambda: step()(PARAMS, X, np.array(["2020-01-01"] * 3, "M8[D]")), DTYPE, "datetime"),
    "half precision": Bad(lambda: step()(PARAMS, X.astype(np.float16), Y), DTYPE, "argument x.*float16.*"),
    "an integer parameter": Bad(lambda: step()({"w": np.array([1, 2])}, X, Y), DTYPE,
                                r"argument params\['w'\].*int64.*differentiated(.|\n)*argnums"),
    "an integer scalar": Bad(lambda: jg.grad(lambda w, x: w * x, device="interpret")(3, Y), DTYPE,
                             r"argument w.*differentiated(.|\n)*3\.0"),
    "a boolean parameter": Bad(lambda: step()({"w": np.array([True, False])}, X, Y), DTYPE, "bool"),
    "integers beyond float32": Bad(lambda: step()({"w": W.astype(np.float32)}, np.full((3, 2), 1_700_000_001), Y > 0),
                                   DTYPE, r"argument x holds 1700000001.*float32 would round(.|\n)*float64"),
    "integers beyond float64": Bad(lambda: step()(PARAMS, np.full((3, 2), -2**53 - 1), Y), DTYPE,
                                   r"argument x holds -9007199254740993.*float64 would round"),
    "a shared integer beyond": Bad(lambda: step(in_axes=(None, 0, None))(PARAMS, X, 2**63 - 1), DTYPE,
                                   "argument y holds 9223372036854775807"),
    "an unknown device": Bad(lambda: jg.jit(fine, device="gpu"), (errors.DeviceError, RuntimeError),
                             r"'gpu'(.|\n)*cpu, cuda, interpret, jax"),
    "an unknown reduction": Bad(lambda: step(reduce="median"), OPTION, "'median'"),
    "not a function": Bad(lambda: jg.value_and_grad(3.0), OPTION, "3.0"),
    "argnums beyond": Bad(lambda: step(argnums=5)(PARAMS, X, Y), OPTION, "argument 5.*3 arguments"),
    "argnums by name": Bad(lambda: step(argnums="params"), OPTION, "position of an argument.*'params'"),
    "no argnums": Bad(lambda: step(argnums=None), OPTION, "position of an argument.*None"),
    "a Value as a batch's argument": Bad(lambda: jg.batch(fine, (None, 0, 0))({"w": [Value(1.0), Value(2.0)]}, X, Y),
                                         OPTION, r"params\['w'\]\[0\] of a batch(.|\n)*[Cc]lose over it"),
    "NaN in training data": Bad(
        lambda: jg.fit(lambda p, x: (p - x) ** 2, 0.0, (np.array([1.0, 2.0, math.nan]),), epochs=1, progress=False),
        (errors.DataError, ValueError), "(?i)nan(.|\n)*2"),
    "a hinge label": Bad(lambda: jg.jit(losses.hinge, in_axes=0, device="interpret")(Y, np.array([1.0, 0.0, 1.0])),
                         (errors.LabelError, ValueError), r"-1 or \+1; got 0 .example 1(.|\n)*2 \* y - 1"),
    "a class index": Bad(lambda: jg.jit(losses.cross_entropy, in_axes=0, device="interpret")(X, np.array([0, 2, 1])),
                         (errors.LabelError, ValueError), "0 to 1; got 2 .example 1"),
    "a shared class index": Bad(lambda: jg.jit(lambda x, k: jg.take(x, k), in_axes=(0, None), device="interpret")(X, 7),
                                (errors.LabelError, ValueError), "0 to 1; got 7"),
    "a real index": Bad(lambda: jg.jit(lambda x, k: jg.take(x, k), in_axes=0, device="interpret")(X, Y),
                        (errors.TraceError, TypeError), r"real number(.|\n)*test_errors.py:\d+(.|\n)*integer"),
    "take of nothing": Bad(lambda: jg.take([], 0), SHAPE, r"no rows(.|\n)*errors.py"),
    "softmax of one value": Bad(lambda: jg.softmax(Value(1.0)), SHAPE, r"list(.|\n)*errors.py"),
    "logsumexp of nothing": Bad(lambda: jg.logsumexp([]), SHAPE, r"at least one(.|\n)*errors.py"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_bad_arguments(name: str) -> None:
    bad = ARGUMENTS[name]
    with pytest.raises(bad.kinds[0], match=bad.says) as caught:
        bad.call()
    assert isinstance(caught.value, errors.JitgradError)
    assert isinstance(caught.value, bad.kinds[1])
    if name not in ("not a function", "argnums beyond", "argnums by name", "no argnums", "in_axes of words"):
        what, *rest = str(caught.value).splitlines()
        assert rest or ";" in what, "says what to do"
    assert "Traced(" not in str(caught.value)


# What a recorded function may not do. Each marks the line that is to blame.


def branches(x: Any) -> Any:
    return x if x > 0 else -x  # BLAME


def largest(x: Any) -> Any:
    return max(x, 0.0)  # BLAME


def both(x: Any) -> Any:
    y = x * 2
    return y if (y > 0 and y < 1) else x  # BLAME


def truth(x: Any) -> Any:
    return bool(x) * x  # BLAME


def number(x: Any) -> Any:
    return float(x) + x  # BLAME


def library(x: Any) -> Any:
    return (
        x
        + math.exp(x)  # BLAME
    )


def whole(x: Any) -> Any:
    return int(x * 3) * x  # BLAME


def reads_data(x: Any) -> Any:
    return x * x.data  # BLAME


def reads_grad(x: Any) -> Any:
    return x + x.grad  # BLAME


def calls_backward(x: Any) -> Any:
    y = x * x
    y.backward()  # BLAME
    return y


def indexes(x: Any) -> Any:
    return [1.0, 2.0][x]  # BLAME


def writes_into_numbers(x: Any) -> Any:
    table = np.zeros(2)
    table[0] = x  # BLAME
    return table[0]


def sorts(x: Any) -> Any:
    return sorted([x, 1.0 - x])[0]  # BLAME


def numpys_maximum(x: Any) -> Any:
    return np.maximum(x, 0.0)  # BLAME


def strange_operand(x: Any) -> Any:
    return jg.maximum(x, "one")  # BLAME


def inner(x: Any) -> Any:
    return x if x == 1 else x * 2  # BLAME


def in_a_function_it_calls(x: Any) -> Any:
    return inner(x) + 1.0


def sums_while(x: Any) -> Any:
    while x < 10:  # BLAME
        x = x * 2
    return x


FROZEN = [branches, largest, both, truth, number, library, whole, reads_data, reads_grad, calls_backward, indexes,
          writes_into_numbers, sorts, numpys_maximum, strange_operand, in_a_function_it_calls, sums_while]


def blamed_line(function: Any) -> int:
    source, first = inspect.getsourcelines(inner if function is in_a_function_it_calls else function)
    return first + next(k for k, line in enumerate(source) if "BLAME" in line)


@pytest.mark.parametrize("function", FROZEN, ids=lambda f: f.__name__)
def test_freezing_a_number_is_an_error_at_the_users_line(function: Any) -> None:
    for transform in (jg.value_and_grad, jg.grad, jg.jit, jg.batch):
        made = transform(function, in_axes=0, device="interpret")
        with pytest.raises(errors.TraceError) as caught:
            made(Y)
        what, where, *advice = str(caught.value).splitlines()
        assert re.match(rf"    test_errors.py:{blamed_line(function)}:.*BLAME", where), str(caught.value)
        assert what.strip()
        assert advice, "says what to do instead"


def test_a_branch_names_the_way_out() -> None:
    with pytest.raises(errors.TraceError, match=r"jg\.where.*jg\.maximum"):
        jg.jit(branches, in_axes=0, device="interpret")(Y)
    with pytest.raises(errors.TraceError, match=r"jg\.take"):
        jg.jit(indexes, in_axes=0, device="interpret")(np.array([0, 1]))


def test_a_value_kept_from_an_earlier_recording() -> None:
    kept: list[Any] = []

    def leak(x: Any) -> Any:
        kept.append(x)
        return x + kept[0]

    jg.jit(leak, in_axes=0, device="interpret")(Y)
    with pytest.raises(errors.TraceError, match=r"earlier recording(.|\n)*test_errors.py:\d+:.*kept\[0\]"):
        jg.jit(leak, in_axes=0, reduce=None, device="interpret")(Y)


def test_a_value_kept_for_after_the_recording() -> None:
    """What it would enter into the graph is no part of the kernel, and a Value captured so would shift its inputs."""
    kept: list[Any] = []
    scale = Value(3.0)

    def leak(w: Any, x: Any) -> Any:
        kept.append(w)
        return w * x * scale

    step = jg.value_and_grad(leak, in_axes=(0, 0), device="interpret")
    expected = step(Y, Y)
    for misuse in (lambda: kept[0] * Value(2.0), lambda: Value(2.0) + kept[0], lambda: jg.exp(kept[0]), lambda: -kept[0]):
        with pytest.raises(errors.TraceError, match=r"kept from an earlier recording(.|\n)*test_errors.py:\d+:.*misuse"):
            misuse()
    value, grad = step(Y, Y)
    assert value == expected[0]
    np.testing.assert_array_equal(grad, expected[1])


NESTED = {"grad of grad": lambda w, x: jg.grad(fine)(w, x, 1.0)["w"][0], "jit": lambda w, x: jg.jit(fine)(w, x, 1.0),
          "batch": lambda w, x: jg.batch(lambda x: x[0])([x]), "an array": lambda w, x: jg.jit(np.sum)(x),
          "a leaf": lambda w, x: jg.jit(lambda a: a["p"])({"p": w["w"][0]})}


@pytest.mark.parametrize("name", NESTED)
def test_a_transform_within_a_traced_function(name: str) -> None:
    with pytest.raises(errors.TraceError, match=r"inside a traced one: its argument .*(.|\n)*test_errors.py:\d+:.*"
                                                r"(.|\n)*plain function.*cannot be differentiated again"):
        jg.value_and_grad(NESTED[name], device="interpret")(PARAMS, X)
    with pytest.raises(errors.TraceError, match="inside a traced one"):
        jg.grad(jg.grad(fine, device="interpret"), device="interpret")(PARAMS, X, Y)


RETURNS = {"nothing": (lambda w, x: None, "nothing"), "a list": (lambda w, x: [w * x], "a list"),
           "a tuple": (lambda w, x: (w, x), "a tuple"), "a dict": (lambda w, x: {"loss": w * x}, "a dict"),
           "an array": (lambda w, x: np.array([w, x]), r"array of shape \(2,\)"),
           "an array of one": (lambda w, x: np.array([w * x]), r"shape \(1,\)(.|\n)*\[0\]"),
           "a string": (lambda w, x: "loss", "a str")}


@pytest.mark.parametrize("name", RETURNS)
def test_a_function_that_returns_no_scalar(name: str) -> None:
    function, says = RETURNS[name]
    line = function.__code__.co_firstlineno
    for transform in (jg.value_and_grad, jg.grad):
        with pytest.raises(errors.ShapeError, match=says) as caught:
            transform(function, device="interpret")(1.0, Y)
        assert f"test_errors.py:{line}" in str(caught.value)


def test_what_jit_cannot_return() -> None:
    with pytest.raises(errors.TraceError, match="str"):
        jg.jit(lambda x: {"a": x, "b": "text"}, in_axes=0, device="interpret")(Y)


# Nothing half-written.


@pytest.mark.parametrize("device", ["interpret", "cpu", "jax"])
def test_a_refused_call_leaves_the_step_as_it_was(device: str) -> None:
    def loss(params: Any, x: Any, y: Any) -> Any:
        return losses.hinge(params["w"] @ x, y)

    made = jg.value_and_grad(loss, device=device)
    refused: list[tuple[Any, ...]] = [
        ({"w": np.array(["a"])}, X, Y), (PARAMS, X, Y[:2]), (PARAMS, X[:0], Y[:0]), ({"w": np.array([1, 2])}, X, Y),
        ({"w": np.ones(3)}, X, Y), (PARAMS, X, Y * 2), (PARAMS,), (PARAMS, X, Y, Y), ({}, X, Y)]

    def refuse_all() -> None:
        for args in refused:
            with pytest.raises((errors.JitgradError, TypeError, ValueError, KeyError)):
                made(*args)

    refuse_all()
    value, grads = made(PARAMS, X, Y)
    refuse_all()
    again, grads_again = made(PARAMS, X, Y)
    expected = np.maximum(0, 1 - Y * (X @ W))
    assert value == again == pytest.approx(expected.mean(), rel=1e-12)
    np.testing.assert_array_equal(grads["w"], grads_again["w"])
    np.testing.assert_allclose(grads["w"], (-(Y * (expected > 0))[:, None] * X).mean(axis=0), rtol=1e-12)


def test_a_refused_call_leaves_values_and_recording_as_they_were() -> None:
    w = Value(2.0)
    w.grad = 3.0

    def loss(x: Any, y: Any) -> Any:
        if failing:
            raise KeyError("the user's own error")
        return losses.hinge(w * x, y)

    failing = True
    objective = jg.batch(loss, device="interpret")
    with pytest.raises(KeyError):
        objective(Y, Y)
    assert (w * 2).data == 4.0, "eager arithmetic is eager again"
    failing = False
    with pytest.raises(errors.LabelError):
        objective(Y, Y * 5)
    assert (w.data, w.grad) == (2.0, 3.0)
    objective(Y, Y).backward()
    assert w.grad == 3.0, "2 * y * y is beyond the margin: nothing is added"
    with contextlib.suppress(errors.NonFiniteError), jg.debug_nans():
        jg.jit(jg.log, in_axes=0, device="interpret")(-np.ones(2))
    assert np.isnan(jg.jit(jg.log, in_axes=0, device="interpret")(-np.ones(2))), "debug_nans is over"


@pytest.mark.parametrize("collecting", [True, False])
def test_the_garbage_collector_is_left_as_it_was(collecting: bool) -> None:
    """It waits while a function is recorded, unless it was off; a refused call too sets it going again."""
    seen: list[bool] = []

    def loss(w: Any, x: Any) -> Any:
        seen.append(gc.isenabled())
        return w * x if len(seen) > 1 else jg.maximum(x, "one")

    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        step = jg.value_and_grad(loss, device="interpret")
        with pytest.raises(errors.TraceError):
            step(2.0, Y)
        assert gc.isenabled() == collecting
        step(2.0, Y)
        step.lower(np.float32(2.0), Y)
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if before else gc.disable)()
    assert seen == [False] * len(seen)
    assert len(seen) == 3


@pytest.mark.parametrize("device", ["interpret", "cpu", "jax"])
def test_a_parameter_the_loss_does_not_use_is_no_error(device: str) -> None:
    value, grads = jg.value_and_grad(lambda p, x: p["used"] * x, device=device)(
        {"used": 2.0, "unused": 3.0, "array": np.ones((2, 2), np.float32)}, Y)
    assert value == pytest.approx(2.0 / 3)
    assert grads["unused"] == 0.0
    assert grads["array"].dtype == np.float32
    np.testing.assert_array_equal(grads["array"], np.zeros((2, 2)))
    value, grad = jg.value_and_grad(lambda p, x: 1.5, device=device)(2.0, Y)
    assert (value, grad) == (1.5, 0.0)


# The text of an error.


def test_the_innermost_line_of_the_user_is_quoted() -> None:
    place = errors.user_location()
    assert place is not None
    here = inspect.currentframe()
    assert here is not None
    assert place.line == here.f_lineno - 4
    assert str(place) == f"test_errors.py:{place.line}:  place = errors.user_location()"


def test_an_error_without_a_file_still_reads() -> None:
    """In a script from standard input there is no source line to quote."""
    script = ("import numpy as np, jitgrad as jg\n"
              "jg.jit(lambda x: x if x > 0 else -x, in_axes=0, device='interpret')(np.ones(3))\n")
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, check=False)
    assert "TraceError: `if`" in done.stderr
    assert "<stdin>:2:" in done.stderr
    assert "Use jg.where" in done.stderr


def test_every_class_is_also_a_builtin() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.JitgradError)]
    assert len(classes) >= 9
    for c in classes:
        assert c.__doc__
        assert c is errors.JitgradError or len(c.__mro__) > 4, f"{c.__name__} derives from no builtin error"


def test_what_a_loss_of_jitgrads_own_records_stands_on_the_users_line():
    """An estimator's loss is internal code all the way out; the walk outwards ends where the recording began."""
    estimators = pytest.importorskip("jitgrad.estimators")
    loss = estimators._objective("relu", losses.cross_entropy, False)
    layers = [(np.ones((3, 2)), np.ones(2)), (np.ones((2, 3)), np.ones(3))]
    lowered = jg.value_and_grad(loss).lower(layers, np.ones((4, 3)), np.zeros(4, int))
    places = {(node.where.filename, node.where.line) for node in lowered.program.graph.nodes if node.where is not None}
    (code,) = {node.where.code for node in lowered.program.graph.nodes if node.where is not None}
    assert code is inspect.currentframe().f_code  # type: ignore[union-attr]
    assert len(places) == 1
