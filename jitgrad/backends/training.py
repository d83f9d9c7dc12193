"""Training steps on the CPU as one call of machine code: batch, loss, gradient, update, the next batch.

The loss and its gradient run in the shell that a call of theirs would run, the optimizer's update in the body of a program
whose examples are the parameters. Sums are settled and numbers rounded as for a single call, so that the parameters get
the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jitgrad.backends.cpu import CpuKernel, Workspace, address, aligned, lines
from jitgrad.backends.native import Native, entry, native, shell
from jitgrad.compiler import schedule
from jitgrad.compiler.emit_cpu import training
from jitgrad.kernels import place, steps

Array = npt.NDArray[Any]

LOSS_NOT_FINITE, CHECK_FAILED, PARAMETERS_NOT_FINITE = (
    steps.LOSS_NOT_FINITE, steps.CHECK_FAILED, steps.PARAMETERS_NOT_FINITE)


@cache
def _training(dtype: np.dtype[Any], lanes: int) -> Native:
    return native(partial(training, dtype, lanes), "training", dtype.name, str(lanes))


class Plan(NamedTuple):
    """A run of steps: `lines` and `bounds` as the shell reads them, and the most chunks a step has."""

    lines: npt.NDArray[np.int64]
    bounds: npt.NDArray[np.int64]
    chunks: int


def plan(kernel: CpuKernel, batches: npt.NDArray[np.intp], mean: bool) -> Plan:
    """The steps over examples start to start + size, for each (start, size)."""
    found: list[tuple[int, ...]] = []
    bounds: list[int] = []
    ranges: dict[tuple[int, int], tuple[int, int]] = {}
    most = 1
    for start, size in batches.tolist():
        if (start, size) not in ranges:
            chunks = schedule.bounds(size, kernel.plan) + start
            ranges[start, size] = (len(bounds), len(bounds) + len(chunks) - 1)
            bounds += chunks.tolist()
        first, last = ranges[start, size]
        most = max(most, last - first)
        found.append((first, last, kernel.plan.tile_for(size), size if mean else 1))
    return Plan(lines(found), np.array(bounds, np.int64), most)


class Engine:
    """What one thread trains with: a place for a model's parameters and averages, of a size, and the tables around it."""

    def __init__(self, kernel: CpuKernel, update: CpuKernel, parameters: int, averages: int, others: int):
        self._kernel, self._update = kernel, update
        lanes, kept, self._width = kernel.plan.lanes, 1 + averages, parameters + others
        unit = max(lanes, place.SQUARES)
        room = -(-(self._width + unit) // unit) * unit                  # whole vectors, all aligned
        memory = aligned((2 * kept + 1) * room, kernel.program.dtype)
        memory[:] = 0
        self._rows = memory.reshape(2 * kept + 1, room)
        self._numbers = self._rows[:kept, :parameters]
        self._own = Workspace(kernel)
        self._status = np.zeros(2, np.int64)
        self._fill_table(self._rows, parameters, kept)

    def begin(self, others: Array, steps: Plan) -> None:
        """Make these steps next, where all examples share `others` besides the parameters."""
        table, count = self._table, len(steps.lines)
        self._rows[0, self._numbers.shape[1]:self._width] = others
        self._sums = np.zeros(steps.chunks * self._kernel.sums)         # a step leaves them so
        self._steps = steps
        self._own.table[place.BOUNDS] = address(steps.bounds)
        table[place.STEP_LINES], table[place.STEP_COUNT] = address(steps.lines), count
        table[place.STEP_SUMS] = address(self._sums)

    def read(self, batched: Sequence[Array]) -> None:
        """Take the examples from rows of these, (n, width) each."""
        self._batched = batched
        self._own.table[self._kernel.arrays_at:self._kernel.arrays_at + len(batched)] = [address(a) for a in batched]

    def run(self, numbers: Array, scalars: Array, norm: float, losses: Array) -> tuple[int, int]:
        """Make the steps of one model, whose numbers, (1 + averages, parameters), change in place.

        scalars: (steps, width) in the program's dtype, a row for each update; norm: the greatest length of a gradient, inf
        for any; losses: (steps,) float64, filled as far as steps are made, a failing step's included; arrays contiguous
        returns: how many were made, why the next one was not (0: there is none)
        """
        table, status = self._table, self._status
        self._numbers[:] = numbers
        table[place.SCALARS] = address(scalars) if scalars.size else 0
        table[place.SCALAR_BYTES] = scalars.shape[1] * scalars.itemsize
        table[place.CLIP] = self._clip if norm < math.inf else 0
        table[place.NORM] = np.float64(norm).view(np.int64)
        table[place.LOSSES], table[place.DONE] = address(losses), 0
        shell("run_steps")(self._address)
        numbers[:] = self._numbers
        return int(table[place.DONE]), int(status[1])

    def _fill_table(self, rows: Array, count: int, kept: int) -> None:
        kernel, update, own = self._kernel, self._update, self._own
        gradient, new = rows[kept], rows[kept + 1:]
        # The update's arguments in order are the parameter, its gradient, the averages; its columns those in use.
        arguments = [rows[0], gradient, *rows[1:kept]]
        self._inputs = np.array([address(arguments[k]) for k in update.column_arrays], np.int64)
        self._outputs = np.array([address(row) for row in new], np.int64)
        sums = aligned(update.sums * update.plan.lanes, update.program.dtype)
        sums[:] = 0
        copies = lines([(address(row), address(other), count) for row, other in zip(rows[:kept], new, strict=False)])
        code = _training(kernel.program.dtype, kernel.plan.lanes)
        table = np.zeros(place.STEPS_PLACES, np.int64)
        table[place.CALL], table[place.RUN] = own.address, entry(kernel.shell_name)
        table[place.UPDATE] = update.template[place.BODY]
        for at, name in ((place.SETTLE, "settle"), (place.FINITE, "finite"), (place.COPY, "copy")):
            table[at] = code.address(f"jitgrad_{name}")
        self._clip = code.address("jitgrad_clip")
        table[place.GRADIENT], table[place.NEW], table[place.PARAMETERS] = address(gradient), self._outputs[0], count
        table[place.INPUTS], table[place.OUTPUTS] = address(self._inputs), address(self._outputs)
        table[place.UPDATED] = address(sums)
        table[place.COPIES], table[place.COPY_COUNT] = address(copies), kept
        table[place.STATUS] = address(self._status)
        own.table[place.SHARED] = address(rows[0])
        self._table, self._address, self._kept = table, address(table), (copies, rows, sums)
