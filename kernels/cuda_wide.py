"""The batch loop on CUDA of programs whose examples are wide: an example belongs to a group of lanes, warps or a block.

Sums over the batch are each thread's own until the end, then the block's in the order of its groups; `cuda_batch.sum_shell`
adds up the blocks. Same bits, every run.
"""

from __future__ import annotations

from typing import Any

from numba import cuda

from jitgrad.kernels.cuda_batch import SIMULATED, WARP


def wide_shell(clear: Any, body: Any, finish: Any, real: Any, slots: int, board_size: int, columns: int, lanes: int,
               block: int, residents: int) -> Any:
    """The shell around a wide body: a group of `lanes` threads has an example, then the one a grid further on.

    clear(acc): zero in this thread's `slots` sums
    body(acc, board, numbers, i, then, n, addresses): this thread's share of example i, if i < n; its next one is `then`;
        threads of a group meet
    finish(acc, board, part, at): the block's sums into part[at:at + columns]
    Threads that meet make the same number of trips: a warp's, or a block's where an example takes more than a warp.
    """
    together = WARP if lanes <= WARP else block

    def run(part: Any, numbers: Any, addresses: Any, n: int) -> None:
        acc = cuda.local.array(slots, real)
        board = cuda.shared.array(board_size, real)
        thread = cuda.threadIdx.x
        step = cuda.gridDim.x * (block // lanes)
        begin = cuda.blockIdx.x * (block // lanes)
        i, first = begin + thread // lanes, begin + thread // together * together // lanes
        clear(acc)
        while first < n:
            body(acc, board, numbers, i, i + step, n, addresses)
            i += step
            first += step
        finish(acc, board, part, cuda.blockIdx.x * columns)
    if SIMULATED:
        return cuda.jit(run)
    # A multiprocessor is to hold `residents` blocks, which is what the grid counts on.
    return cuda.jit(lto=False, launch_bounds=(block, residents))(run)


if SIMULATED:
    def simulated_thread() -> Any:
        """This thread's place in its block (simulator only)."""
        return cuda.threadIdx.x

    def simulated_barrier() -> None:
        """Wait for every thread of the block (simulator only)."""
        cuda.syncthreads()
