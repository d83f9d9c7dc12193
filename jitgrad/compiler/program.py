"""A program: what a backend is given. The traced graph, what is wanted of it, and the rolled tape with its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jitgrad.compiler.flat import Flat, flatten
from jitgrad.compiler.grad import differentiate
from jitgrad.compiler.graph import OPS, Graph, Node
from jitgrad.compiler.roll import roll
from jitgrad.compiler.tape import Rows, Tape


@dataclass(frozen=True)
class Leaf:
    """One array argument: `width` scalars, the same for every example or one row of them an example."""

    path: str
    shape: tuple[int, ...]                     # of one example
    shared: bool
    kind: str                                  # "real", "int" or "bool"
    first: int                                 # slot of its first scalar

    @property
    def width(self) -> int:
        """Scalars in one example."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Check:
    """A condition that must hold for every example; `explain(example, values of `shown`)` makes the error."""

    holds: Node
    shown: Node
    explain: Callable[[int | None, float], Exception]


class Results(NamedTuple):
    """What a kernel computed. The count of failed checks is sums[0].

    sums: all reduced outputs, end to end, in float64; examples: an array (n, width) for each output that is not reduced
    """

    sums: npt.NDArray[np.float64]
    examples: list[npt.NDArray[Any]]


class Program:
    """Values, checks and gradients of a graph over a batch.

    values: what the function returned; wrt: leaves to differentiate values[0] by; per_example: True for reduce=None.
    divisor: the leaf, one shared number, that per-example gradients are divided by: of a mean, the batch size.
    Outputs, in order: the count of failed checks, the values, then one for each leaf of `wrt`.
    """

    graph: Graph
    values: list[Node]
    failures: Node
    divisor: int | None

    def __init__(self, graph: Graph, leaves: Sequence[Leaf], values: Sequence[Node], checks: Sequence[Check],
                 wrt: Sequence[int], per_example: bool, dtype: npt.DTypeLike, divisor: int | None = None):
        self.graph, self.values, self.checks = graph, list(values), list(checks)
        self.failures = _count_failures(graph, self.checks)
        self.divisor = divisor
        self._arrange(leaves, wrt, per_example, dtype)

    def _arrange(self, leaves: Sequence[Leaf], wrt: Sequence[int], per_example: bool, dtype: npt.DTypeLike) -> None:
        self.leaves, self.wrt, self.per_example, self.dtype = list(leaves), list(wrt), per_example, np.dtype(dtype)
        self._first = np.array([leaf.first for leaf in self.leaves], np.int64)
        self._shared = np.array([leaf.shared for leaf in self.leaves], bool)
        # Shared scalars travel as one vector: the place of each shared leaf in it.
        widths = np.array([leaf.width if leaf.shared else 0 for leaf in self.leaves], np.int64)
        self._offset = np.cumsum(widths) - widths
        self.shared_offset = {leaf.first: int(at) for leaf, at in zip(self.leaves, self._offset, strict=True) if leaf.shared}
        self.shared_size = int(widths.sum())
        # Whether each output is summed over the batch (a float64 vector) or has a row an example.
        self.reduced = [True, not per_example, *(self.leaves[k].shared and not per_example for k in self.wrt)]

    def _number_of(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
        """Which leaf each slot belongs to."""
        numbers: npt.NDArray[np.intp] = np.searchsorted(self._first, slots, side="right") - 1
        return numbers

    def is_shared(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether each slot's number is the same for every example."""
        shared: npt.NDArray[np.bool_] = self._shared[self._number_of(slots)]
        return shared

    def shared_places(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The place of each of these shared slots in the vector of shared scalars."""
        leaf = self._number_of(slots)
        return self._offset[leaf] + slots - self._first[leaf]

    def leaf_of(self, slot: int) -> tuple[Leaf, int]:
        """The leaf a slot belongs to, and which of its scalars it is."""
        leaf = self.leaves[int(self._number_of(np.array(slot)))]
        return leaf, slot - leaf.first

    @cached_property
    def batched(self) -> list[Leaf]:
        """The leaves with a row an example, in order."""
        return [leaf for leaf in self.leaves if not leaf.shared]

    @cached_property
    def flat(self) -> Flat:
        """The graph as rolling reads it; its outputs are the count of failed checks, the values, and any divisor."""
        wanted = [self.failures, *self.values]
        if self.divisor is not None:
            wanted.append(self.graph.input(self.leaves[self.divisor].first))
        return flatten(wanted)

    @cached_property
    def rolled(self) -> tuple[Tape, list[Rows]]:
        """The tape, gradient included, and the rows of each output."""
        tape, rows = roll(self.flat, self.is_shared)
        outputs = [rows[:1], rows[1:] if self.divisor is None else rows[1:-1]]
        if self.wrt:
            gradients = self._gradients(tape, int(rows[1]))
            if self.divisor is not None:
                gradients = [g if self.leaves[k].shared else tape.append(OPS["div"], (g, np.full_like(g, rows[-1])))
                             for k, g in zip(self.wrt, gradients, strict=True)]
            outputs += gradients
        return tape, outputs

    def _gradients(self, tape: Tape, root: int) -> list[Rows]:
        leaves = [self.leaves[k] for k in self.wrt]
        row_of = np.full(max((leaf.first + leaf.width for leaf in self.leaves), default=0), -1, np.int32)
        row_of[tape.inputs] = np.arange(len(tape.inputs))
        flat = np.concatenate([row_of[leaf.first:leaf.first + leaf.width] for leaf in leaves])
        used = flat >= 0
        gradient = np.empty(len(flat), np.int32)
        if used.any():
            gradient[used] = differentiate(tape, root, flat[used])
        if not used.all():
            gradient[~used] = tape.constant(0.0)            # an argument the loss does not depend on
        return np.split(gradient, np.cumsum([leaf.width for leaf in leaves])[:-1])

    @property
    def reduced_rows(self) -> Rows:
        """The rows of all reduced outputs, end to end."""
        return np.concatenate([rows for rows, reduced in zip(self.rolled[1], self.reduced, strict=True) if reduced])

    @property
    def example_outputs(self) -> list[Rows]:
        """The rows of each per-example output."""
        return [rows for rows, reduced in zip(self.rolled[1], self.reduced, strict=True) if not reduced]


class FlatProgram(Program):
    """A program given as flat arrays, without checks or a batch; its graph is made when something asks for it.

    The first output of `flat` is the constant 0.0, no failure.
    """

    def __init__(self, flat: Flat, leaves: Sequence[Leaf], wrt: Sequence[int], dtype: npt.DTypeLike):
        self.flat, self.checks, self.divisor = flat, [], None
        self._arrange(leaves, wrt, False, dtype)

    @cached_property
    def graph(self) -> Graph:  # type: ignore[override]
        """The expression as a graph."""
        return self.flat.graph[0]

    @cached_property
    def failures(self) -> Node:  # type: ignore[override]
        """Its constant 0.0."""
        return self.flat.graph[1][0]

    @cached_property
    def values(self) -> list[Node]:  # type: ignore[override]
        """Its other outputs."""
        return self.flat.graph[1][1:]


def _count_failures(graph: Graph, checks: Sequence[Check]) -> Node:
    """1.0 where a check fails, so that the batch's sum says whether to look for the example to blame."""
    if not checks:
        return graph.constant(0.0)
    good = checks[0].holds
    for check in checks[1:]:
        good = graph.add(OPS["and"], good, check.holds)
    return graph.add(OPS["where"], good, 0.0, 1.0)
