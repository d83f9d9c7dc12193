"""Tape without a batch → the lines that kernels/rows.py runs: the rows of an instruction are the lanes of vectors.

The order of an instruction's rows is free, and so is where inputs lie. Both are chosen so that operands are runs: next to
each other, or one and the same. Rows that belong to an axis (axes.py) lie member by member; the others are sorted by where
their operands are, so that of a dense layer's rows those lie together that read one input, or one neuron's weights. What
is a run is loaded as vectors; what is not is gathered. Products that only a sum reads are not stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.compiler.axes import Axes, find_axes
from jitgrad.compiler.emit import CODE
from jitgrad.compiler.graph import OPS
from jitgrad.compiler.products import single_use_products
from jitgrad.compiler.tape import Instruction, Rows, Segments, Tape
from jitgrad.kernels.rows import COPY, DOT, FEW, FIELDS, FILL, GATHER, LISTS, PAIR, REDUCE, TAKE

Order = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]


@dataclass
class RowTables:
    """What the machine reads, and what was found on the way.

    inputs: of each place from 0 on, which input of the tape lies there; constants: (first place, how many, the number);
    By instruction, and of all: work: how many operations run over "runs", have "gathered" operands, or are done "one by
    one", since an instruction has fewer than a vector of them; dense: (runs of sums, elements of a sum, sums in a run) ->
    how many such blocks.
    """

    size: int
    inputs: Rows
    constants: list[tuple[int, int, float]]
    lines: npt.NDArray[np.int64]
    operands: Rows
    results: npt.NDArray[np.int64]
    axes: Axes
    work_of: list[Counter[str]]
    dense_of: list[Counter[tuple[int, int, int]]]

    @property
    def work(self) -> Counter[str]:
        return sum(self.work_of, Counter())

    @property
    def dense(self) -> Counter[tuple[int, int, int]]:
        return sum(self.dense_of, Counter())


def tabulate_rows(tape: Tape, results: Rows, lanes: int) -> RowTables:
    """The tables of a tape that has no batched input; `results` are the rows wanted."""
    return _Tabulation(tape, results, lanes).tables


class _Tabulation:
    def __init__(self, tape: Tape, results: Rows, lanes: int):
        self.tape, self.lanes = tape, lanes
        self.lines: list[tuple[int, ...]] = []
        self.parts: list[Rows] = []
        self.length = 0
        self.work_of: list[Counter[str]] = []
        self.dense_of: list[Counter[tuple[int, int, int]]] = []
        self.exact = len(tape.instructions) if tape.derivatives is None else tape.derivatives
        # The two factors of each row: of an absorbed product its own, of any other itself and the number 1, beyond the tape.
        self.one = tape.size
        self.factors = np.empty((2, tape.size + 1), np.int32)
        self.factors[0], self.factors[1] = np.arange(tape.size + 1), self.one
        self.absorbed = self._absorb(results)
        self.axes = find_axes(tape, results, self.absorbed)
        self.constants: list[tuple[int, int, float]] = []
        self.place = np.full(tape.size + 1, -1, np.int32)
        self.inputs = self._lay_out_inputs()
        self.place[self.inputs] = np.arange(len(self.inputs))
        self.next = len(self.inputs)
        for row, value in tape.constants.items():
            self.place[row] = self._constant(value, 1)
        stored = np.append(0, np.cumsum(~self.absorbed))
        self.widest = lanes + max((int(stored[i.hi] - stored[i.lo]) for i in tape.instructions), default=0)
        self.place[self.one] = self.ones = self._constant(1.0, self.widest)
        self.runs: dict[int, int] = {}
        self.scratch = [self._claim(self.widest) for _ in range(max((len(i.args) for i in tape.instructions), default=0))]
        for number, i in enumerate(tape.instructions):
            self.work_of.append(Counter())
            self.dense_of.append(Counter())
            if i.segments is None:
                self._elementwise(i)
            elif i.op is OPS["sum"]:
                self._sums(i, i.segments, number >= self.exact)
            else:
                self._takes(i, i.segments)
        # A last vector may reach beyond the last row.
        self.tables = RowTables(
            self.next + lanes, self.inputs, self.constants, np.array(self.lines, np.int64).reshape(-1, FIELDS),
            np.concatenate(self.parts) if self.parts else np.zeros(0, np.int32), self.place[results].astype(np.int64),
            self.axes, self.work_of, self.dense_of)

    def _absorb(self, results: Rows) -> Mask:
        """Find the products that only a sum reads, once."""
        single, factors = single_use_products(self.tape, results)
        absorbed = np.zeros(self.tape.size, bool)
        for i in self.tape.instructions:
            if i.op is OPS["sum"] and i.segments is not None:
                absorbed[i.segments.elements] = True
        absorbed &= single
        self.factors[:, :-1][:, absorbed] = factors[:, absorbed]
        return absorbed

    # Where rows lie.

    def _lay_out_inputs(self) -> Rows:
        """The inputs in the order of their places: along axes, then as dense layers read them, then the rest."""
        inputs = np.arange(len(self.tape.inputs), dtype=np.int32)
        member = self.axes.member[inputs]
        orders = [inputs[member > 0][self._along_axes(inputs[member > 0])]]
        here = np.arange(self.tape.size + 1)
        for i in self.tape.instructions[:self.exact]:
            if i.op is OPS["sum"] and i.segments is not None:
                for lists, elements in self._alike(i, i.segments):
                    if len(lists) >= self.lanes and not self.axes.member[i.lo + lists[0]]:
                        read = self.factors[:, elements]
                        orders += list(read[:, :, self._candidates(*here[read])[0]].reshape(2, -1))
        listed = np.concatenate([*orders, inputs])
        listed = listed[listed < len(inputs)]
        first = np.full(len(inputs), len(listed))
        np.minimum.at(first, listed, np.arange(len(listed)))
        found: Rows = inputs[np.argsort(first)]
        return found

    def _along_axes(self, rows: Rows) -> Order:
        """The order in which the n-th row of every member of a group lies beside the others' n-th rows."""
        member = self.axes.member[rows]
        order = np.argsort(member, kind="stable")
        sorted_member = member[order]
        rank = np.empty(len(rows), np.int64)
        rank[order] = np.arange(len(rows)) - np.searchsorted(sorted_member, sorted_member)
        return np.lexsort((member, rank, self.axes.group[member]))

    def _candidates(self, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> list[Order]:
        """Orders of sums, given the places of their factors (elements, sums): by the one list, then by the other.

        The lists of which there are more come last, so that they vary fastest.
        """
        a, b = first.sum(axis=0, dtype=np.int64), second.sum(axis=0, dtype=np.int64)
        orders = [np.lexsort((b, a)), np.lexsort((a, b))]
        return orders if _distinct(b) >= _distinct(a) else orders[::-1]

    def _alike(self, i: Instruction, lists: Segments) -> Iterator[tuple[Order, Rows]]:
        """The lists of one length, those of an axis first; with their elements, (length, lists)."""
        counts, member = np.diff(lists.start), self.axes.member[i.lo:i.hi] > 0
        for count in np.flatnonzero(np.bincount(counts)).tolist():
            for mask in (member, ~member):
                those = np.flatnonzero(mask & (counts == count))
                if len(those):
                    yield those, lists.elements[lists.start[those] + np.arange(count)[:, None]]

    def _constant(self, value: float, count: int) -> int:
        # The gap before it is for the last vector of the line before, which reaches beyond its rows.
        place = self._claim(self.lanes + count) + self.lanes
        self.constants.append((place, count, value))
        return place

    def _claim(self, count: int) -> int:
        self.next += count
        return self.next - count

    def _place(self, rows: npt.NDArray[np.intp]) -> int:
        """Give these rows the next places, in this order."""
        lo = self._claim(len(rows))
        self.place[rows] = np.arange(lo, lo + len(rows))
        return lo

    # Lines.

    def _put(self, *arrays: npt.NDArray[np.int32]) -> int:
        at = self.length
        self.parts += [a.ravel() for a in arrays]
        self.length += sum(a.size for a in arrays)
        return at

    def _line(self, kind: int, out: int, n: int, a: int, b: int = 0, c: int = 0) -> None:
        self.lines.append((kind, out, n, a, b, c))
        if kind in (DOT, PAIR, REDUCE, LISTS, FEW):
            self.work_of[-1]["gathered" if kind == LISTS else "one by one" if kind == FEW else "runs"] += n * b
        elif kind == TAKE:
            self.work_of[-1]["one by one"] += n

    def _padded(self, places: Rows) -> Rows:
        """Filled up to whole vectors along the last axis, with the last place."""
        pads = [(0, 0)] * (places.ndim - 1) + [(0, -places.shape[-1] % self.lanes)]
        return np.pad(places, pads, mode="edge")

    def _elementwise(self, i: Instruction) -> None:
        kept = np.flatnonzero(~self.absorbed[i.lo:i.hi])
        if not len(kept):
            return
        if len(kept) >= self.lanes:
            along = self.axes.member[kept + i.lo] > 0
            of_axis, rest = kept[along], kept[~along]
            places = [self.place[a[rest]] for a in i.args]
            places.sort(key=lambda p: -_distinct(p))
            order = np.lexsort(places) if len(rest) else np.zeros(0, np.intp)
            kept = np.concatenate((of_axis[self._along_axes((of_axis + i.lo).astype(np.int32))], rest[order]))
        brought = [self._operand(a[kept], scratch) for a, scratch in zip(i.args, self.scratch, strict=False)]
        gathered = max(many for _, many in brought)
        self._line(CODE[i.op], self._place(kept + i.lo), len(kept), *(place for place, _ in brought))
        if len(kept) < self.lanes:
            self.work_of[-1]["one by one"] += len(kept)
        else:
            self.work_of[-1]["gathered"] += gathered
            self.work_of[-1]["runs"] += len(kept) - gathered

    def _operand(self, rows: Rows, scratch: int) -> tuple[int, int]:
        """Where an operand's numbers lie side by side, brought together in `scratch` if need be; how many were gathered."""
        places = self.place[rows]
        if len(rows) == 1:
            return int(places[0]), 0
        steps = np.diff(places)
        if (steps == 1).all():
            return int(places[0]), 0
        row = int(rows[0])
        if row in self.tape.constants and (rows == row).all():
            if row not in self.runs:
                self.runs[row] = self._constant(self.tape.constants[row], self.widest)
            return self.runs[row], 0
        gathered = 0
        for lo, hi, step in _stretches(np.where((steps == 0) | (steps == 1), steps, -1), self.lanes):
            if step < 0:
                gathered += hi - lo
                self._line(GATHER, scratch + lo, hi - lo, self._put(self._padded(places[lo:hi])))
            else:
                self._line(COPY if step else FILL, scratch + lo, hi - lo, int(places[lo]))
        return scratch, gathered

    def _sums(self, i: Instruction, lists: Segments, free: bool) -> None:
        for those, elements in self._alike(i, lists):
            factors = self.factors[:, elements]
            places = self.place[factors]
            if self.axes.member[i.lo + those[0]]:
                orders = [self._along_axes((those + i.lo).astype(np.int32))]
            elif len(those) >= self.lanes:
                orders = self._candidates(*places)
            else:
                orders = [np.arange(len(those))]
            best = _Runs(places[:, :, orders[0]], self.ones, self.lanes)
            chosen = orders[0]
            for order in orders[1:]:
                other = _Runs(places[:, :, order], self.ones, self.lanes)
                if other.covered > best.covered:
                    best, chosen = other, order
            self._sum_lines(best, self._place(those[chosen] + i.lo), free)

    def _sum_lines(self, runs: _Runs, out: int, free: bool) -> None:
        """Row by row in the order of their places, since a vector may reach beyond its rows: all of a run, then the next."""
        length, blocks = runs.places.shape[1], Counter[tuple[int, int]]()
        for lo, hi, run in runs.stretches:
            done = 0
            for first, last, kind in runs.elements(lo) if run >= 0 else [(0, length, LISTS)]:
                here = runs.places[:, first:last, lo:hi]
                if kind == LISTS:
                    self._rest(here, out + lo, free, done)
                else:
                    at = self._put(*runs.bases(here, kind))
                    self._line(kind, out + lo, hi - lo, at, last - first, done)
                    if kind == DOT:
                        blocks[last - first, hi - lo] += 1
                done = 1
        self.dense_of[-1].update((count, *block) for block, count in blocks.items())

    def _rest(self, places: Rows, out: int, free: bool, done: int) -> None:
        """Sums whose factors are no runs of rows: runs within each list, where its order is free; the rest is gathered."""
        _, length, n = places.shape
        steps, ones = np.diff(places, axis=1), places == self.ones
        fine = (ones[:, 1:] & ones[:, :-1]) | (steps == 1)
        along = np.where(fine.all(axis=(0, 2)), 0, -1) if free else np.full(length - 1, -1)
        for first, last, run in _stretches(along, 2 * self.lanes):
            here = places[:, first:last]
            if run >= 0 and last - first <= self.widest:
                self._line(REDUCE, out, n, self._put(*here[:, 0]), last - first, done)
            elif n >= self.lanes:
                self._line(LISTS, out, n, self._put(self._padded(here)), last - first, done)
            else:
                self._line(FEW, out, n, self._put(here.transpose(0, 2, 1)), last - first, done)
            done = 1

    def _takes(self, i: Instruction, lists: Segments) -> None:
        n = i.hi - i.lo
        at = self._put(lists.start + np.int32(2 * n + 1), self.place[i.args[0]], self.place[lists.elements])
        self._line(TAKE, self._place(np.arange(i.lo, i.hi)), n, at)


def _distinct(numbers: npt.NDArray[Any]) -> int:
    """How many different numbers there are. (NumPy's `unique` would load numpy.ma, which takes longer than all of this.)"""
    return int(np.count_nonzero(np.diff(np.sort(numbers)))) + 1 if len(numbers) else 0


def _stretches(codes: npt.NDArray[np.intp], shortest: int) -> list[tuple[int, int, int]]:
    """Items 0 to len(codes), in pieces (first, last + 1, code): between the items of a piece lies one and the same code.

    A piece of a code that is not negative has at least `shortest` items; what is in no such piece has code -1.
    """
    n = len(codes) + 1
    if n < shortest:
        return [(0, n, -1)]
    starts = np.append(0, np.flatnonzero(np.diff(codes)) + 1)
    ends = np.append(starts[1:], n - 1)
    long = (ends - starts + 1 >= shortest) & (codes[starts] >= 0) if n > 1 else np.zeros(1, bool)
    pieces, at = [], 0
    for start, end in zip(starts[long].tolist(), ends[long].tolist(), strict=True):
        start = max(start, at)                              # the item between two pieces belongs to the first
        if end + 1 - start < shortest:
            continue
        if start > at:
            pieces.append((at, start, -1))
        pieces.append((start, end + 1, int(codes[end - 1])))
        at = end + 1
    return [*pieces, (at, n, -1)] if at < n else pieces


class _Runs:
    """How the factors of sums run from each sum to the next; `places` is (factor, element, sum)."""

    def __init__(self, places: Rows, ones: int, lanes: int):
        self.places = places
        steps = np.diff(places, axis=2)
        plain = places[1, :, :-1] == ones                   # no product: two repeated rows need one, or make no run
        fine = ((steps == 0) | (steps == 1)).all(axis=0) & (plain | steps.any(axis=0))
        # Elements that are runs almost everywhere decide where runs of sums end; the others are gathered.
        self.good: Mask = 2 * fine.sum(axis=1) > fine.shape[1]
        self.steps = steps
        good = steps[:, self.good]
        changes = np.append(True, (np.diff(good, axis=2) != 0).any(axis=(0, 1))) if steps.shape[2] else np.zeros(0, bool)
        number = np.cumsum(changes)
        self.stretches = _stretches(np.where(fine[self.good].all(axis=0) & self.good.any(), number, -1), lanes)
        self.covered = int(self.good.sum()) * sum(hi - lo for lo, hi, run in self.stretches if run >= 0)

    def elements(self, lo: int) -> Iterator[tuple[int, int, int]]:
        """The elements of the sums of a run that begins with `lo`, in pieces (first, last + 1, kind of line)."""
        kinds = np.where(self.steps[:, :, lo].all(axis=0), PAIR, DOT)
        kinds[~self.good] = LISTS
        ends = np.append(np.flatnonzero(np.diff(kinds)) + 1, len(kinds))
        first = 0
        for end in ends.tolist():
            yield first, end, int(kinds[first])
            first = end

    def bases(self, here: Rows, kind: int) -> tuple[Rows, Rows]:
        """Where the two factors of each element begin; of a DOT first the one that is the same for all sums."""
        first, second = here[:, :, 0]
        if kind == PAIR:
            return first, second
        repeated = here[0, :, 0] == here[0, :, 1]
        same, run = np.where(repeated, first, second), np.where(repeated, second, first)
        # Neither varies: a plain number, times a run of ones.
        return same.astype(np.int32), run.astype(np.int32)
