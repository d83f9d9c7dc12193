"""The ledger that eager arithmetic is entered into: flat lists, in the order of creation, which is topological.

An entry is an operation's code, the entries of its operands and the number it made. A Value that arithmetic makes is no
more than (ledger, index), and dies as soon as the user's program drops it; what the gradient needs stays in the ledger,
which lives as long as one of its Values does. A gradient is one loop over the lists, backwards.

A ledger holds LIMIT entries at most, and takes no more once a gradient has been taken. Then arithmetic goes on in its
successor, which imports what it needs from older ledgers. An import always points to an older one, and arithmetic on
leaves alone goes to a ledger of its own kind; so a Value keeps alive its own graph and, of each ledger that graph passes
through, the other entries, but no ledger that it does not depend on.
"""

from __future__ import annotations

import gc
import sys
import threading
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count
from types import CodeType
from typing import Any
from weakref import WeakSet, ref

from jitgrad import errors, nans
from jitgrad.compiler.graph import OPS, Op
from jitgrad.rules import derivative

LIMIT = 1 << 16
# Below this many entries a call of machine code is not worth its while; and before this many have been swept in Python,
# loading LLVM, which takes as long as they did.
NATIVE_FROM, NATIVE_AFTER = 500, 400_000

BY_CODE: list[Op] = [op for op in OPS.values() if op.arity and not op.variadic]
ARITY: list[int] = [op.arity for op in BY_CODE]
CODE: dict[Op, int] = {op: code for code, op in enumerate(BY_CODE)}
ADD, MUL, WHERE = CODE[OPS["add"]], CODE[OPS["mul"]], CODE[OPS["where"]]
GIVEN = 254        # a leaf, a number or an import
REPLACED = 255     # its derivative is a function of the user's

_FIRST_SIZE = 64
_INDICES: list[int] = []                    # the index objects, which all ledgers share
_LOCK = threading.Lock()
SERIALS = count(1)
# Leaves that are made of nothing and yet have a `_backward`, which is called when their gradient is complete.
HOOKED: WeakSet[Any] = WeakSet()


_newest: Callable[[], Ledger | None] = lambda: None  # noqa: E731
_read: Ledger | None = None                  # the open ledger that a number was read from last


class Full(Exception):
    """The ledger takes no more entries; its successor does."""


class Ledger:
    """Entries of eager arithmetic.

    An index is drawn from an iterator, so that threads may write side by side. `left`, `right` and `third` are the entries
    of an operation's operands; `places` and `imports` say which entries are the user's leaves and other ledgers' Values.
    """

    __slots__ = ("__weakref__", "_next", "_serial", "assigned", "changes", "closed", "data", "grads", "handmade", "ids",
                 "imports", "left", "ops", "own", "places", "reads", "right", "third", "touched", "values")

    def __init__(self) -> None:
        if not _INDICES:
            with _LOCK:
                _INDICES[:] = range(LIMIT)
        self._serial = next(SERIALS)
        self.ops: list[int] = [GIVEN] * _FIRST_SIZE
        self.left: list[int] = [0] * _FIRST_SIZE
        self.right: list[int] = [0] * _FIRST_SIZE
        self.data: list[Any] = [None] * _FIRST_SIZE
        self.third: dict[int, int] = {}
        self.places: dict[Any, int] = {}
        self.imports: dict[Any, int] = {}
        self.handmade: list[Any] = []                  # the leaves that are made of others by the user's own hand
        self.own: dict[int, tuple[Any, int]] = {}      # entry → the user's _backward, and the code it replaced
        self.grads: Any = None                         # None, or by entry: None where nothing arrived yet
        self.touched = False                           # grads hold more than what the next sweep starts from
        self.values: dict[int, Any] | None = None
        self.closed = False
        self.reads: dict[tuple[int, int], Any] = {}    # (entry, count) → when and where
        self.assigned: set[int] = set()
        self.changes = 0                               # of numbers and rules, by the user
        self._next: Any = None
        self.ids: Any = iter(_INDICES)
        global _newest
        _newest = ref(self)

    # Copies, which take no more entries. What a graph was read from is not copied: it is its own, and finished.

    _COPIED = ("ops", "left", "right", "data", "third", "places", "imports", "handmade", "own", "grads", "touched",
               "assigned", "changes")

    def __getstate__(self) -> dict[str, Any]:
        size = min(self.count(), len(self.ops))
        columns = {name: getattr(self, name)[:size] for name in ("ops", "left", "right", "data")}
        return {name: getattr(self, name) for name in self._COPIED} | columns

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]                # younger than what it imports, which was there before
        for name, value in state.items():
            setattr(self, name, value)
        self.close()

    # Writing.

    def draw(self) -> int:
        """A new entry's index; raises Full."""
        i: int
        for i in self.ids:
            if i >= len(self.right):
                self._grow(i)
            return i
        self.close()
        raise Full

    def _grow(self, i: int) -> None:
        with _LOCK:
            while i >= len(self.right):
                more = len(self.right)
                self.data.extend([None] * more)
                self.ops.extend([GIVEN] * more)
                self.left.extend([0] * more)
                self.right.extend([0] * more)

    def given(self, number: Any) -> int:
        """A new entry that is a number."""
        try:
            i: int = next(self.ids)
            self.data[i] = number
        except (IndexError, StopIteration):
            i = self.draw()
            self.data[i] = number
        return i

    def place(self, leaf: Any) -> int:
        """The entry of a leaf, made if need be."""
        i = self.places.get(leaf)
        return self.enrol(leaf) if i is None else i

    def enrol(self, leaf: Any) -> int:
        """A new entry for a leaf. Of two threads that come with the same one loses, and its entry is not used."""
        if leaf._args:                                 # made by hand, of what may be younger than this ledger
            if leaf._serial > self._serial:
                raise Full
            self.handmade.append(leaf)
        try:
            i = next(self.ids)
            self.data[i] = leaf.data
        except (IndexError, StopIteration):
            i = self.given(leaf.data)
        return self.places.setdefault(leaf, i)

    def imported(self, v: Any) -> int:
        """The entry of another ledger's Value, made if need be."""
        i = self.imports.get(v)
        return self.imports.setdefault(v, self.given(v._number())) if i is None else i

    def enter(self, code: int, number: Any, operands: Iterable[int]) -> int:
        """A new entry that is an operation's result."""
        i = self.draw()
        self.data[i] = number
        for place, entries in zip(operands, self._columns(), strict=False):
            entries[i] = place
        self.ops[i] = code
        return i

    def _columns(self) -> tuple[Any, Any, Any]:
        return self.left, self.right, self.third

    def count(self) -> int:
        """How many entries there are; LIMIT, once it is closed."""
        left: int = self.ids.__length_hint__()
        return LIMIT - left

    def close(self) -> None:
        """Take no more entries."""
        global _read
        self.closed = True
        self.ids = iter(())
        if _read is self:
            _read = None

    def known(self, kind: Any) -> dict[int, Any]:
        """By entry, the leaves, the imports and the Values of class `kind`: to say what a Value is made from.

        A ledger keeps no list of those, or they could not die; the garbage collector has one.
        """
        if self.values is None:
            self.close()
            self.values = {i: v for v, i in (*self.places.items(), *self.imports.items())}
            for v in gc.get_referrers(self):
                if v.__class__ is kind:
                    self.values.setdefault(v._index, v)
        return self.values

    # What the user's program does to a computed Value.

    def note_read(self, i: int) -> None:
        """The user reads the number of an entry."""
        global _read
        at = i, self.count()
        if not self.closed:
            _read = self            # what follows from the number goes here too, even if the Value that was read dies now
        if at not in self.reads:
            frame = sys._getframe(2)
            code: CodeType | None = frame.f_code
            instruction = frame.f_lasti
            if errors.is_internal(frame.f_code.co_filename):
                where = errors.user_location()
                code, instruction = (None, 0) if where is None else (where.code, where.instruction)
            newest = _newest() or self
            self.reads[at] = next(SERIALS), code, instruction, newest._serial, newest.count()

    def assign(self, i: int, number: Any) -> None:
        """The user replaces the number of an entry."""
        self.data[i] = number
        self.assigned.add(i)
        self.changes += 1

    def rule(self, i: int) -> Op:
        """The operation of an entry, whoever differentiates it."""
        code = self.ops[i]
        return BY_CODE[self.own[i][1] if code == REPLACED else code]

    def replace_rule(self, i: int, function: Any) -> None:
        """The user brings a derivative, or takes it back."""
        code = self.own[i][1] if i in self.own else self.ops[i]
        if function is None:
            self.own.pop(i, None)
            self.ops[i] = code
        else:
            self.own[i] = function, code
            self.ops[i] = REPLACED
        self.changes += 1

    # The gradient.

    def grad(self, i: int) -> Any:
        """What has arrived at an entry."""
        g = None if self.grads is None or i >= len(self.grads) else self.grads[i]
        return 0 if g is None else g

    def set_grad(self, i: int, g: Any) -> None:
        """Put a gradient at an entry."""
        grads = self.grads
        if grads.__class__ is not list:
            grads = self.grads = [] if grads is None else grads.tolist()
        if i >= len(grads):
            grads.extend([None] * (i + 1 - len(grads)))
        grads[i] = g

    def add_grad(self, i: int, g: Any) -> None:
        """Add to a gradient."""
        old = None if self.grads is None or i >= len(self.grads) else self.grads[i]
        self.set_grad(i, g if old is None else old + g)

    def sweep(self, roots: Iterable[int]) -> list[Any]:
        """Carry the gradient from the roots' entries down to leaves and imports; answers those from which it goes on.

        As in micrograd an entry hands on all that it has, what is left from an earlier gradient included, if a root
        depends on it. Leaves are read now: their numbers may have changed since.
        """
        self.close()
        roots = list(roots)
        top = max(roots)
        data, leaves, places = self.data, list(self.places), list(self.places.values())
        imports = list(self.imports.items())
        for v, i in zip(leaves, places, strict=True):
            data[i] = v.data
        for v, i in imports:
            data[i] = v._number()
        reached = self._native(top, roots) or self._plain(top, roots)
        self.touched = True
        if nans.ARE_ERRORS.get():
            self._demand_derivatives(reached)
        grads = self.grads
        nothing = None if grads.__class__ is list else 0.0
        for v, i in zip(leaves, places, strict=True):
            if i <= top and reached[i]:
                v.grad += grads[i]
                grads[i] = nothing
        onwards = [v for v in {*self.handmade, *HOOKED} if (i := self.places.get(v, LIMIT)) <= top and reached[i]]
        for v, i in imports:
            if i <= top and reached[i]:
                v._ledger.add_grad(v._index, grads[i])
                grads[i] = nothing
                onwards.append(v)
        return onwards

    def _plain(self, top: int, roots: list[int]) -> list[bool]:
        """The sweep in Python; answers which entries a gradient reached."""
        self.set_grad(top, self.grad(top))
        grads = self.grads
        stale = self._hide(top, roots) if self.touched else []
        data, ops, left, right = self.data, self.ops, self.left, self.right
        for i in range(top, -1, -1):
            g = grads[i]
            if g is None:
                continue
            code = ops[i]
            if code == ADD:
                a, b = left[i], right[i]
                x = grads[a]
                grads[a] = g if x is None else x + g
                x = grads[b]
                grads[b] = g if x is None else x + g
            elif code == MUL:
                a, b = left[i], right[i]
                x, y = grads[a], data[b] * g
                grads[a] = y if x is None else x + y
                x, y = grads[b], data[a] * g
                grads[b] = y if x is None else x + y
            elif code < GIVEN:
                self._hand_on(i, g)
            elif code == REPLACED:
                self.own[i][0]()
        Native.swept += top
        reached = [g is not None for g in grads]
        for i, g in stale:
            grads[i] = g
        return reached

    def _demand_derivatives(self, reached: Sequence[Any]) -> None:
        """Raise NonFiniteError for the youngest entry whose gradient, or what it hands on, is NaN."""
        for i in range(len(reached) - 1, -1, -1):
            if reached[i] and self.ops[i] != REPLACED:
                op = None if self.ops[i] == GIVEN else BY_CODE[self.ops[i]]
                numbers = [self.data[a] for a in self.operands(i)]
                hand_on = None if op is None or op.vjp is None else partial(derivative(op), **dict(zip(
                    ("out", "x0", "x1", "x2"), (self.data[i], *numbers), strict=False)))
                nans.demand_derivatives(op, hand_on, self.grads[i], numbers)

    def operands(self, i: int) -> list[int]:
        """The entries of an operation's operands."""
        if self.ops[i] == GIVEN:
            return []
        return [self.left[i], self.right[i], self.third.get(i, 0)][:self.rule(i).arity]

    def _hand_on(self, i: int, g: Any) -> None:
        op, grads, data = BY_CODE[self.ops[i]], self.grads, self.data
        if op.vjp is None:
            return
        operands = self.operands(i)
        for a, y in zip(operands, derivative(op)(g, data[i], *[data[a] for a in operands]), strict=True):
            x = grads[a]
            grads[a] = y if x is None else x + y

    def _hide(self, top: int, roots: list[int]) -> list[tuple[int, Any]]:
        """Set aside what earlier gradients left at entries that no root depends on."""
        grads, stale = self.grads, []
        reached = self.reached(top, roots)
        for i in range(top + 1):
            if grads[i] is not None and not reached[i]:
                stale.append((i, grads[i]))
                grads[i] = None
        return stale

    def reached(self, top: int, roots: Iterable[int]) -> bytearray:
        """1 for each entry that a root depends on."""
        mark = bytearray(top + 1)
        for i in roots:
            mark[i] = 1
        ops, left, right = self.ops, self.left, self.right
        for i in range(top, -1, -1):
            if mark[i]:
                code = ops[i]
                if code <= MUL:
                    mark[left[i]] = mark[right[i]] = 1
                elif code != GIVEN:
                    arity = self.rule(i).arity if code == REPLACED else ARITY[code]
                    mark[left[i]] = 1
                    if arity > 1:
                        mark[right[i]] = 1
                    if arity > 2:
                        mark[self.third[i]] = 1
        return mark

    def _native(self, top: int, roots: list[int]) -> bytearray | None:
        """The same by machine code: for large ledgers of numbers whose derivatives are all the table's."""
        if top < NATIVE_FROM or Native.swept < NATIVE_AFTER or self.own:
            return None
        grads, reached = array("d", bytes(8 * (top + 1))), bytearray(top + 1)
        for i in range(min(top + 1, len(self.grads))) if self.touched else roots:
            grads[i] = self.grad(i)
        for i in roots:
            reached[i] = 1
        if not Native.load()(self, top, grads, reached):
            return None
        later = self.grads[top + 1:] if self.touched else ()
        self.grads = [*grads, *later] if any(g is not None for g in later) else grads
        return reached


_youngest: Callable[[], Ledger | None] = lambda: None  # noqa: E731


def current() -> Ledger:
    """The ledger for arithmetic on leaves alone."""
    global _youngest
    ledger = _youngest()
    if ledger is None or ledger.closed:
        ledger = Ledger()
        _youngest = ref(ledger)
    return ledger


def hand_down(root: Any) -> None:
    """Carry the gradient of a root Value, 1, down to the leaves: ledgers and Values made by hand, the youngest first."""
    waiting: dict[int, tuple[Any, set[int]]] = {}
    order: list[int] = []

    def reach(v: Any) -> None:
        holder, entry = v._place()
        place = -holder._serial
        if place == 0:                       # a leaf, which hands nothing on; of those with a `_backward` each is its own
            if v._own is None:
                return
            place = id(v)
        if place not in waiting:
            heappush(order, place)
            waiting[place] = holder, set()
        waiting[place][1].add(entry)

    holder, entry = root._place()
    if holder is root:
        root.grad = 1
    else:
        holder.set_grad(entry, 1)
    reach(root)
    while order:
        holder, entries = waiting.pop(heappop(order))
        if isinstance(holder, Ledger):
            onwards = holder.sweep(entries)
        else:
            if holder._own is not None:
                holder._own()
            onwards = holder._prev
        for v in onwards:
            reach(v)


def topological(roots: Sequence[Any]) -> list[Any]:
    """Every Value that the roots depend on, themselves included, operands first. An explicit stack: any depth."""
    order: list[Any] = []
    seen: set[int] = set()
    stack: list[tuple[Any, Any]] = []
    for root in roots:
        if id(root) not in seen:
            seen.add(id(root))
            stack.append((root, iter(root._args)))
        while stack:
            v, rest = stack[-1]
            for a in rest:
                if hasattr(a.__class__, "_args") and id(a) not in seen:
                    seen.add(id(a))
                    stack.append((a, iter(a._args)))
                    break
            else:
                order.append(v)
                stack.pop()
    return order


def successor(holder: Any) -> Ledger:
    """The ledger in which arithmetic goes on from a ledger, itself if it is open, or from a Value made by hand."""
    if isinstance(holder, Ledger) and not holder.closed:
        return holder
    after: Ledger | None = None if holder._next is None else holder._next()
    if after is None or after.closed:
        after = Ledger()
        holder._next = ref(after)
    return after


class Native:
    """The backward pass as machine code, loaded when it has paid."""

    swept = 0          # entries, in Python
    _backward: Any = None

    @classmethod
    def load(cls) -> Any:
        """(ledger, top, grads, mark) -> whether the ledger's numbers are all numbers that C has."""
        if cls._backward is None:
            from jitgrad.backends.backward import backward
            cls._backward = backward
        return cls._backward
