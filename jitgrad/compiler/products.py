"""Tape → the CPU interpreter's tables: products that only feed a sum are never stored.

A `sum` whose elements are products nobody else reads becomes a dot product, dots over one list of inputs a block of a
dense layer, and products that are only summed over the batch a block of a weight gradient: the micro-kernels of
kernels/dense.py. Numbers that all examples share are kept once (`w` rows), not once an example; `v` rows hold the rest.
The order of every sum stays what it was.

The derivative of a `take` is, for each element of the list, the cotangent where the index is that element's and else 0.
Where such rows are only summed over the batch, as those of an embedding's table are, none is computed: the cotangent is
added to the one sum that the index names.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from jitgrad.compiler.emit import CODE, ELEMENTWISE
from jitgrad.compiler.graph import OPS
from jitgrad.compiler.reuse import allocate
from jitgrad.compiler.tape import Instruction, Rows, Tape
from jitgrad.kernels.dense import ROWS

# Lines of the tables beside the elementwise codes; see kernels/cpu_batch.py.
SUM, TAKE, DOT, PAIR, GATHER = -1, -2, -3, -4, -5
# Rows of one index that are worth a scatter: fewer are added as fast as vectors.
SCATTERED = 16


@dataclass
class Tables:
    """What kernels/cpu_batch.run_tape reads; lines are filled up to five integers.

    The first number of a reduction is 0 for rows that are added as they are, -1 for one that goes where an index says.
    """

    v_size: int = 0
    w_size: int = 0
    in_rows: list[int] = field(default_factory=list)                        # v rows of the batched inputs
    out_rows: list[int] = field(default_factory=list)                       # v rows of the per-example results
    constants: list[float] = field(default_factory=list)                    # the first w rows
    shared: list[int] = field(default_factory=list)                         # tape rows of the shared inputs, the next ones
    spread: list[tuple[int, int]] = field(default_factory=list)             # (v row, w row) repeated for all examples
    once: list[tuple[int, ...]] = field(default_factory=list)               # lines over w rows
    lines: list[tuple[int, ...]] = field(default_factory=list)              # lines over v rows, for each tile
    reductions: list[tuple[int, ...]] = field(default_factory=list)         # (rows, n, operands at): outer, or see below
    parts: list[Rows] = field(default_factory=list)                         # all operands, end to end
    length: int = 0

    def put(self, *arrays: npt.ArrayLike) -> int:
        """Append operands; returns where they begin."""
        at = self.length
        for a in arrays:
            self.parts.append(np.asarray(a, np.int32))
            self.length += len(self.parts[-1])
        return at

    @property
    def has_products(self) -> bool:
        """Whether there are sums of products, over an example or the batch; they run over several vectors at once."""
        return any(line[0] in (DOT, PAIR) for line in self.lines) or any(rows > 0 for rows, _, _ in self.reductions)

    @property
    def operands(self) -> Rows:
        """All operands."""
        return np.concatenate(self.parts) if self.parts else np.zeros(0, np.int32)


def single_use(tape: Tape, results: Rows) -> npt.NDArray[np.bool_]:
    """Which rows are read exactly once, results counting as read."""
    read = [results, *(rows for i in tape.instructions for rows in i.operands())]
    once: npt.NDArray[np.bool_] = np.bincount(np.concatenate(read), minlength=tape.size) == 1
    return once


def single_use_products(tape: Tape, results: Rows) -> tuple[npt.NDArray[np.bool_], Rows]:
    """Which rows are products that are read exactly once; and the two factors of each row, -1 where it is no product."""
    factors = np.full((2, tape.size), -1, np.int32)
    for i in tape.instructions:
        if i.op is OPS["mul"]:
            factors[:, i.lo:i.hi] = i.args
    return (factors[0] >= 0) & single_use(tape, results), factors


@dataclass
class Outer:
    """Products that are summed over the batch: common[k] · others[j] goes to the sum at places[k] + j."""

    common: list[int]
    places: list[int]
    others: Rows


def outer_products(rows: Rows, places: Rows, product: npt.NDArray[np.bool_],
                   factors: Rows) -> tuple[list[Outer], npt.NDArray[np.bool_]]:
    """Blocks among rows that are summed to `places`: runs of products with one common factor over the same others.

    product: whether each is a product with factors[:, row]. Also answers which of them are not.
    """
    broken = np.diff(places) != 1
    ends = [_run_ends(np.where(product, f, -1), broken) for f in factors[:, rows]]
    blocks: dict[bytes, Outer] = {}
    p = 0
    while p < len(rows):
        # Which factor is common depends on how a weight matrix lies: W[j, i] or W[i, j].
        common = 0 if ends[0][p] >= ends[1][p] else 1
        run = rows[p:ends[common][p]]
        if product[p]:
            others = factors[1 - common, run]
            block = blocks.setdefault(others.tobytes(), Outer([], [], others))
            block.common.append(int(factors[common, run[0]]))
            block.places.append(int(places[p]))
        p += len(run)
    return list(blocks.values()), ~product


def tabulate(tape: Tape, reduced: Rows, examples: Rows) -> Tables:
    """The tables of a tape whose rows `reduced` are summed over the batch and rows `examples` stored."""
    tables = Tabulation(tape, reduced, examples).tables
    _share_rows(tables)
    return tables


def is_scattered(tape: Tape, reduced: Rows) -> bool:
    """Whether much of a tape is rows that need not be computed, as they are in a straight line: a scatter does without."""
    if not any(i.op is OPS["eq"] for i in tape.instructions):
        return False
    once, ends = single_use(tape, reduced), np.zeros(tape.size, bool)
    ends[reduced] = once[reduced]
    return bool(4 * OneHot(tape, once, ends).rows.sum() >= tape.operations())


class Tabulation:
    """Finds what need not be stored, numbers the rest and writes the tables' lines, each row written by one line.

    scatters: whether there are lines that read and add to shared numbers by an index
    """

    scatters = True

    def __init__(self, tape: Tape, reduced: Rows, examples: Rows):
        self.tape, self.tables = tape, Tables()
        # One row beyond the tape's: the number 1, by which an element that is no product is multiplied. It is exact.
        self.one = tape.size
        self.uniform = np.append(tape.uniform, True)
        self.dots: set[Instruction] = set()
        self._absorb(reduced, examples)
        self.v = np.full(tape.size + 1, -1, np.int32)   # the v row of each row, -1 for none yet
        self.w = np.full(tape.size + 1, -1, np.int32)
        self._number()
        for i in tape.instructions:
            if i.uniform:
                self.tables.once.append(self._line(i, self.w[i.lo], np.arange(i.hi - i.lo), self.w))
            elif i in self.dots:
                self._dot(i)
            elif i.op is OPS["take"] and self.scatters and self._shares_list(i):
                self._gather(i)
            else:
                kept = self._kept(i)
                if len(kept):
                    self.tables.lines.append(self._line(i, self.v[i.lo + kept[0]], kept, None))
        self._reductions(*self._terms(reduced))
        self.tables.out_rows = self._in_v(examples).tolist()

    def _absorb(self, reduced: Rows, examples: Rows) -> None:
        """Find what is never stored: products that are read once, by a sum or by a sum over the batch, and sums of products
        that are read once, by a sum over the batch, which adds up their terms too.

        Every row is then a · x: these products' factors, the one that all examples share first; else the row times 1.
        """
        tape = self.tape
        results = np.concatenate((reduced, examples))
        once = single_use(tape, results)
        single, self.factors = single_use_products(tape, results)
        single &= ~tape.uniform
        ends = np.zeros(tape.size, bool)                     # rows that only a sum over the batch reads
        ends[reduced] = once[reduced]
        self.hot = OneHot(tape, once, ends) if self.scatters else None
        hot = np.zeros(tape.size, bool) if self.hot is None else self.hot.rows
        self.absorbed = np.zeros(tape.size + 1, bool)
        sums = np.zeros(tape.size, bool)
        for i in tape.instructions:
            if i.op is OPS["sum"] and not i.uniform and i.segments is not None:
                good = single[i.segments.elements]
                if 2 * (good | hot[i.segments.elements]).sum() >= len(good):
                    self.dots.add(i)
                    sums[i.lo:i.hi] = True
                    self.absorbed[i.segments.elements[good]] = True
            elif i.op is OPS["add"] and (hot[i.args[0]] & hot[i.args[1]]).any():
                sums[i.lo:i.hi] = hot[i.args[0]] & hot[i.args[1]]
        self.absorbed[reduced[single[reduced]]] = True
        self.summed = np.append(sums & ends, False)          # rows whose terms a sum over the batch adds up
        if self.hot is not None:
            self.hot.settle(ends, self.summed)
        a, x = np.full(tape.size + 1, self.one, np.int32), np.arange(tape.size + 1, dtype=np.int32)
        stands = np.flatnonzero(self.absorbed)
        a[stands], x[stands] = self.factors[:, stands]
        self.absorbed |= self.summed
        if self.hot is not None:
            self.absorbed[:-1] |= self.hot.never_stored(results)
        swapped = self.uniform[x]
        self.a, self.x = np.where(swapped, x, a), np.where(swapped, a, x)

    def _kept(self, i: Instruction) -> npt.NDArray[np.intp]:
        return np.flatnonzero(~self.absorbed[i.lo:i.hi])

    def _number(self) -> None:
        tape, t = self.tape, self.tables
        # Constants, shared inputs, then what is computed: a vector written beyond an instruction's last row falls on
        # rows that are computed later.
        t.constants = [*tape.constants.values(), 1.0]
        t.shared = np.flatnonzero(tape.shared).tolist()
        rows = [*tape.constants, self.one, *t.shared]
        self.w[rows] = np.arange(len(rows))
        t.w_size = len(rows)
        for i in tape.instructions:
            if i.uniform:
                self.w[i.lo:i.hi] = np.arange(t.w_size, t.w_size + i.hi - i.lo)
                t.w_size += i.hi - i.lo
        for row in range(len(tape.inputs)):
            if not tape.shared[row]:
                t.in_rows.append(t.v_size)
                self.v[row] = t.v_size
                t.v_size += 1
        for i in tape.instructions:
            if not i.uniform:
                kept = self._kept(i) + i.lo
                self.v[kept] = np.arange(t.v_size, t.v_size + len(kept))
                t.v_size += len(kept)

    def _in_v(self, rows: Rows) -> Rows:
        """The v rows of `rows`; a shared number gets one, repeated for all examples, when it is first wanted."""
        found: Rows = self.v[rows]
        if (found < 0).any():
            for row in np.unique(rows[found < 0]).tolist():
                self.v[row] = self.tables.v_size
                self.tables.spread.append((self.tables.v_size, int(self.w[row])))
                self.tables.v_size += 1
            found = self.v[rows]
        return found

    def _operands(self, rows: Rows) -> Rows:
        """What to call rows that an elementwise line reads."""
        return self._in_v(rows)

    def _line(self, i: Instruction, lo: int, kept: npt.NDArray[np.intp], place: Rows | None) -> tuple[int, ...]:
        """An instruction's line for the lanes `kept`, its operands being rows of w (`place`) or of v."""
        def rows(given: Rows) -> Rows:
            return self._operands(given) if place is None else place[given]
        t = self.tables
        mine = [rows(a[kept]) for a in i.args]
        if i.segments is not None:
            lists = i.segments if len(kept) == i.hi - i.lo else i.segments.select(kept)
            first = t.length + sum(map(len, mine)) + len(lists.start)
            mine += [lists.start + np.int32(first), rows(lists.elements)]
        return (CODE[i.op], int(lo), int(lo) + len(kept), t.put(*mine), 0)

    def _shares_list(self, i: Instruction) -> bool:
        return i.segments is not None and bool(self.uniform[i.segments.elements].all())

    def _gather(self, i: Instruction) -> None:
        """Elements of lists of shared numbers, which so need no rows of the examples' own."""
        kept = self._kept(i)
        if len(kept):
            assert i.segments is not None
            lists, lo = i.segments.select(kept), int(self.v[i.lo + kept[0]])
            index = self._in_v(i.args[0][kept])
            at = self.tables.put(index, lists.start + np.int32(len(index) + len(lists.start)), self.w[lists.elements])
            self.tables.lines.append((GATHER, lo, lo + len(kept), at, 0))

    def _dot(self, i: Instruction) -> None:
        """Sums of products: blocks of up to four that share their list of x, or one by one."""
        assert i.segments is not None
        a, x = self.a[i.segments.elements], self.x[i.segments.elements]
        start = i.segments.start.tolist()
        dense = np.logical_and.reduceat(self.uniform[a], start[:-1]).tolist()
        block: list[tuple[int, Rows]] = []
        block_x = np.zeros(0, np.int32)
        for j, out in enumerate(self.v[i.lo:i.hi].tolist()):
            if self.summed[i.lo + j]:
                continue
            mine, my_x = a[start[j]:start[j + 1]], x[start[j]:start[j + 1]]
            if not dense[j]:
                at = self.tables.put(self._in_v(my_x), self._in_v(mine))
                self.tables.lines.append((PAIR, out, out + 1, at, len(my_x)))
                continue
            if block and (len(block) == ROWS or not np.array_equal(my_x, block_x)):
                self._dense(block, block_x)
                block = []
            block_x = my_x
            block.append((out, mine))
        if block:
            self._dense(block, block_x)

    def _dense(self, block: list[tuple[int, Rows]], x: Rows) -> None:
        t = self.tables
        consecutive = all(out == block[0][0] + k for k, (out, _) in enumerate(block))
        whole = [block] if len(block) == ROWS and consecutive else [[one] for one in block]
        for part in whole:
            at = t.put(self._in_v(x), *(self.w[a] for _, a in part))
            t.lines.append((DOT, part[0][0], part[0][0] + len(part), at, len(x)))

    def _terms(self, reduced: Rows) -> tuple[Rows, Rows]:
        """What the sums over the batch add up: rows, and for each the place of its sum.

        First the first term of each sum, in the order of the sums, then the second ones, and so on: so a weight that is used
        at every step of a sequence is, step by step, a row of the weight gradient's products.
        """
        plain = np.flatnonzero(~self.summed[reduced])
        rows, places, positions = [reduced[plain]], [plain], [np.zeros(len(plain), np.int32)]
        for i in self.tape.instructions:
            if i in self.dots and i.segments is not None:
                mine = np.flatnonzero(self.summed[reduced] & (reduced >= i.lo) & (reduced < i.hi))
                lists = i.segments.select(reduced[mine].astype(np.intp) - i.lo)
                rows.append(lists.elements)
                places.append(np.repeat(mine, np.diff(lists.start)))
                positions.append(lists.positions())
            elif i.op is OPS["add"] and self.summed[i.lo:i.hi].any():
                mine = np.flatnonzero(self.summed[reduced] & (reduced >= i.lo) & (reduced < i.hi))
                for position, terms in enumerate(i.args):
                    rows.append(terms[reduced[mine] - i.lo])
                    places.append(mine)
                    positions.append(np.full(len(mine), position, np.int32))
        place = np.concatenate(places).astype(np.int32)
        order = np.lexsort((place, np.concatenate(positions)))
        return np.concatenate(rows)[order], place[order]

    def _reductions(self, rows: Rows, places: Rows) -> None:
        """Sums over the batch: runs of products with one common factor, in blocks of four over the same others; the rest."""
        if self.hot is not None:
            hot = self.hot.rows[rows]
            self._scatters(self.hot, rows[hot], places[hot])
            rows, places = rows[~hot], places[~hot]
        blocks, plain = outer_products(rows, places, self.absorbed[rows], self.factors)
        t = self.tables
        for block in blocks:
            x, at = self._in_v(block.others), 0
            while at < len(block.common):
                size = ROWS if len(block.common) - at >= ROWS else 1
                d = self._in_v(np.array(block.common[at:at + size], np.int32))
                t.reductions.append((size, len(x), t.put(d, block.places[at:at + size], x)))
                at += size
        if plain.any():
            at = t.put(self._in_v(rows[plain]), places[plain])
            t.reductions.append((0, int(plain.sum()), at))


    def _scatters(self, hot: OneHot, rows: Rows, places: Rows) -> None:
        """Sums over the batch of rows that are a cotangent where an index is their own."""
        kinds, kind = np.unique(np.stack((hot.index[rows], hot.cotangent[rows])), axis=1, return_inverse=True)
        order = np.argsort(kind.reshape(-1), kind="stable")
        bounds = np.searchsorted(kind.reshape(-1)[order], np.arange(kinds.shape[1] + 1))
        for k, (index, cotangent) in enumerate(kinds.T.tolist()):
            mine = order[bounds[k]:bounds[k + 1]]
            for again in _each_once(hot.position[rows[mine]]):
                some = mine[again]
                targets = np.full(int(hot.position[rows[some]].max()) + 1, -1, np.int32)
                targets[hot.position[rows[some]]] = places[some]
                at = self.tables.put(self._in_v(np.array([index, cotangent], np.int32)), targets)
                self.tables.reductions.append((-1, len(targets), at))


class OneHot:
    """Rows that are a cotangent where an index has one value, and else 0.

    rows: which are, and are read by nothing but a sum over the batch, or by sums that only it reads; index, cotangent,
    position: of each row that is.
    """

    def __init__(self, tape: Tape, once: npt.NDArray[np.bool_], ends: npt.NDArray[np.bool_]):
        self._tape = tape
        value = np.full(tape.size, np.nan)
        value[list(tape.constants)] = list(tape.constants.values())
        whole = (value >= 0) & (np.floor(value) == value) & (value < 2**31 - 1)
        compared, number = np.full(tape.size, -1, np.int32), np.zeros(tape.size, np.int32)
        self.index, self.cotangent, self.position = (np.full(tape.size, -1, np.int32) for _ in range(3))
        self._condition = np.full(tape.size, -1, np.int32)
        zero = tape.known_constant(0.0)
        for i in tape.instructions:
            if i.op is OPS["eq"] and not i.uniform:
                good = whole[i.args[1]]
                compared[i.lo:i.hi][good] = i.args[0][good]
                number[i.lo:i.hi][good] = value[i.args[1][good]].astype(np.int32)
            elif i.op is OPS["where"] and not i.uniform:
                condition, cotangent, other = i.args
                good = (compared[condition] >= 0) & (other == zero) & once[i.lo:i.hi]
                rows = np.flatnonzero(good) + i.lo
                self.index[rows], self.position[rows] = compared[condition[good]], number[condition[good]]
                self.cotangent[rows], self._condition[rows] = cotangent[good], condition[good]
        self.rows = self.index >= 0
        self.settle(ends, ends)
        self._drop_few()

    def settle(self, ends: npt.NDArray[np.bool_], summed: npt.NDArray[np.bool_]) -> None:
        """Keep those that only the batch's sums read (`ends`), or sums (`summed`) whose terms these add up."""
        read = ends.copy()
        for i in self._tape.instructions:
            if i.op is OPS["sum"] and i.segments is not None:
                read[i.segments.elements] |= np.repeat(summed[i.lo:i.hi], np.diff(i.segments.start))
            elif i.op is OPS["add"]:
                for operand in i.args:
                    read[operand[summed[i.lo:i.hi]]] = True
        self.rows &= read

    def _drop_few(self) -> None:
        """Keep those of which an index and a cotangent have many, near each other."""
        found = np.flatnonzero(self.rows)
        if len(found):
            kinds = np.stack((self.index[found], self.cotangent[found]))
            _, kind, counts = np.unique(kinds, axis=1, return_inverse=True, return_counts=True)
            kind = kind.reshape(-1)
            near = self.position[found] < 2 * counts[kind]
            many = np.bincount(kind[near], minlength=len(counts)) >= SCATTERED
            self.rows[found] = near & many[kind]

    def never_stored(self, results: Rows) -> npt.NDArray[np.bool_]:
        """These rows, and the conditions that only they read."""
        size = self._tape.size
        operands = [rows for i in self._tape.instructions for rows in i.operands()]
        read = np.bincount(np.concatenate([results, *operands]), minlength=size)
        by_these = np.bincount(self._condition[self.rows], minlength=size)
        stored: npt.NDArray[np.bool_] = ~self.rows & ((by_these == 0) | (by_these < read))
        return ~stored


def _each_once(numbers: Rows) -> list[npt.NDArray[np.intp]]:
    """The places of numbers, so that each number stands once in a part."""
    parts, left = [], np.arange(len(numbers))
    while len(left):
        _, first = np.unique(numbers[left], return_index=True)
        parts.append(left[first])
        left = np.delete(left, first)
    return parts


def _share_rows(t: Tables) -> None:
    """Let lines write rows that no later line reads: what lives at once is a fraction of what is written."""
    operands = t.operands
    lines = [_row_operands(line, operands) for line in t.lines]
    reductions = [[slice(at, at + rows), slice(at + 2 * rows, at + 2 * rows + n)] if rows > 0 else
                  [slice(at, at + (n if rows == 0 else 2))] for rows, n, at in t.reductions]
    kept = [np.array(t.out_rows, np.int32), *(operands[s] for slices in reductions for s in slices)]
    place, size = allocate(t.v_size, len(t.in_rows), [(lo, hi) for _, lo, hi, _, _ in t.lines],
                           [np.concatenate([operands[s] for s in slices]) for slices in lines], np.concatenate(kept))
    for s in itertools.chain(*lines, *reductions):
        operands[s] = place[operands[s]]
    t.parts, t.v_size = [operands], size
    t.lines = [(kind, int(place[lo]), int(place[lo]) + hi - lo, at, length) for kind, lo, hi, at, length in t.lines]
    t.in_rows, t.out_rows = place[t.in_rows].tolist(), place[t.out_rows].tolist()
    t.spread = [(int(place[v]), w) for v, w in t.spread]


def _row_operands(line: tuple[int, ...], operands: Rows) -> list[slice]:
    """Where the v rows that a line reads stand among the operands."""
    kind, lo, hi, at, length = line
    width = hi - lo
    if kind >= 0:
        return [slice(at, at + ELEMENTWISE[kind].arity * width)]
    if kind == SUM:
        return [slice(int(operands[at]), int(operands[at + width]))]
    if kind == TAKE:
        return [slice(at, at + width), slice(int(operands[at + width]), int(operands[at + 2 * width]))]
    return [slice(at, at + (width if kind == GATHER else length if kind == DOT else 2 * length))]


def _run_ends(numbers: Rows, broken: npt.NDArray[np.bool_]) -> list[int]:
    """For each number, where its run of equal ones ends; none goes on where `broken`."""
    ends = np.append(np.flatnonzero((np.diff(numbers) != 0) | broken) + 1, len(numbers))
    return np.repeat(ends, np.diff(ends, prepend=0)).tolist()
