"""What became of a recorded expression, as text and as a picture that needs nothing to be drawn."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from jitgrad.compiler import schedule
from jitgrad.compiler.program import Program
from jitgrad.compiler.rows import RowTables, tabulate_rows
from jitgrad.compiler.tape import Tape
from jitgrad.errors import ArgumentError, explain

Blocks = Iterable[tuple[tuple[int, int, int], int]]

LONGEST = 200                                  # instructions in a picture
_WORDS = {"runs": "over runs of rows", "gathered": "operands gathered", "one by one": "one by one",
          "within": "products within a sum"}
_COLOURS = {"runs": "#2f6db3", "gathered": "#d9822b", "one by one": "#a3508a", "within": "#b9d0ea"}
_VALUES = {"operations": "#b48a1e", "leaves": "#4f8a3d", "constants": "#999999"}
_FAINT = ' fill="#777777"'
_WIDTH, _LINE, _BARS, _NOTES, _LONG = 880.0, 19.0, 210.0, 520.0, 290.0


@dataclass(frozen=True)
class _Instruction:
    """One line of a picture; work: operations by how they run."""

    name: str
    rows: int
    work: dict[str, int]
    blocks: list[tuple[tuple[int, int, int], int]]


class Summary(str):
    """What became of an expression. It is text; a notebook shows the picture, and `save` writes it.

    svg: the picture: Values before, and each instruction after, with a bar as long as the logarithm of its operations, in
    the colour of how they run, and its largest dense blocks; html: a page with picture and text
    """

    svg: str

    def __new__(cls, values: int, leaves: int, constants: int, forward: Program, program: Program) -> Summary:
        """values, leaves, constants: how many there were; forward: without the gradient; program: with it."""
        (value, _), (tape, _) = forward.rolled, program.rolled
        tables = tabulate_rows(tape, program.reduced_rows, schedule.VECTOR_BYTES // program.dtype.itemsize)
        before = {"operations": values - leaves - constants, "leaves": leaves, "constants": constants}
        kinds: dict[str, int] = {}
        for i in tape.instructions:
            kinds[i.op.name] = kinds.get(i.op.name, 0) + 1
        loops = list(_loops(tape, tables, leaves))
        found = super().__new__(cls, "\n".join([
            f"{values:,} Values: {leaves:,} leaves, {constants:,} constants of operators, "
            f"{before['operations']:,} operations",
            f"rolled into {len(value.instructions)} instructions over {value.size:,} rows; with the gradient "
            f"{len(tape.instructions)} over {tape.size:,}",
            "instructions: " + ", ".join(f"{count} {name}" for name, count in sorted(kinds.items())),
            *loops, *_dense(tables), *_work(tables)]))
        title = (f"{values:,} Values became {len(value.instructions)} instructions, {len(tape.instructions)} with the "
                 "gradient")
        found.svg = _picture(title, before, loops, list(_instructions(tape, tables)), tape.derivatives)
        return found

    @property
    def html(self) -> str:
        return ('<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>A recorded expression</title>\n'
                f'<body style="margin: 1em">\n{self.svg}<pre>{html.escape(self)}</pre>\n</body>\n</html>\n')

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write the picture to a file that ends in .svg or .html, or the text to one in .txt; returns its name.

        raises: ArgumentError for another ending
        """
        name = os.fspath(path)
        kind = os.path.splitext(name)[1].lower()
        if kind not in (".svg", ".html", ".txt"):
            raise ArgumentError(explain("A summary's name must end in .svg, .html or .txt.", f"path={name!r}",
                                        "Add one of these endings."))
        with open(name, "w", encoding="utf-8") as file:
            file.write(self.svg if kind == ".svg" else self.html if kind == ".html" else f"{self}\n")
        return name


# What tabulating the rows of a program found.

def _loops(tape: Tape, tables: RowTables, leaves: int) -> Iterator[str]:
    own = np.array(tape.inputs, np.int64) < leaves
    member = tables.axes.member[:len(tape.inputs)]
    axes: dict[str, int] = {}
    for group in np.flatnonzero(np.bincount(tables.axes.group[member[member > 0]])).tolist():
        here = (member > 0) & (tables.axes.group[member] == group)
        count = np.count_nonzero(np.bincount(member[here]))
        axis = (f"batch axis: {count:,} alike summands, each with {(here & own).sum() // count:,} leaves and "
                f"{(here & ~own).sum() // count:,} constants of its own")
        axes[axis] = axes.get(axis, 0) + 1
    for axis, many in axes.items():
        yield axis if many == 1 else f"{axis}, {many} times"
    if axes:
        yield f"shared: {((member == 0) & own).sum():,} leaves and {((member == 0) & ~own).sum():,} constants"


def _listed(blocks: Blocks, most: int) -> str:
    """The largest dense blocks."""
    ordered = sorted(blocks, key=lambda item: -int(np.prod(item[0])) * item[1])
    return ", ".join(f"{many} of {rows} × {length} over {over}" if many > 1 else f"{rows} × {length} over {over}"
                     for (rows, length, over), many in ordered[:most]) + (
                         f" and {len(ordered) - most} smaller kinds" if len(ordered) > most else "")


def _dense(tables: RowTables) -> Iterator[str]:
    blocks = tables.dense
    if blocks:
        yield "dense blocks: " + _listed(blocks.items(), 8)


def _work(tables: RowTables) -> Iterator[str]:
    work = tables.work
    yield (f"operations: {work['runs']:,} over runs, {work['gathered']:,} with gathered operands, "
           f"{work['one by one']:,} one by one, fewer than a vector of them being alike")


def _instructions(tape: Tape, tables: RowTables) -> Iterator[_Instruction]:
    for i, work, dense in zip(tape.instructions, tables.work_of, tables.dense_of, strict=True):
        rows = i.hi - i.lo
        ways = {way: count for way, count in work.items() if count}
        if i.segments is None and sum(ways.values()) < rows:
            ways["within"] = rows - sum(ways.values())
        yield _Instruction(i.op.name, rows, ways, list(dense.items()))


# The picture.

def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{html.escape(text)}</text>'


def _bar(x: float, y: float, width: float, parts: dict[str, int], colours: dict[str, str], words: dict[str, str]) -> str:
    """A bar in parts, each with its number for a pointer over it."""
    whole, drawn = sum(parts.values()), []
    for name, count in parts.items():
        part = width * count / whole if whole else 0.0
        drawn.append(f'<rect x="{x:.1f}" y="{y - 10:.1f}" width="{part:.1f}" height="12" fill="{colours[name]}">'
                     f"<title>{count:,} {html.escape(words[name])}</title></rect>")
        x += part
    return "".join(drawn)


def _legend(y: float, colours: dict[str, str], words: dict[str, str]) -> str:
    step = _WIDTH / 4
    return "".join(f'<rect x="{k * step:.1f}" y="{y - 10:.1f}" width="12" height="12" fill="{colours[name]}"/>'
                   + _text(k * step + 18, y, words[name]) for k, name in enumerate(colours))


def _picture(title: str, before: dict[str, int], loops: list[str], instructions: list[_Instruction],
             derivatives: int | None) -> str:
    lines, y = [_text(0, 14, title, ' font-size="16"')], 44.0
    words = {name: f"{count:,} {name}" for name, count in before.items()}
    lines += [_bar(0, y, _WIDTH, before, _VALUES, {name: name for name in before}), _legend(y + _LINE, _VALUES, words)]
    y += 2 * _LINE
    for loop in loops:
        y += _LINE
        lines.append(_text(0, y, loop))
    longest = math.log1p(max((sum(i.work.values()) for i in instructions), default=1))
    for k, i in enumerate(instructions[:LONGEST]):
        if k in (0, derivatives):
            y += 2 * _LINE
            lines.append(_text(0, y, "the gradient" if k else "the value", ' font-weight="bold"'))
            lines += [_text(_BARS - 10, y, "rows", f' text-anchor="end"{_FAINT}'),
                      _text(_BARS, y, "operations, on a logarithmic scale", _FAINT),
                      _text(_NOTES, y, "dense blocks", _FAINT)]
        y += _LINE
        lines += [_text(0, y, str(k + 1), _FAINT), _text(34, y, i.name),
                  _text(_BARS - 10, y, f"{i.rows:,}", ' text-anchor="end"'),
                  _bar(_BARS, y, _LONG * math.log1p(sum(i.work.values())) / longest, i.work, _COLOURS, _WORDS),
                  _text(_NOTES, y, _listed(i.blocks, 2))]
    if len(instructions) > LONGEST:
        y += _LINE
        lines.append(_text(34, y, f"and {len(instructions) - LONGEST:,} more instructions"))
    y += 2 * _LINE
    lines.append(_legend(y, _COLOURS, _WORDS))
    margin, height = 12.0, y + 24
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + 2 * margin:g}" height="{height:g}" '
        f'viewBox="{-margin:g} {-margin:g} {_WIDTH + 2 * margin:g} {height:g}" role="img" font-family="sans-serif" '
        'font-size="12">', f"<title>{html.escape(title)}</title>",
        f'<rect x="{-margin:g}" y="{-margin:g}" width="{_WIDTH + 2 * margin:g}" height="{height:g}" fill="#ffffff"/>',
        *lines, "</svg>\n"])
