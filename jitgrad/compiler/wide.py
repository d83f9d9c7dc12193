"""Wide examples: tapes that do one thing to all elements of a long row, or make one number of it.

A softmax over a thousand classes has a thousand tape rows an instruction. `find_wide` reads such a tape as a few terms:
wide ones, a number for each of `width` elements; plain numbers; and what makes a number of wide terms: a sum, the largest
or the smallest element, the element at an index. Whatever cannot be read so is another form's business. Nothing but the
tape is looked at, whatever loss it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.compiler.graph import OPS, Op
from jitgrad.compiler.program import Program
from jitgrad.compiler.tape import Instruction, Rows, Segments, Tape

Mask = npt.NDArray[np.bool_]

NARROWEST = 32                     # elements; below, a thread keeps the row to itself
MOST_NUMBERS = 64                 # plain terms, which every lane of an example computes anew
TREES = (OPS["maximum"], OPS["minimum"])
CONSTANT = -2


@dataclass(frozen=True)
class Term:
    """What is computed once for an example, or (`wide`) once for each of its elements.

    kind: "input" (row: its tape row, of a wide one that of element 0), "constant" (`value`), "place" (`value` + the
    element's index), "apply" (op on args, a `sum`, maximum or minimum on any number of them), "reduce" (op over all elements
    of the wide args and the plain ones), "take" (the element of args[1] at index args[0])
    in_order: of a reduction, whether the tape's list is all elements of one argument after the other, as `args` has them
    """

    kind: str
    wide: bool
    op: Op | None = None
    args: tuple[int, ...] = ()
    row: int = -1
    value: float = 0.0
    boolean: bool = False
    in_order: bool = False


@dataclass(frozen=True)
class Wide:
    """A program over rows of `width` elements. Terms are known by their place in `terms`, operands first.

    shared: the input rows of wide arguments that all examples share; columns: tape row -> column, of what is summed over the
    batch: rows that are one number have one, the elements of a whole row neighbouring ones. reduced: (first column, term) of
    what is summed; stored: (array, column, term, whole) of each per-example result, of a whole row its first column
    """

    width: int
    terms: list[Term]
    shared: list[int]
    columns: dict[int, int]
    reduced: list[tuple[int, int]]
    stored: list[tuple[int, int, int, bool]]


class _Declined(Exception):
    """This tape is no such program."""


def find_wide(program: Program) -> Wide | None:
    """A program as operations on the rows of its widest arguments, or None."""
    widths = {leaf.width for leaf in program.leaves if leaf.width >= NARROWEST}
    batched = {leaf.width for leaf in program.batched}
    for width in sorted(widths & batched, reverse=True):
        longer = any(leaf.shared and leaf.width > width for leaf in program.leaves)
        for numbers_last in (True, False)[:1 + longer]:
            try:
                return _Reader(program, width, numbers_last).read()
            except _Declined:
                continue
    return None


class _Reader:
    """Reads a tape. `numbers_last`: of shared arguments longer than `width`, what is no row of it stands behind that row."""

    def __init__(self, program: Program, width: int, numbers_last: bool = True):
        self.program, self.width, self.numbers_last = program, width, numbers_last
        self.tape: Tape = program.rolled[0]
        self.terms: list[Term] = []
        self.shared: list[int] = []
        self.numbers = 0
        size = self.tape.size
        self.term, self.element = np.full(size, -1, np.int32), np.full(size, -1, np.int32)
        self.constant = np.zeros(size, bool)
        self.constant[list(self.tape.constants)] = True
        self.known: dict[int, int] = {}                     # constant row -> term
        self._mark_live()
        self._mark_trees()

    def read(self) -> Wide:
        self._inputs()
        for i in self.tape.instructions:
            lanes = np.flatnonzero(self.live[i.lo:i.hi] & ~self.inside[i.lo:i.hi])
            if len(lanes) == 0:
                continue
            rows = (lanes + i.lo).astype(np.int32)
            if i.op is OPS["take"]:
                self._takes(i, rows, lanes)
            elif i.op is OPS["sum"]:
                assert i.segments is not None
                self._lists(i.op, rows, i.segments.select(lanes))
            elif i.op in TREES:
                self._lists(i.op, rows, self._leaves(rows))
            else:
                self._apply(i.op, rows, [a[lanes] for a in i.args])
        if not any(t.wide for t in self.terms):
            raise _Declined
        return Wide(self.width, self.terms, self.shared, *self._reduced(), self._stored())

    # What is there to read.

    def _mark_live(self) -> None:
        """Which rows the results depend on: a gradient's tape has rows that nobody reads."""
        self.live = np.zeros(self.tape.size, bool)
        for rows in self.program.rolled[1]:
            self.live[rows] = True
        for i in reversed(self.tape.instructions):
            for rows in _read(i, self.live[i.lo:i.hi]):
                self.live[rows] = True

    def _mark_trees(self) -> None:
        """Rows inside a tree of maxima or minima: read once, by one of their own kind. Any such tree is one over a list."""
        size = self.tape.size
        reads = np.zeros(size, np.int64)
        for rows in self.program.rolled[1]:
            np.add.at(reads, rows, 2)
        self.operands = np.full((2, size), -1, np.int32)
        self.inside = np.zeros(size, bool)
        by_kind = {op: (np.zeros(size, bool), np.zeros(size, bool)) for op in TREES}
        for i in self.tape.instructions:
            for rows in _read(i, self.live[i.lo:i.hi]):
                reads += np.bincount(rows, minlength=size)
                if i.op in TREES:
                    by_kind[i.op][1][rows] = True
            if i.op in TREES:
                self.operands[:, i.lo:i.hi] = i.args
                by_kind[i.op][0][i.lo:i.hi] = True
        for made, read in by_kind.values():
            self.inside |= made & read & (reads == 1)

    def _leaves(self, roots: Rows) -> Segments:
        """The leaves of the trees above these rows."""
        found, owners = [], []
        frontier, owner = roots, np.arange(len(roots))
        while len(frontier):
            below, owner = self.operands[:, frontier].reshape(-1), np.tile(owner, 2)
            inside = self.inside[below]
            found.append(below[~inside])
            owners.append(owner[~inside])
            frontier, owner = below[inside], owner[inside]
        of = np.concatenate(owners)
        start = np.concatenate(([0], np.cumsum(np.bincount(of, minlength=len(roots)))))
        return Segments(start.astype(np.int32), np.concatenate(found)[np.argsort(of, kind="stable")])

    # Terms.

    def _new(self, term: Term) -> int:
        if not term.wide:
            self.numbers += 1
            if self.numbers > MOST_NUMBERS:
                raise _Declined
        self.terms.append(term)
        return len(self.terms) - 1

    def _inputs(self) -> None:
        rows = np.flatnonzero(self.live[:len(self.tape.inputs)])
        slots = np.array(self.tape.inputs, np.int64)[rows]
        for leaf in self.program.leaves:
            mine = (slots >= leaf.first) & (slots < leaf.first + leaf.width)
            those, column = rows[mine], slots[mine] - leaf.first
            boolean = leaf.kind == "bool"
            rest = leaf.width - self.width
            if len(those) > 1 and (rest == 0 or (leaf.shared and 0 < rest <= MOST_NUMBERS)):
                # A weight a feature and a bias may be one argument.
                column = column if self.numbers_last else column - rest
                wide = (column >= 0) & (column < self.width)
                if wide.sum() < self.width:
                    raise _Declined
                ordered = those[wide][np.argsort(column[wide])].tolist()
                self.shared += ordered if leaf.shared else []
                self.term[those[wide]] = self._new(Term("input", True, row=ordered[0], boolean=boolean))
                self.element[those[wide]] = column[wide]
                those = those[~wide]
            if len(those) > MOST_NUMBERS:
                raise _Declined
            for row in those.tolist():
                self.term[row] = self._new(Term("input", False, row=row, boolean=boolean))

    def _constant(self, row: int) -> int:
        if row not in self.known:
            value, boolean = self.tape.constants[row], bool(self.tape.boolean[row])
            self.known[row] = self._new(Term("constant", False, value=value, boolean=boolean))
        return self.known[row]

    def _of(self, row: int) -> int:
        """The term of a row that is a plain number."""
        return self._constant(row) if self.constant[row] else int(self.term[row])

    def _apply(self, op: Op, rows: Rows, columns: list[Rows]) -> None:
        """Rows of one operation: split into wide terms and plain numbers."""
        places = np.stack([self.element[c] for c in columns])
        terms = np.stack([np.where(self.constant[c], CONSTANT, self.term[c]) for c in columns])
        assert (terms != -1).all()
        place = places.max(axis=0)
        if ((places >= 0) & (places != place)).any():
            raise _Declined                                 # one element beside another
        groups = []
        for those in _alike(terms):
            # Constants tell elements apart, as indices do; or else several terms, as factors do.
            constants = [c[those] for c in columns if self.constant[c[those[0]]]]
            whole = len(those) == self.width or not constants
            groups += [those] if whole else [those[part] for part in _alike(np.stack(constants))]
        for those in groups:
            mine = [c[those] for c in columns]
            if place[those[0]] >= 0:
                self._wide(op, rows[those], mine, place[those])
            elif len(those) == self.width and (varying := [c for c in mine if self.constant[c[0]] and (c != c[0]).any()]):
                values = np.array([self.tape.constants[row] for row in varying[0].tolist()])
                self._wide(op, rows[those], mine, np.argsort(np.argsort(values)).astype(np.int32))
            else:
                self.term[rows[those]] = self._number(op, rows[those[0]], [c[0] for c in mine])     # all the same

    def _number(self, op: Op, row: int, operands: Sequence[int]) -> int:
        """The term of an operation on plain numbers."""
        args = tuple(self._of(int(r)) for r in operands)
        return self._new(Term("apply", False, op, args, boolean=bool(self.tape.boolean[row])))

    def _wide(self, op: Op, rows: Rows, columns: list[Rows], place: Rows) -> None:
        """One wide term: an operation on the same operands, element for element. (A gradient may compute it twice.)"""
        found, first = np.unique(place, return_index=True)
        if len(found) < self.width:
            raise _Declined
        args = tuple(self._column(c[first]) for c in columns)
        self.term[rows] = self._new(Term("apply", True, op, args, boolean=bool(self.tape.boolean[rows[0]])))
        self.element[rows] = place

    def _column(self, rows: Rows) -> int:
        """The term that an operand is, its rows in the order of the elements."""
        if not self.constant[rows[0]]:
            return int(self.term[rows[0]])
        if (rows == rows[0]).all():
            return self._constant(int(rows[0]))
        values = np.array([self.tape.constants[row] for row in rows.tolist()])
        if self.tape.boolean[rows[0]] or values[0] % 1 != 0 or (values != values[0] + np.arange(self.width)).any():
            raise _Declined                                 # a table of numbers, not the elements' indices
        return self._new(Term("place", True, value=float(values[0])))

    def _lists(self, op: Op, rows: Rows, lists: Segments) -> None:
        """Lists: over many elements a reduction, of one element each an operation on it."""
        start, place = lists.start, self.element[lists.elements]
        high = np.maximum.reduceat(place, start[:-1])
        low = np.minimum.reduceat(np.where(place < 0, np.int32(self.width), place), start[:-1])
        counts = np.diff(start)
        across = (high >= 0) & (low != high)
        for k in np.flatnonzero(across).tolist():
            args, in_order = self._reduced_args(lists.elements[start[k]:start[k + 1]])
            self.term[rows[k]] = self._new(Term("reduce", False, op, args, in_order=in_order))
        for length in np.unique(counts[~across]).tolist():
            if length > MOST_NUMBERS:
                raise _Declined
            those = np.flatnonzero(~across & (counts == length))
            at = start[those][:, None] + np.arange(length)
            self._apply(op, rows[those], list(lists.elements[at].T))

    def _reduced_args(self, rows: Rows) -> tuple[tuple[int, ...], bool]:
        """The terms that a list over whole rows consists of, and whether it has them one after the other, in order."""
        place, term = self.element[rows], self.term[rows]
        wide = place >= 0
        begins = np.flatnonzero(place <= 0)                 # plain numbers, and where rows in order begin
        in_order = begins[0] == 0
        if in_order:
            first = np.repeat(begins, np.diff(begins, append=len(rows)))
            in_order = bool((~wide | ((place == np.arange(len(rows)) - first) & (term == term[first]))).all())
        if in_order:
            args = [self._row(rows[wide & (term == term[k])]) if wide[k] else self._of(int(rows[k])) for k in begins]
        else:
            args = [self._row(rows[wide & (term == t)]) for t in np.unique(term[wide])]
            args += [self._of(row) for row in rows[~wide].tolist()]
        return tuple(args), in_order

    def _row(self, rows: Rows, in_order: bool = False) -> int:
        """The wide term of which these rows are all elements, each once."""
        place = self.element[rows]
        if len(rows) != self.width or (self.term[rows] != self.term[rows[0]]).any():
            raise _Declined
        if ((place if in_order else np.sort(place)) != np.arange(self.width)).any():
            raise _Declined
        return int(self.term[rows[0]])

    def _takes(self, i: Instruction, rows: Rows, lanes: npt.NDArray[np.intp]) -> None:
        assert i.segments is not None
        if len(rows) > MOST_NUMBERS:
            raise _Declined
        lists = i.segments.select(lanes)
        for k, (row, index) in enumerate(zip(rows.tolist(), i.args[0][lanes].tolist(), strict=True)):
            elements = lists.elements[lists.start[k]:lists.start[k + 1]]
            if self.element[index] >= 0:
                raise _Declined
            if (self.element[elements] >= 0).any():
                args = self._of(index), self._row(elements, in_order=True)
                self.term[row] = self._new(Term("take", False, i.op, args, boolean=bool(self.tape.boolean[row])))
            else:
                self.term[row] = self._number(i.op, row, [index, *elements])

    # Results.

    def _reduced(self) -> tuple[dict[int, int], list[tuple[int, int]]]:
        rows = np.unique(self.program.reduced_rows)
        wide, plain = rows[self.element[rows] >= 0], rows[self.element[rows] < 0].tolist()
        of = [self._of(row) for row in plain]
        number = {t: k for k, t in enumerate(dict.fromkeys(of))}
        columns = {row: number[t] for row, t in zip(plain, of, strict=True)}
        found = [(k, t) for t, k in number.items()]
        for t in np.unique(self.term[wide]).tolist():
            mine, first = wide[self.term[wide] == t], len(number) + self.width * (len(found) - len(number))
            found.append((first, self._row(mine)))
            columns |= dict(zip(mine.tolist(), (first + self.element[mine]).tolist(), strict=True))
        return columns, found

    def _stored(self) -> list[tuple[int, int, int, bool]]:
        found: list[tuple[int, int, int, bool]] = []
        for array, rows in enumerate(self.program.example_outputs):
            same = np.where(self.constant[rows], CONSTANT - rows, self.term[rows])
            at = 0
            while at < len(rows):
                end = at + 1
                if self.element[rows[at]] >= 0:
                    end = at + self.width
                    found.append((array, at, self._row(rows[at:end], in_order=True), True))
                elif len(rows) - at >= self.width and (same[at:at + self.width] == same[at]).all():
                    end = at + self.width                   # one number for every element
                    found.append((array, at, self._of(int(rows[at])), True))
                else:
                    found.append((array, at, self._of(int(rows[at])), False))
                at = end
                if len(found) > MOST_NUMBERS:
                    raise _Declined
        return found


def _alike(keys: npt.NDArray[Any]) -> list[npt.NDArray[np.intp]]:
    """The places of equal columns of `keys`, for each kind of column."""
    order = np.lexsort(keys)
    return np.split(order, np.flatnonzero((np.diff(keys[:, order]) != 0).any(axis=0)) + 1)


def _read(i: Instruction, lanes: Mask) -> list[Rows]:
    """The rows that these lanes of an instruction read."""
    read = [a[lanes] for a in i.args]
    if i.segments is not None:
        read.append(i.segments.elements[np.repeat(lanes, np.diff(i.segments.start))])
    return read
