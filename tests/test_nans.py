"""debug_nans: the operation that made the NaN of a result, and the user's line: kernels, finished and eager Values."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import jitgrad as jg
from jitgrad import Value, errors, ledger, value

DEVICES = ["interpret", "cpu", "jax"]


def masked(w: Any, x: Any) -> Any:
    a = jg.where(x > 0, jg.log(x), 0.0) * w
    return a + jg.sqrt(2.5 - x)  # BLAME


def steep(w: Any, x: Any) -> Any:
    """The square root's slope at 0 is infinite, and what it is handed on to is 0."""
    return jg.sqrt(w * 0.0 * x) * 2.0  # BLAME


def picked(w: Any, x: Any) -> Any:
    table = [jg.log(w - 2.0), w * x]
    return jg.where(x > 2, w - x, jg.take(table, 1)) + jg.log(2.5 - x)  # BLAME


KERNELS: dict[Callable[..., Any], tuple[str, int]] = {
    masked: ("`sqrt` made", 2), steep: ("derivative of `mul` made the first NaN, in `mul`", 0), picked: ("`log` made", 2)}


@pytest.mark.parametrize("loss", KERNELS)
@pytest.mark.parametrize("device", DEVICES)
def test_what_made_the_nan_of_a_result_is_named(loss: Callable[..., Any], device: str) -> None:
    """Not a NaN that a `where` keeps from the result, though it is made before and at an earlier example."""
    what, example = KERNELS[loss]
    x = np.array([-1.0, 2.0, 3.0])
    step = jg.value_and_grad(loss, device=device)
    says = rf"{what}.*at example {example}\.\n.*test_nans.py.*BLAME"
    with jg.debug_nans(), pytest.raises(errors.NonFiniteError, match=says):
        step(1.0, x)
    assert np.isnan(step(1.0, x)).any()


def test_a_nan_that_no_operation_made() -> None:
    with jg.debug_nans():
        for device in DEVICES:
            with pytest.raises(errors.NonFiniteError, match=r"number that the function itself brings is NaN"):
                jg.jit(lambda w, x: w * x * math.nan, device=device)(1.0, np.ones(2))
            with pytest.raises(errors.NonFiniteError, match=r"sum over the batch.*inf at example 1 and -inf at example 3"):
                jg.jit(lambda w, x: w / x, device=device)(1.0, np.array([3.0, 0.0, 1.0, -0.0]))
        assert np.isposinf(jg.jit(lambda w, x: w / x)(1.0, np.array([3.0, 0.0]))), "an infinity is no NaN"
        with pytest.raises(errors.NonFiniteError, match=r"`log` made the first NaN\.\n"):
            jg.grad(jg.log, device="cpu")(-1.0)


EAGER: dict[str, tuple[Callable[[Value], Any], str]] = {
    "log": (lambda x: (x * 2).log(), r"`log` of -2\.0 made"), "of a leaf": (lambda x: x.sqrt(), r"`sqrt` of -1\.0 made"),
    "root": (lambda x: x**0.5, r"`pow` of -1\.0, 0\.5 made"),
    "computed root": (lambda x: (x * 1)**0.5, r"`pow` of -1\.0, 0\.5 made"),
    "difference": (lambda x: x * 1e308 * 1e308 + math.inf, "`add` of -inf, inf made"),
    "leaves": (lambda x: Value(math.inf) * Value(0.0), r"`mul` of inf, 0\.0 made"),
    "computed": (lambda x: (x * math.inf) * (x + 1), r"`mul` of -inf, 0\.0 made"),
    "a leaf that is NaN": (lambda x: 3 - Value(math.nan), "`mul` of nan, -1 was given"),
    "an array": (lambda x: np.log(np.array([x])), "`log` of -1\\.0 made"),
    "a loss": (lambda x: jg.losses.mse(x * math.inf, -math.inf), "`add` of -inf, inf made"),
}


@pytest.mark.parametrize("name", EAGER)
def test_eager_arithmetic_raises_where_it_makes_one(name: str) -> None:
    make, what = EAGER[name]
    make(Value(-1.0))
    with jg.debug_nans(), pytest.raises(errors.NonFiniteError, match=rf"{what} the first NaN\.\n.*test_nans.py:\d+:"):
        make(Value(-1.0))
    assert math.isnan((Value(-1.0) * 2).log().data), "and afterwards it is an answer"
    assert value._recordings == 0


@pytest.mark.parametrize("native", [False, True])
def test_an_eager_gradient_names_the_operation(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if native:
        monkeypatch.setattr(ledger, "NATIVE_FROM", 0)
        monkeypatch.setattr(ledger.Native, "swept", ledger.NATIVE_AFTER)
    zero = Value(0.0)
    with jg.debug_nans():
        with pytest.raises(errors.NonFiniteError, match=r"derivative of `mul` of 0\.0, 0\.0 made(.|\n)*py:\d+:.*# here"):
            ((zero * zero).sqrt() * 1.0).backward()         # here
        with pytest.raises(errors.NonFiniteError, match=r"arrived at a leaf add up"):
            (zero.sqrt() - zero.sqrt()).backward()
        x = Value(4.0)
        (x * x).sqrt().backward()
        assert x.grad == 1.0


def test_a_finished_expression_names_the_operation() -> None:
    x = Value(1.0)
    for dtype in ("float64", "float32"):
        program = jg.compile((x * 2 + 3).log() * x, dtype=dtype)
        x.data = -4.0
        for call in (program.forward, program.backward, lambda program=program: program.run([-5.0])[0]):
            assert math.isnan(call())
            with jg.debug_nans(), pytest.raises(errors.NonFiniteError, match="`log` made the first NaN"):
                call()
        x.data = math.nan
        with jg.debug_nans(), pytest.raises(errors.NonFiniteError, match=r"input leaves\[0\] is NaN"):
            program.backward()
        x.data = 1.0
        with jg.debug_nans():
            assert program.backward() == pytest.approx(math.log(5), rel=1e-6)


def test_other_threads_compute_as_before() -> None:
    found: list[Any] = []
    with jg.debug_nans():
        thread = threading.Thread(target=lambda: found.append((Value(-1.0) * 2).log().data))
        thread.start()
        thread.join()
    assert math.isnan(found[0])
