"""A graph as flat arrays, which is what rolling works on, whether a function was traced or finished Values were walked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.compiler.graph import OPS, Graph, Node, Op, RuleGraph, live
from jitgrad.compiler.simplify import REWRITES, rewrite
from jitgrad.errors import Location

Ints = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Flat:
    """Node k is the operation ops[code[k]] on the nodes operands[start[k]:start[k + 1]]; nodes are in any order.

    payload: an input's slot, a constant's number; boolean: whether a node is a condition; where: the user's line of each
    node, or empty.
    """

    ops: Sequence[Op]
    code: Ints
    start: Ints
    operands: Ints
    payload: npt.NDArray[np.float64]
    boolean: Mask
    outputs: Ints
    where: Sequence[Location | None] = ()

    def of(self, name: str) -> Mask:
        """Which nodes are this operation."""
        found: Mask = self.code == next((k for k, op in enumerate(self.ops) if op.name == name), -1)
        return found

    @cached_property
    def graph(self) -> tuple[Graph, list[Node]]:
        """The same as a graph, and the outputs' nodes: for a reader, and for backends that read graphs."""
        graph, nodes = Graph(), {}
        operands, start = self.operands.tolist(), self.start.tolist()
        for k in np.argsort(levels(self.start, self.operands), kind="stable").tolist():
            op, number = self.ops[self.code[k]], float(self.payload[k])
            if op.name == "input":
                nodes[k] = graph.input(int(number), "bool" if self.boolean[k] else "real")
            elif op.name == "constant":
                nodes[k] = graph.constant(bool(number) if self.boolean[k] else number)
            else:
                nodes[k] = graph.add(op, *(nodes[a] for a in operands[start[k]:start[k + 1]]))
        return graph, [nodes[k] for k in self.outputs.tolist()]


def codes(ops: Sequence[Op]) -> tuple[list[Op], dict[Op, int]]:
    """The distinct operations among `ops`, and the code of each."""
    distinct = list(dict.fromkeys(ops))
    return distinct, {op: k for k, op in enumerate(distinct)}


def offsets(counts: npt.NDArray[Any]) -> Ints:
    """Where each of these many begins when all lie end to end, and where the last ends."""
    start = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=start[1:])
    return start


def ranges(start: Ints, lists: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """(the places start[k]:start[k + 1] for k in `lists`, end to end; how many for each)."""
    first = start[lists]
    counts = start[lists + 1] - first
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - (ends - counts), counts), counts


def flatten(outputs: Sequence[Node]) -> Flat:
    """The nodes of a graph that `outputs` depend on, in the order they were made."""
    nodes = live(outputs)
    made = [n.op for n in nodes]
    ops, code = codes(made)
    place = np.zeros(nodes[-1].index + 1, np.int32)
    place[np.array([n.index for n in nodes], np.int32)] = np.arange(len(nodes))
    operands = np.array([a.index for n in nodes for a in n.args], np.int32)
    return Flat(ops, np.fromiter(map(code.__getitem__, made), np.int32, len(nodes)),
                offsets(np.fromiter((len(n.args) for n in nodes), np.int32, len(nodes))), place[operands],
                np.fromiter((0.0 if n.payload is None else n.payload for n in nodes), np.float64, len(nodes)),
                np.fromiter((n.kind == "bool" for n in nodes), np.bool_, len(nodes)),
                place[[n.index for n in outputs]], [n.where for n in nodes])


def levels(start: Ints, operands: Ints, varies: Mask | None = None) -> Ints:
    """Each node's depth: 0 without operands, else one more than its deepest operand.

    Level by level, each edge looked at once. `varies`, if given, spreads from operands to whoever reads them.
    """
    n = len(start) - 1
    depth = np.zeros(n, np.int32)
    waiting = np.diff(start)
    readers = np.repeat(np.arange(n), waiting)[np.argsort(operands)]
    reader_start = offsets(np.bincount(operands, minlength=n))
    seen = np.zeros(n, np.int32)
    level, ready = 0, np.flatnonzero(waiting == 0)
    while len(ready):
        depth[ready] = level
        at, counts = ranges(reader_start, ready)
        reached = readers[at]
        if varies is not None:
            varies[reached[np.repeat(varies[ready], counts)]] = True
        np.subtract.at(waiting, reached, np.int32(1))       # these very types take NumPy's fast path, 30 times faster
        reached = reached[waiting[reached] == 0]
        order = np.arange(len(reached), dtype=np.int32)
        seen[reached] = order
        level, ready = level + 1, reached[seen[reached] == order]       # each once
    return depth


def simplified(flat: Flat) -> Flat:
    """With the rewrites of simplify.py done wherever an operand is a constant: once for each operation and constant.

    What `Graph` does node by node as a function is traced; a walk over finished Values meets only rewrites about numbers
    (x**2 and the like), since all that its operators make of numbers is data.
    """
    constant = flat.of("constant")
    if not constant.any():
        return flat
    counts = np.diff(flat.start)
    owner = np.repeat(np.arange(len(counts)), counts)
    numbers = np.bincount(owner[constant[flat.operands]], minlength=len(counts))
    ruled = np.array([op.name in REWRITES for op in flat.ops], bool)[flat.code]
    nodes = np.flatnonzero((numbers > 0) & (ruled | (numbers == counts)))
    # Alike are those of one operation with the same constants in the same places.
    alike: list[Ints] = [flat.code[nodes]]
    fixed = np.where(constant, np.arange(len(counts), dtype=np.int32), np.int32(-1))
    for k in range(counts[nodes].max(initial=0)):
        has = counts[nodes] > k
        column = np.full(len(nodes), -1, np.int32)
        column[has] = fixed[flat.operands[flat.start[nodes[has]] + k]]
        alike.append(column)
    order = np.lexsort(alike)
    ends = np.flatnonzero(np.any([np.diff(column[order]) != 0 for column in alike], axis=0)) + 1
    made = _Additions(flat)
    for group in np.split(nodes[order], ends) if len(nodes) else []:
        made.rewrite(flat.ops[flat.code[group[0]]], group.astype(np.int32), constant)
    return made.finish() if made.changed else flat


class _Additions:
    """A flat graph with further nodes behind it, and others that are to be read in the place of some of its own."""

    def __init__(self, flat: Flat):
        self.flat, self.ops, self.size = flat, list(flat.ops), len(flat.code)
        self.instead = np.arange(self.size, dtype=np.int32)
        self.parts: list[tuple[Op, list[Ints], float, bool, int]] = []
        self.changed = False

    def _append(self, op: Op, operands: list[Ints], width: int, payload: float = 0.0, boolean: bool = False) -> Ints:
        self.parts.append((op, operands, payload, boolean, width))
        self.size += width
        return np.arange(self.size - width, self.size, dtype=np.int32)

    def rewrite(self, op: Op, nodes: Ints, constant: Mask) -> None:
        """Rewrite these nodes of one operation, alike in which operands are which constants."""
        flat, graph = self.flat, Graph(rewrite)
        columns = [flat.operands[flat.start[nodes] + k] for k in range(int(np.diff(flat.start)[nodes[0]]))]
        symbols: list[Any] = []
        for k, column in enumerate(columns):
            number, boolean = float(flat.payload[column[0]]), flat.boolean[column[0]]
            symbols.append(graph.constant(bool(number) if boolean else number) if constant[column[0]] else
                           graph.input(k, "bool" if boolean else "real"))
        result = graph.add(op, *symbols)
        if result.op is op and list(result.args) == symbols:
            return
        self.changed = True
        rule = RuleGraph(tuple(live([result])), (result,))
        (found,) = rule.evaluate(
            columns,
            lambda n: np.repeat(self._append(OPS["constant"], [], 1, float(n.payload), n.kind == "bool"), len(nodes)),
            lambda op, args: self._append(op, args, len(nodes), boolean=op.result == "bool"))
        self.instead[nodes] = found

    def finish(self) -> Flat:
        """The whole, without what nobody reads any more."""
        flat = self.flat
        ops, code = codes([*self.ops, *(op for op, *_ in self.parts)])
        columns: list[list[Any]] = [[flat.code], [np.diff(flat.start)], [flat.operands], [flat.payload], [flat.boolean]]
        for op, operands, payload, boolean, width in self.parts:
            for column, part in zip(columns, (
                    np.full(width, code[op], np.int32), np.full(width, len(operands), np.int32),
                    np.array(operands, np.int32).T.ravel(), np.full(width, payload), np.full(width, boolean)), strict=True):
                column.append(part)
        codes_, counts, operands_, payloads, booleans = (np.concatenate(c) for c in columns)
        instead = np.concatenate((self.instead, np.arange(len(self.instead), self.size, dtype=np.int32)))
        while True:
            further = instead[instead]
            if np.array_equal(further, instead):
                break
            instead = further
        gone = instead != np.arange(self.size)
        kept = np.flatnonzero(~gone)
        place = np.full(self.size, -1, np.int32)
        place[kept] = np.arange(len(kept))
        edges = place[instead[operands_[np.repeat(~gone, counts)]]]
        return Flat(ops, codes_[kept].astype(np.int32), offsets(counts[kept]), edges.astype(np.int32), payloads[kept],
                    booleans[kept], place[instead[flat.outputs]])
