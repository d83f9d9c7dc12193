"""What is planned for CUDA before anything is emitted: sums over a board, numbers alive at once, lines over tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed", exc_type=ImportError)

from cuda_programs import PROGRAMS, mlp, program

from jitgrad import losses
from jitgrad.backends.cuda_forms import Tape
from jitgrad.compiler.batch_sums import WARP, BatchSums
from jitgrad.compiler.cuda_tables import DENSE, OUTER, PLAIN, THIN
from jitgrad.compiler.demand import most_alive
from jitgrad.compiler.emit_cuda import Layout


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_column_has_a_place_of_its_own(name: str) -> None:
    sums = Layout(PROGRAMS[name](np.dtype("float32"))).sums
    assert len(np.unique(sums.place)) == len(sums.columns)
    assert sums.place.max(initial=-1) < sums.groups * WARP
    jobs = [job for phase in sums.phases for job in phase.jobs]
    assert sums.slots == len(sums.private) + sum(job.slots for job in jobs)
    assert sums.groups == -(-len(sums.private) // WARP) + sum(job.groups for job in jobs)
    assert all(job.reach <= sums.board_rows for job in jobs)


@given(st.integers(1, 32), st.integers(0, 32), st.sampled_from([4, 8]))
def test_a_jobs_tiles_cover_its_block(rows: int, columns: int, itemsize: int) -> None:
    """Each sum has a slot of a lane, and the rows and columns of that slot are its own."""
    plan = BatchSums.__new__(BatchSums)
    plan.itemsize, plan.slots, plan.groups = itemsize, 5, 1
    job = plan._job((0, rows), (rows, columns))
    assert job.row_tiles * job.column_tiles <= job.tiles
    places = {job.place(i, j): (i, j) for i in range(rows) for j in range(max(1, columns))}
    assert len(places) == rows * max(1, columns)
    for place, (i, j) in places.items():
        group, lane = divmod(place, WARP)
        slot = (group - job.group) * job.share + lane // job.tiles
        rt, ct = divmod(lane % job.tiles, job.column_tiles)
        assert (rt + slot // job.columns * job.row_tiles, ct + slot % job.columns * job.column_tiles) == (i, j)


def test_layers_share_a_board_and_biases_ride_along() -> None:
    sums = Layout(PROGRAMS["mlp_2_16_16_1"](np.dtype("float32"))).sums
    sizes = [[(job.a[1], job.b[1]) for job in phase.jobs] for phase in sums.phases]
    assert sizes == [[(1, 16)], [(16, 16), (16, 0)], [(16, 2), (16, 0)]]
    assert len(sums.private) == 3                           # the count of failures, the value, the last bias
    assert sums.slots <= 20


def test_numbers_alive_at_once() -> None:
    """Of a chain one, and one that is kept; of a sum of n things that are all worked out first, n."""
    chain = program(lambda p, x: losses.mse(p * (p * (p * x)), x), np.float32(1), np.ones(2, np.float32))
    tape = chain.rolled[0]
    assert most_alive(tape, chain.rolled[1][1].tolist()) <= 3
    wide = PROGRAMS["wide_softmax"](np.dtype("float32"))
    assert 44 + 10 <= most_alive(wide.rolled[0], Layout(wide).sums.wanted) <= 110


def test_a_network_is_a_line_for_each_layer_and_fits_a_tile() -> None:
    form = Tape(Layout(mlp((16, 64, 64, 1), np.dtype("float32"))))
    kinds = form.tables.lines[:, 0].tolist()
    assert [kinds.count(kind) for kind in (DENSE, THIN, OUTER)] == [3, 1, 3]
    assert form.near
    assert form.plan.examples == 32
    assert form.plan.shared <= 48 << 10
    sizes: Any = form.tables.lines[form.tables.lines[:, 0] == OUTER, 2:4].tolist()
    assert sizes == [[1, 64], [64, 64], [64, 16]]


def test_in_one_line_a_place_stands_once() -> None:
    form = Tape(Layout(PROGRAMS["recurrent"](np.dtype("float32"))))
    operands = form.listed[-1]
    for kind, _, m, n, at, *_ in form.tables.lines.tolist():
        if kind in (OUTER, PLAIN):
            first = operands[at + m:at + 2 * m]
            places = (first[:, None] + np.arange(max(1, n))).reshape(-1)
            assert len(np.unique(places)) == len(places)
