"""What fills the CUDA shells' holes in numba's simulator (NUMBA_ENABLE_CUDASIM=1): the tape run by NumPy, one example.

The emitted bodies cannot run there; everything around them can: indices, tails, tiles, barriers and the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.backends.interpret import run_instruction, vectorised
from jitgrad.compiler.batch_sums import Job, board_stride
from jitgrad.compiler.emit import ELEMENTWISE
from jitgrad.compiler.emit_cuda import FusedCode
from jitgrad.compiler.emit_training import GRADIENT, UpdateCode
from jitgrad.kernels import cuda_batch
from jitgrad.kernels.cuda_batch import WARP

Array = npt.NDArray[Any]


def fused_holes(code: FusedCode, shells: Any = cuda_batch) -> tuple[Callable[..., None], Callable[..., None],
                                                                    Callable[..., None]]:
    """clear, body and fold as Python functions; see `cuda_batch.fused_shell`. shells: the module of the shell around."""
    layout, plan, sums = code.layout, code.plan, code.sums
    tape, dtype = layout.tape, layout.dtype
    place = {row: at for at, row in enumerate(code.rows)}
    stride = board_stride(plan.unroll, dtype.itemsize)
    jobs = [job for phase in sums.phases for job in phase.jobs]
    shares = [(range(len(sums.private)), WARP), *((range(job.slot, job.slot + job.slots), job.share)
                                                  for job in sorted(jobs, key=lambda job: job.slot))]

    def clear(acc: Array) -> None:
        acc[:] = 0

    def example(numbers: Array, i: int, arrays: tuple[Array, ...]) -> Array:
        v = np.empty((tape.size, 1), dtype)
        for row in layout.shared:
            v[row] = numbers[place[row]] if row in place else np.nan
        for row, (array, column) in layout.batched.items():
            v[row] = arrays[array][i * layout.in_widths[array] + column]
        for row, value in tape.constants.items():
            v[row] = value
        with np.errstate(all="ignore"):
            for instruction in tape.instructions:
                run_instruction(instruction, v)
        return v[:, 0]

    def body(acc: Array, board: Array, numbers: Array, i: int, n: int, arrays: tuple[Array, ...]) -> None:
        v = np.array([example(numbers, min(at, n - 1), arrays) for at in range(i, i + plan.unroll)])
        for at in range(plan.unroll):
            for row, (array, column) in zip(layout.stored_rows, layout.stored, strict=True):
                width = layout.out_widths[array]
                arrays[len(layout.in_widths) + array][min(i + at, n - 1) * width + column] = v[at, row]
        v[max(0, min(plan.unroll, n - i)):] = 0
        for at in range(plan.unroll):
            acc[:len(sums.private)] += v[at, [layout.columns[k] for k in sums.private]]
        own = board[cuda_batch.simulated_warp(shells.cuda) * code.board:][:code.board]
        lane = cuda_batch.simulated_lane(shells.cuda)
        for phase in sums.phases:
            for at, row in enumerate(phase.board):
                own[at * stride + lane * plan.unroll:][:plan.unroll] = v[:, row]
            cuda_batch.simulated_meeting(shells.cuda)
            with np.errstate(all="ignore"):
                for job in phase.jobs:
                    acc[job.slot:job.slot + job.slots] += part(job, own.reshape(-1, stride), lane)
            cuda_batch.simulated_meeting(shells.cuda)

    def part(job: Job, board: Array, lane: int) -> Array:
        """A lane's sums over its share of the warp's examples."""
        share, tile = divmod(lane, job.tiles)
        row, column = divmod(tile, job.column_tiles)
        examples = np.arange(WARP * plan.unroll)
        examples = examples[examples % WARP // (WARP // job.share) == share]
        a = board[job.a[0] + min(row, job.row_tiles - 1) + job.row_tiles * np.arange(job.rows)][:, examples]
        found: Array = a.sum(axis=1)
        if job.b[1]:
            b = board[job.b[0] + column + job.column_tiles * np.arange(job.columns)][:, examples]
            found = (a[:, None] * b).sum(axis=2).reshape(-1)
        return found

    def fold(acc: Array, tiles: Array, first: int) -> None:
        lane, group = cuda_batch.simulated_lane(shells.cuda), 0
        for slots, lanes in shares:
            for start in range(0, len(slots), lanes):
                values = np.zeros(lanes, dtype)
                some = slots[start:start + lanes]
                values[:len(some)] = acc[some]
                value = cuda_batch.simulated_sums(values, plan.block, shells.cuda)
                add(tiles, first + group * WARP + lane, value)
                group += 1
        acc[:] = 0

    def add(tiles: Array, at: int, value: Any) -> None:
        with np.errstate(all="ignore"):
            total = tiles[at] + value
            of_value = total - tiles[at]
            error = (tiles[at] - (total - of_value)) + (value - of_value)
            tiles[at] = total
            if layout.pieces == 2:
                tiles[at + code.columns] += error

    return clear, body, fold


def tape_step(code: int, v: Array, base: int, uniform: Array, operands: Array, at: int, width: int, out: int,
              first: int, step: int) -> None:
    """`emit_cuda.interpreter_step` in Python."""
    op = ELEMENTWISE[code]
    for k in range(first, width, step):
        args = []
        for j in range(op.arity):
            place = int(operands[at + j * width + k])
            args.append(np.array([uniform[~place] if place < 0 else v[base + place * WARP]]))
        with np.errstate(all="ignore"):
            v[base + (out + k) * WARP] = vectorised(op)(*args)[0]


def update_hole(code: UpdateCode) -> Callable[..., None]:
    """`emit_training.UpdateCode.update` in Python."""
    tape, dtype = code.tape, code.dtype

    def update(row: Array, old: Array, new: Array, g: Any, j: int) -> None:
        v = np.empty((tape.size, 1), dtype)
        for place, scalar in code.scalars.items():
            v[place] = row[scalar]
        for place, argument in code.arguments.items():
            v[place] = g if argument == GRADIENT else old[code.start_of(argument) + j]
        for place, value in tape.constants.items():
            v[place] = value
        with np.errstate(all="ignore"):
            for instruction in tape.instructions:
                run_instruction(instruction, v)
        for start, place in zip(code.starts, code.rows, strict=True):
            new[start + j] = v[place, 0]
    return update
