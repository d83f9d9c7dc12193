"""What finished Values depend on, read from the ledgers as whole arrays: no Value is made for it, nothing recurses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad import errors
from jitgrad.compiler.flat import Flat, Ints, Mask, offsets
from jitgrad.compiler.graph import OPS
from jitgrad.ledger import ADD, ARITY, BY_CODE, GIVEN, MUL, WHERE, Ledger
from jitgrad.value import Computed, Value

# The codes of ledgers and, behind them, what else a flat graph consists of.
_OPS = [*BY_CODE, OPS["input"], OPS["constant"]]
_INPUT, _CONSTANT = len(BY_CODE), len(BY_CODE) + 1
_ARITY = np.array([*ARITY, 0, 0], np.int32)
_BOOLEAN = np.array([op.result == "bool" for op in _OPS])

Place = tuple[Any, int]                       # as `Value._place` answers
Places = npt.NDArray[np.intp]


class Part:
    """The part of a ledger that a graph consists of: `mark` has a byte an entry, up to the youngest of them."""

    def __init__(self, ledger: Ledger, entries: set[int]):
        self.ledger = ledger
        self.mark = ledger.reached(max(entries), entries)
        self.size = len(self.mark)

    def has(self, entry: int) -> bool:
        """Whether the entry belongs to it."""
        return entry < self.size and self.mark[entry] != 0

    # The ledger's lists, as arrays.

    @cached_property
    def reached(self) -> Mask:
        return np.frombuffer(self.mark, np.bool_)

    @cached_property
    def ops(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(bytes(self.ledger.ops[:self.size]), np.uint8)

    @cached_property
    def left(self) -> Ints:
        return np.fromiter(self.ledger.left, np.int32, self.size)

    @cached_property
    def right(self) -> Ints:
        return np.fromiter(self.ledger.right, np.int32, self.size)

    # What was given.

    @cached_property
    def leaves(self) -> dict[Any, int]:
        return {v: i for v, i in self.ledger.places.items() if self.has(i)}

    @cached_property
    def imports(self) -> dict[Any, int]:
        return {v: i for v, i in self.ledger.imports.items() if self.has(i)}

    @property
    def handmade(self) -> list[Any]:
        return [v for v in self.ledger.handmade if self.has(self.ledger.places[v])]

    @cached_property
    def made(self) -> Ints:
        """The entries of operations."""
        return np.flatnonzero(self.reached & (self.ops != GIVEN)).astype(np.int32)

    @cached_property
    def numbers(self) -> Mask:
        """Which entries are plain numbers of the user's."""
        found: Mask = self.reached & (self.ops == GIVEN)
        for entries in (self.leaves, self.imports):
            found[np.fromiter(entries.values(), np.intp, len(entries))] = False
        return found


def parts_of(places: Iterable[Place]) -> tuple[list[Part], list[Any]]:
    """The ledgers' parts that these entries depend on, the youngest ledger first; and the Values met outside of ledgers."""
    waiting: dict[int, tuple[Ledger, set[int]]] = {}
    parts: list[Part] = []
    outside: dict[Any, None] = {}

    def add(place: Place) -> None:
        stack = [place]
        while stack:
            holder, entry = stack.pop()
            if isinstance(holder, Ledger):
                waiting.setdefault(holder._serial, (holder, set()))[1].add(entry)
            elif holder not in outside:
                outside[holder] = None
                stack += [v._place() for v in reversed(holder._prev)]

    for place in places:
        add(place)
    while waiting:
        part = Part(*waiting.pop(max(waiting)))
        parts.append(part)
        for v in (*part.imports, *part.handmade):
            add(v._place())
    return parts, list(outside)


class Walk:
    """A graph as arrays: every Value below the roots once.

    parts, outside: as `parts_of` answers; instead: by ledger, the Values that stand for entries of plain numbers.
    leaves: in the order in which arithmetic first used them, ledger by ledger, the oldest first; last those that none did;
    numbers: those beside + and *, which are data as leaves are; size: how many Values there are.
    """

    def __init__(self, roots: Sequence[Place], parts: Sequence[Part], outside: Iterable[Any],
                 instead: Mapping[Ledger, Mapping[int, Value]]):
        self._parts = list(reversed(parts))
        self._instead = instead
        self._nodes: dict[Any, Ints] = {}                    # by ledger, the node of each entry
        self._node_of_leaf: dict[Any, int] = {}
        self._codes: list[Ints] = []
        self.size = 0
        beside: list[Ints] = []                              # + and *, by part, the nodes of numbers
        self.numbers: list[float] = []
        self._fixed: list[Places] = []                       # by part, the entries of all other numbers
        for part in self._parts:
            _refuse_own(Computed.at(part.ledger, i) for i in part.ledger.own if part.has(i))
            entries = self._enter(part)
            beside.append(self._nodes[part.ledger][entries])
            self.numbers += map(float, map(part.ledger.data.__getitem__, entries.tolist()))
        for v in outside:
            if v not in self._node_of_leaf:
                self._node_of_leaf[v] = self.size
                self._codes.append(np.array([_INPUT], np.int32))
                self.size += 1
        self.leaves = list(self._node_of_leaf)
        _refuse_own(v for v in self.leaves if v._own is not None)
        self._leaf_nodes = np.fromiter(self._node_of_leaf.values(), np.int32, len(self.leaves))
        self._number_nodes = np.concatenate((np.zeros(0, np.int32), *beside))
        self._roots = [self._node(root) for root in roots]

    def _node(self, place: Place) -> int:
        holder, entry = place
        return int(self._nodes[holder][entry]) if isinstance(holder, Ledger) else self._node_of_leaf[holder]

    def _enter(self, part: Part) -> Places:
        """Number the nodes of a part in the order of their entries; answers the entries of numbers beside + and *."""
        leaves, known = part.leaves, self._node_of_leaf
        new = {v: i for v, i in leaves.items() if v not in known} if known else leaves
        numbers, beside = part.numbers.copy(), np.zeros(part.size, np.bool_)
        numbers[list(self._instead.get(part.ledger, ()))] = False
        sums = part.made[part.ops[part.made] <= MUL]
        beside[part.left[sums]] = beside[part.right[sums]] = True
        self._fixed.append(np.flatnonzero(numbers & ~beside))
        numbers &= beside
        own = numbers.copy()
        own[part.made] = True
        first = np.fromiter(new.values(), np.intp, len(new))
        own[first] = True
        entries = np.flatnonzero(own)
        node = np.full(part.size, -1, np.int32)
        node[entries] = np.arange(self.size, self.size + len(entries), dtype=np.int32)
        known.update(zip(new, node[first].tolist(), strict=True))
        node[np.fromiter(leaves.values(), np.intp, len(leaves))] = np.fromiter(map(known.get, leaves), np.int32, len(leaves))
        codes = part.ops[entries].astype(np.int32)
        codes[codes == GIVEN] = _INPUT
        self._codes.append(codes)
        self._nodes[part.ledger] = node
        self.size += len(entries)
        return np.flatnonzero(numbers)

    def _constants(self) -> tuple[npt.NDArray[np.float64], Mask]:
        """The numbers that operations other than + and * take, each once, and which are conditions; they get nodes."""
        listed = [part.ledger.data[i] for part, entries in zip(self._parts, self._fixed, strict=True)
                  for i in entries.tolist()]
        conditions = np.fromiter((number is True or number is False for number in listed), np.bool_, len(listed))
        bits = np.fromiter(map(float, listed), np.float64, len(listed)).view(np.int64)    # so -0.0 is not 0.0
        (reals, real), (truths, truth) = (np.unique(bits[kind], return_inverse=True) for kind in (~conditions, conditions))
        node = np.empty(len(listed), np.int32)
        node[~conditions], node[conditions] = real + self.size, truth + self.size + len(reals)
        first = 0
        for part, entries in zip(self._parts, self._fixed, strict=True):
            self._nodes[part.ledger][entries] = node[first:first + len(entries)]
            first += len(entries)
        return (np.concatenate((reals, truths)).view(np.float64),
                np.arange(len(reals) + len(truths)) >= len(reals))

    def _operands(self, part: Part) -> tuple[Ints, Ints]:
        """How many operands each operation of a part has, and their nodes, end to end."""
        node, made = self._nodes[part.ledger], part.made
        for v, i in part.imports.items():
            node[i] = self._node(v._place())
        for i, v in self._instead.get(part.ledger, {}).items():
            node[i] = self._node(v._place())
        counts = _ARITY[part.ops[made]]
        start = offsets(counts)
        operands = np.empty(start[-1], np.int32)
        operands[start[:-1]] = node[part.left[made]]
        two, three = np.flatnonzero(counts > 1), np.flatnonzero(counts > 2)
        operands[start[two] + 1] = node[part.right[made[two]]]
        operands[start[three] + 2] = node[[part.ledger.third[i] for i in made[three].tolist()]]
        return counts, operands

    def flat(self, order: npt.NDArray[np.intp]) -> Flat:
        """The expression, leaf order[k] having slot k. Outputs: no failure (0.0), the sum of several roots, the roots."""
        constants, conditions = self._constants()
        parts = [self._operands(part) for part in self._parts]
        # Behind Values and constants: the 0.0 that says nothing failed, and the sum of the roots.
        zero, roots = self.size + len(constants), self._roots
        sums = [(roots[0] if k == 1 else zero + k - 1, root) for k, root in enumerate(roots)][1:]
        code = np.concatenate((*self._codes, np.full(len(constants) + 1, _CONSTANT), np.full(len(sums), ADD)))
        counts = np.zeros(len(code), np.int32)
        made = np.flatnonzero(code < _INPUT)
        counts[made] = np.concatenate((*(counted for counted, _ in parts), np.full(len(sums), 2)))
        operands = np.concatenate((*(nodes for _, nodes in parts), np.array(sums, np.int32).reshape(-1)))
        payload = np.zeros(len(code))
        payload[self._leaf_nodes[order]] = np.arange(len(order))
        payload[self._number_nodes] = np.arange(len(order), len(order) + len(self.numbers))
        payload[self.size:zero] = constants
        boolean = _BOOLEAN[code]
        boolean[self.size:zero] = conditions
        start = offsets(counts)
        _spread_conditions(np.flatnonzero(code == WHERE), start, operands, boolean)
        used = np.flatnonzero(np.bincount(code))
        number = np.zeros(len(_OPS), np.int32)
        number[used] = np.arange(len(used))
        outputs = [zero, zero + len(sums), *roots] if sums else [zero, *roots]
        return Flat([_OPS[k] for k in used.tolist()], number[code], start, operands, payload, boolean,
                    np.array(outputs, np.int32))


def _refuse_own(values: Iterable[Value]) -> None:
    for v in values:
        raise errors.TraceError(errors.explain(
            f"a Value with its own `_backward` ({v._op or v!r}) cannot be compiled.", errors.user_location(),
            "Build the expression from jitgrad's operations."))


def _spread_conditions(choices: npt.NDArray[np.intp], start: Ints, operands: Ints, boolean: Mask) -> None:
    """Mark each `where` that chooses between conditions as a condition."""
    first = start[choices]
    while len(choices):
        found = boolean[operands[first + 1]] & boolean[operands[first + 2]] & ~boolean[choices]
        if not found.any():
            return
        boolean[choices[found]] = True
