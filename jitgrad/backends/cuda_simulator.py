"""What fills the CUDA shells' holes in numba's simulator (NUMBA_ENABLE_CUDASIM=1): the tape run by NumPy, one example.

The emitted bodies cannot run there; everything around them can: indices, tails, tiles, barriers and the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.backends.interpret import run_instruction, vectorised
from jitgrad.compiler.emit import ELEMENTWISE
from jitgrad.compiler.emit_cuda import FusedCode, Layout
from jitgrad.kernels import cuda_batch
from jitgrad.kernels.cuda_batch import WARP

Array = npt.NDArray[Any]


def fused_holes(code: FusedCode) -> tuple[Callable[..., None], Callable[..., None], Callable[..., None]]:
    """clear, body and fold as Python functions; see `cuda_batch.fused_shell`."""
    layout, plan, dtype = code.layout, code.plan, code.layout.dtype

    def clear(acc: Array) -> None:
        acc[:] = 0

    def body(acc: Array, numbers: Array, i: int, n: int, arrays: tuple[Array, ...]) -> None:
        for at in range(i, i + plan.unroll):
            v = run_example(layout, numbers, min(at, n - 1), arrays)
            for row, (array, column) in zip(layout.stored_rows, layout.stored, strict=True):
                width = layout.out_widths[array]
                arrays[len(layout.in_widths) + array][min(at, n - 1) * width + column] = v[row]
            values = np.zeros(code.groups * WARP, dtype)
            if at < n:
                values[:len(layout.columns)] = v[layout.columns]
            if plan.private:
                acc += values[:code.slots]
            else:
                acc += _by_lane(cuda_batch.simulated_warp_sum(values, plan.block))

    def fold(acc: Array, tiles: Array, first: int) -> None:
        values = np.zeros(code.groups * WARP, dtype)
        values[:code.slots] = acc
        sums = _by_lane(cuda_batch.simulated_warp_sum(values, plan.block)) if plan.private else acc.copy()
        acc[:] = 0
        lane = cuda_batch.simulated_lane()
        with np.errstate(all="ignore"):
            for group, value in enumerate(sums):
                at = first + group * WARP + lane
                total = tiles[at] + value
                of_value = total - tiles[at]
                error = (tiles[at] - (total - of_value)) + (value - of_value)
                tiles[at] = total
                if layout.pieces == 2:
                    tiles[at + code.groups * WARP] += error

    return clear, body, fold


def run_example(layout: Layout, numbers: Array, i: int, arrays: tuple[Array, ...]) -> Array:
    """Every row of the tape for example i."""
    tape = layout.tape
    v = np.empty((tape.size, 1), layout.dtype)
    for row, place in layout.shared.items():
        v[row] = numbers[place]
    for row, (array, column) in layout.batched.items():
        v[row] = arrays[array][i * layout.in_widths[array] + column]
    for row, value in tape.constants.items():
        v[row] = value
    with np.errstate(all="ignore"):
        for instruction in tape.instructions:
            run_instruction(instruction, v)
    return v[:, 0]


def _by_lane(sums: Array) -> Array:
    """This lane's sum of each group of 32."""
    return sums[cuda_batch.simulated_lane()::WARP]


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
