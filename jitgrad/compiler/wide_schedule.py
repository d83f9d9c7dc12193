"""How a wide program runs on CUDA: lanes an example, what is kept in registers, and in which phases it is computed.

An example belongs to a group of lanes; each holds some vectors of neighbouring elements. A phase adds up its reductions
lane by lane, then across the lanes. A row that fits the lanes' registers is read once, and wide terms stay until their last
use. A longer one is read again in each phase, by then from the second-level cache, and its terms are computed again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitgrad.compiler.phases import Phase, phases_of
from jitgrad.compiler.schedule import MULTIPROCESSORS
from jitgrad.compiler.wide import Wide

BLOCK = 256                        # threads, where an example does not take more
LINE = 128                         # bytes of memory that neighbouring lanes should read together
VECTOR_BYTES = 16
# Blocks of that size that a multiprocessor is to hold -> 32-bit registers of a thread for elements, half of what it has.
# Many threads hide what there is to wait for; few have more room together, since each needs some for computing.
ROOM = {4: 32, 2: 64, 1: 120}
LONGEST = 32                       # such registers for the elements of one term
UNROLLED = 6_000                   # operations of a body, a lane's elements counted one by one
CHUNK = 4                          # vectors a lane has in flight of a row that does not fit


@dataclass(frozen=True)
class WidePlan:
    """count: elements of a vector; lanes: of an example; vectors: that a lane has at once; chunks: walks of so many vectors.

    block: threads, several examples' or one's; residents: blocks that a multiprocessor is to hold; blocks: at most.
    """

    count: int
    lanes: int
    vectors: int
    chunks: int
    block: int
    residents: int
    phases: list[Phase]
    shared: int = 0                    # bytes of shared memory that a block is given at the launch

    @property
    def blocks(self) -> int:
        """How many blocks a batch of any size has at most: as many as an H200 holds at once."""
        return MULTIPROCESSORS * self.residents

    @property
    def examples(self) -> int:
        """Examples a block has at once."""
        return self.block // self.lanes

    @property
    def elements(self) -> int:
        """Elements a lane has at once."""
        return self.vectors * self.count

    def grid(self, n: int) -> int:
        """How many blocks run a batch of n."""
        return min(self.blocks, -(-n // self.examples))

    def whole(self, vector: int, width: int) -> bool:
        """Whether every lane's vector of this number lies within the row."""
        return self.chunks == 1 and (vector + 1) * self.lanes * self.count <= width


def for_wide(wide: Wide, dtype: np.dtype[Any], pieces: int) -> WidePlan | None:
    """The schedule of a wide program; None where what is kept of each element does not fit the registers."""
    size = dtype.itemsize
    count = math.gcd(wide.width, VECTOR_BYTES // size)
    phases, alive = phases_of(wide, resident=True)
    words = size // 4 * (alive + pieces * sum(len(p.sums) for p in phases))
    held = next((blocks for blocks in ROOM if count * words <= ROOM[blocks] and (words == 1 or blocks < max(ROOM))), 0)
    if held == 0:
        return None
    threads, lanes = held * BLOCK, LINE // (count * size)
    most = min(ROOM[held] // words, LONGEST * 4 // size, UNROLLED // sum(t.wide for t in wide.terms))
    most = max(1, most // count)
    while lanes < threads and lanes * count * most < wide.width:
        lanes *= 2
    vectors, chunks = -(-wide.width // (count * lanes)), 1
    if vectors > most:
        if any(p.sums for p in phases):
            return None
        # A block for each multiprocessor: the rows that are being walked must fit the second-level cache together.
        phases, _ = phases_of(wide, resident=False)
        lanes = threads
        vectors, chunks = CHUNK, -(-wide.width // (count * lanes * CHUNK))
    block = max(BLOCK, lanes)
    return WidePlan(count, lanes, vectors, chunks, block, threads // block, phases)
