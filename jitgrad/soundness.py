"""What a recorded graph took from its numbers while it was built, and what becomes of that when the numbers change.

A program replays a graph. Where the user's Python looked at a number on the way (`if h.data > 0`, `max(…)`, `float(v)`)
the graph holds what followed from the number of that day. The reads are noted in the ledger (ledger.py). One kind is
understood: the shift of a softmax, `m = max(v.data for v in logits)` and `(v - m).exp()`, is computed anew at each run. Any
other read of something that depends on the program's leaves, made before the graph was finished, is a StaleGraphWarning
with its line.

A shift is also recognised where no read was noted, because the logits are leaves: from two or more in a row the same
number is taken before `exp`, and it is the largest of theirs, not a whole number, and nowhere else in the graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from types import CodeType
from typing import Any

from jitgrad import errors
from jitgrad.compiler.graph import OPS
from jitgrad.ledger import ADD, CODE, GIVEN, HOOKED, Ledger, know_values
from jitgrad.value import Computed, Value, apply

_EXP = CODE[OPS["exp"]]


@dataclass(frozen=True)
class _Read:
    """The user read the number of an entry when its ledger had `stamp` entries; `time` is a serial."""

    time: int
    ledger: Ledger
    entry: int
    stamp: int
    code: CodeType | None
    instruction: int

    @property
    def number(self) -> Any:
        return self.ledger.data[self.entry]

    def before(self, ledger: Ledger, entry: int) -> bool:
        """Whether the entry is known to be younger than this read."""
        return self.stamp <= entry if ledger is self.ledger else ledger._serial > self.ledger._serial


@dataclass(frozen=True)
class _Part:
    """The part of a ledger that a graph consists of: `reached` has a byte an entry."""

    ledger: Ledger
    reached: bytearray

    def has(self, entry: int) -> bool:
        """Whether the entry belongs to it."""
        return entry < len(self.reached) and self.reached[entry] != 0

    @property
    def leaves(self) -> list[Any]:
        return [v for v, i in self.ledger.places.items() if self.has(i)]

    @property
    def handmade(self) -> list[Any]:
        return [v for v in self.ledger.handmade if self.has(self.ledger.places[v])]

    @property
    def imports(self) -> list[Any]:
        return [v for v, i in self.ledger.imports.items() if self.has(i)]

    @cached_property
    def leaf_entries(self) -> set[int]:
        return set(self.ledger.places.values())

    @cached_property
    def numbers(self) -> set[int]:
        """The entries that are plain numbers of the user's."""
        ops, given = self.ledger.ops, self.leaf_entries.union(self.ledger.imports.values())
        return {i for i, reached in enumerate(self.reached) if reached and ops[i] == GIVEN and i not in given}


@dataclass
class _Maximum:
    """The largest of some numbers, and the plain numbers in the graph that it became: (ledger, entry, negated)."""

    m: Any
    batch: list[_Read]
    doubtful: bool
    shifted: list[tuple[Ledger, int, bool]] = field(default_factory=list)      # the last: whether it is a leaf
    uses: list[tuple[Ledger, int, bool]] = field(default_factory=list)

    @property
    def members(self) -> list[tuple[Ledger, int]]:
        """What it is the largest of: what was read, and the leaves, whose reads are not noted; none if it is not."""
        if not self.batch:
            found = list(dict.fromkeys((ledger, x) for ledger, x, _ in self.shifted))
            largest = max(ledger.data[x] for ledger, x in found)
            return found if len(found) > 1 and largest == self.m else []
        # A leaf that is shifted too, and not above the maximum, took part in it.
        leaves = [(ledger, x) for ledger, x, leaf in self.shifted if leaf and ledger.data[x] <= self.m]
        return list(dict.fromkeys([*((r.ledger, r.entry) for r in self.batch), *leaves]))

    def value(self) -> Any:
        """The maximum as a Value that is held constant."""
        values = [_value(*place) for place in self.members]
        while len(values) > 1:                             # a balanced tree, which rolls into few instructions
            paired = [apply(OPS["maximum"], a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
            values = paired + values[2 * len(paired):]
        return apply(OPS["stop_gradient"], values[0])


def _parts(places: Iterable[tuple[Any, int]]) -> list[_Part]:
    """The ledgers' parts that these entries depend on, the youngest ledger first."""
    waiting: dict[int, tuple[Ledger, set[int]]] = {}
    parts = []

    def add(holder: Any, entry: int) -> None:
        stack = [(holder, entry)]
        while stack:
            holder, entry = stack.pop()
            if isinstance(holder, Ledger):
                waiting.setdefault(holder._serial, (holder, set()))[1].add(entry)
            else:
                stack += [v._place() for v in holder._prev]

    for place in places:
        add(*place)
    while waiting:
        ledger, entries = waiting.pop(max(waiting))
        part = _Part(ledger, ledger.reached(max(entries), entries))
        parts.append(part)
        for v in (*part.imports, *part.handmade):
            add(*v._place())
    return parts


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
        self._roots = {v._place() for v in roots}
        self.ledgers = _ledgers(roots)
        self._changes = [ledger.changes for ledger in self.ledgers]
        self._shifts: list[tuple[Ledger, int, Value]] = []
        if any(ledger.assigned for ledger in self.ledgers):
            self._refuse_assigned()

    @cached_property
    def _parts(self) -> list[_Part]:
        return _parts(self._roots)

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

    @contextmanager
    def shifts(self) -> Iterator[None]:
        """Inside, what a Value was made from (`_args`) has the shifts of softmaxes as the maxima that they are."""
        before = []
        for ledger, entry, shift in self._shifts:
            values = _values(ledger)
            before.append((values, entry, values.get(entry)))
            values[entry] = shift
        try:
            yield
        finally:
            for values, entry, old in before:
                if old is None:
                    del values[entry]
                else:
                    values[entry] = old

    # Softmax.

    def find_shifts(self, batches: list[list[_Read]]) -> list[list[_Read]]:
        """Take up the shifts of softmaxes; answers the batches of reads that they do not explain."""
        largest: dict[Any, list[list[_Read]]] = {}
        for batch in batches:
            largest.setdefault(max(r.number for r in batch), []).append(batch)
        passed = dict.fromkeys(largest, 0)        # how many batches of each largest number came before
        maxima: dict[Any, _Maximum] = {}
        for part in reversed(self._parts):
            ledger, shifted = part.ledger, _shifted(part)
            run: list[int] = []
            for number, x in shifted.items():
                m = -ledger.data[number]
                known = largest.get(m, [])
                while known and passed[m] < len(known) and all(r.before(ledger, number) for r in known[passed[m]]):
                    passed[m] += 1
                batch = known[passed[m] - 1] if known and passed[m] else []
                run = run if not batch and run and ledger.data[run[0]] == -m else []
                run.append(number)
                key = id(batch) if batch else (ledger._serial, run[0])
                maximum = maxima.setdefault(key, _Maximum(m, batch, not batch and float(m).is_integer()))
                maximum.shifted.append((ledger, x, x in part.leaf_entries))
                maximum.uses.append((ledger, number, True))
            found = {maximum.m: maximum for maximum in maxima.values() if maximum.members}
            for number in part.numbers - shifted.keys() if found else ():
                c = ledger.data[number]
                other = found.get(c) or found.get(-c)
                if other is not None and all(r.before(ledger, number) for r in other.batch):
                    other.uses.append((ledger, number, other.m != c))
                    # The maximum again, as in a log-sum-exp; or not: 0 and 1 may mean anything.
                    other.doubtful |= float(c).is_integer() or not other.batch
        sure = [maximum for maximum in maxima.values() if maximum.members and not maximum.doubtful]
        for maximum in sure:
            shift = maximum.value()
            negative = apply(OPS["neg"], shift)
            self._shifts += [(ledger, number, negative if negated else shift)
                             for ledger, number, negated in maximum.uses]
        explained = {id(maximum.batch) for maximum in sure}
        return [batch for batch in batches if id(batch) not in explained]

    # Everything else.

    def warn(self, batches: list[list[_Read]]) -> None:
        """Warn of reads that the graph may have followed from."""
        leaves = {id(v) for part in self._parts for v in part.leaves}
        suspects: dict[Any, list[_Read]] = {}
        for batch in batches:
            for r in batch:
                if any(r.before(part.ledger, len(part.reached) - 1) for part in self._parts):
                    suspects.setdefault((r.code, r.instruction), []).append(r)
        for (code, instruction), reads in suspects.items():
            read = _parts((r.ledger, r.entry) for r in reads)
            if any(id(v) in leaves for part in read for v in part.leaves):
                where = None if code is None else errors.Location(code, instruction)
                warnings.warn(errors.StaleGraphWarning(errors.explain(
                    "a number was read while this graph was built; the program keeps what followed from it.", where,
                    "Use jg.where, jg.maximum or jg.softmax, or compile again when the answer may change.")), stacklevel=5)


def _refuse_replaced() -> None:
    raise errors.TraceError(errors.explain("a `_backward` was set on a Value of this program after it was compiled.",
                                           errors.user_location(), "Build the expression anew and compile that."))


def _shifted(part: _Part) -> dict[int, int]:
    """By entry of the number, the entry of x in each (x + number).exp() whose number is a plain one."""
    ledger, numbers, found = part.ledger, part.numbers, {}
    for i, code in enumerate(ledger.ops[:len(part.reached)]):
        if code == _EXP and part.reached[i] and ledger.ops[ledger.left[i]] == ADD:
            x, number = ledger.left[ledger.left[i]], ledger.right[ledger.left[i]]
            if number in numbers:
                found[number] = x
    return found


def _values(ledger: Ledger) -> dict[int, Any]:
    know_values([ledger], Computed)
    values: dict[int, Any] = ledger.values or {}
    return values


def _value(ledger: Ledger, entry: int) -> Any:
    _values(ledger)
    return Computed._operand(ledger, entry, True)


def _batches(ledgers: Iterable[Ledger]) -> list[list[_Read]]:
    """The reads, in order, those together that one expression made with nothing computed in between."""
    reads = sorted((_Read(time, ledger, entry, stamp, code, instruction) for ledger in ledgers
                    for (entry, stamp), (time, code, instruction) in ledger.reads.items()), key=lambda r: r.time)
    return [[r for _, r in run] for _, run in
            groupby(enumerate(reads), lambda kr: (kr[1].time - kr[0], kr[1].code, kr[1].instruction))]


def examine(roots: Sequence[Value]) -> Structure:
    """What a program of these roots is made of, with the shifts of its softmaxes; warns of other reads.

    Raises TraceError for a graph with a computed Value whose `.data` was assigned.
    """
    structure = Structure(roots)
    batches = _batches(structure.ledgers)
    if batches or any(_EXP in ledger.ops for ledger in structure.ledgers):
        structure.warn(structure.find_shifts(batches))
    return structure
