"""Batch loops on CUDA: a fixed grid, a body with one hole, sums in a fixed order. No float atomics: same bits, every run.

A program's reduced results are its columns. A block leaves its share of every column in `part[block][piece][column]`;
`sum_shell` then adds the shares in block order, in float64. A float32 program computes in float32 alone and carries the
rounding errors of its long sums as a second piece (Knuth's two-sum), so that piece 0 plus piece 1 is the sum.

The simulator (NUMBA_ENABLE_CUDASIM=1) runs the same shells with Python holes; there, addresses are the arrays themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import config, cuda, types

SIMULATED = bool(config.ENABLE_CUDASIM)

WARP = 32
VECTOR = None if SIMULATED else 16  # bytes that one instruction loads, and so the shared numbers' alignment
FOLD = 16                          # examples a thread adds up plainly before they join the compensated sum
SLICES = 8                         # warps that share the blocks' parts of a column in `sum_shell`

if SIMULATED:
    def as_pointer(address: Any, sample: Any) -> Any:
        """An address, which the simulator passes as the array itself."""
        return address
else:
    from numba.cuda.extending import intrinsic

    @intrinsic
    def as_pointer(typingctx: Any, address: Any, sample: Any) -> Any:
        """An integer address as a pointer to numbers of `sample`'s dtype."""
        kind = types.CPointer(sample.dtype)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(kind))
        return kind(types.int64, sample), codegen


def kernel(function: Any) -> Any:
    """A kernel: compiled at its first launch, or simulated."""
    # Without link-time optimisation the PTX that is shown is the PTX that runs, and its constant memory keeps its name.
    return cuda.jit(function) if SIMULATED else cuda.jit(lto=False)(function)


def fused_shell(clear: Any, body: Any, fold: Any, real: Any, slots: int, columns: int, board_size: int, shared_size: int,
                block: int, unroll: int, pieces: int) -> Any:
    """The shell around a straight-line body: a thread has `unroll` neighbouring examples, then those a grid further on.

    clear(acc): zero in all accumulators
    body(acc, board, numbers, i, n, addresses): the `unroll` examples from i on, of which those below n exist; adds what
        they contribute to the `slots` accumulators of the warp's threads, which exchange numbers on their part of `board`
    fold(acc, tiles, first): moves the warp's accumulators into its compensated sums, `columns` numbers a piece
    board_size: numbers of all warps' boards, which hold nothing between two calls of body
    shared_size: numbers of `numbers`, which `shared` holds as the body reads them: in its own order, some repeatedly
    Every thread of a warp makes the same number of trips, so that exchanges find all 32.
    """
    size, warps = columns * pieces, block // WARP
    tiles_size, compensated = size * warps, pieces == 2

    def run(part: Any, shared: Any, addresses: Any, n: int) -> None:
        acc = cuda.local.array(slots, real)
        tiles = cuda.shared.array(tiles_size, real)
        board = cuda.shared.array(board_size, real, VECTOR)
        numbers = cuda.shared.array(shared_size, real, VECTOR)
        thread, step, i = cuda.threadIdx.x, cuda.gridsize(1) * unroll, cuda.grid(1) * unroll
        source = as_pointer(shared, numbers)
        for k in range(thread, shared_size, block):
            numbers[k] = source[k]
        for k in range(thread, tiles_size, block):
            tiles[k] = 0
        for k in range(thread, board_size, block):
            board[k] = 0                                   # a tile reads a little beyond what was written
        cuda.syncthreads()
        clear(acc)
        first = thread // WARP * size
        trips = (n + step - 1) // step
        done = 0
        while done < trips:
            stop = min(done + FOLD, trips)
            while done < stop:
                body(acc, board, numbers, i, n, addresses)
                i += step
                done += 1
            fold(acc, tiles, first)
        cuda.syncthreads()
        out = as_pointer(part, tiles)
        for c in range(thread, columns, block):
            total, error = tiles[c], real(0)
            if compensated:
                error = tiles[columns + c]
            for warp in range(1, warps):
                other = tiles[warp * size + c]
                both = total + other
                if compensated:
                    of_other = both - total
                    error += tiles[warp * size + columns + c] + ((total - (both - of_other)) + (other - of_other))
                total = both
            out[cuda.blockIdx.x * size + c] = total
            if compensated:
                # What was computed as the rounding error of an infinite sum is NaN.
                out[cuda.blockIdx.x * size + columns + c] = error if total - total == 0 else real(0)
    return kernel(run)


def sum_shell(pieces: int, real: Any) -> Any:
    """sums[k] = column places[k] over all blocks, in float64; rounded[k] = that / divisor, an address of `real` numbers.

    SLICES warps take every SLICES-th block each, then add up in order. count: of k.
    """
    def run(part: Any, sums: Any, rounded: Any, places: Any, blocks: int, columns: int, count: int, divisor: float) -> None:
        shares = cuda.shared.array((SLICES, WARP), types.float64)
        lane, share = cuda.threadIdx.x, cuda.threadIdx.y
        k = cuda.blockIdx.x * WARP + lane
        total = 0.0
        if k < count:
            c = places[k]
            for b in range(share, blocks, SLICES):
                for piece in range(pieces):
                    total += np.float64(part[(b * pieces + piece) * columns + c])
        shares[share, lane] = total
        cuda.syncthreads()
        if share == 0 and k < count:
            total = shares[0, lane]
            for slice_ in range(1, SLICES):
                total += shares[slice_, lane]
            sums[k] = total
            as_pointer(rounded, part)[k] = real(total / divisor)
    return kernel(run)


if SIMULATED:
    # `here` is a shell's own `cuda`, which the simulator puts into its module while it runs.

    def simulated_lane(here: Any) -> Any:
        """This thread's place in its warp (simulator only)."""
        return here.threadIdx.x % WARP

    def simulated_warp(here: Any) -> Any:
        """This thread's warp in its block (simulator only)."""
        return here.threadIdx.x // WARP

    def simulated_meeting(here: Any) -> Any:
        """Wait for all threads (simulator only)."""
        here.syncthreads()

    def simulated_sums(values: Any, block: int, here: Any) -> Any:
        """The sum of one of `values` over the lanes that share it, as emit_warp.TransposedSum does (simulator only).

        These are len(values), a power of two, that lie WARP / len(values) apart: the q-th of them gets values[q].
        """
        board = here.shared.array((block, WARP), values.dtype)      # one shape: this line makes one array
        thread, apart = here.threadIdx.x, WARP // len(values)
        board[thread, :len(values)] = values
        here.syncthreads()
        lane = thread % WARP
        rows = board[thread - lane + lane % apart:thread - lane + WARP:apart, lane // apart]
        while len(rows) > 1:
            rows = rows[0::2] + rows[1::2]
        here.syncthreads()
        return rows[0]
