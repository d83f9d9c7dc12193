"""The graph: interned scalar nodes in creation order, which is already a topological order.

`Op` says what an operation is; `ops.py` holds the table of them. A `Node` is one scalar, a `Graph` owns the nodes.
Rules (derivatives, spellings of one operation by others) are small functions on nodes, traced once into a graph of
their own (`rule_graph`), so that the tape, the emitter, NumPy and eager Python all read the same rule.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from jitgrad.errors import Location

Rule = Callable[..., Any]
Number = float | int | bool


@dataclass(frozen=True)
class Corner:
    """One exact promise: at `args` the value and the gradient are these, NaN meaning NaN and -0.0 meaning -0.0."""

    args: tuple[float, ...]
    value: float
    grad: tuple[float, ...] | None
    why: str
    jax: bool = True  # False where JAX deliberately says something else


@dataclass(frozen=True, eq=False)
class Op:
    """One operation, described once; see `ops.py` for what each field of a paragraph means."""

    name: str
    arity: int
    variadic: bool
    symbol: str
    value: Callable[..., Number] | None
    spelling: str | Rule
    numpy: str
    jax: str
    vjp: Rule | None
    result: str
    inside: tuple[tuple[float, float], ...]
    corners: tuple[Corner, ...]
    smooth: bool
    conditions: tuple[int, ...]
    doc: str

    def __call__(self, *args: Any) -> Node:
        """Add this operation to the graph its arguments live in (used inside rules)."""
        graph = next(a.graph for a in args if isinstance(a, Node))
        return graph.add(self, *args)

    def __repr__(self) -> str:
        return f"<op {self.name}>"


OPS: dict[str, Op] = {}


class Node:
    """One scalar of a graph. `kind` is "real", "int" or "bool"; `payload` a constant's value or an input's slot."""

    __slots__ = ("args", "graph", "index", "kind", "op", "payload", "where")

    def __init__(self, graph: Graph, op: Op, args: tuple[Node, ...], kind: str, payload: Any, where: Location | None):
        self.graph, self.op, self.args, self.kind, self.payload, self.where = graph, op, args, kind, payload, where
        self.index = len(graph.nodes)

    def __repr__(self) -> str:
        if self.op.name == "constant":
            return repr(self.payload)
        return f"%{self.index}"

    # Arithmetic is spelled out so that derivative rules read like mathematics.
    def __add__(self, other: Any) -> Node: return OPS["add"](self, other)
    def __radd__(self, other: Any) -> Node: return OPS["add"](other, self)
    def __sub__(self, other: Any) -> Node: return OPS["sub"](self, other)
    def __rsub__(self, other: Any) -> Node: return OPS["sub"](other, self)
    def __mul__(self, other: Any) -> Node: return OPS["mul"](self, other)
    def __rmul__(self, other: Any) -> Node: return OPS["mul"](other, self)
    def __truediv__(self, other: Any) -> Node: return OPS["div"](self, other)
    def __rtruediv__(self, other: Any) -> Node: return OPS["div"](other, self)
    def __pow__(self, other: Any) -> Node: return OPS["pow"](self, other)
    def __neg__(self) -> Node: return OPS["neg"](self)
    def __lt__(self, other: Any) -> Node: return OPS["lt"](self, other)
    def __le__(self, other: Any) -> Node: return OPS["le"](self, other)
    def __gt__(self, other: Any) -> Node: return OPS["lt"](other, self)
    def __ge__(self, other: Any) -> Node: return OPS["le"](other, self)


def bits(value: float) -> bytes:
    """A float's identity: tells -0.0 from 0.0 and lets equal NaNs meet."""
    return struct.pack("<d", value)


class Graph:
    """Interned nodes. `rewrites(graph, op, args)` may answer a new node with an equal older one (simplify.py)."""

    def __init__(self, rewrites: Callable[[Graph, Op, tuple[Node, ...]], Node | None] | None = None):
        self.nodes: list[Node] = []
        # For each operation, its nodes by their operands; the leaves by what they hold.
        self._known: defaultdict[Op, dict[Any, Node]] = defaultdict(dict)
        self._rewrites = rewrites

    def _leaf(self, key: Any, op: Op, kind: str, payload: Any) -> Node:
        known = self._known[op]
        node = known.get(key)
        if node is None:
            node = known[key] = Node(self, op, (), kind, payload, None)
            self.nodes.append(node)
        return node

    def constant(self, value: Number) -> Node:
        """A number of the user's program: a bool, an int, or a float (which keeps its sign of zero)."""
        kind = "bool" if isinstance(value, bool | np.bool_) else "int" if isinstance(value, int | np.integer) else "real"
        number = bool(value) if kind == "bool" else float(value)
        return self._leaf((kind, bits(number)), OPS["constant"], kind, number)

    def input(self, slot: int, kind: str = "real") -> Node:
        """The scalar that arrives at run time in `slot`."""
        return self._leaf(slot, OPS["input"], kind, slot)

    def lift(self, value: Any) -> Node:
        """A node as it is, a Python or NumPy number as a constant."""
        if isinstance(value, Node):
            return value
        if isinstance(value, int | float | np.number | np.bool_):
            return self.constant(value)  # type: ignore[arg-type]
        raise TypeError(f"a {type(value).__name__} is not a number")

    def add(self, op: Op, *args: Any, where: Location | None = None) -> Node:
        """The node op(*args), an existing one where there is one, simplified by the value-exact rewrites."""
        return self.make(op, tuple([self.lift(a) for a in args]), where)

    def make(self, op: Op, args: tuple[Node, ...], where: Location | None = None) -> Node:
        """`add` for operands that are nodes of this graph already."""
        known = self._known[op]
        node = known.get(args)
        if node is None:
            if self._rewrites is not None:
                count = len(self.nodes)
                node = self._rewrites(self, op, args)
                if len(self.nodes) > count:
                    for made in self.nodes[count:]:
                        made.where = where              # what a rewrite makes stands on the line it rewrites
            if node is None:
                node = Node(self, op, args, _kind(op, args), None, where)
                self.nodes.append(node)
            known[args] = node
        return node

    def text(self, outputs: Iterable[tuple[str, Node]] = ()) -> str:
        """The graph as a person reads it: one line a node, then the outputs, with the user's lines beside them."""
        lines = []
        for n in self.nodes:
            if n.op.name == "constant":
                continue
            what = f"input {n.payload}" if n.op.name == "input" else f"{n.op.name} {', '.join(map(repr, n.args))}"
            left = f"%{n.index} = {what}"
            lines.append(f"{left:<40} # {n.where}" if n.where is not None and n.args else left)
        lines += [f"return {name} = {node!r}" for name, node in outputs]
        return "\n".join(lines)


def _kind(op: Op, args: Sequence[Node]) -> str:
    if op.result != "same":
        return op.result
    for a in args[1:] if op.name in ("where", "take") else args:
        if a.kind == "real":
            return "real"
    return "bool" if op.name == "where" and all(a.kind == "bool" for a in args) else "int"


def live(outputs: Sequence[Node]) -> list[Node]:
    """The nodes that the outputs depend on, in topological order."""
    if not outputs:
        return []
    nodes = outputs[0].graph.nodes
    needed = bytearray(len(nodes))
    for n in outputs:
        needed[n.index] = 1
    for n in reversed(nodes):
        if needed[n.index]:
            for a in n.args:
                needed[a.index] = 1
    return [n for n in nodes if needed[n.index]]


@dataclass(frozen=True)
class RuleGraph:
    """A rule traced over symbols (inputs 0, 1, …): the nodes its results need, in order, and the results."""

    nodes: tuple[Node, ...]
    results: tuple[Node, ...]

    def evaluate(self, symbols: Sequence[Any], constant: Callable[[Node], Any],
                 apply: Callable[[Op, list[Any]], Any]) -> list[Any]:
        """The results, on whatever numbers are to the caller: arrays, LLVM values, rows of a tape."""
        values: dict[Node, Any] = {}
        for n in self.nodes:
            if n.op.name == "input":
                values[n] = symbols[n.payload]
            elif n.op.name == "constant":
                values[n] = constant(n)
            else:
                values[n] = apply(n.op, [values[a] for a in n.args])
        return [values[r] for r in self.results]


def _traced(results: Sequence[Node]) -> RuleGraph:
    return RuleGraph(tuple(live(results)), tuple(results))


@cache
def vjp_graph(op: Op, wanted: tuple[int, ...]) -> RuleGraph:
    """The derivative rule of `op` for the operands `wanted`, over the symbols (g, out, *args).

    A variadic operation's rule is for one element of its list, over (g, out, *args, element, position), and `wanted`
    is then (0,).
    """
    from jitgrad.compiler.simplify import rewrite  # simplify's rules are about the table, which is built on this module

    assert op.vjp is not None, op
    graph = Graph(rewrite)
    symbols = [graph.input(i) for i in range(2 + op.arity + (2 if op.variadic else 0))]
    results = op.vjp(*symbols)
    return _traced([graph.lift(results[i]) for i in wanted])


@cache
def spelling_graph(op: Op) -> RuleGraph:
    """An operation spelled by others, over the symbols args."""
    from jitgrad.compiler.simplify import rewrite

    assert callable(op.spelling), op
    graph = Graph(rewrite)
    return _traced([graph.lift(op.spelling(*(graph.input(i) for i in range(op.arity))))])
