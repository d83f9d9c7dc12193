"""What fills the wide shell's holes in numba's simulator: the tape run by NumPy, and of its results a thread's own share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.backends.cuda_simulator import run_example
from jitgrad.compiler.emit_cuda_wide import WideCode
from jitgrad.kernels import cuda_wide
from jitgrad.kernels.cuda_batch import WARP

Array = npt.NDArray[Any]


def wide_holes(code: WideCode) -> tuple[Callable[..., None], Callable[..., None], Callable[..., None]]:
    """clear, body and finish as Python functions; see `cuda_wide.wide_shell`."""
    layout, plan, width, pieces = code.layout, code.plan, code.wide.width, code.layout.pieces
    inputs = len(layout.in_widths)

    def clear(acc: Array) -> None:
        acc[:] = 0

    def own(chunk: int = 0) -> Array:
        """The elements of this thread, some beyond the row's end."""
        lane = cuda_wide.simulated_thread() % plan.lanes
        vector = np.arange(plan.vectors)[:, None] + chunk * plan.vectors
        elements: Array = (vector * plan.lanes + lane) * plan.count + np.arange(plan.count)
        return elements.reshape(-1)

    def body(acc: Array, board: Array, numbers: Array, i: int, then: int, n: int, arrays: tuple[Array, ...]) -> None:
        at = min(i, n - 1)
        v = run_example(layout, code.place, numbers, at, arrays)
        for array, column, _, whole in code.wide.stored:
            target, rows = arrays[inputs + array], layout.program.example_outputs[array]
            mine = np.concatenate([own(chunk) for chunk in range(plan.chunks)]) if whole else np.zeros(1, int)
            if whole or cuda_wide.simulated_thread() % plan.lanes == 0:
                mine = column + mine[mine < width]
                target[at * len(rows) + mine] = v[rows[mine]]
        values = [v[layout.columns[column]] for column, _ in code.plain]
        for column, _ in code.rows:
            mine = own()
            values += [v[layout.columns[column + e]] if e < width else 0 for e in mine.tolist()]
        if i < n:
            for slot, value in enumerate(values):
                add(acc, slot, value)
        if plan.lanes > WARP:
            cuda_wide.simulated_barrier()

    def add(acc: Array, slot: int, value: Any, error: Any = 0) -> None:
        with np.errstate(all="ignore"):
            so_far = acc[slot * pieces]
            total = so_far + value
            of_value = total - so_far
            acc[slot * pieces] = total
            if pieces == 2:
                acc[slot * pieces + 1] += (so_far - (total - of_value)) + (value - of_value) + error

    def finish(acc: Array, board: Array, part: Array, at: int) -> None:
        thread = cuda_wide.simulated_thread()
        group, lane = divmod(thread, plan.lanes)
        for slot in range(code.slots):
            cuda_wide.simulated_barrier()
            for piece in range(pieces):
                board[piece * plan.block + thread] = acc[slot * pieces + piece]
            cuda_wide.simulated_barrier()
            for other in range(1, plan.examples):
                where = other * plan.lanes + lane
                add(acc, slot, board[where], board[plan.block + where] if pieces == 2 else 0)
            total = acc[slot * pieces]
            if slot < len(code.plain):
                column, mine = code.plain[slot][0], lane == 0
            else:
                row, k = divmod(slot - len(code.plain), plan.elements)
                element = int(own()[k])
                column, mine = code.rows[row][0] + element, element < width
            if group == 0 and mine:
                part[at + column] = total
                if pieces == 2:
                    part[at + len(layout.columns) + column] = acc[slot * pieces + 1] if np.isfinite(total) else 0

    return clear, body, finish
