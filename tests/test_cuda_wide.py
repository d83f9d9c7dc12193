"""CUDA kernels of wide examples: which programs are read as such, and what is emitted for them, run on this CPU.

Resources, PTX and launches are test_cuda.py's, the shell's indices test_cuda.py's simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from llvmlite import ir

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed", exc_type=ImportError)

from cuda_host import HostWarp, aligned
from cuda_programs import PROGRAMS, ROWS, batch_for, program, row_losses, rows_at_their_corners
from referees import assert_close, assert_same_bits

import jitgrad as jg
from jitgrad.backends import cuda_text
from jitgrad.backends.cuda import CudaKernel
from jitgrad.backends.cuda_wide_form import WideForm, wide_form
from jitgrad.backends.interpret import InterpretKernel
from jitgrad.compiler import wide_schedule
from jitgrad.compiler.emit_cuda import Layout
from jitgrad.compiler.program import Program
from jitgrad.compiler.wide import Wide, find_wide
from jitgrad.compiler.wide_schedule import WidePlan, for_wide

Array = Any
DTYPES = ("float32", "float64")
CLOSE = {"float32": 4e-6, "float64": 2e-14}


class _HostBlock:
    """A wide program's emitted functions on this machine's CPU, with everything the shell would hold; one block."""

    def __init__(self, made: Program):
        self.layout = Layout(made)
        form = wide_form(self.layout)
        assert isinstance(form, WideForm)
        self.code, self.plan = form.code, form.plan
        module = ir.Module("jitgrad")
        form.emit(module)
        self.block = HostWarp(module, self.plan.block)

    def run(self, shared: Array, batched: list[Array], n: int) -> tuple[Array, list[Array]]:
        layout, plan, dtype = self.layout, self.plan, self.layout.dtype
        slots = self.code.numbers
        numbers = aligned(max(4, len(slots)), dtype)
        numbers[:len(slots)] = shared[slots]
        inputs = [aligned(a.size, dtype) for a in batched]
        for copy, a in zip(inputs, batched, strict=True):
            copy[:] = a.reshape(-1)
        outputs, board = [aligned(n * w, dtype) for w in layout.out_widths], aligned(self.code.board, dtype)
        part = np.full(7 + layout.pieces * len(layout.columns), np.nan, dtype)
        acc = np.full((plan.block, self.code.slots * layout.pieces), np.nan, dtype)
        for unwritten in (*outputs, board):
            unwritten[:] = np.nan
        self.block.call("clear", lambda thread: [acc[thread]])
        for first in range(0, n, plan.examples):
            self.block.call("body", lambda thread, first=first: [
                acc[thread], board, numbers, first + thread // plan.lanes, first + plan.examples + thread // plan.lanes, n,
                *inputs, *outputs])
        self.block.call("finish", lambda thread: [acc[thread], board, part, 7])
        assert np.isnan(part[:7]).all()
        sums = part[7:].astype(np.float64).reshape(layout.pieces, -1).sum(axis=0)[layout.column_of]
        return sums, [o.reshape(n, -1) for o in outputs]


def check(made: Program, n: int, seed: int = 0) -> None:
    """What is emitted against the interpreter in float64."""
    shared, batched = batch_for(made, n, seed)
    sums, examples = _HostBlock(made).run(shared, batched, n)
    exact = Program(made.graph, made.leaves, made.values, made.checks, made.wrt, made.per_example, np.float64, made.divisor)
    expected = InterpretKernel(exact)(shared.astype(np.float64), [a.astype(np.float64) for a in batched], n)
    allowed = CLOSE[made.dtype.name]
    assert_close(sums, expected.sums, allowed * math.sqrt(n))
    for found, wanted in zip(examples, expected.examples, strict=True):
        assert_close(found, wanted, allowed)


@pytest.fixture(autouse=True)
def _few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread of a block is one of this machine's."""
    monkeypatch.setattr(wide_schedule, "BLOCK", 64)


@pytest.mark.parametrize("name", ROWS)
def test_losses_of_rows_are_read(name: str) -> None:
    wide = find_wide(ROWS[name](np.dtype(np.float32), 50))
    assert wide is not None
    assert wide.width == 50
    assert len(wide.terms) < 80


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_what_is_emitted_computes_the_loss(name: str, dtype: str) -> None:
    check(ROWS[name](np.dtype(dtype), 100), 9)


@pytest.mark.skipif(cuda_text.tool("ptxas") is None, reason="ptxas is not installed: jitgrad[test] has it")
@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_what_a_lane_keeps_fits_its_registers(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_schedule, "BLOCK", 256)
    kernel = CudaKernel(ROWS[name](np.dtype(dtype), 1024))
    assert isinstance(kernel.plan, WidePlan)
    found = kernel.resources()
    assert found["spills"] == found["stack"] == 0
    assert found["registers"] * kernel.plan.block * kernel.plan.residents <= 65_536


# Vectors of 4, 2 and 1 elements; lanes that have nothing, or a part; a group of lanes, a warp, two warps and eight.
@pytest.mark.parametrize(("width", "words"), [
    (32, 32), (33, 32), (62, 32), (130, 8), (260, 8), (261, 4), (1000, 32), (1003, 4)])
def test_every_way_to_cut_a_row(width: int, words: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_schedule, "LONGEST", words)
    check(ROWS["cross_entropy"](np.dtype(np.float32), width), 5, width)


@pytest.mark.parametrize("name", ["cross_entropy", "smoothed", "cosine"])
@pytest.mark.parametrize("width", [300, 301])
def test_a_row_that_fits_no_registers_is_walked_in_pieces(width: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_schedule, "BLOCK", 16)         # and so a block of 64 at most
    monkeypatch.setattr(wide_schedule, "LONGEST", 2)
    monkeypatch.setattr(wide_schedule, "CHUNK", 1)
    made = ROWS[name](np.dtype(np.float32), width)
    plan = _HostBlock(made).plan
    assert plan.chunks > 1
    assert plan.lanes == plan.block
    check(made, 3)


def test_a_row_alone_with_one_reduction_meets_once_more() -> None:
    """Several warps, one reduction: what a fast warp writes for the next example must not reach a slow one of this."""
    made = ROWS["mean"](np.dtype(np.float32), 4000)
    assert _HostBlock(made).plan.lanes == 128
    check(made, 4)


@pytest.mark.parametrize(("width", "lanes", "vectors", "chunks", "block"), [
    (32, 8, 1, 1, 256), (128, 8, 4, 1, 256), (1024, 32, 8, 1, 256), (4096, 128, 8, 1, 256), (32_000, 1024, 8, 1, 1024),
    (33_000, 1024, 4, 3, 1024)])
def test_a_longer_row_takes_more_lanes_then_walks(width: int, lanes: int, vectors: int, chunks: int, block: int,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_schedule, "BLOCK", 256)
    plan = for_wide(_wider("cross_entropy", width), np.dtype(np.float32), 2)
    assert plan is not None
    assert (plan.lanes, plan.vectors, plan.chunks, plan.block) == (lanes, vectors, chunks, block)
    assert plan.residents * plan.block == 1024
    assert [plan.grid(n) for n in (1, plan.examples + 1, 10**6)] == [1, 2, 132 * 1024 // block]


def test_sums_of_rows_that_fit_no_registers_are_another_forms() -> None:
    assert for_wide(_wider("bias", 40_000), np.dtype(np.float32), 2) is None


def _wider(name: str, width: int) -> Wide:
    wide = find_wide(ROWS[name](np.dtype(np.float32), 40))
    assert wide is not None
    return replace(wide, width=width)


OTHERS: dict[str, Any] = {
    "neighbours": lambda x: sum((x[1:] - x[:-1])**2),
    "a part": lambda x: sum(x[1:] * x[1:]),
    "one apart": lambda x: sum(x * x) + x[3] * jg.exp(x[3]),
    "a table": lambda x: sum(x * np.random.default_rng(0).normal(size=40)),
    "a gradient through a maximum": lambda x: reduce(jg.maximum, x),
    "backwards": lambda x: sum(x * x[::-1]),
    "many numbers": lambda x: sum(x) + sum(jg.sin(k * x[0]) for k in range(100)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_programs_are_another_forms(name: str) -> None:
    made = program(OTHERS[name], np.ones((2, 40)), in_axes=0)
    assert find_wide(made) is None


def test_networks_and_narrow_rows_are_another_forms() -> None:
    for name, make in PROGRAMS.items():
        if not name.startswith("rows"):
            assert find_wide(make(np.dtype(np.float32))) is None, name
    assert find_wide(ROWS["cross_entropy"](np.dtype(np.float32), 31)) is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_at_their_corners(dtype: str) -> None:
    made, z, y = rows_at_their_corners(dtype)
    sums, (values, gradients) = _HostBlock(made).run(np.zeros(0, dtype), [z, y], 9)
    expected = InterpretKernel(made)(np.zeros(0, dtype), [z, y], 9)
    assert sums.tolist() == [2.0] == expected.sums.tolist()
    assert_close(values, expected.examples[0], CLOSE[dtype])
    assert_close(gradients, expected.examples[1], CLOSE[dtype])


def test_lanes_agree_on_a_zeros_sign() -> None:
    """1 / (the largest) is one infinity for the whole row, wherever its zeros lie."""
    made = program(lambda z: sum(jg.exp(z) / jg.stop_gradient(reduce(jg.maximum, z))), np.ones((2, 64)), in_axes=0,
                   reduce=None)
    z = np.full((6, 64), -1.0)
    z[0, [0, 9]], z[1, [9, 0]], z[2, [40, 41]], z[3, 17] = [0.0, -0.0], [0.0, -0.0], [-0.0, 0.0], -0.0
    z[4], z[5, 63] = 0.0, 0.0
    _, (_, gradients) = _HostBlock(made).run(np.zeros(0), [z], 6)
    assert np.isinf(gradients).all()
    assert (np.sign(gradients) == np.sign(gradients[:, :1])).all()


def test_an_examples_bits_do_not_depend_on_its_place() -> None:
    made = ROWS["cross_entropy an example"](np.dtype(np.float32), 100)
    host, rng = _HostBlock(made), np.random.default_rng(0)
    z, y = rng.normal(size=(11, 100)).astype(np.float32), rng.integers(0, 100, (11, 1)).astype(np.float32)
    _, together = host.run(np.zeros(0, np.float32), [z, y], 11)
    _, alone = host.run(np.zeros(0, np.float32), [z[7:8], y[7:8]], 1)
    for a, b in zip(together, alone, strict=True):
        assert_same_bits(a[7:8], b)


def test_sums_over_the_batch_keep_what_float32_loses() -> None:
    made = ROWS["mean"](np.dtype(np.float32), 32)
    z = np.zeros((17, 32), np.float32)
    z[[0, 3, 8, 11, 16], 0] = np.array([1.0, 2.0**30, 1.0, -2.0**30, 2.0**-20]) * 32
    sums, _ = _HostBlock(made).run(np.zeros(0, np.float32), [z], 17)
    assert_same_bits(sums, np.array([0.0, 2.0 + 2.0**-20]))


def test_a_softmax_is_a_few_operations_on_whole_rows() -> None:
    wide = find_wide(ROWS["cross_entropy"](np.dtype(np.float32), 2_000))
    assert wide is not None
    assert sum(term.wide for term in wide.terms) == 8
    assert [term.op.name for term in wide.terms if term.kind == "reduce" and term.op] == ["maximum", "sum"]


@hypothesis.given(loss=row_losses(), width=st.integers(32, 90), words=st.sampled_from([8, 32]),
                  how=st.sampled_from([{"reduce": "sum"}, {"reduce": None}, {"in_axes": (None, 0, 0)}]))
@hypothesis.settings(max_examples=20)
def test_any_loss_of_rows(loss: Callable[..., Any], width: int, words: int, how: dict[str, Any]) -> None:
    shared = how.get("in_axes") is not None
    rows = np.ones((2, width), np.float32)
    made = program(loss, rows[0] if shared else rows, rows, np.ones(2, int),
                   **{"argnums": (0, 1), "in_axes": (0, 0, 0)} | how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wide_schedule, "LONGEST", words)
        check(made, 3, width)
