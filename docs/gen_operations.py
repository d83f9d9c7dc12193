"""Documentation build only (an mkdocs hook): pages made from the table of operations in jitgrad/compiler/ops.py.

`operations.md` is generated whole; in `reference.md` the line FUNCTIONS is replaced by the list of functions.
`python docs/gen_operations.py` prints the page.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from jitgrad.compiler.graph import OPS, Corner, Node, Op, vjp_graph
from jitgrad.compiler.simplify import REWRITES
from jitgrad.functions import PUBLIC

FUNCTIONS = "<!-- functions of the table of operations -->"

INTRODUCTION = """\
# Operations

Every operation that jitgrad records, from the one table in
[`jitgrad/compiler/ops.py`](design.md#the-table-of-operations). This page is generated from it.

A derivative is written as the rule that all backends share: `g` is the cotangent that arrives, ∂ℒ/∂out, and the rule gives
the cotangent of each argument. Rules are graph, not numbers, and reuse the operation's own result as `out`. Outside an
operation's domain every backend gives NaN or an infinity as IEEE 754 does; nothing raises. "Tested on" is where the
property tests draw arguments; the formula holds beyond it.
"""

CONDITIONS = """\
Comparisons and `&`, `|`, `~` give conditions for `where`; they have no derivative. `jg.clip`, `jg.logsumexp` and
`jg.softmax` are made of these operations.
"""

LISTS = """\
`sum` and `take` read a list. Their rules are for one element of the list, at `position`. You do not write `sum`: a chain of
`+` becomes one (see [Design](design.md#rolling)), and its terms are added in the order in which you wrote them.
"""

CORNERS = """\
## Corners

Promises that tests assert exactly, on every backend: the value, and the gradient where it is a number's promise too. `-0`
is the negative zero. An asterisk marks those where JAX deliberately says something else.
"""

REWRITTEN = """\
## Rewrites

What is simplified while a graph is built. A rewrite is exact for every number, NaN, infinities and signed zeros included, or
it is not done: there is no `x * 0 -> 0` (wrong for NaN and infinity) and no `x + 0.0 -> x` (wrong for -0.0). Operations on
constants alone are computed at once.
"""

_INFIX = {"add": (" + ", 1), "sub": (" - ", 1), "mul": (" * ", 2), "div": (" / ", 2), "pow": (" ** ", 4), "lt": (" < ", 0),
          "le": (" <= ", 0), "eq": (" == ", 0), "ne": (" != ", 0), "and": (" & ", 0), "or": (" | ", 0)}
_ATOM = 9


def argument_names(op: Op) -> list[str]:
    """What the derivative column calls the arguments."""
    names = {"where": ["c", "x", "y"], "take": ["index"]}.get(op.name, ["x", "y"][:op.arity])
    return [*names, "element", "position"] if op.variadic else names


def expression(node: Node, names: list[str]) -> str:
    """A rule's result as Python would write it. Rules are a few nodes deep, so recursion is safe here."""
    def written(n: Node) -> tuple[str, int]:
        if n.op.name == "input":
            return names[n.payload], _ATOM
        if n.op.name == "constant":
            text = number(n.payload)
            return text, 3 if text.startswith("-") else _ATOM
        if n.op.name == "neg":
            inner, rank = written(n.args[0])
            return f"-{inner}" if rank > 2 else f"-({inner})", 3
        if n.op.name in _INFIX:
            sign, rank = _INFIX[n.op.name]
            first, second = n.args
            if n.op.name in ("lt", "le") and first.op.name == "constant":
                first, second, sign = second, first, sign.replace("<", ">")
            (left, outer), (right, inner) = written(first), written(second)
            left = left if outer > rank or (outer == rank and rank) else f"({left})"
            right = right if inner > rank else f"({right})"
            return f"{left}{sign}{right}", rank
        return f"{n.op.name}({', '.join(written(a)[0] for a in n.args)})", _ATOM
    return written(node)[0]


def number(value: float) -> str:
    """A constant, short: 0, -0, 1, 0.5, ∞."""
    if isinstance(value, bool):
        return str(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "-0" if math.copysign(1.0, value) < 0 else "0"
    return f"{value:.10g}" if float(f"{value:.10g}") == value else f"{value:.6g}"


def derivative(op: Op) -> str:
    """The cotangents of an operation's arguments, one after the other."""
    if op.vjp is None:
        return ""
    names = argument_names(op)
    symbols = ["g", "out", *names]
    if op.variadic:
        (result,) = vjp_graph(op, (0,)).results
        return f"element: `{expression(result, symbols)}`"
    results = vjp_graph(op, tuple(range(op.arity))).results
    if op.arity == 1:
        return f"`{expression(results[0], symbols)}`"
    return "; ".join(f"{name}: `{expression(r, symbols)}`" for name, r in zip(names, results, strict=True)
                     if name != "c")


def domain(op: Op) -> str:
    """Where tests draw each argument."""
    if op.result == "bool" or op.name in ("where", "sum", "take"):
        return ""
    found = list(dict.fromkeys(f"{low:g} to {high:g}" for low, high in op.inside))
    if len(found) == 1:
        return found[0]
    return ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in zip("xy", op.inside, strict=False))


def written_as(op: Op) -> str:
    """How a program calls it."""
    x, y = "x", "y"
    infix = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "lt": "<", "le": "<=", "eq": "==", "ne": "!=",
             "and": "&", "or": "|"}
    if op.name in infix:
        return f"`{x} {infix[op.name]} {y}`"
    if op.name in ("neg", "not"):
        return f"`{'-' if op.name == 'neg' else '~'}x`"
    if op.name == "sum":
        return "`sum(xs)`, `x + y + …`"
    if op.name == "take":
        return "`jg.take(xs, index)`"
    return f"`jg.{op.name}({', '.join(argument_names(op))})`"


def cell(text: str) -> str:
    """Text that may stand in a table."""
    return text.replace("|", "\\|")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([cell(c) for c in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def corner(op: Op, found: Corner) -> list[str]:
    """A line of the table of corners."""
    at = ", ".join(f"{name} = {number(a)}" for name, a in zip(argument_names(op), found.args, strict=False))
    gradient = "" if found.grad is None else ", ".join(map(number, found.grad))
    return [f"`{op.name}`", at, number(found.value), gradient, found.why + ("" if found.jax else " \\*")]


def listed() -> list[Op]:
    """The operations a page shows: all but the leaves of a graph."""
    return [op for op in OPS.values() if op.name not in ("constant", "input")]


def operations_page() -> str:
    """The text of operations.md."""
    plain = [op for op in listed() if not op.variadic]
    head = ["name", "written", "value", "derivative", "tested on"]
    rows = [[f"`{op.name}`", written_as(op), op.doc, derivative(op), domain(op)] for op in plain]
    lists = [[f"`{op.name}`", written_as(op), op.doc, derivative(op)] for op in listed() if op.variadic]
    corners = [corner(op, c) for op in listed() for c in op.corners]
    rewrites = [[f"`{r.name}`", r.because] for rules in REWRITES.values() for r in rules]
    return "\n".join([
        INTRODUCTION, "## The table", "", table(head, rows), "", CONDITIONS, "### Lists", "", LISTS,
        table(head[:-1], lists), "", CORNERS,
        table(["operation", "at", "value", "gradient", "why"], corners), "", REWRITTEN,
        table(["rewrite", "because"], rewrites), ""])


def functions_list() -> str:
    """The functions that take their meaning from the table, for reference.md."""
    rows = []
    for name in sorted(PUBLIC):
        op = OPS[name]
        rows.append([f"`jg.{name}({', '.join(argument_names(op))})`", op.doc])
    return table(["function", "value"], rows)


def reference_page(text: str) -> str:
    """reference.md with its list of functions."""
    if FUNCTIONS not in text:
        raise ValueError(f"reference.md has lost its line {FUNCTIONS}")
    return text.replace(FUNCTIONS, functions_list())


# What mkdocs calls.

def on_files(files: Any, config: Any) -> Any:
    """Add the generated page."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "operations.md", content=operations_page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Complete reference.md."""
    return reference_page(markdown) if page.file.src_uri == "reference.md" else markdown


if __name__ == "__main__":
    sys.stdout.write(operations_page())
