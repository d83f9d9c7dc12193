"""How a fused CUDA body adds up its results over the batch: which alone, which as outer products, and where sums lie.

A thread is an example, and a thread with a sum of its own for each of hundreds of results runs out of registers. So what
is summed is exchanged within the warp, through a board in shared memory: a row for each number, a column for each of the
warp's examples. After a barrier a lane owns results and goes along the examples. Products that only the batch's sums read
are blocks of weight gradients (`products.outer_products`); of these only the factors are written to the board, and the
lanes own small tiles of the block. A few results are left to each thread.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from jitgrad.compiler.products import Outer, outer_products, single_use_products
from jitgrad.compiler.tape import Tape

WARP = 32                          # threads of a CUDA warp
PRIVATE = 12                       # up to here each thread adds up every result itself
STRAY = 4                          # so many beside the blocks do not pay for a pass over the board
BOARD_ROWS = 64                    # rows of a board at most; more take turns
SIDE = 32                          # rows of a block's first factors at a time
TILES = (1, 2, 3, 4, 6, 8)         # sides of a lane's tile
SHARES = (1, 2, 4, 8)              # lanes that share the examples of a tile
LOAD, REGISTER = 4, 0.25           # cost of a load, and of holding an accumulator, beside an addition's


VECTOR_BYTES = 16                  # what one instruction loads at most


def board_stride(members: int, itemsize: int) -> int:
    """Numbers from one row of a warp's board to the next, for `members` examples a thread: other banks, same alignment."""
    return WARP * members + VECTOR_BYTES // itemsize


@dataclass(frozen=True)
class Job:
    """Sums that a warp makes of the board's rows: of a_i · b_j, or of a_i where there are no b.

    a, b: the board's rows, (first, count); rows, columns: a lane's tile; share: lanes that split a tile's examples;
    slot: the first of this job's accumulators; group: the first of its groups of WARP sums; itemsize: bytes a number.
    Lane q · WARP / share + t has the q-th part of the examples and tile t, of rows rt, rt + row_tiles, … and columns
    ct, ct + column_tiles, …, where rt, ct = divmod(t, column_tiles).
    """

    a: tuple[int, int]
    b: tuple[int, int]
    rows: int
    columns: int
    share: int
    slot: int
    group: int
    itemsize: int

    @property
    def tiles(self) -> int:
        """Tiles there is room for."""
        return WARP // self.share

    @property
    def row_tiles(self) -> int:
        """Tiles along a."""
        return -(-self.a[1] // self.rows)

    @property
    def column_tiles(self) -> int:
        """Tiles along b."""
        return -(-max(1, self.b[1]) // self.columns)

    @property
    def slots(self) -> int:
        """Accumulators of a lane."""
        return self.rows * self.columns

    @property
    def reach(self) -> int:
        """The board's rows up to the last that a tile reads, which may be beyond what was written."""
        return max(first + sides * tiles for (first, _), sides, tiles in
                   ((self.a, self.rows, self.row_tiles), (self.b, self.columns, self.column_tiles)))

    @property
    def cost(self) -> float:
        """Instructions an example, about, with something for registers."""
        loads = (self.rows + (self.columns if self.b[1] else 0)) * self.itemsize / VECTOR_BYTES
        return (self.slots + LOAD * loads) / self.share + REGISTER * self.slots * self.itemsize / 4

    @property
    def groups(self) -> int:
        """Groups of WARP sums, once lanes that share examples have joined theirs."""
        return -(-self.slots // self.share)

    def place(self, i: int, j: int) -> int:
        """Where the sum of a_i · b_j, or of a_i, stands among all sums."""
        (row, rt), (column, ct) = divmod(i, self.row_tiles), divmod(j, self.column_tiles)
        slot, tile = row * self.columns + column, rt * self.column_tiles + ct
        return (self.group + slot // self.share) * WARP + slot % self.share * self.tiles + tile


@dataclass(frozen=True)
class Phase:
    """What is on the board at one time, tape rows, and what is made of it."""

    board: list[int]
    jobs: list[Job]


class BatchSums:
    """The sums of a fused body. columns: the tape rows that are summed over the batch, ascending, each once.

    private: the columns that each thread adds up itself, in its first accumulators; phases: how the others are.
    slots: accumulators of a thread; groups: WARP sums each, of a warp; place: each column's among them.
    """

    def __init__(self, tape: Tape, columns: list[int], stored: list[int], itemsize: int):
        self.itemsize, self.columns, self.stored, self.phases = itemsize, columns, stored, list[Phase]()
        self.place = np.zeros(len(columns), np.int64)
        blocks = _blocks(tape, columns, stored) if len(columns) > PRIVATE else []
        # What is summed and is not a product of a block may be on a block's board.
        loose = dict.fromkeys(range(len(columns)))
        for block in blocks:
            for first in block.places:
                for place in range(first, first + len(block.others)):
                    loose.pop(place, None)
        sides = []
        for block in blocks:
            of_block = []
            for side in (block.common, block.others.tolist()):
                there = [k for k in loose if columns[k] in side]
                of_block.append(there if len(there) > STRAY else [])
                for k in of_block[-1]:
                    loose.pop(k)
            sides.append(of_block)
        self.private = list(loose) if len(loose) <= PRIVATE else []
        self.place[self.private] = range(len(self.private))
        self.slots, self.groups = len(self.private), -(-len(self.private) // WARP)
        for block, of_block in zip(blocks, sides, strict=True):
            self._outer(block, of_block)
        rest = [k for k in loose if k not in self.private]
        for some in (rest[k:k + WARP] for k in range(0, len(rest), WARP)):
            rows = [columns[k] for k in some]
            self.phases.append(Phase(rows, [self._side(rows, 0, some)]))
        self.phases.sort(key=lambda phase: max(phase.board))

    @property
    def wanted(self) -> list[int]:
        """What a body works out, in order: what it stores, then what is summed."""
        return [*self.stored, *(self.columns[k] for k in self.private), *(row for p in self.phases for row in p.board)]

    @property
    def board_rows(self) -> int:
        """Rows the board needs; a tile may reach a few beyond those that are written."""
        return max((max(job.reach for job in phase.jobs) for phase in self.phases), default=0)

    def _outer(self, block: Outer, sides: list[list[int]]) -> None:
        common, others = block.common, block.others.tolist()
        job = self._job((0, len(common)), (len(common), len(others)))
        for i, first in enumerate(block.places):
            for j in range(len(others)):
                self.place[first + j] = job.place(i, j)
        jobs = [job]
        for first, rows, summed in zip((0, len(common)), (common, others), sides, strict=True):
            if summed:
                jobs.append(self._side(rows, first, summed))
        self.phases.append(Phase([*common, *others], jobs))

    def _side(self, rows: list[int], first: int, summed: list[int]) -> Job:
        """The plain sums of `rows`, which are on the board from `first` on, for the columns numbered `summed`."""
        job = self._job((first, len(rows)), (0, 0))
        for k in summed:
            self.place[k] = job.place(rows.index(self.columns[k]), 0)
        return job

    def _job(self, a: tuple[int, int], b: tuple[int, int]) -> Job:
        candidates = (Job(a, b, rows, columns, share, self.slots, self.groups, self.itemsize)
                      for rows, columns, share in itertools.product(TILES, TILES if b[1] else (1,), SHARES))
        job = min((c for c in candidates if c.row_tiles * c.column_tiles <= c.tiles), key=lambda c: c.cost)
        self.slots += job.slots
        self.groups += job.groups
        return job


def _blocks(tape: Tape, columns: list[int], stored: list[int]) -> list[Outer]:
    """Blocks of products that only the batch's sums read, in pieces that fit the board."""
    rows = np.array(columns, np.int32)
    single, factors = single_use_products(tape, np.concatenate((rows, np.array(stored, np.int32))))
    varying = ~tape.uniform
    product = single[rows] & varying[factors[0, rows]] & varying[factors[1, rows]]
    blocks, _ = outer_products(rows, np.arange(len(rows), dtype=np.int32), product, factors)
    pieces = []
    for block in blocks:
        for at in range(0, len(block.common), SIDE):
            common, places = block.common[at:at + SIDE], block.places[at:at + SIDE]
            width = BOARD_ROWS - len(common)
            pieces += [Outer(common, [first + k for first in places], block.others[k:k + width])
                       for k in range(0, len(block.others), width)]
    return [piece for piece in pieces if len(piece.common) * len(piece.others) >= STRAY]
