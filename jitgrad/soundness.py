"""What a recorded graph took from its numbers while it was built, and what becomes of that when the numbers change.

A program replays a graph. Where the user's Python looked at a number on the way (`if h.data > 0`, `max(…)`, `float(v)`)
the graph holds what followed from the number of that day. The reads are noted in the ledger (ledger.py). One kind is
understood: the shift of a softmax, `m = max(v.data for v in logits)` and `(v - m).exp()`, is computed anew at each run. Any
other read that was made before the graph was finished, of something that depends on the program's leaves or of a number that
stands in the graph, is a StaleGraphWarning with its line: whether more followed from it, Python does not tell. Only what the
line itself shows to be harmless is passed over: a number that is printed, or an earlier loss that is kept.

A shift is also recognised where no read was noted, because the logits are leaves: from two or more in a row the same
number is taken before `exp`, and it is the largest of theirs. It might be a constant that a leaf happens to begin with, so
it is taken up only if it cancels: if it is seen from the graph that the roots are the same for any number in its place.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import CodeType
from typing import Any

import numpy as np

from jitgrad import errors
from jitgrad.compiler.graph import OPS
from jitgrad.ledger import ADD, CODE, HOOKED, Ledger
from jitgrad.value import Computed, Value, apply
from jitgrad.walk import Part, Walk, parts_of

_EXP = CODE[OPS["exp"]]

# How an entry changes where δ is added to a shift: (k, a) is times e^(kδ), or plus aδ; one of them is 0.
_Change = tuple[float, float]
_SAME: _Change = (0.0, 0.0)


@dataclass(frozen=True)
class _Read:
    """The user read the number of an entry when its ledger had `stamp` entries, and the newest one, by serial, `count`."""

    time: int
    ledger: Ledger
    entry: int
    stamp: int
    code: CodeType | None
    instruction: int
    newest: int
    count: int

    @property
    def number(self) -> Any:
        return self.ledger.data[self.entry]

    @property
    def where(self) -> errors.Location | None:
        return None if self.code is None else errors.Location(self.code, self.instruction)

    def before(self, ledger: Ledger, entry: int) -> bool:
        """Whether the entry is known to be younger than this read."""
        if ledger is self.ledger:
            return self.stamp <= entry
        return self.count <= entry if ledger._serial == self.newest else ledger._serial > self.time


@dataclass(frozen=True)
class _Taken:
    """What is taken from what in a part of a graph."""

    part: Part

    def origin(self, entry: int) -> tuple[Ledger, int]:
        """Where an import comes from; the entry itself, if it is none."""
        return self._origins.get(entry, (self.part.ledger, entry))

    @cached_property
    def _origins(self) -> dict[int, tuple[Ledger, int]]:
        return {i: v._place() for v, i in self.part.imports.items()}

    @cached_property
    def leaf_at(self) -> dict[int, Any]:
        return {i: v for v, i in self.part.leaves.items()}

    @cached_property
    def shifted(self) -> dict[int, int]:
        """By entry of the number, the entry of x in each (x + number).exp() whose number is a plain one."""
        part = self.part
        sums = part.left[part.made[part.ops[part.made] == _EXP]]
        sums = sums[(part.ops[sums] == ADD) & part.numbers[part.right[sums]]]
        return dict(zip(part.right[sums].tolist(), part.left[sums].tolist(), strict=True))

    def number(self, entry: int) -> Any:
        """The plain number at an entry, None where there is none."""
        return self.part.ledger.data[entry] if self.part.numbers[entry] else None

    @cached_property
    def others(self) -> dict[Any, list[int]]:
        """By number, the entries of all plain numbers beside those."""
        found: dict[Any, list[int]] = {}
        for i in np.flatnonzero(self.part.numbers).tolist():
            if i not in self.shifted:
                found.setdefault(self.part.ledger.data[i], []).append(i)
        return found


@dataclass
class _Maximum:
    """The largest of some numbers, m, and the plain numbers in the graph that it became: (ledger, entry, negated).

    reads: what the user read; shifted: from what it was taken, (ledger, entry, the leaf if it is one).
    """

    m: Any
    reads: list[_Read] = field(default_factory=list)
    shifted: list[tuple[Ledger, int, Value | None]] = field(default_factory=list)
    uses: list[tuple[Ledger, int, bool]] = field(default_factory=list)

    @property
    def computed(self) -> set[tuple[Ledger, int]]:
        return {(ledger, x) for ledger, x, leaf in self.shifted if leaf is None}

    @property
    def places(self) -> list[tuple[Ledger, int]]:
        return list(dict.fromkeys((r.ledger, r.entry) for r in self.reads))

    @property
    def certain(self) -> bool:
        """Whether it was taken from just what was read, so that it is no part of another with the same m."""
        return self.computed == set(self.places) and len(self.computed) == len(set(self.shifted))

    @property
    def members(self) -> list[tuple[Ledger, int]]:
        """What it is the largest of; none if it is not. Reads of leaves are not noted: those that it was taken from."""
        found = self.places + [(ledger, x) for ledger, x, leaf in self.shifted
                                if leaf is not None and ledger.data[x] <= self.m]
        found = list(dict.fromkeys(found))
        largest = self.m in [ledger.data[x] for ledger, x in found]
        return found if largest and self.computed <= set(found) and (self.reads or len(found) > 1) else []

    def value(self) -> Any:
        """The maximum as a Value that is held constant."""
        leaves = {(ledger, x): leaf for ledger, x, leaf in self.shifted if leaf is not None}
        values = [leaves[place] if place in leaves else Computed.at(*place) for place in self.members]
        while len(values) > 1:                             # a balanced tree, which rolls into few instructions
            paired = [apply(OPS["maximum"], a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
            values = paired + values[2 * len(paired):]
        return apply(OPS["stop_gradient"], values[0])


def _ledgers(roots: Iterable[Value]) -> list[Ledger]:
    """Every ledger that a root can depend on."""
    found: list[Ledger] = []
    seen: set[int] = set()
    stack: list[Any] = list(roots)
    while stack:
        v = stack.pop()
        holder = v._place()[0]
        if id(holder) not in seen:
            seen.add(id(holder))
            if isinstance(holder, Ledger):
                found.append(holder)
                stack += [*holder.imports, *holder.handmade]
            else:
                stack += v._prev
    return found


class Structure:
    """What a program was made of; see `examine`."""

    def __init__(self, roots: Sequence[Value]):
        self._roots = [v._place() for v in roots]
        self.ledgers = _ledgers(roots)
        for ledger in self.ledgers:              # what is made from here on belongs to no program of these roots
            ledger.close()
        self._changes = [ledger.changes for ledger in self.ledgers]
        self._parts, self._outside = parts_of(self._roots)
        self._shifts: dict[Ledger, dict[int, Value]] = {}      # what stands for entries of plain numbers
        if any(ledger.assigned for ledger in self.ledgers):
            self._refuse_assigned()

    def _refuse_assigned(self) -> None:
        for part in self._parts:
            for i in part.ledger.assigned:
                if part.has(i) and (part.ledger, i) not in self._roots:
                    raise errors.TraceError(errors.explain(
                        "`.data` of a computed Value was assigned, so the graph no longer computes it.",
                        errors.user_location(), "Assign the `.data` of leaves, or build from a new Value."))

    def check(self, leaves: Sequence[Value]) -> None:
        """Raise TraceError if the graph of these leaves is no longer what the program was made of."""
        changes = [ledger.changes for ledger in self.ledgers]
        if changes != self._changes:
            self._refuse_assigned()
            if any(part.has(i) for part in self._parts for i in part.ledger.own):
                _refuse_replaced()
            self._changes = changes
        if HOOKED and any(v in HOOKED for v in leaves):
            _refuse_replaced()

    def walk(self) -> Walk:
        """The graph as arrays, the shifts of its softmaxes being the maxima that they are."""
        shifts = [shift._place() for ledger in self._shifts.values() for shift in ledger.values()]
        parts, outside = parts_of([*self._roots, *shifts]) if shifts else (self._parts, self._outside)
        for part in parts:
            part.ledger.close()                  # so that the program keeps alive what it is made of, and nothing later
        return Walk(self._roots, parts, outside, self._shifts)

    # Softmax.

    def find_shifts(self, batches: list[list[_Read]]) -> list[list[_Read]]:
        """Take up the shifts of softmaxes; answers the batches of reads that they do not explain.

        A softmax is the same whatever its shift, if all its terms have the same; so all numbers equal to a maximum are
        taken up together, or none.
        """
        explained: set[int] = set()
        taken = [_Taken(part) for part in self._parts]
        for m, maxima in self._maxima(batches, taken).items():
            others = [(t.part.ledger, i) for t in taken for c in (m, -m) for i in t.others.get(c, ())]
            # The maximum again, as in a log-sum-exp; or not: 0 and 1 may mean anything.
            doubtful = bool(others) and (len(maxima) > 1 or float(m).is_integer())
            uses = {(ledger, i): 1.0 if ledger.data[i] == m else -1.0 for ledger, i in
                    [*others, *((ledger, i) for maximum in maxima for ledger, i, _ in maximum.uses)]}
            if not all(maximum.members for maximum in maxima):
                continue
            if (doubtful or not all(maximum.reads for maximum in maxima)) and not self._cancel(uses, taken):
                continue
            for maximum in maxima:
                maximum.uses += [(ledger, i, ledger.data[i] != m) for ledger, i in others]
                shift = maximum.value()
                negative = apply(OPS["neg"], shift)
                for ledger, i, negated in maximum.uses:
                    self._shifts.setdefault(ledger, {})[i] = negative if negated else shift
                explained.update(map(id, maximum.reads))
        return [batch for batch in batches if id(batch[0]) not in explained]

    def _maxima(self, batches: list[list[_Read]], taken: list[_Taken]) -> dict[Any, list[_Maximum]]:
        """By m, the softmaxes whose shift it is: one each where it is certain which number is whose, else all as one."""
        largest: dict[Any, list[list[_Read]]] = {}
        for batch in batches:
            largest.setdefault(max(r.number for r in batch), []).append(batch)
        passed = dict.fromkeys(largest, 0)        # how many of these came before
        found: dict[Any, dict[int, _Maximum]] = {}
        for t in reversed(taken):
            ledger = t.part.ledger
            for number, x in t.shifted.items():
                m = -ledger.data[number]
                known = largest.get(m, [])
                while known and passed[m] < len(known) and _precedes(known[passed[m]], ledger, number):
                    passed[m] += 1
                batch = known[passed[m] - 1] if known and passed[m] else []
                maximum = found.setdefault(m, {}).setdefault(id(batch) if batch else 0, _Maximum(m, batch))
                maximum.shifted.append((*t.origin(x), t.leaf_at.get(x)))
                maximum.uses.append((ledger, number, True))
        reads_of = {(r.ledger, r.entry): batch for batch in batches for r in batch}
        maxima = {}
        for m, group in found.items():
            one = _Maximum(m)
            for maximum in group.values():
                one.shifted += maximum.shifted
                one.uses += maximum.uses
            touched = {id(batch): batch for place in one.computed for batch in [reads_of.get(place, [])]}
            one.reads = [r for batch in touched.values() for r in batch]
            certain = all(maximum.certain for maximum in group.values())
            maxima[m] = list(group.values()) if certain else [one]
        return maxima

    def _cancel(self, numbers: dict[tuple[Ledger, int], float], taken: list[_Taken]) -> bool:
        """Whether the roots are seen to stay the same where δ times each of these is added to it."""
        changes = {place: (0.0, factor) for place, factor in numbers.items()}
        for t in reversed(taken):
            ledger = t.part.ledger
            for i in t.part.made.tolist():
                entries = ledger.operands(i)
                operands = [changes.get(t.origin(e), _SAME) for e in entries]
                if any(change != _SAME for change in operands):
                    found = _changed(ledger.rule(i).name, operands, [t.number(e) for e in entries])
                    if found is None:
                        return False
                    changes[ledger, i] = found
        return all(changes.get(root, _SAME) == _SAME for root in self._roots)

    # Everything else.

    def warn(self, batches: list[list[_Read]]) -> None:
        """Warn of reads that the graph may have followed from."""
        suspects: dict[errors.Location | None, list[_Read]] = {}
        for batch in batches:
            for r in batch:
                if any(r.before(part.ledger, part.size - 1) for part in self._parts):
                    suspects.setdefault(r.where, []).append(r)
        if not suspects:
            return
        leaves = {id(v) for part in self._parts for v in part.leaves}
        # The youngest place of each number of the user's; but 0.5, 0.001 or 10 may come from anywhere.
        numbers = {abs(c): (part.ledger, i) for part in reversed(self._parts) for i in np.flatnonzero(part.numbers).tolist()
                   if float(f"{(c := part.ledger.data[i]):.6g}") != c}
        for line, reads in suspects.items():
            if not any(abs(r.number) in numbers and r.before(*numbers[abs(r.number)]) for r in reads):
                reads = self._deciding(line, reads)
                if not any(id(v) in leaves for part in parts_of((r.ledger, r.entry) for r in reads)[0] for v in part.leaves):
                    continue
            warnings.warn(errors.StaleGraphWarning(errors.explain(
                "a number was read while this graph was built; the program keeps what followed from it.", line,
                "Use jg.where, jg.maximum or jg.softmax, or compile again when the answer may change.")), stacklevel=5)

    def _deciding(self, line: errors.Location | None, reads: list[_Read]) -> list[_Read]:
        """Those reads by one line from which the user may have decided something of this graph.

        Nothing is decided by printing. Nor by keeping the number of an expression that is no part of the graph and was
        finished before the graph was begun: an earlier loss, say.
        """
        use = _use(line)
        if use != "kept":
            return reads if use == "any" else []
        begin = [(part.ledger, int(part.made[0])) for part in self._parts if len(part.made)]
        return [r for r in reads if isinstance(r.number, bool) or not all(r.before(*first) for first in begin)
                or any(part.ledger is r.ledger and part.has(r.entry) for part in self._parts)]


def _changed(op: str, operands: list[_Change], numbers: list[Any]) -> _Change | None:
    """How an operation's result changes with its operands; None where that is neither a factor nor a summand.

    numbers: for each operand that is a plain number that number, else None
    """
    (k, a), *rest = operands
    if op == "add" and k == rest[0][0] == 0.0:
        return 0.0, a + rest[0][1]
    if op == "mul" and a == rest[0][1] == 0.0:
        return k + rest[0][0], 0.0
    if op in ("add", "mul"):                               # with a number: 0 + eᵟ, 2 · δ
        for change, number in ((operands[0], numbers[1]), (operands[1], numbers[0])):
            if number is not None and change != _SAME and (op == "mul" or number == 0.0):
                return change if op == "add" else (0.0, change[1] * number)
    if op == "neg":
        return k, -a
    if op == "exp" and k == 0.0:
        return a, 0.0
    if op == "log" and a == 0.0:
        return 0.0, k
    if op == "pow" and a == 0.0 and numbers[1] is not None:
        return k * numbers[1], 0.0
    if op in ("relu", "abs") and a == 0.0:
        return k, 0.0
    if op == "where" and operands[0] == _SAME:
        rest = operands[1:]
    elif op not in ("add", "maximum", "minimum", "stop_gradient"):
        return None
    else:
        rest = operands
    return rest[0] if all(change == rest[0] for change in rest) else None


def _use(line: errors.Location | None) -> str:
    """What a line does with a number that it reads: "shown" by print or assert, "kept" as it is, or "any"thing else."""
    syntax = [] if line is None else line.syntax()
    statement = next((node for node in reversed(syntax) if isinstance(node, ast.stmt)), None)
    if isinstance(statement, ast.Assert):
        return "shown"
    if isinstance(statement, ast.Expr):
        printed = isinstance(statement.value, ast.Call) and ast.unparse(statement.value.func) == "print"
        return "shown" if printed else "kept"
    read = syntax[-1] if syntax else None
    number = isinstance(read, ast.Attribute) or (isinstance(read, ast.Call) and ast.unparse(read.func) == "float")
    return "kept" if number and getattr(statement, "value", None) is read else "any"


def _refuse_replaced() -> None:
    raise errors.TraceError(errors.explain("a `_backward` was set on a Value of this program after it was compiled.",
                                           errors.user_location(), "Build the expression anew and compile that."))


def _precedes(batch: list[_Read], ledger: Ledger, entry: int) -> bool:
    """Whether the entry is known to be younger than these reads, between which nothing was entered."""
    here = [r for r in batch if r.ledger is ledger]
    return all(r.before(ledger, entry) for r in here or batch)


def _batches(ledgers: Iterable[Ledger]) -> list[list[_Read]]:
    """The reads, in order, those together that one expression made with nothing computed in between."""
    reads = sorted((_Read(time, ledger, entry, stamp, *rest) for ledger in ledgers
                    for (entry, stamp), (time, *rest) in ledger.reads.items()), key=lambda r: r.time)
    found: list[list[_Read]] = []
    stamps: dict[int, int] = {}
    for r in reads:
        last = found[-1][-1] if found else None
        if (last is None or (r.code, r.instruction, r.time) != (last.code, last.instruction, last.time + 1)
                or stamps.get(id(r.ledger), r.stamp) != r.stamp):
            found.append([])
            stamps = {}
        stamps[id(r.ledger)] = r.stamp
        found[-1].append(r)
    return found


def examine(roots: Sequence[Value]) -> Structure:
    """What a program of these roots is made of, with the shifts of its softmaxes; warns of other reads.

    Raises TraceError for a graph with a computed Value whose `.data` was assigned.
    """
    structure = Structure(roots)
    batches = _batches(structure.ledgers)
    if batches or any(_EXP in ledger.ops for ledger in structure.ledgers):
        structure.warn(structure.find_shifts(batches))
    return structure
