"""How a tape is run: as one straight line held in registers, or interpreted; and in what pieces the batch is walked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jitgrad.compiler.tape import Tape

# Straight-line code costs the compiler about 0.1 ms an operation and spills once few values fit in registers; above
# this many operations the tape interpreter wins in total, with nothing to compile (docs/design.md, "Schedules").
FUSED_LIMIT = 3_000

# A batch is cut into at most this many chunks, each with sums of its own: the cut depends on the batch size alone,
# never on the number of threads, and so does the order of every sum.
MAX_CHUNKS = 64

VECTOR_BYTES = 64                  # one AVX-512 register; narrower machines use several
FUSED_TILE = 1024
TAPE_BYTES = 1 << 20               # rows of a tape's tile, kept within a core's second-level cache


@dataclass(frozen=True)
class CpuSchedule:
    """fused: straight line or interpreter; lanes: examples a vector; tile: examples packed at once."""

    fused: bool
    lanes: int
    tile: int


def for_cpu(tape: Tape, dtype: np.dtype[Any]) -> CpuSchedule:
    """The CPU schedule of a tape."""
    lanes = VECTOR_BYTES // dtype.itemsize
    if tape.operations() <= FUSED_LIMIT:
        return CpuSchedule(True, lanes, FUSED_TILE)
    fitting = TAPE_BYTES // (tape.size * dtype.itemsize * lanes)
    return CpuSchedule(False, lanes, lanes * min(16, max(1, fitting)))


# CUDA. The grid depends on the batch size alone, never on the GPU at hand, and so does the order of every sum. An H100
# and an H200 have 132 multiprocessors; a light body needs all the threads they hold to keep memory busy, a heavy one
# fills its registers with four blocks a multiprocessor.
BLOCK = 128
LIGHT = 64                         # operations
LIGHT_BLOCKS, HEAVY_BLOCKS = 132 * 16, 132 * 4
UNROLL = 4                         # examples a thread of a light body has in flight
PRIVATE_SUMS = 12                  # up to here a thread adds up every result itself; above, the warp shares them
CONSTANT_BYTES = 60_000            # of 64 KB of constant memory, which holds the shared numbers


@dataclass(frozen=True)
class CudaSchedule:
    """fused: straight line or interpreter; private: each thread has sums of its own; unroll: examples at once."""

    fused: bool
    block: int
    blocks: int
    private: bool
    unroll: int

    def grid(self, n: int) -> int:
        """How many blocks run a batch of n."""
        return min(self.blocks, -(-n // (self.block * self.unroll)))


def for_cuda(tape: Tape, dtype: np.dtype[Any], columns: int) -> CudaSchedule:
    """The CUDA schedule of a tape with `columns` reduced results."""
    operations = tape.operations()
    fused = operations <= FUSED_LIMIT and len(tape.inputs) * dtype.itemsize <= CONSTANT_BYTES
    light = operations <= LIGHT
    private = columns <= PRIVATE_SUMS
    return CudaSchedule(fused, BLOCK, LIGHT_BLOCKS if light else HEAVY_BLOCKS, private,
                        UNROLL if light and private else 1)


def chunks(n: int, tile: int) -> list[tuple[int, int]]:
    """Ranges of examples, whole tiles but for the last."""
    tiles = -(-n // tile)
    step = tile * -(-tiles // MAX_CHUNKS)
    return [(lo, min(lo + step, n)) for lo in range(0, n, step)]
