"""The rolled tape: the form between graph and kernels.

A tape numbers scalar values as rows. An instruction computes one contiguous range of rows by one operation, elementwise
over index arrays: `rows[lo:hi] = op(rows[a], rows[b])`; a list operation (`sum`, `take`) reads, for row k, the rows
`elements[start[k]:start[k+1]]`. All rows of an instruction are independent of each other, so that it can run over rows,
over examples, or be unrolled. (DyNet's operation batching, Neubig et al. 2017, applied to scalars.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.compiler.graph import Op, bits
from jitgrad.errors import Location

Rows = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Segments:
    """The lists of a variadic instruction, end to end: list k is elements[start[k]:start[k + 1]]."""

    start: Rows
    elements: Rows

    def positions(self) -> Rows:
        """Each element's place within its own list."""
        counts = np.diff(self.start)
        return (np.arange(len(self.elements)) - np.repeat(self.start[:-1], counts)).astype(np.int32)

    def select(self, lists: npt.NDArray[np.intp]) -> Segments:
        """The lists named by `lists`, end to end."""
        counts = np.diff(self.start)[lists]
        start = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        at = np.arange(start[-1]) - np.repeat(start[:-1], counts) + np.repeat(self.start[:-1][lists], counts)
        return Segments(start, self.elements[at])


@dataclass(frozen=True, eq=False)
class Instruction:
    """Rows lo to hi by one operation; `uniform` where no operand depends on the example."""

    op: Op
    lo: int
    hi: int
    args: tuple[Rows, ...]
    segments: Segments | None
    uniform: bool

    def operands(self) -> Iterator[Rows]:
        """Every array of rows this instruction reads."""
        yield from self.args
        if self.segments is not None:
            yield self.segments.elements


class _Column:
    """One attribute of every row, in an array that grows."""

    def __init__(self, dtype: type):
        self._data: npt.NDArray[Any] = np.zeros(64, dtype)

    def put(self, lo: int, hi: int, value: npt.ArrayLike) -> None:
        if hi > len(self._data):
            self._data = np.concatenate((self._data, np.zeros(max(hi, len(self._data)), self._data.dtype)))
        self._data[lo:hi] = value

    def __getitem__(self, rows: Any) -> Any:
        return self._data[rows]


class Tape:
    """Rows 0 to len(inputs) are the inputs, in the order of `inputs`; constants and instructions follow as appended.

    inputs: the input slot of each input row; shared: whether that slot is the same for every example.
    """

    def __init__(self, inputs: Sequence[int], shared: npt.NDArray[np.bool_], boolean: Sequence[bool]):
        self.inputs, self.shared, self.size = list(inputs), shared, 0
        self.instructions: list[Instruction] = []
        self.constants: dict[int, float] = {}               # row -> value
        self.where: dict[int, Location] = {}                # row -> the user's line it came from
        self.derivatives: int | None = None                 # the first instruction of the gradient, if there is one
        self.derived: dict[int, Rows] = {}                  # of those, by number, the rows whose derivatives they are
        self._constant_rows: dict[bytes, int] = {}
        self._owner, self._boolean, self._uniform = _Column(np.int32), _Column(np.bool_), _Column(np.bool_)
        self._extend(len(self.inputs), -1, np.array(boolean, bool), shared)

    def _extend(self, width: int, owner: int, boolean: npt.ArrayLike, uniform: npt.ArrayLike) -> tuple[int, int]:
        lo, hi = self.size, self.size + width
        self._owner.put(lo, hi, owner)
        self._boolean.put(lo, hi, boolean)
        self._uniform.put(lo, hi, uniform)
        self.size = hi
        return lo, hi

    @property
    def owner(self) -> Rows:
        """The instruction that writes each row, -1 for inputs and constants."""
        rows: Rows = self._owner[:self.size]
        return rows

    @property
    def boolean(self) -> npt.NDArray[np.bool_]:
        """Whether each row is a condition."""
        rows: npt.NDArray[np.bool_] = self._boolean[:self.size]
        return rows

    @property
    def uniform(self) -> npt.NDArray[np.bool_]:
        """Whether each row is the same for every example."""
        rows: npt.NDArray[np.bool_] = self._uniform[:self.size]
        return rows

    def constant(self, value: float, boolean: bool = False) -> int:
        """The row of a constant, one for each bit pattern."""
        key = bits(value) + bytes([boolean])
        row = self._constant_rows.get(key)
        if row is None:
            row, _ = self._extend(1, -1, boolean, True)
            self._constant_rows[key] = row
            self.constants[row] = float(value)
        return row

    def known_constant(self, value: float) -> int:
        """The row of a constant, -1 if there is none yet."""
        return self._constant_rows.get(bits(value) + bytes([False]), -1)

    def append(self, op: Op, args: tuple[Rows, ...], segments: Segments | None = None, boolean: bool = False) -> Rows:
        """Add an instruction; returns the rows it writes."""
        width = len(args[0]) if args else len(segments.start) - 1  # type: ignore[union-attr]
        uniform = all(self._uniform[rows].all() for rows in args)
        uniform = uniform and (segments is None or bool(self._uniform[segments.elements].all()))
        lo, hi = self._extend(width, len(self.instructions), boolean or op.result == "bool", uniform)
        self.instructions.append(Instruction(op, lo, hi, args, segments, uniform))
        return np.arange(lo, hi, dtype=np.int32)

    def operations(self) -> int:
        """How many scalar operations one example costs, list elements counted one each."""
        return sum(i.hi - i.lo if i.segments is None else len(i.segments.elements) for i in self.instructions)

    def text(self) -> str:
        """One line an instruction: rows written, operation, rows read (shortened)."""
        lines = [f"rows 0:{len(self.inputs)} = inputs ({int(self.shared.sum())} shared, "
                 f"{int((~self.shared).sum())} a batch)"]
        lines += [f"row {row} = {value!r}" for row, value in self.constants.items()]
        for i in self.instructions:
            reads = [_short(a) for a in i.args]
            if i.segments is not None:
                reads.append(f"{i.hi - i.lo} lists of {_short(i.segments.elements)}")
            note = "   # once, not for each example" if i.uniform else ""
            lines.append(f"rows {i.lo}:{i.hi} = {i.op.name} {', '.join(reads)}{note}")
        return "\n".join(lines)


def _short(rows: Rows) -> str:
    if len(rows) > 1 and (np.diff(rows) == rows[1] - rows[0]).all():
        step = int(rows[1] - rows[0])
        if step == 0:
            return f"{rows[0]}×{len(rows)}"
        return f"{rows[0]}:{rows[-1] + np.sign(step)}" + (f":{step}" if step != 1 else "")
    shown = ", ".join(map(str, rows[:6]))
    return f"[{shown}{', …' if len(rows) > 6 else ''}]"

