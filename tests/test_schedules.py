"""Learning rates that change with the step, penalties and clipping: their formulas, and optimizers that take them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jitgrad import optim
from jitgrad.errors import ArgumentError

PARAMS = {"w": np.array([1.0, -2.0, 0.0]), "b": 0.5}
GRADS = {"w": np.array([3.0, -4.0, 0.0]), "b": 12.0}           # of length 13


def rates(schedule: Any, steps: int) -> list[float]:
    return [schedule(t) for t in range(1, steps + 1)]


def test_the_rates_of_each_schedule():
    assert rates(optim.constant(0.3), 3) == [0.3] * 3
    assert rates(optim.step_decay(1.0, every=2, factor=0.5), 6) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert rates(optim.warmup(0.4, 4), 6) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert rates(optim.warmup(optim.step_decay(1.0, every=2), 2), 6) == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.1, 0.1])
    falling = rates(optim.cosine(2.0, steps=4, end=1.0), 6)
    assert falling == pytest.approx([1.5 + 0.5 * math.cos(math.pi * u) for u in (0, 0.25, 0.5, 0.75, 1, 1)])
    assert rates(optim.cosine(2.0, steps=6, warmup=2, end=1.0), 8) == pytest.approx([1.0, 2.0, *falling])
    assert repr(optim.warmup(optim.cosine(0.1, 9), 3)) == "warmup(cosine(0.1, steps=9, warmup=0, end=0.0), 3)"


@pytest.mark.parametrize("make", [optim.sgd, optim.adam, optim.adamw, lambda rate: optim.sgd(rate, momentum=0.9)])
def test_a_schedule_is_the_rate_of_each_step(make: Any):
    """Step t of a schedule is step t of an optimizer with that step's constant rate."""
    schedule = optim.cosine(0.1, steps=5, warmup=2)
    found = expected = PARAMS
    state = other = make(schedule).init(PARAMS)
    for t in range(1, 8):
        found, state = make(schedule).update(GRADS, state, found)
        expected, other = make(schedule(t)).update(GRADS, other, expected)
        np.testing.assert_array_equal(found["w"], expected["w"])
    assert not np.array_equal(found["w"], PARAMS["w"])


def test_a_function_of_the_users_is_a_schedule():
    def root(t: int) -> float:
        return 0.1 / t**0.5
    optimizer = optim.sgd(root)
    assert "root" in repr(optimizer)
    params, _ = optimizer.update(GRADS, optim.State(3, ()), PARAMS)
    np.testing.assert_allclose(params["w"], PARAMS["w"] - 0.05 * GRADS["w"])


@pytest.mark.parametrize("wrong", [
    lambda: optim.cosine(0.1, steps=0), lambda: optim.cosine(0.1, steps=5, warmup=5), lambda: optim.cosine(-0.1, steps=5),
    lambda: optim.cosine(0.1, steps=2.5), lambda: optim.step_decay(0.1, every=0), lambda: optim.step_decay(0.1, 5, -1.0),
    lambda: optim.warmup(0.1, 0), lambda: optim.warmup("fast", 3), lambda: optim.constant(math.inf),
    lambda: optim.adam(lambda t: -1.0), lambda: optim.adam(lambda t: "fast"), lambda: optim.adam(lambda t: math.nan),
    lambda: optim.penalised(optim.sgd(0.1), l1=-1.0), lambda: optim.penalised(optim.sgd(0.1), l2=math.nan),
    lambda: optim.clipped(optim.sgd(0.1), 0.0), lambda: optim.clipped(optim.sgd(0.1), "1")])
def test_what_makes_no_sense_is_refused(wrong: Any):
    with pytest.raises(ArgumentError):
        wrong()


def test_a_rate_that_goes_wrong_later_names_its_step():
    optimizer = optim.sgd(lambda t: 3.0 - t)
    with pytest.raises(ArgumentError, match=r"gave -1\.0 for step 4"):
        optimizer.update(GRADS, optim.State(3, ()), PARAMS)


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize(("l1", "l2"), [(0.5, 0.0), (0.0, 0.25), (0.5, 0.25)])
def test_a_penalty_adds_its_gradient(custom: bool, l1: float, l2: float):
    base = optim.sgd(0.1, momentum=0.9)
    optimizer = optim.penalised(optim.Optimizer(base.init, base.update) if custom else base, l1, l2)
    assert (optimizer.rule is None) is custom
    found, expected = (PARAMS, base.init(PARAMS)), (PARAMS, base.init(PARAMS))
    for _ in range(3):
        found = optimizer.update(GRADS, found[1], found[0])
        p = expected[0]
        grads = {k: GRADS[k] + l1 * np.sign(p[k]) + 2 * l2 * p[k] for k in p}
        expected = base.update({"w": grads["w"], "b": float(grads["b"])}, expected[1], p)
    np.testing.assert_allclose(found[0]["w"], expected[0]["w"], rtol=1e-14)
    assert found[0]["b"] == pytest.approx(expected[0]["b"], rel=1e-14)
    assert type(found[0]["b"]) is float


@pytest.mark.parametrize("scale", [1.0, 1e200, 1e-200])
def test_clipping_keeps_the_direction_and_bounds_the_length(scale: float):
    grads = {"w": GRADS["w"] * scale, "b": GRADS["b"] * scale}
    optimizer = optim.clipped(optim.sgd(1.0), 6.5 * scale)
    found, _ = optimizer.update(grads, optimizer.init(PARAMS), {"w": np.zeros(3), "b": 0.0})
    np.testing.assert_allclose(found["w"], -0.5 * grads["w"], rtol=1e-14)
    assert found["b"] == pytest.approx(-0.5 * grads["b"], rel=1e-14)
    loose = optim.clipped(optim.sgd(1.0), 13.5 * scale)
    found, _ = loose.update(grads, loose.init(PARAMS), {"w": np.zeros(3), "b": 0.0})
    np.testing.assert_array_equal(found["w"], -grads["w"])


def test_clipping_nothing_and_what_is_not_finite():
    optimizer = optim.clipped(optim.sgd(1.0), 1.0)
    state = optimizer.init(PARAMS)
    zero, _ = optimizer.update({"w": np.zeros(3), "b": 0.0}, state, PARAMS)
    np.testing.assert_array_equal(zero["w"], PARAMS["w"])
    for bad in (np.nan, np.inf):
        found, _ = optimizer.update({"w": np.array([1.0, bad, 1.0]), "b": 0.0}, state, PARAMS)
        assert not np.isfinite(found["w"][1])
