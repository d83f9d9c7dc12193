"""What fills the CUDA shells' holes in numba's simulator (NUMBA_ENABLE_CUDASIM=1): the tape run by NumPy, one example.

The emitted bodies cannot run there; everything around them can: indices, tails, tiles, barriers and the order of sums.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.backends.interpret import run_instruction, vectorised
from jitgrad.compiler.batch_sums import VECTOR_BYTES, Job, board_stride
from jitgrad.compiler.cuda_tables import TALL, TILES
from jitgrad.compiler.emit import ELEMENTWISE
from jitgrad.compiler.emit_cuda import FusedCode, Layout
from jitgrad.compiler.emit_training import GRADIENT, UpdateCode
from jitgrad.kernels import cuda_batch
from jitgrad.kernels.cuda_batch import WARP

Array = npt.NDArray[Any]


def fused_holes(code: FusedCode, shells: Any = cuda_batch) -> tuple[Callable[..., None], Callable[..., None],
                                                                    Callable[..., None]]:
    """clear, body and fold as Python functions; see `cuda_batch.fused_shell`. shells: the module of the shell around."""
    layout, plan, sums, dtype = code.layout, code.plan, code.sums, code.layout.dtype
    place = {row: at for at, row in enumerate(code.rows)}
    stride = board_stride(plan.unroll, dtype.itemsize)
    jobs = [job for phase in sums.phases for job in phase.jobs]
    shares = [(range(len(sums.private)), WARP), *((range(job.slot, job.slot + job.slots), job.share)
                                                  for job in sorted(jobs, key=lambda job: job.slot))]

    def clear(acc: Array) -> None:
        acc[:] = 0

    def body(acc: Array, board: Array, numbers: Array, i: int, n: int, arrays: tuple[Array, ...]) -> None:
        v = np.array([run_example(layout, place, numbers, min(at, n - 1), arrays) for at in range(i, i + plan.unroll)])
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


def run_example(layout: Layout, place: Mapping[int, int], numbers: Array, i: int, arrays: tuple[Array, ...]) -> Array:
    """Every row of the tape for example i; place: where among the numbers a shared row is."""
    tape = layout.tape
    v = np.empty((tape.size, 1), layout.dtype)
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


def tape_holes(dtype: np.dtype[Any]) -> dict[str, Callable[..., None]]:
    """The lines of `emit_tile` in Python, one thread's items each."""
    count = VECTOR_BYTES // dtype.itemsize

    def rows(v: Array, base: int, shift: int) -> Array:
        """The tile as rows of examples; a view."""
        stride = (count << shift) + count
        v = getattr(v, "_ary", v)                     # the simulator wraps device memory, and gives wrapped parts of it
        return v[base:base + (len(v) - base) // stride * stride].reshape(-1, stride)

    def items(width: int, thread: int, threads: int, shift: int) -> Iterator[tuple[int, slice]]:
        for item in range(thread, width << shift, threads):
            first = (item & ((1 << shift) - 1)) * count
            yield item >> shift, slice(first, first + count)

    def operand(v: Array, w: Array, row: int, column: slice) -> Array:
        return np.full(count, w[~row]) if row < 0 else v[row, column]

    def step(v: Array, base: int, w: Array, operands: Array, code: int, lo: int, m: int, at: int, shift: int, thread: int,
             threads: int) -> None:
        op, v = ELEMENTWISE[code], rows(v, base, shift)
        for k, column in items(m, thread, threads, shift):
            args = [operand(v, w, int(operands[at + j * m + k]), column) for j in range(op.arity)]
            with np.errstate(all="ignore"):
                v[lo + k, column] = vectorised(op)(*args)

    def products(pairs: Iterator[tuple[Array, Array]]) -> Array:
        total = np.full(count, -0.0, dtype)
        with np.errstate(all="ignore"):
            for a, b in pairs:
                total = total + a * b
        return total

    def dense(v: Array, base: int, packed: Array, operands: Array, lo: int, m: int, n: int, at: int, b: int, joined: int,
              shift: int, thread: int, threads: int) -> None:
        v = rows(v, base, shift)
        for group, column in items(-(-m // TALL), thread, threads, shift):
            for r in range(group * TALL, min(m, group * TALL + TALL)):
                weights = packed[b + group * n * TALL + r % TALL:][:n * TALL:TALL]
                v[lo + r, column] = products((w, v[operands[at + e], column]) for e, w in enumerate(weights))

    def thin(v: Array, base: int, packed: Array, operands: Array, lo: int, m: int, n: int, at: int, b: int, joined: int,
             shift: int, thread: int, threads: int) -> None:
        v = rows(v, base, shift)
        for r, column in items(m, thread, threads, shift):
            weights = packed[b + r * n:][:n]
            v[lo + r, column] = products((w, v[operands[at + e], column]) for e, w in enumerate(weights))

    def pair(v: Array, base: int, w: Array, operands: Array, lo: int, m: int, n: int, at: int, joined: int, shift: int,
             thread: int, threads: int) -> None:
        v = rows(v, base, shift)
        for r, column in items(m, thread, threads, shift):
            each = range(operands[at + r], operands[at + r + 1])
            v[lo + r, column] = products((operand(v, w, operands[n + e], column), operand(v, w, operands[e], column))
                                         for e in each)

    def outer(v: Array, base: int, operands: Array, acc: Array, first: int, m: int, n: int, at: int, tile: int, exist: int,
              shift: int, thread: int, threads: int) -> None:
        v, (height, width) = rows(v, base, shift)[:, :exist], TILES[tile]
        down, across = -(-m // height), -(-n // width)
        for item in range(thread, down * across, threads):
            for i, j in itertools.product(range(item // across, m, down), range(item % across, n, across)):
                with np.errstate(all="ignore"):
                    found = (v[operands[at + i]] * v[operands[at + 2 * m + j]]).sum(dtype=dtype)
                    acc[first + operands[at + m + i] + j] += found

    def plain(v: Array, base: int, operands: Array, acc: Array, first: int, m: int, at: int, exist: int, shift: int,
              thread: int, threads: int) -> None:
        v = rows(v, base, shift)[:, :exist]
        for k in range(thread, m, threads):
            with np.errstate(all="ignore"):
                acc[first + operands[at + m + k]] += v[operands[at + k]].sum(dtype=dtype)

    return {"step": step, "dense": dense, "thin": thin, "pair": pair, "outer": outer, "plain": plain}


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
