"""How a tape is run: as one straight line held in registers, or interpreted; and in what pieces the batch is walked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.compiler.batch_sums import WARP, BatchSums, board_stride
from jitgrad.compiler.demand import most_alive
from jitgrad.compiler.tape import Tape
from jitgrad.kernels import dense

# Straight-line code costs the compiler about 0.1 ms an operation and spills once few values fit in registers; above
# this many operations the tape interpreter wins in total, with nothing to compile (docs/design.md, "Schedules").
FUSED_LIMIT = 2_000

# Up to this many operations a body is inlined into its loop over a tile.
INLINED_LIMIT = 100

# A batch is cut into at most this many chunks, each with sums of its own: the cut depends on the program and the batch
# size alone, never on the number of threads, and so does the order of every sum. Of a large model, whose sums are long,
# there are fewer: they are to stay in the caches.
MAX_CHUNKS, MIN_CHUNKS = 64, 16
CHUNK_SUMS_BYTES = 8 << 20

VECTOR_BYTES = 64                  # one AVX-512 register; narrower machines use several
FUSED_TILE = 1040                  # not 1024: rows 4 KiB apart would all lie in one set of the first-level cache
STREAMED_BYTES = 16 << 20          # per-example results from here on are written past the caches
TAPE_BYTES = 1 << 19               # rows of a tape's tile, kept within a core's second-level cache
PRODUCTS_BYTES = 1 << 20           # the same where products are summed: a tile's sums are added up across lanes once
TAPE_VECTORS = 32
ROWS_BYTES = 1 << 16               # rows of a wide program's tile, where a vector of examples has fewer
ROWS_VECTORS = 8
FLUSH_TERMS = 1024                 # lane-wise partial sums go to float64 after so many terms: 64 a lane in float32


@dataclass(frozen=True)
class CpuSchedule:
    """fused: straight line or interpreter; lanes: examples a vector; tile: examples packed at once, a multiple of `unit`;
    chunks: of a batch, at most.
    """

    fused: bool
    lanes: int
    tile: int
    unit: int
    chunks: int

    def tile_for(self, n: int) -> int:
        """The tile for a batch of n: an interpreter is not to run over vectors without an example."""
        return self.tile if self.fused else min(self.tile, self.unit * -(-n // self.unit))


def is_fused(tape: Tape) -> bool:
    """Whether the CPU runs a tape as a straight line."""
    return tape.operations() <= FUSED_LIMIT


def is_inlined(tape: Tape) -> bool:
    """Whether a straight line on the CPU is inlined into its loop over a tile."""
    return tape.operations() <= INLINED_LIMIT


def for_line(dtype: np.dtype[Any], sums: int) -> CpuSchedule:
    """The CPU schedule of a straight line; sums: how many there are over the batch."""
    lanes = VECTOR_BYTES // dtype.itemsize
    return CpuSchedule(True, lanes, FUSED_TILE, lanes, _chunks(sums))


def for_rows(dtype: np.dtype[Any], sums: int, rows: int) -> CpuSchedule:
    """The CPU schedule of a wide program with so many rows in a tile."""
    lanes = VECTOR_BYTES // dtype.itemsize
    fitting = ROWS_BYTES // (rows * VECTOR_BYTES)
    return CpuSchedule(True, lanes, lanes * max(1, min(fitting, ROWS_VECTORS)), lanes, _chunks(sums))


def for_tape(dtype: np.dtype[Any], sums: int, rows: int, products: bool) -> CpuSchedule:
    """The CPU schedule of an interpreted tape with so many rows in a tile; products: some of them sums of products."""
    lanes = VECTOR_BYTES // dtype.itemsize
    unit = dense.tile_unit(lanes) if products else lanes
    fitting = (PRODUCTS_BYTES if products else TAPE_BYTES) // (max(rows, 1) * dtype.itemsize * unit)
    return CpuSchedule(False, lanes, unit * max(1, min(fitting, TAPE_VECTORS * lanes // unit)), unit, _chunks(sums))


def _chunks(sums: int) -> int:
    return min(MAX_CHUNKS, max(MIN_CHUNKS, CHUNK_SUMS_BYTES // (8 * max(sums, 1))))


# CUDA. The grid depends on the batch size alone, never on the GPU at hand, and so does the order of every sum. An H100
# and an H200 have 132 multiprocessors. A light body needs all the threads these hold, each with several examples in
# flight, to keep memory busy; a heavy one fills their registers with four blocks each.
MULTIPROCESSORS = 132
BLOCK = 128
LIGHT = 64                         # operations
LIGHT_BLOCKS = 16 * MULTIPROCESSORS
TILE_BLOCKS, FAR_BLOCKS = 6, 2     # of a multiprocessor, at most: as many as have registers, 160 a thread and 255
# By the words a thread holds at once (`most_alive`, and accumulators), how many warps' registers a multiprocessor has
# room for: compiled, a body takes up to 128, 168 or 255. Blocks that wait for others to end would double the time.
HEAVY_WARPS = ((88, 16), (150, 12), (256, 8))
TWO_MEMBERS = 150                  # words up to which a thread has two examples at once: a number is loaded for both
UNROLL = 4                         # examples a thread of a light body has in flight
SHARED_MEMORY = 48 << 10           # bytes a block may have without asking
SHARED_IN_ALL = 227 << 10          # bytes that the blocks of an H100 multiprocessor may have; each takes 1,024 more
TILE_THREADS, FAR_THREADS = 64, 128            # of a block, where a tile's rows lie in shared memory, and where not
TILE_EXAMPLES = (32, 16)
PADDING = 16                       # bytes between the rows of a tile
SCRATCH_BYTES = 256 << 20          # rows of all blocks that interpret a tape


@dataclass(frozen=True)
class CudaSchedule:
    """fused: straight line or interpreter; light: a short straight line; unroll: examples a thread has at once."""

    fused: bool
    light: bool
    block: int                         # threads
    blocks: int                        # at most
    unroll: int
    examples: int                      # a block has at once
    shared: int = 0                    # bytes of shared memory that a block is given at the launch

    def grid(self, n: int) -> int:
        """How many blocks run a batch of n."""
        return min(self.blocks, -(-n // self.examples))


def for_cuda(tape: Tape, dtype: np.dtype[Any], sums: Callable[[], BatchSums]) -> CudaSchedule | None:
    """How CUDA runs a tape as one straight line, whose sums are `sums()`; None where it does not."""
    operations = tape.operations()
    if operations > FUSED_LIMIT:
        return None
    if operations <= LIGHT and not sums().phases:
        return CudaSchedule(True, True, BLOCK, LIGHT_BLOCKS, UNROLL, BLOCK * UNROLL)
    return _fused(tape, dtype, sums())


def for_tile(rows: int, dtype: np.dtype[Any]) -> tuple[CudaSchedule, bool]:
    """How CUDA runs a tape line by line, a tile having `rows` rows; and whether these lie in shared memory."""
    def size(examples: int) -> int:
        return rows * (examples * dtype.itemsize + PADDING)
    for examples in TILE_EXAMPLES:
        if size(examples) <= SHARED_MEMORY:
            blocks = min(TILE_BLOCKS, SHARED_IN_ALL // (size(examples) + 1024)) * MULTIPROCESSORS
            return CudaSchedule(False, False, TILE_THREADS, blocks, 1, examples, size(examples)), True
    blocks = min(FAR_BLOCKS * MULTIPROCESSORS, max(1, SCRATCH_BYTES // size(WARP)))
    return CudaSchedule(False, False, FAR_THREADS, blocks, 1, WARP), False


def _fused(tape: Tape, dtype: np.dtype[Any], sums: BatchSums) -> CudaSchedule | None:
    """A straight line's schedule, None where it would not fit the registers or the shared memory of a block."""
    alive = most_alive(tape, sums.wanted)

    def words(members: int) -> int:
        return (alive * members + sums.slots) * dtype.itemsize // 4
    members = 2 if words(2) <= TWO_MEMBERS else 1
    room = next((warps for most, warps in HEAVY_WARPS if words(members) <= most), 0)
    numbers = _numbers_read(tape)
    warp = sums.groups * WARP * (8 // dtype.itemsize) + sums.board_rows * board_stride(members, dtype.itemsize)
    for warps in (4 // members, 2, 1):
        bytes_used = (warp * warps + numbers) * dtype.itemsize
        if bytes_used <= SHARED_MEMORY and room:
            blocks = min(room // warps, SHARED_IN_ALL // (bytes_used + 1024))
            return CudaSchedule(True, False, WARP * warps, blocks * MULTIPROCESSORS, members, WARP * warps * members)
    return None


# Training on CUDA. A block makes all steps of a model while a step's trips over its batch take less time than launching
# the kernels of a step; a trip is counted as the body's operations and what it costs besides. Both are guesses until
# they are measured: on paper a trip of the 2-16-16-1 model, 1,573 operations, takes 7 µs, and a step's launches 60.
TRAINING_BLOCK = 256
TRIP_WORK = 100
RESIDENT_WORK = 16_000


def for_training(tape: Tape, dtype: np.dtype[Any], sums: Callable[[], BatchSums], numbers: int,
                 size: int) -> CudaSchedule | None:
    """The schedule of a block that trains a model by itself, on `size` examples a step, with `numbers` of its own.

    None: its numbers do not fit the block's memory, or a step is better made by many blocks.
    """
    operations = tape.operations()
    if operations > FUSED_LIMIT:
        return None
    block, found = min(TRAINING_BLOCK, max(WARP, 1 << (size - 1).bit_length())), sums()
    width, own = found.groups * WARP, numbers + _numbers_read(tape)
    warp = width * (8 // dtype.itemsize) + found.board_rows * board_stride(1, dtype.itemsize)

    def fits() -> bool:
        return (own + width + warp * (block // WARP)) * dtype.itemsize <= SHARED_MEMORY
    while block > WARP and not fits():
        block //= 2
    if not fits() or -(-size // block) * (operations + TRIP_WORK) > RESIDENT_WORK:
        return None
    return CudaSchedule(True, False, block, 1, 1, block)


def _numbers_read(tape: Tape) -> int:
    """Shared numbers that a straight line reads, each as often as it is used."""
    return sum(int(tape.shared[rows[rows < len(tape.inputs)]].sum()) for i in tape.instructions for rows in i.operands())


@lru_cache(1024)
def bounds(n: int, plan: CpuSchedule) -> npt.NDArray[np.int64]:
    """Where the chunks of a batch of n begin, and n: whole tiles each, but for the last."""
    tiles = -(-n // plan.tile)
    step = plan.tile * -(-tiles // plan.chunks)
    return np.append(np.arange(0, n, step), n)
