"""Reverse mode, tape → tape.

Taken after rolling rather than before it: a rule is applied once an instruction, not once a node, so that the gradient
of 65,818 nodes costs 16 rule applications on index arrays, and the gradient comes out rolled. Reading a row twice or
from many places (a gather) becomes a sum of contributions (a scatter-add); a `sum` hands its cotangent on unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from jitgrad.compiler.graph import OPS, Node, Op, RuleGraph, vjp_graph
from jitgrad.compiler.tape import Instruction, Rows, Segments, Tape

Mask = npt.NDArray[np.bool_]


def differentiate(tape: Tape, root: int, wanted: Rows) -> Rows:
    """Append to `tape` the gradient of row `root` with respect to the input rows `wanted`; returns its rows."""
    tape.derivatives = len(tape.instructions)
    return _Reverse(tape, root, wanted).run(wanted)


def _is_zero(cotangent: Node) -> bool:
    """Whether no path leads through an operand, as through a condition or what `stop_gradient` holds constant."""
    return cotangent.op.name == "constant" and cotangent.payload == 0.0


class _Reverse:
    def __init__(self, tape: Tape, root: int, wanted: Rows):
        self.tape, self.forward = tape, list(tape.instructions)
        size = tape.size
        self.owner = np.array(tape.owner, np.int32)
        self.active: Mask = np.zeros(size, bool)           # rows that depend on something wanted
        self.active[wanted] = True
        for i in self.forward:
            if i.op.vjp is not None:
                self._spread(i)
        self.cotangent = np.full(size, -1, np.int32)       # the row holding each row's cotangent, -1 for zero
        self.contributions: dict[int, list[tuple[Rows, Rows]]] = {}
        if self.active[root]:
            self._contribute(np.array([root], np.int32), np.array([tape.constant(1.0)], np.int32))

    def _spread(self, i: Instruction) -> None:
        lanes = self.active[i.lo:i.hi]
        if i.segments is not None:
            if len(i.segments.elements):
                lanes |= np.logical_or.reduceat(self.active[i.segments.elements], i.segments.start[:-1])
            return
        for operand, rows in enumerate(i.args):
            if not _is_zero(vjp_graph(i.op, (operand,)).results[0]):
                lanes |= self.active[rows]

    def run(self, wanted: Rows) -> Rows:
        for number in range(len(self.forward) - 1, -1, -1):
            if number in self.contributions:
                self._gather(number)
                self._pull_back(self.forward[number])
        self._gather(-1)
        found = self.cotangent[wanted]
        if (found < 0).any():
            found = np.where(found < 0, self.tape.constant(0.0), found)
        return found.astype(np.int32)

    def _contribute(self, targets: Rows, sources: Rows) -> None:
        """Note that `sources` are to be added to the cotangents of `targets`."""
        owners = self.owner[targets]
        first = int(owners[0])
        if (owners == first).all():
            self.contributions.setdefault(first, []).append((targets, sources))
            return
        order = np.argsort(owners, kind="stable")
        ends = np.flatnonzero(np.diff(owners[order])) + 1
        for part in np.split(order, ends):
            self.contributions.setdefault(int(owners[part[0]]), []).append((targets[part], sources[part]))

    def _gather(self, number: int) -> None:
        """Add up all contributions to the rows of one instruction (or to the inputs), in the order they were made."""
        parts = self.contributions.pop(number, [])
        if not parts:
            return
        targets, sources = (np.concatenate(p) for p in zip(*parts, strict=True))
        order = np.argsort(targets, kind="stable")
        targets, sources = targets[order], sources[order]
        start = np.append(0, np.flatnonzero(np.diff(targets)) + 1)
        rows, counts = targets[start], np.diff(np.append(start, len(targets)))
        single = counts == 1
        self.cotangent[rows[single]] = sources[start[single]]
        pairs, lists = np.flatnonzero(counts == 2), np.flatnonzero(counts > 2)
        if len(pairs):
            at = start[pairs]
            self.cotangent[rows[pairs]] = self.tape.append(OPS["add"], (sources[at], sources[at + 1]))
        if len(lists):
            segments = Segments(np.append(start, len(sources)).astype(np.int32), sources)
            self.cotangent[rows[lists]] = self.tape.append(OPS["sum"], (), segments.select(lists))

    def _pull_back(self, i: Instruction) -> None:
        lanes = np.flatnonzero((self.cotangent[i.lo:i.hi] >= 0) & self.active[i.lo:i.hi])
        out = (lanes + i.lo).astype(np.int32)
        symbols = [self.cotangent[out], out, *(a[lanes] for a in i.args)]
        if i.segments is not None:
            lists = i.segments.select(lanes)
            counts = np.diff(lists.start)
            symbols = [np.repeat(s, counts) for s in symbols] + [lists.elements, self._positions(i, lists)]
            operands, targets = [0], [lists.elements]
        else:
            operands, targets = list(range(len(i.args))), list(symbols[2:])
        for group, mask in self._by_lanes(operands, targets):
            rule = vjp_graph(i.op, tuple(group))
            found = self._apply(rule, [s[mask] for s in symbols], repeats=i.segments is not None)
            for operand, result, rows in zip(group, rule.results, found, strict=True):
                if _is_zero(result):
                    continue
                self._contribute(targets[operand][mask], rows)

    def _positions(self, i: Instruction, lists: Segments) -> Rows:
        """Rows holding each element's place in its list, if the rule asks for it."""
        symbol = 3 + i.op.arity
        if not any(n.op.name == "input" and n.payload == symbol for n in vjp_graph(i.op, (0,)).nodes):
            return lists.elements
        positions = lists.positions()
        return np.array([self.tape.constant(float(p)) for p in range(int(positions.max()) + 1)], np.int32)[positions]

    def _by_lanes(self, operands: Sequence[int], targets: Sequence[Rows]) -> list[tuple[list[int], Mask]]:
        """Operands wanting a cotangent, together where they want it in the same lanes, so that a rule runs once."""
        groups: list[tuple[list[int], Mask]] = []
        for operand in operands:
            mask = self.active[targets[operand]]
            if not mask.any():
                continue
            for members, known in groups:
                if np.array_equal(mask, known):
                    members.append(operand)
                    break
            else:
                groups.append(([operand], mask))
        return groups

    def _apply(self, rule: RuleGraph, symbols: list[Rows], repeats: bool) -> list[Rows]:
        """Instantiate a rule over lanes, one instruction a node.

        repeats: several lanes may do the same, and do it once: all columns of a table are read by one index.
        """
        tape, width, out = self.tape, len(symbols[0]), symbols[1]
        one = tape.constant(1.0)

        def append(op: Op, args: tuple[Rows, ...], rows: Rows) -> Rows:
            tape.derived[len(tape.instructions)] = rows
            return tape.append(op, args)

        def constant(n: Node) -> Rows:
            return np.full(width, tape.constant(n.payload, n.kind == "bool"), np.int32)

        def instruction(op: Op, args: list[Rows]) -> Rows:
            if op is OPS["neg"] and (args[0] == one).all():
                return np.full(width, tape.constant(-1.0), np.int32)
            if op is OPS["mul"]:                            # by 1 or -1: exact, and most gradients begin so
                for factor, other in (args, args[::-1]):
                    if (factor == one).all():
                        return other
                    if (factor == tape.known_constant(-1.0)).all():
                        return append(OPS["neg"], (other,), out)
            # `where` hands its operands' kind through; no rule chooses between conditions.
            if repeats:
                once, first, lane = np.unique(np.stack(args), axis=1, return_index=True, return_inverse=True)
                if once.shape[1] < width:
                    return append(op, tuple(once), out[first])[lane.reshape(-1)]
            return append(op, tuple(args), out)
        return rule.evaluate(symbols, constant, instruction)
