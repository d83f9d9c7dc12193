"""Training steps on the CPU as one call of machine code: batch, loss, gradient, update, the next batch.

The loss and its gradient run in the shell that a call of theirs would run, the optimizer's update in the body of a program
whose examples are the parameters. Sums are settled and numbers rounded as for a single call, so that the parameters get
the same bits.
"""

from __future__ import annotations

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


def plan(kernel: CpuKernel, batches: Sequence[tuple[int, int]], mean: bool) -> Plan:
    """The steps over examples start to start + size, for each (start, size)."""
    found: list[tuple[int, ...]] = []
    bounds: list[int] = []
    ranges: dict[tuple[int, int], tuple[int, int]] = {}
    most = 1
    for start, size in batches:
        if (start, size) not in ranges:
            chunks = schedule.chunks(size, kernel.plan.tile) + start
            ranges[start, size] = (len(bounds), len(bounds) + len(chunks) - 1)
            bounds += chunks.tolist()
        first, last = ranges[start, size]
        most = max(most, last - first)
        found.append((first, last, kernel.plan.tile_for(size), size if mean else 1))
    return Plan(lines(found), np.array(bounds, np.int64), most)


class Model:
    """Parameters and what an optimizer keeps for each, being trained by one thread.

    numbers[0] are the parameters and numbers[1:] the averages, each (count,); they change in place.
    """

    def __init__(self, kernel: CpuKernel, update: CpuKernel, parameters: int, averages: int, others: int):
        self._kernel, self._update = kernel, update
        lanes, kept, self._width = kernel.plan.lanes, 1 + averages, parameters + others
        room = -(-(self._width + lanes) // lanes) * lanes               # whole vectors, all aligned
        memory = aligned((2 * kept + 1) * room, kernel.program.dtype)
        memory[:] = 0
        self._rows = memory.reshape(2 * kept + 1, room)
        self.numbers = [row[:parameters] for row in self._rows[:kept]]
        self._own = Workspace(kernel)
        self._status = np.zeros(2, np.int64)
        self._fill_table(self._rows, parameters, kept)

    def load(self, parameters: Array, averages: Sequence[Array], others: Array) -> None:
        """Begin with these numbers; `others` are what else all examples share."""
        for own, given in zip(self.numbers, (parameters, *averages), strict=True):
            own[:] = given
        self._rows[0, len(parameters):self._width] = others

    def _fill_table(self, rows: Array, count: int, kept: int) -> None:
        kernel, update, own = self._kernel, self._update, self._own
        gradient, new = rows[kept], rows[kept + 1:]
        # The update's arguments in order are the parameter, its gradient, the averages; its columns those in use.
        arguments = [rows[0], gradient, *rows[1:kept]]
        self._inputs = np.array([address(arguments[k]) for k in update.column_arrays], np.int64)
        self._outputs = np.array([address(row) for row in new], np.int64)
        copies = lines([(address(row), address(other), count) for row, other in zip(rows[:kept], new, strict=False)])
        code = _training(kernel.program.dtype, kernel.plan.lanes)
        table = np.zeros(place.STEPS_PLACES, np.int64)
        table[place.CALL], table[place.RUN] = own.address, entry(kernel.shell_name)
        table[place.UPDATE] = update.template[place.BODY]
        for at, name in ((place.SETTLE, "settle"), (place.FINITE, "finite"), (place.COPY, "copy")):
            table[at] = code.address(f"jitgrad_{name}")
        table[place.GRADIENT], table[place.NEW], table[place.PARAMETERS] = address(gradient), self._outputs[0], count
        table[place.INPUTS], table[place.OUTPUTS] = address(self._inputs), address(self._outputs)
        table[place.COPIES], table[place.COPY_COUNT] = address(copies), kept
        table[place.STATUS] = address(self._status)
        own.table[place.SHARED] = address(rows[0])
        self._table, self._kept = table, (copies, rows)

    def run(self, batched: Sequence[Array], steps: Plan, scalars: Array) -> tuple[int, int, Array]:
        """Make these steps over rows of `batched`, (n, width) each; a row of `scalars` is what an update shares.

        Returns how many were made, why the next one was not (0: there is none), and the losses, that one's included.
        """
        kernel, own, table = self._kernel, self._own, self._table
        count = len(steps.lines)
        losses, sums = np.empty(count), np.zeros(steps.chunks * kernel.sums)
        scalars = np.ascontiguousarray(scalars, kernel.program.dtype)
        own.table[kernel.arrays_at:kernel.arrays_at + len(batched)] = [address(array) for array in batched]
        own.table[place.BOUNDS] = address(steps.bounds)
        table[place.STEP_LINES], table[place.STEP_COUNT] = address(steps.lines), count
        table[place.SCALARS] = address(scalars) if scalars.size else 0
        table[place.SCALAR_BYTES] = scalars.shape[1] * scalars.itemsize
        table[place.LOSSES], table[place.STEP_SUMS], table[place.DONE] = address(losses), address(sums), 0
        shell("run_steps")(address(table))
        done, why = int(table[place.DONE]), int(self._status[1])
        return done, why, losses[:done + (why != 0)]
