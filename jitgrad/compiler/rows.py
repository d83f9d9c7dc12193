"""Tape without a batch → the CPU's tables: the rows of an instruction are the lanes.

Rows are renumbered (inputs, constants, then instruction by instruction), products that only feed a sum are not stored,
and the lists of a sum are sorted by length, since the order of an instruction's rows is free.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from jitgrad.compiler.emit import CODE
from jitgrad.compiler.graph import OPS
from jitgrad.compiler.products import SUM, TAKE, single_use_products
from jitgrad.compiler.tape import Instruction, Rows, Segments, Tape

PRODUCTS = -3


@dataclass
class RowTables:
    """What kernels/cpu_batch.run_rows reads."""

    size: int = 0
    constants: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    lines: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    results: Rows = field(default_factory=lambda: np.zeros(0, np.int32))
    operands: Rows = field(default_factory=lambda: np.zeros(0, np.int32))


def tabulate_rows(tape: Tape, results: Rows, lanes: int) -> RowTables:
    """The tables of a tape that has no batched input; `results` are the rows wanted."""
    return _Tabulation(tape, results, lanes).tables


class _Tabulation:
    def __init__(self, tape: Tape, results: Rows, lanes: int):
        self.tape, self.lanes, self.tables = tape, lanes, RowTables()
        self.parts: list[Rows] = []
        self.length = 0
        single, self.factors = single_use_products(tape, results)
        self.absorbed = np.zeros(tape.size + 1, bool)
        self.dots: set[Instruction] = set()
        for i in tape.instructions:
            if i.op is OPS["sum"] and i.segments is not None:
                good = single[i.segments.elements]
                if 2 * good.sum() >= len(good):
                    self.dots.add(i)
                    self.absorbed[i.segments.elements[good]] = True
        # One row beyond the tape's: the number 1, by which an element that is no product is multiplied.
        self.one = tape.size
        self.place = np.full(tape.size + 1, -1, np.int32)
        inputs = len(tape.inputs)
        self.place[:inputs] = np.arange(inputs)
        constants = [*tape.constants, self.one]
        self.place[constants] = np.arange(inputs, inputs + len(constants))
        self.next = inputs + len(constants)
        self.tables.constants = self.place[constants].tolist()
        self.tables.values = [*tape.constants.values(), 1.0]
        for i in tape.instructions:
            if i.segments is None:
                self._elementwise(i)
            elif i.op is OPS["sum"]:
                self._sums(i, i.segments)
            else:
                self._takes(i, i.segments)
        # A last vector may write beyond the last row.
        self.tables.size = self.next + lanes
        self.tables.results = self.place[results]
        self.tables.operands = np.concatenate(self.parts) if self.parts else np.zeros(0, np.int32)

    def _put(self, *arrays: Rows) -> int:
        at = self.length
        self.parts += arrays
        self.length += sum(map(len, arrays))
        return at

    def _claim(self, rows: npt.NDArray[np.intp]) -> int:
        lo = self.next
        self.place[rows] = np.arange(lo, lo + len(rows))
        self.next += len(rows)
        return lo

    def _padded(self, rows: Rows) -> Rows:
        """The places of rows, filled up to whole vectors (along the last axis) with the last one."""
        missing = -rows.shape[-1] % self.lanes
        pads = [(0, 0)] * (rows.ndim - 1) + [(0, missing)]
        found: Rows = np.pad(self.place[rows], pads, mode="edge")
        return found

    def _elementwise(self, i: Instruction) -> None:
        kept = np.flatnonzero(~self.absorbed[i.lo:i.hi])
        if len(kept):
            at = self._put(*(self._padded(a[kept]) for a in i.args))
            self.tables.lines.append((CODE[i.op], self._claim(kept + i.lo), len(kept), at, 0))

    def _sums(self, i: Instruction, lists: Segments) -> None:
        counts = np.diff(lists.start)
        for count in np.unique(counts).tolist():
            those = np.flatnonzero(counts == count)
            elements = lists.elements[lists.start[those] + np.arange(count)[:, None]]      # (count, lists)
            if i in self.dots:
                product = self.absorbed[elements]
                first = np.where(product, self.factors[0, elements], elements)
                second = np.where(product, self.factors[1, elements], self.one)
                at = self._put(self._padded(first).ravel(), self._padded(second).ravel())
            else:
                at = self._put(self._padded(elements).ravel())
            kind = PRODUCTS if i in self.dots else SUM
            self.tables.lines.append((kind, self._claim(those + i.lo), len(those), at, count))

    def _takes(self, i: Instruction, lists: Segments) -> None:
        n = i.hi - i.lo
        start = lists.start + np.int32(self.length + 2 * n + 1)
        at = self._put(self.place[i.args[0]], start, self.place[lists.elements])
        self.tables.lines.append((TAKE, self._claim(np.arange(i.lo, i.hi)), n, at, 0))
