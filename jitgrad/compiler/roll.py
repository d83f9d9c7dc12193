"""Flat graph → tape: unrolled scalar structure becomes a few vector instructions.

Chains of `+` dissolve into sums, then nodes are grouped by (depth, whether they depend on the example, operation):
fellows are independent, so each group is one instruction. Only the left spine of a chain dissolves, ((a + b) + c) + d,
because a sum adds in list order: the value is the same to the last bit. That is also the spine that Python's `sum`,
`+=` and NumPy's object arrays build. All of it is done on whole arrays; the cost is a fraction of a microsecond a node,
and some tens of microseconds an instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from jitgrad.compiler.flat import Flat, Ints, Mask, codes, levels, offsets, ranges
from jitgrad.compiler.graph import OPS
from jitgrad.compiler.tape import Rows, Segments, Tape


def roll(flat: Flat, is_shared: Callable[[npt.NDArray[np.int64]], Mask]) -> tuple[Tape, Rows]:
    """The tape computing the outputs, and their rows. `is_shared(slots)`: which inputs are the same for every example?"""
    flat = _dissolved(flat)
    inputs = np.flatnonzero(flat.of("input"))
    slots = flat.payload[inputs].astype(np.int64)
    shared = is_shared(slots)
    tape = Tape(slots.tolist(), shared, flat.boolean[inputs].tolist())
    varies = np.zeros(len(flat.code), bool)
    varies[inputs] = ~shared
    depth = levels(flat.start, flat.operands, None if shared.all() else varies)
    row = np.full(len(flat.code), -1, np.int32)
    row[inputs] = np.arange(len(inputs))
    constants = flat.of("constant")
    read = np.zeros(len(flat.code), bool)
    read[flat.operands], read[flat.outputs] = True, True
    for k in np.flatnonzero(constants & read).tolist():
        row[k] = tape.constant(float(flat.payload[k]), bool(flat.boolean[k]))
    level = depth.astype(np.int64) * 2 + varies
    flat = _joined(flat, level)
    rank = np.argsort(np.argsort([op.name for op in flat.ops]))
    key = (level * len(rank) + rank[flat.code]) * 2 + flat.boolean
    nodes = np.flatnonzero(depth > 0)
    nodes = nodes[np.argsort(key[nodes], kind="stable")]
    ends = np.flatnonzero(np.diff(key[nodes])) + 1
    for group in np.split(nodes, ends) if len(nodes) else []:
        _emit(tape, flat, group, row)
    return tape, row[flat.outputs]


def _dissolved(flat: Flat) -> Flat:
    """With every chain of three terms and more as one `sum`, the inner nodes of a chain being gone.

    An inner node is a `+` whose only reader is the next `+` of the chain, by its first operand.
    """
    n = len(flat.code)
    uses = np.bincount(flat.operands, minlength=n)
    uses[flat.outputs] += 2
    is_add = flat.of("add")
    adds = np.flatnonzero(is_add)
    first, second = flat.operands[flat.start[adds]], flat.operands[flat.start[adds] + 1]
    linked = is_add[first] & (uses[first] == 1)
    if not linked.any():
        return flat
    inner = np.zeros(n, bool)
    inner[first[linked]] = True
    # The end of each node's chain and how many steps away it is, by doubling the distance looked ahead.
    end, steps = np.arange(n, dtype=np.int32), inner.astype(np.int32)
    end[first[linked]] = adds[linked]
    waiting = first[linked]
    while len(waiting):
        ahead = end[waiting]
        farther, distance = end[ahead], steps[ahead]
        end[waiting], steps[waiting] = farther, steps[waiting] + distance
        waiting = waiting[inner[farther]]
    links = np.bincount(end[adds], minlength=n)
    ops, code = codes([*flat.ops, OPS["sum"]])
    chain = links > 1
    counts = np.diff(flat.start)
    rest = np.repeat(~(chain | inner), counts)
    counts[chain], counts[inner] = links[chain] + 1, 0
    start = offsets(counts)
    operands = np.empty(start[-1], np.int32)
    operands[np.repeat(~(chain | inner), counts)] = flat.operands[rest]
    in_chain = chain[end[adds]]
    adds, first, second, linked = adds[in_chain], first[in_chain], second[in_chain], linked[in_chain]
    ends = end[adds]
    place = start[ends] + links[ends] - steps[adds]
    operands[place] = second
    operands[start[ends[~linked]]] = first[~linked]
    kept = np.flatnonzero(~inner)
    number = np.full(n, -1, np.int32)
    number[kept] = np.arange(len(kept))
    where = [flat.where[k] for k in kept.tolist()] if flat.where else ()
    return Flat(ops, np.where(chain, np.int32(code[OPS["sum"]]), flat.code)[kept], offsets(counts[kept]),
                number[operands], flat.payload[kept], flat.boolean[kept], number[flat.outputs], where)


def _joined(flat: Flat, level: npt.NDArray[np.int64]) -> Flat:
    """With each `+` that has more sums than `+` for fellows as a sum of two: one of a ragged loop's shortest turns."""
    is_add, is_sum = flat.of("add"), flat.of("sum")
    few = np.bincount(level[is_add], minlength=level.max() + 1) < np.bincount(level[is_sum], minlength=level.max() + 1)
    join = is_add & few[level]
    return replace(flat, code=np.where(join, flat.code[np.argmax(is_sum)], flat.code)) if join.any() else flat


def _emit(tape: Tape, flat: Flat, group: npt.NDArray[np.intp], row: Ints) -> None:
    """One instruction of nodes that are alike; their rows are entered in `row`."""
    op = flat.ops[flat.code[group[0]]]
    first = flat.start[group]
    args = tuple(row[flat.operands[first + k]] for k in range(op.arity))
    segments = None
    if op.variadic:
        at, counts = ranges(flat.start, group)
        start = offsets(counts - op.arity)
        lists = flat.operands[at]
        if op.arity:
            lists = np.delete(lists, np.concatenate([offsets(counts)[:-1] + k for k in range(op.arity)]))
        segments = Segments(start, row[lists])
    rows = tape.append(op, args, segments, bool(flat.boolean[group[0]]))
    row[group] = rows
    if flat.where:
        for k, r in zip(group.tolist(), rows.tolist(), strict=True):
            if flat.where[k] is not None:
                tape.where[r] = flat.where[k]
