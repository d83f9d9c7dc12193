"""`draw`: micrograd's picture of an expression, for a notebook or a file; and the same for a lowered program.

Graphviz's `dot` draws it where it is installed, else the layout of layout.py, as plain SVG.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jitgrad.compiler.graph import Node, live
from jitgrad.compiler.program import Leaf, Program
from jitgrad.errors import ArgumentError, explain, user_location
from jitgrad.layout import Point, layered
from jitgrad.ledger import topological
from jitgrad.lowered import Lowered
from jitgrad.recorded import ValueProgram
from jitgrad.value import Traced, Value

LIMIT = 400                                # Values or nodes; beyond, no one finds anything in a picture

_FONT, _FONT_SIZE, _CHARACTER, _LINE, _PADDING = "monospace", 12, 7.3, 15.0, 7.0
_MARGIN, _LONGEST = 12.0, 40
_NO_LETTER = re.compile("[^ -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML has no place for
# (fill, outline, the same in dot's words)
_STYLES = {
    "leaf": ("#dfeaf8", "#2f6db3", "box"),
    "example": ("#e3f1df", "#4f8a3d", "box"),
    "constant": ("#eeeeee", "#999999", "box"),
    "value": ("#ffffff", "#777777", "box"),
    "operation": ("#fff4d6", "#b48a1e", "ellipse"),
    "derivative": ("#f6e3ef", "#a3508a", "ellipse"),
    "result": ("#fde3cf", "#d9822b", "box"),
}
# Operands whose order makes no difference need no number.
_SYMMETRIC = {"add", "mul", "sum", "and", "or", "eq", "ne", "maximum", "minimum"}


@dataclass(frozen=True)
class Box:
    """A box of a picture: its lines of text, what it is (a key of the styles), and what a pointer over it shows."""

    lines: tuple[str, ...]
    kind: str
    note: str = ""


@dataclass(frozen=True)
class Drawing:
    """A picture of an expression. A notebook shows it; `save` writes it.

    boxes: what is drawn, operands first; edges: (from box, to box, text); layout: "graphviz" or "own"
    """

    title: str
    boxes: list[Box]
    edges: list[tuple[int, int, str]]
    layout: str

    def __repr__(self) -> str:
        return f"<drawing of {self.title}: {len(self.boxes)} boxes, {len(self.edges)} edges>"

    def _repr_svg_(self) -> str:
        return self.svg

    @property
    def dot(self) -> str:
        """The picture in Graphviz's language."""
        lines = ["digraph expression {", "  rankdir=LR;",
                 f'  node [fontname="{_FONT}", fontsize={_FONT_SIZE}, style=filled];']
        for number, box in enumerate(self.boxes):
            fill, outline, shape = _STYLES[box.kind]
            note = f", tooltip={_quoted(box.note)}" if box.note else ""
            text = _quoted("\n".join(box.lines))
            lines.append(f'  n{number} [label={text}, shape={shape}, fillcolor="{fill}", color="{outline}"{note}];')
        for tail, head, text in self.edges:
            lines.append(f"  n{tail} -> n{head}" + (f" [headlabel={_quoted(text)}, fontsize=9]" if text else "") + ";")
        return "\n".join([*lines, "}\n"])

    @property
    def svg(self) -> str:
        """The picture as an <svg> element that needs nothing else."""
        return _by_graphviz(self.dot) if self.layout == "graphviz" else self._own_svg()

    @property
    def html(self) -> str:
        """A page of its own with the picture in it."""
        return (f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(self.title)}</title>\n'
                f'<body style="margin: 1em; font-family: sans-serif">\n<h1 style="font-size: 1.1em">'
                f"{html.escape(self.title)}</h1>\n{self.svg}</body>\n</html>\n")

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write the picture to a file that ends in .svg, .html or .dot; returns its name.

        raises: ArgumentError for another ending
        """
        name = os.fspath(path)
        kind = os.path.splitext(name)[1].lstrip(".").lower()
        if kind not in ("svg", "html", "dot"):
            raise ArgumentError(explain("A drawing's name must end in .svg, .html or .dot.", f"path={name!r}",
                                        "Add one of these endings."))
        text = getattr(self, kind)                                  # before the file is opened: it may fail
        with open(name, "w", encoding="utf-8") as file:
            file.write(text)
        return name

    def _own_svg(self) -> str:
        sizes = [_size(box) for box in self.boxes]
        found = layered(sizes, [(tail, head) for tail, head, _ in self.edges])
        width, height = found.width + 2 * _MARGIN, found.height + 2 * _MARGIN
        lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
                 f'viewBox="{-_MARGIN:g} {-_MARGIN:g} {width:.1f} {height:.1f}" role="img" '
                 f'font-family="{_FONT}" font-size="{_FONT_SIZE}">',
                 f"<title>{html.escape(self.title)}</title>",
                 f'<rect x="{-_MARGIN:g}" y="{-_MARGIN:g}" width="{width:.1f}" height="{height:.1f}" fill="#ffffff"/>',
                 '<g fill="none" stroke="#888888">']
        lines += [f'<path d="{_curve(route)}"/>' for route in found.routes]
        lines.append('</g>\n<g fill="#888888">')
        for (_, head, text), route in zip(self.edges, found.routes, strict=True):
            x, y = route[-1]
            lines.append(f'<path d="M{x:.1f} {y:.1f}l-7 -3v6z"/>')
            if text:
                beside = y + 9 if y > found.centres[head][1] else y - 3
                lines.append(f'<text x="{x - 8:.1f}" y="{beside:.1f}" text-anchor="end" font-size="9">'
                             f"{html.escape(text)}</text>")
        lines.append("</g>")
        for box, centre, size in zip(self.boxes, found.centres, sizes, strict=True):
            lines.append(_element(box, centre, size))
        return "\n".join([*lines, "</svg>\n"])


def draw(what: Any, form: str | None = None, *, layout: str = "auto", limit: int = LIMIT) -> Drawing:
    """A picture of an expression: a box for each number with label, data and grad, and the operations between.

    what: a Value, eager or in a function being recorded; a list of Values; or a program, that is what `lower` or
        `jg.compile` returns: one box an operation, inputs under their arguments' names
    form: of a program "graph", or "tape": a box for each instruction, rolled up and with the gradient
    layout: "graphviz" for its `dot` program, "own" for ours, "auto" for Graphviz where it is installed
    limit: the most Values, nodes or instructions to draw
    returns: a `Drawing`; notebooks show it, `.save("name.svg")` (.html, .dot) writes it
    raises: ArgumentError for what cannot be drawn, and for more than `limit`
    """
    if layout not in ("auto", "graphviz", "own"):
        raise ArgumentError(f"layout must be 'auto', 'graphviz' or 'own'; got {layout!r}")
    if form not in (None, "graph", "tape"):
        raise ArgumentError(f"form must be 'graph' or 'tape'; got {form!r}")
    if layout == "auto":
        layout = "graphviz" if shutil.which("dot") else "own"
    if isinstance(what, ValueProgram):
        what = what.lower()
    if isinstance(what, Lowered):
        sketch = _tape(what.program, limit) if form == "tape" else _program(what.program, limit)
        return Drawing(f"{what!r}"[1:-1], sketch.boxes, sketch.edges, layout)
    roots = [what] if isinstance(what, Value) else list(what) if isinstance(what, list | tuple | np.ndarray) else []
    roots = [v for root in roots for v in (root.reshape(-1) if isinstance(root, np.ndarray) else [root])]
    if not roots or not all(isinstance(v, Value) for v in roots):
        raise ArgumentError(explain(
            f"draw() takes a Value, a list of Values, or a lowered program; got {type(what).__name__}.", user_location(),
            "For a compiled function write jg.draw(step.lower(params, X, Y))."))
    if form is not None:
        raise ArgumentError("form= is for a lowered program; a Value has one picture")
    recorders = {id(v.recorder) if isinstance(v, Traced) else None for v in roots}
    if len(recorders) > 1:
        raise ArgumentError("draw() takes traced Values of one function, and no eager ones beside them")
    sketch = _values(roots, limit) if recorders == {None} else _traced(roots, limit)
    title = " and ".join(_NO_LETTER.sub("\N{REPLACEMENT CHARACTER}", v.label) for v in roots if v.label)
    return Drawing(title or "expression", sketch.boxes, sketch.edges, layout)


@dataclass
class _Sketch:
    boxes: list[Box] = field(default_factory=list)
    edges: list[tuple[int, int, str]] = field(default_factory=list)

    def box(self, kind: str, *lines: str, note: str = "") -> int:
        """Add a box; returns its number."""
        letters = [_NO_LETTER.sub("\N{REPLACEMENT CHARACTER}", line) for line in lines]
        shown = tuple(line if len(line) <= _LONGEST else line[:_LONGEST - 1] + "…" for line in letters)
        self.boxes.append(Box(shown, kind, note))
        return len(self.boxes) - 1

    def edge(self, tail: int, head: int, text: str = "") -> None:
        self.edges.append((tail, head, text))


def _values(roots: Sequence[Value], limit: int) -> _Sketch:
    """Eager Values, as micrograd draws them."""
    values = topological(roots)
    if len(values) > limit:
        raise _too_large(f"The expression has {len(values):,} Values", limit,
                         "program = jg.compile(value); program.summary() says what is in it, and "
                         "jg.draw(program.lower(), form='tape') draws it rolled up.")
    sketch, ends = _Sketch(), {id(root) for root in roots}
    number: dict[int, int] = {}
    for v in values:
        symbol, rule, args = v._op, v._rule, v._args
        if symbol.startswith("**") and symbol != "**":
            args = args[:1]                                         # the exponent stands in the symbol
        operands = [number[id(a)] if isinstance(a, Value) else sketch.box("constant", _shown(a)) for a in args]
        operation = sketch.box("operation", symbol) if symbol and operands else None
        kind = ("result" if id(v) in ends and operands else "value" if operands
                else "leaf" if rule is None else "constant")
        lines = [v.label] if v.label else []
        lines.append(f"data {_shown(v._number())}" if kind != "constant" else _shown(v._number()))
        if kind != "constant":
            lines.append(f"grad {_shown(v.grad)}")
        box = number[id(v)] = sketch.box(kind, *lines)
        numbered = len(operands) > 1 and rule is not None and rule.name not in _SYMMETRIC
        for position, operand in enumerate(operands, 1):
            sketch.edge(operand, box if operation is None else operation, str(position) if numbered else "")
        if operation is not None:
            sketch.edge(operation, box)
    return sketch


def _program(program: Program, limit: int) -> _Sketch:
    """A program's graph."""
    names = ["value"] if len(program.values) == 1 else [f"value {k}" for k in range(len(program.values))]
    return _nodes(program.values, names, program.leaf_of, limit,
                  "lowered.as_text('graph') lists it, and jg.draw(lowered, form='tape') draws it rolled up.")


def _traced(roots: Sequence[Any], limit: int) -> _Sketch:
    """What has been recorded for these Values up to now."""
    leaves: list[Leaf] = roots[0].recorder.leaves
    firsts = [leaf.first for leaf in leaves]

    def leaf_of(slot: int) -> tuple[Leaf, int]:
        leaf = leaves[int(np.searchsorted(firsts, slot, side="right")) - 1]
        return leaf, slot - leaf.first

    return _nodes([v.node for v in roots], [v.label or "value" for v in roots], leaf_of, limit, "Draw a part of it.")


def _nodes(roots: Sequence[Node], names: Sequence[str], leaf_of: Any, limit: int, instead: str) -> _Sketch:
    nodes = live(roots)
    if len(nodes) > limit:
        raise _too_large(f"The graph has {len(nodes):,} nodes", limit, instead)
    sketch = _Sketch()
    number: dict[Node, int] = {}
    for node in nodes:
        if node.op.name == "constant":
            continue                                                # one box a use: constants of equal value are one node
        if node.op.name == "input":
            leaf, element = leaf_of(node.payload)
            number[node] = sketch.box("leaf" if leaf.shared else "example", _scalar(leaf, element))
            continue
        operands = [sketch.box("constant", _shown(a.payload)) if a.op.name == "constant" else number[a] for a in node.args]
        note = str(node.where) if node.where is not None else ""
        box = number[node] = sketch.box("operation", node.op.symbol or node.op.name, note=note)
        numbered = len(operands) > 1 and node.op.name not in _SYMMETRIC
        for position, operand in enumerate(operands, 1):
            sketch.edge(operand, box, str(position) if numbered else "")
    for name, root in zip(names, roots, strict=True):
        tail = number[root] if root in number else sketch.box("constant", _shown(root.payload))
        sketch.edge(tail, sketch.box("result", name))
    return sketch


def _tape(program: Program, limit: int) -> _Sketch:
    """A program's instructions, the gradient's included; constants are left out."""
    tape, outputs = program.rolled
    if len(tape.instructions) > limit:
        raise _too_large(f"The tape has {len(tape.instructions):,} instructions", limit, "lowered.as_text('tape') lists it.")
    sketch, owner = _Sketch(), tape.owner
    leaf_boxes: dict[int, int] = {}
    number: dict[int, int] = {}                                     # instruction -> box

    def tails(rows: Any) -> list[int]:
        """The boxes that these rows come from, each once."""
        found: dict[int, None] = {}
        owners = owner[rows]
        for instruction in np.unique(owners[owners >= 0]).tolist():
            found[number[instruction]] = None
        inputs = np.unique(rows[(owners < 0) & (rows < len(tape.inputs))])
        for row in inputs.tolist():
            leaf, _ = program.leaf_of(tape.inputs[row])
            if leaf.first not in leaf_boxes:
                shape = "×".join(map(str, leaf.shape)) or "scalar"
                leaf_boxes[leaf.first] = sketch.box("leaf" if leaf.shared else "example", leaf.path, shape)
            found[leaf_boxes[leaf.first]] = None
        return list(found)

    for k, instruction in enumerate(tape.instructions):
        operands = dict.fromkeys(tail for rows in instruction.operands() for tail in tails(np.asarray(rows)))
        rows_written = instruction.hi - instruction.lo
        size = f"{rows_written:,} row{'s' * (rows_written > 1)}"
        if instruction.segments is not None:
            size += f" of {len(instruction.segments.elements):,}"
        of_gradient = tape.derivatives is not None and k >= tape.derivatives
        where = tape.where.get(instruction.lo)
        number[k] = sketch.box("derivative" if of_gradient else "operation", instruction.op.name, size,
                               note="" if where is None else str(where))
        for tail in operands:
            sketch.edge(tail, number[k])
    names = ["value", *(f"d / d {program.leaves[k].path}" for k in program.wrt)]
    for name, rows in zip(names, outputs[1:], strict=True):
        sources = tails(np.asarray(rows))
        box = sketch.box("result", name, *([] if sources else ["constant"]))
        for tail in sources:
            sketch.edge(tail, box)
    return sketch


def _too_large(what: str, limit: int, instead: str) -> ArgumentError:
    return ArgumentError(explain(f"{what}, more than a picture can show (limit={limit:,}).", user_location(), instead))


def _scalar(leaf: Leaf, element: int) -> str:
    """How one scalar of an argument is written: params['W'][0, 1]."""
    if leaf.shape == ():
        return leaf.path
    return f"{leaf.path}[{', '.join(str(int(k)) for k in np.unravel_index(element, leaf.shape))}]"


def _shown(number: Any) -> str:
    return str(bool(number)) if isinstance(number, bool | np.bool_) else f"{float(number):.4g}"


def _size(box: Box) -> tuple[float, float]:
    width = max(_CHARACTER * max(map(len, box.lines)) + 2 * _PADDING, 24.0)
    return (width if _STYLES[box.kind][2] == "box" else width + 8.0, _LINE * len(box.lines) + 2 * _PADDING - 3.0)


def _curve(route: Sequence[Point]) -> str:
    """A path through the points: straight within a layer, and an S from one layer to the next."""
    (x, y), *rest = route
    parts = [f"M{x:.1f} {y:.1f}"]
    for x1, y1 in rest:
        if abs(y1 - y) < 0.05:
            parts.append(f"H{x1:.1f}")
        else:
            parts.append(f"C{(x + x1) / 2:.1f} {y:.1f} {(x + x1) / 2:.1f} {y1:.1f} {x1:.1f} {y1:.1f}")
        x, y = x1, y1
    return "".join(parts)


def _element(box: Box, centre: Point, size: tuple[float, float]) -> str:
    (x, y), (width, height) = centre, size
    fill, outline, shape = _STYLES[box.kind]
    radius = 4.0 if shape == "box" else height / 2
    first = y - _LINE * (len(box.lines) - 1) / 2 + 4.0
    text = "".join(f'<text x="{x:.1f}" y="{first + _LINE * k:.1f}" text-anchor="middle">{html.escape(line)}</text>'
                   for k, line in enumerate(box.lines))
    note = f"<title>{html.escape(box.note)}</title>" if box.note else ""
    return (f'<g>{note}<rect x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'rx="{radius:.1f}" fill="{fill}" stroke="{outline}"/>{text}</g>')


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _by_graphviz(dot: str) -> str:
    done = subprocess.run(["dot", "-Tsvg"], input=dot, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        raise ArgumentError(explain("Graphviz's dot could not draw the picture.", done.stderr.strip() or None,
                                    "Use layout='own', or save a .dot file."))
    return done.stdout[done.stdout.index("<svg"):]
