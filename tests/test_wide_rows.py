"""Wide examples on the CPU: losses of long rows, held against the tape's interpreter bit by bit, and against float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from cuda_programs import ROWS, batch_for, program, row_losses, rows_at_their_corners
from referees import assert_close, assert_same_bits, forced

import jitgrad as jg
from jitgrad.backends import threads
from jitgrad.backends.cpu import CpuKernel
from jitgrad.backends.interpret import InterpretKernel
from jitgrad.compiler.program import Program, Results
from jitgrad.compiler.wide_rows import WideRows, for_rows

Array = Any
DTYPES = ("float32", "float64")
CLOSE = {"float32": 4e-6, "float64": 2e-14}


def check(made: Program, n: int, seed: int = 0) -> None:
    """A wide program's values and gradients: an example's to the bit, sums over the batch to rounding errors."""
    kernel = CpuKernel(made)
    assert kernel.wide is not None
    with forced("cpu-tape"):
        tape = CpuKernel(made)
    assert tape.wide is None
    assert tape.tables is not None
    shared, batched = batch_for(made, n, seed)
    found = kernel(shared, batched, n)
    for one, other in zip(found.examples, tape(shared, batched, n).examples, strict=True):
        assert_same_bits(one, other)
    exact = Program(made.graph, made.leaves, made.values, made.checks, made.wrt, made.per_example, np.float64, made.divisor)
    expected = InterpretKernel(exact)(shared.astype(np.float64), [a.astype(np.float64) for a in batched], n)
    allowed = CLOSE[made.dtype.name]
    assert_close(found.sums, expected.sums, allowed * math.sqrt(n))
    for one, other in zip(found.examples, expected.examples, strict=True):
        assert_close(one, other, allowed)


def rows_of(made: Program) -> WideRows:
    found = for_rows(made)
    assert found is not None
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_losses_of_rows(name: str, dtype: str) -> None:
    made = ROWS[name](np.dtype(dtype), 45)
    for n in (1, 150):
        check(made, n, n)


# Whole squares of numbers and parts; tiles of one vector of examples and of several; whole vectors and parts.
@pytest.mark.parametrize("width", [32, 33, 47, 300])
@pytest.mark.parametrize("n", [7, 16, 130])
def test_every_way_to_cut_a_tile(width: int, n: int) -> None:
    check(ROWS["mean cross_entropy"](np.dtype(np.float32), width), n, width)


@hypothesis.given(loss=row_losses(), width=st.integers(32, 60),
                  how=st.sampled_from([{"reduce": "sum"}, {"reduce": None}, {"in_axes": (None, 0, 0)}]))
@hypothesis.settings(max_examples=20, deadline=None)
def test_any_loss_of_rows(loss: Callable[..., Any], width: int, how: dict[str, Any]) -> None:
    rows = np.ones((2, width), np.float32)
    made = program(loss, rows[0] if "in_axes" in how else rows, rows, np.ones(2, int),
                   **{"argnums": (0, 1), "in_axes": (0, 0, 0)} | how)
    check(made, 20, width)


def test_a_tile_of_cross_entropy_is_as_large_as_its_logits() -> None:
    """Exponentials and gradients go where logits were; one row is the label's."""
    assert rows_of(ROWS["cross_entropy"](np.dtype(np.float32), 1000)).size == 1001
    assert rows_of(ROWS["logistic"](np.dtype(np.float32), 1000)).size == 1001


def test_a_result_that_is_an_argument_or_one_number_for_all() -> None:
    """What is stored: logits as they came, which are read again later, weights, an index, and a number for every element."""
    def several(w: Any, z: Any) -> list[Any]:
        total = sum(z * w)
        return [*z, *w, total, *(total + 0.0 * z), *np.arange(40.0)]
    z, w = np.random.default_rng(0).normal(size=(21, 40)), np.linspace(-1, 1, 40)
    made = jg.jit(several, in_axes=(None, 0), reduce=None, device="cpu").lower(w, z).program
    kernel = CpuKernel(made)
    assert kernel.wide is not None
    found = np.concatenate(kernel(w, [z], 21).examples, axis=1)
    total = np.array([sum(row * w) for row in z])[:, None]
    whole = np.ones((21, 1))
    assert_same_bits(found, np.hstack([z, whole * w, total, total + 0.0 * z, whole * np.arange(40.0)]))


def test_numbers_beside_rows() -> None:
    """An argument of several numbers, none of them a row's, and as many results: each has an address of its own."""
    def several(x: Any, few: Any) -> list[Any]:
        total = sum(x * x)
        return [*(total * f for f in few), *(x / total), *few]
    x, few = np.random.default_rng(0).normal(size=(21, 48)), np.random.default_rng(1).normal(size=(21, 12))
    made = jg.jit(several, in_axes=(0, 0), reduce=None, device="cpu").lower(x, few).program
    kernel = CpuKernel(made)
    assert kernel.wide is not None
    with forced("cpu-tape"):
        tape = CpuKernel(made)
    for one, other in zip(kernel(np.zeros(0), [x, few], 21).examples, tape(np.zeros(0), [x, few], 21).examples, strict=True):
        assert_same_bits(one, other)


def test_an_example_beyond_the_batch_is_not_written() -> None:
    z, y = np.zeros((5, 40), np.float32), np.zeros(5, int)
    memory = np.full((6, 40), 9, np.float32)
    step = jg.value_and_grad(jg.losses.cross_entropy, in_axes=(0, 0), reduce="sum", device="cpu")
    step(z, y, out=memory[:5])
    assert (memory[5] == 9).all()
    assert_close(memory[:5].sum(axis=1), np.zeros(5), CLOSE["float32"])


@pytest.mark.parametrize("name", ["mean cross_entropy", "logistic"])
def test_the_bits_are_the_same_for_any_number_of_threads_and_any_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ROWS[name](np.dtype(np.float32), 100)
    kernel, (shared, batched) = CpuKernel(made), batch_for(made, 3001)

    def answer(cores: int) -> Results:
        monkeypatch.setattr(threads, "cores", lambda: cores)
        return kernel(shared, batched, 3001)
    one = answer(1)
    for cores in (2, 5):
        other = answer(cores)
        assert_same_bits(other.sums, one.sums)
        for a, b in zip(one.examples, other.examples, strict=True):
            assert_same_bits(a, b)
    few = kernel(shared, [a[2990:] for a in batched], 11)
    for a, b in zip(one.examples, few.examples, strict=True):
        assert_same_bits(a[2990:], b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_at_their_corners(dtype: str) -> None:
    made, z, y = rows_at_their_corners(dtype)
    sums, (values, gradients) = CpuKernel(made)(np.zeros(0, dtype), [z, y], 9)
    expected = InterpretKernel(made)(np.zeros(0, dtype), [z, y], 9)
    assert sums.tolist() == [2.0] == expected.sums.tolist()
    assert_close(values, expected.examples[0], CLOSE[dtype])
    assert_close(gradients, expected.examples[1], CLOSE[dtype])


OTHERS: dict[str, Callable[[Any], Any]] = {
    "two rows in turn": lambda x: sum(number for element in x for number in (jg.exp(element), jg.sin(element))),
    "one row after another": lambda x: sum([*x, *jg.exp(x)]),
    "backwards": lambda x: sum(x[::-1]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_sum_in_another_order_is_the_tapes(name: str) -> None:
    """A value has the scalar program's bits: elements are added as they were written."""
    made = program(OTHERS[name], np.ones((2, 40)), in_axes=0, reduce=None)
    kernel, x = CpuKernel(made), np.random.default_rng(1).normal(size=(30, 40))
    assert kernel.wide is None
    with forced("cpu-tape"):
        tape = CpuKernel(made)
    for one, other in zip(kernel(np.zeros(0), [x], 30).examples, tape(np.zeros(0), [x], 30).examples, strict=True):
        assert_same_bits(one, other)
