"""The roofline: which limit binds, what a call took, and the chart in which both are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

import jitgrad as jg
from jitgrad import roofline
from jitgrad.errors import ArgumentError
from jitgrad.roofline import Limits, Position

LIMITS = Limits(100e9, 1e12, "as stated")


def test_the_lower_limit_binds():
    assert LIMITS.ridge == 10.0
    memory = Position(flops=20, bytes=10, limits=LIMITS)
    assert (memory.intensity, memory.bound, memory.floor) == (2.0, "memory", 10 / 100e9)
    arithmetic = Position(flops=2000, bytes=10, limits=LIMITS, seconds=4e-9, examples=7)
    assert (arithmetic.bound, arithmetic.floor) == ("arithmetic", 2e-9)
    assert arithmetic.share == 0.5
    assert memory.share is None
    alone = Position(flops=5, bytes=0, limits=LIMITS)
    assert (alone.intensity, alone.bound) == (math.inf, "arithmetic")


def test_it_is_said_in_words():
    first, second, third = roofline.explained(Position(2000, 10, LIMITS, 4e-9, 4096))
    assert "100 GB/s" in first
    assert "1 TFLOP/s" in first
    assert "200 flops a byte (2,000 over 10): arithmetic bounds it, at 2 ns" in second
    assert "4 ns an example, timed over 4,096 examples: 50% of the roof" in third
    assert len(roofline.explained(Position(20, 10, LIMITS))) == 2
    assert "moves no bytes" in roofline.explained(Position(20, 0, LIMITS))[1]
    assert "busier" in roofline.explained(Position(2000, 10, LIMITS, 1e-9, 4096))[3]


def test_what_is_stated_is_read_and_what_is_not_two_numbers_refused():
    assert roofline.stated("4.8e12, 67e12") == Limits(4.8e12, 67e12, "as stated")
    for wrong in ("", "1e12", "1,2,3", "a,b", "-1,2", "0,1", "inf,1", "nan,1"):
        with pytest.raises(ArgumentError, match="two numbers"):
            roofline.stated(wrong)


@pytest.mark.parametrize("intensity", [1e-9, 0.5, 10.0, 300.0, 1e9, math.inf])
@pytest.mark.parametrize("share", [None, 1e-9, 0.1, 1.0, 1.4])
def test_the_chart_has_its_marks_wherever_the_program_stands(intensity: float, share: float | None):
    flops, size = (100, 0) if intensity == math.inf else (round(1e9 * intensity), 10**9)
    found = Position(flops, size, LIMITS)
    if share is not None:
        found = Position(flops, size, LIMITS, found.floor / share, 1)
    lines = roofline.chart(found).splitlines()
    plot = [line[1:] for line in lines if line.startswith("│")]
    assert len(plot) == 12
    assert all(len(line) <= 64 for line in plot)
    marks = {mark: [(k, line.index(mark)) for k, line in enumerate(plot) if mark in line] for mark in "ox"}
    assert len(marks["x"]) == (share is not None)
    if share is not None and 1e-3 < share < 0.5:
        ((roof, column),), ((reached, same),) = marks["o"], marks["x"]
        assert column == same
        assert reached > roof
    if 1 < intensity < 100 and share is None:
        assert any("╱" in line for line in plot)
        assert any("─" in line for line in plot)


def test_this_machine_is_measured():
    found = roofline.measured(np.float32)
    # Any computer that runs this copies more than 100 MB and multiplies more than 100 million numbers a second.
    assert 1e8 < found.bytes_per_second < 1e14
    assert 1e8 < found.flops_per_second < 1e15
    assert "float32" in found.origin


@pytest.mark.parametrize("device", ["cpu", "interpret"])
def test_a_program_is_timed_with_all_kinds_of_arguments(device: str):
    def objective(table: object, x: object, index: object, flag: object) -> object:
        return jg.where(flag, jg.take(table, index) * x, x)  # type: ignore[operator]

    step = jg.value_and_grad(objective, device=device)
    arguments = np.ones(3), np.ones(4), np.array([0, 1, 2, 0]), np.array([True, False, True, True])
    found = roofline.position(step.lower(*arguments), LIMITS)
    assert found.seconds is not None
    assert 0 < found.seconds < 1e-3
    assert found.examples >= 1024
    cost = step.lower(*arguments).cost_analysis()
    assert (found.flops, found.bytes) == (cost["flops"], cost["bytes"])
    assert roofline.position(step.lower(*arguments), LIMITS, timed=False).seconds is None


def test_a_program_without_a_batch_is_timed_as_it_is():
    found = roofline.position(jg.value_and_grad(lambda p: p * p, device="interpret").lower(3.0), LIMITS)
    assert found.examples == 1
    assert found.bytes == 0
    assert found.seconds is not None


def test_timing_ends_at_the_most_bytes_whatever_a_row_takes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(roofline, "_MOST_BYTES", 1 << 16)
    monkeypatch.setattr(roofline, "_LONG_ENOUGH", 1e9)
    step = jg.value_and_grad(lambda p, x, y: (p * x[0] * x[1] - y) ** 2, device="cpu")
    lowered = step.lower(1.0, np.ones((2, 2)), np.ones(2))
    assert lowered.cost_analysis()["bytes"] == 24  # which does not divide it
    assert roofline.position(lowered, LIMITS).examples == (1 << 16) // 24
