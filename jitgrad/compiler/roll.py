"""Graph → tape: unrolled scalar structure becomes a few vector instructions.

Chains of `+` dissolve into sums, then nodes are grouped by (depth, whether they depend on the example, operation):
fellows are independent, so each group is one instruction. Only the left spine of a chain dissolves, ((a + b) + c) + d,
because a sum adds in list order: the value is the same to the last bit. That is also the spine that Python's `sum`,
`+=` and NumPy's object arrays build.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jitgrad.compiler.graph import OPS, Node, live
from jitgrad.compiler.tape import Rows, Segments, Tape


def roll(outputs: Sequence[Node], is_shared: Callable[[int], bool]) -> tuple[Tape, Rows]:
    """The tape computing `outputs`, and their rows. `is_shared(slot)`: is that input the same for every example?"""
    nodes = live(outputs)
    terms = _dissolve_sums(nodes, outputs)
    inputs = [n for n in nodes if n.op.name == "input"]
    tape = Tape([n.payload for n in inputs], np.array([is_shared(n.payload) for n in inputs], bool),
                [n.kind == "bool" for n in inputs])
    row: dict[Node, int] = {}
    depth: dict[Node, int] = {}
    varies: dict[Node, bool] = {}
    groups: dict[tuple[int, bool, str, bool], list[Node]] = {}
    for at, n in enumerate(inputs):
        row[n], depth[n], varies[n] = at, 0, not tape.shared[at]
    for n in nodes:
        name = n.op.name
        if name == "input":
            continue
        if name == "constant":
            row[n], depth[n], varies[n] = tape.constant(n.payload, n.kind == "bool"), 0, False
            continue
        args: Sequence[Node] = n.args
        if name == "add":
            spine = terms[n]
            if spine is None:
                continue
            if len(spine) > 2:
                name, args = "sum", spine
        depth[n] = 1 + max(depth[a] for a in args)
        varies[n] = any(varies[a] for a in args)
        groups.setdefault((depth[n], varies[n], name, n.kind == "bool"), []).append(n)
    for key in sorted(groups):
        _emit(tape, key, groups[key], terms, row)
    return tape, np.array([row[n] for n in outputs], np.int32)


def _dissolve_sums(nodes: list[Node], outputs: Sequence[Node]) -> dict[Node, list[Node] | None]:
    """For each `+`: the terms of the chain it ends, or None where its only user is the next `+` of the chain."""
    uses: dict[Node, int] = {}
    for n in nodes:
        for a in n.args:
            uses[a] = uses.get(a, 0) + 1
    for n in outputs:
        uses[n] = uses.get(n, 0) + 2
    terms: dict[Node, list[Node] | None] = {}
    for n in nodes:
        if n.op.name == "add":
            first, second = n.args
            spine = terms[first] if first.op.name == "add" and uses[first] == 1 else None
            if spine is not None:
                spine.append(second)
                terms[first] = None
            else:
                spine = [first, second]
            terms[n] = spine
    return terms


def _emit(tape: Tape, key: tuple[int, bool, str, bool], group: list[Node], terms: dict[Node, list[Node] | None],
          row: dict[Node, int]) -> None:
    _, _, name, boolean = key
    op = OPS[name]
    segments = None
    if op.variadic:
        lists = [terms.get(n) or n.args[op.arity:] for n in group]
        start = np.cumsum([0] + [len(e) for e in lists]).astype(np.int32)
        segments = Segments(start, np.array([row[e] for one in lists for e in one], np.int32))
    args = tuple(np.array([row[n.args[k]] for n in group], np.int32) for k in range(op.arity))
    rows = tape.append(op, args, segments, boolean)
    for n, r in zip(group, rows.tolist(), strict=True):
        row[n] = r
        if n.where is not None:
            tape.where[r] = n.where
