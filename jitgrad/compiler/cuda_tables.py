"""Tape → the CUDA interpreter's tables: lines over a tile of examples, dense layers and weight gradients among them.

`products.Tabulation` says what is a block of a dense layer and what of a weight gradient. Here blocks are as large as
they come, a layer's weights lie packed as its line reads them, and a block of a weight gradient runs as soon as its
factors are there, so that their rows can be written anew and a tile fits a block's shared memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.compiler.emit import ELEMENTWISE
from jitgrad.compiler.products import Tabulation, outer_products
from jitgrad.compiler.reuse import allocate
from jitgrad.compiler.tape import Instruction, Rows, Tape
from jitgrad.kernels.cuda_lines import DENSE, OUTER, PAIR, PLAIN, SUM, TAKE, THIN

# Lines of eight numbers: kind, first row, rows, and as the kind wants them. An operand is a row of the tile, or of `w`,
# the numbers that all examples share, as ~row. See kernels/cuda_tape.py.
#   elementwise (kind ≥ 0)  lo, m, -, at                operands[at + j · m + k]: argument j of row k
#   SUM, TAKE               lo, m, -, at                as emit.encode writes lists
#   PAIR                    lo, m, n, at                m + 1 starts; from each to the next: the b, and the a n further on
#   DENSE, THIN             lo, m, n, at, b, joined     n operands; weights packed from b on; joined: one rounding a product
#   OUTER                   -, m, n, at, tile           m operands d, m places, n operands x; tile: which of TILES
#   PLAIN                   -, m, -, at                 m operands, m places
TALL = 8                           # rows of a dense layer that a thread computes at once
TILES = ((8, 4), (4, 4), (1, 1))   # of a weight gradient, d by x, that a thread has
REGISTERS = 128                    # bytes of them for a tile's sums
FEW_ROWS = 2                       # so many rows beside the last whole TALL are THIN
ALIGNED = 4                        # operands and weights that one instruction loads


def fits(tile: tuple[int, int], itemsize: int) -> bool:
    """Whether a thread's registers have room for a tile of a weight gradient."""
    return tile[0] * tile[1] * itemsize <= REGISTERS


class TileTables(Tabulation):
    """The tables of a tape whose rows `reduced` are summed over the batch and rows `examples` stored.

    lines: as above; tables.operands; packed: the rows of w that dense lines read, in order; rows: of a tile.
    """

    scatters = False

    def __init__(self, tape: Tape, reduced: Rows, examples: Rows, itemsize: int, threads: int):
        self.itemsize, self.threads = itemsize, threads
        self._packs: list[npt.NDArray[Any]] = []
        self._packed = 0
        super().__init__(tape, reduced, examples)
        self.packed = np.concatenate(self._packs) if self._packs else np.zeros(0, np.int32)
        self.lines, self.rows = self._in_order()

    def _operands(self, rows: Rows) -> Rows:
        return np.where(self.uniform[rows], ~self.w[rows], self.v[rows])

    def _line(self, i: Instruction, lo: int, kept: npt.NDArray[np.intp], place: Rows | None) -> tuple[int, ...]:
        kind, first, stop, at, _ = super()._line(i, lo, kept, place)
        return (kind, first, stop - first, 0, at, 0, 0, 0)

    def _dot(self, i: Instruction) -> None:
        """Sums of products: a dense layer where all have the same x, and the others in one line."""
        assert i.segments is not None
        joined = self.tape.derivatives is not None and int(self.tape.owner[i.lo]) >= self.tape.derivatives
        start = i.segments.start
        a, x = self.a[i.segments.elements], self.x[i.segments.elements]
        dense = np.logical_and.reduceat(self.uniform[a], start[:-1])
        run: list[int] = []

        def x_of(j: int) -> bytes:
            return x[start[j]:start[j + 1]].tobytes() if dense[j] else b""
        for j in [*np.flatnonzero(~self.summed[i.lo:i.hi]).tolist(), -1]:
            if run and (j < 0 or j != run[-1] + 1 or x_of(j) != x_of(run[0])):
                (self._layer if dense[run[0]] else self._pairs)(i, run, a, x, joined)
                run = []
            run.append(j)

    def _layer(self, i: Instruction, run: list[int], a: Rows, x: Rows, joined: bool) -> None:
        assert i.segments is not None
        start, lo = i.segments.start, int(self.v[i.lo + run[0]])
        inputs = self._in_v(x[start[run[0]]:start[run[0] + 1]])
        weights = self.w[np.stack([a[start[j]:start[j + 1]] for j in run])]
        n = len(inputs)
        tall = len(run) if len(run) % TALL > FEW_ROWS else len(run) - len(run) % TALL
        at = self._aligned(inputs)
        if tall:
            groups = -(-tall // TALL)
            some = np.resize(weights[:tall], (groups * TALL, n)) if groups * TALL > tall else weights[:tall]
            packed = self._pack(some.reshape(groups, TALL, n).transpose(0, 2, 1))
            self.tables.lines.append((DENSE, lo, tall, n, at, packed, int(joined), 0))
        if tall < len(run):
            packed = self._pack(weights[tall:])
            self.tables.lines.append((THIN, lo + tall, len(run) - tall, n, at, packed, int(joined), 0))

    def _pack(self, weights: Rows) -> int:
        at, flat = self._packed, weights.reshape(-1)
        self._packs.append(np.append(flat, np.zeros(-len(flat) % ALIGNED, np.int32)).astype(np.int32))
        self._packed += len(self._packs[-1])
        return at

    def _aligned(self, *arrays: Rows) -> int:
        self.tables.put(np.zeros(-self.tables.length % ALIGNED, np.int32))
        return self.tables.put(*arrays)

    def _pairs(self, i: Instruction, run: list[int], a: Rows, x: Rows, joined: bool) -> None:
        assert i.segments is not None
        start = i.segments.start
        first, last = start[run[0]], start[run[-1] + 1]
        n, at = int(last - first), self.tables.length
        starts = start[run[0]:run[-1] + 2] - first + at + len(run) + 1
        self.tables.put(starts, self._operands(x[first:last]), self._operands(a[first:last]))
        self.tables.lines.append((PAIR, int(self.v[i.lo + run[0]]), len(run), n, at, 0, int(joined), 0))

    def _reductions(self, rows: Rows, places: Rows) -> None:
        """Blocks of weight gradients, and the rest; in one line a place stands once."""
        blocks, plain = outer_products(rows, places, self.absorbed[rows], self.factors)
        t = self.tables
        for block in blocks:
            n, left = len(block.others), list(zip(block.common, block.places, strict=True))
            while left:
                taken: list[tuple[int, int]] = []
                for one in sorted(left, key=lambda one: one[1]):
                    if not taken or one[1] >= taken[-1][1] + n:
                        taken.append(one)
                left = [one for one in left if one not in taken]
                d, at_places = (np.array(column, np.int32) for column in zip(*taken, strict=True))
                at = t.put(self._in_v(d), at_places, self._in_v(block.others))
                t.reductions.append((OUTER, 0, len(d), n, at, self._tile(len(d), n), 0, 0))
        rows, places = rows[plain], places[plain]
        while len(rows):
            _, first = np.unique(places, return_index=True)
            at = t.put(self._in_v(rows[first]), places[first])
            t.reductions.append((PLAIN, 0, len(first), 0, at, 0, 0, 0))
            rows, places = np.delete(rows, first), np.delete(places, first)

    def _tile(self, m: int, n: int) -> int:
        """The largest tile of which there is one for each thread, nearly."""
        enough = [k for k, (rows, columns) in enumerate(TILES)
                  if -(-m // rows) * -(-n // columns) * 4 >= 3 * self.threads and fits((rows, columns), self.itemsize)]
        return enough[0] if enough else len(TILES) - 1

    def _in_order(self) -> tuple[npt.NDArray[np.int64], int]:
        """All lines, each reduction once its factors are there, and how many rows they need when rows are written anew."""
        t, operands = self.tables, self.tables.operands
        writer = np.full(t.v_size, -1)
        for k, line in enumerate(t.lines):
            writer[line[1]:line[1] + line[2]] = k
        ordered = [(k, line) for k, line in enumerate(t.lines)]
        for line in t.reductions:
            ordered.append((max(int(writer[operands[s]].max()) for s in _operand_slices(line, operands)), line))
        lines = [line for _, line in sorted(ordered, key=lambda one: one[0])]         # a stable sort: the writer first
        slices = [_operand_slices(line, operands) for line in lines]
        reads = [np.concatenate([operands[s] for s in some]) for some in slices]
        writes = [(lo, lo + (m if kind > OUTER else 0)) for kind, lo, m, *_ in lines]
        place, rows = allocate(t.v_size, len(t.in_rows), writes, [some[some >= 0] for some in reads],
                               np.array(t.out_rows, np.int32))
        for some in {(s.start, s.stop) for each in slices for s in each}:
            part = operands[slice(*some)]
            operands[slice(*some)] = np.where(part < 0, part, place[np.maximum(part, 0)])
        t.parts, t.length = [operands], len(operands)
        t.in_rows, t.out_rows = place[t.in_rows].tolist(), place[t.out_rows].tolist()
        t.spread = [(int(place[v]), w) for v, w in t.spread]
        found = [(kind, int(place[lo]) if kind > OUTER else 0, *rest) for kind, lo, *rest in lines]
        return np.array(found, np.int64).reshape(-1, 8), rows


def _operand_slices(line: tuple[int, ...], operands: Rows) -> list[slice]:
    """Where the rows that a line reads stand among the operands."""
    kind, _, m, n, at, *_ = line
    if kind >= 0:
        return [slice(at, at + ELEMENTWISE[kind].arity * m)]
    if kind == SUM:
        return [slice(int(operands[at]), int(operands[at + m]))]
    if kind == TAKE:
        return [slice(at, at + m), slice(int(operands[at + m]), int(operands[at + 2 * m]))]
    if kind == PAIR:
        return [slice(at + m + 1, at + m + 1 + 2 * n)]
    if kind == OUTER:
        return [slice(at, at + m), slice(at + 2 * m, at + 2 * m + n)]
    return [slice(at, at + (m if kind == PLAIN else n))]
