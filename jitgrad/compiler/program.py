"""A program: what a backend is given. The traced graph, what is wanted of it, and the rolled tape with its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

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
    Outputs, in order: the count of failed checks, the values, then one for each leaf of `wrt`.
    """

    def __init__(self, graph: Graph, leaves: Sequence[Leaf], values: Sequence[Node], checks: Sequence[Check],
                 wrt: Sequence[int], per_example: bool, dtype: npt.DTypeLike):
        self.graph, self.leaves, self.values, self.checks = graph, list(leaves), list(values), list(checks)
        self.wrt, self.per_example, self.dtype = list(wrt), per_example, np.dtype(dtype)
        self.failures = _count_failures(graph, self.checks)
        shared = [leaf for leaf in self.leaves if leaf.shared]
        offsets = np.cumsum([0] + [leaf.width for leaf in shared])
        # Shared scalars travel as one vector: the place of each shared leaf in it.
        self.shared_offset = {leaf.first: int(at) for leaf, at in zip(shared, offsets[:-1], strict=True)}
        self.shared_size = int(offsets[-1])
        self._first = np.array([leaf.first for leaf in self.leaves], np.int64)
        # Whether each output is summed over the batch (a float64 vector) or has a row an example.
        self.reduced = [True, not per_example, *(self.leaves[k].shared and not per_example for k in self.wrt)]

    def leaf_of(self, slot: int) -> tuple[Leaf, int]:
        """The leaf a slot belongs to, and which of its scalars it is."""
        leaf = self.leaves[int(np.searchsorted(self._first, slot, side="right")) - 1]
        return leaf, slot - leaf.first

    @cached_property
    def batched(self) -> list[Leaf]:
        """The leaves with a row an example, in order."""
        return [leaf for leaf in self.leaves if not leaf.shared]

    @cached_property
    def rolled(self) -> tuple[Tape, list[Rows]]:
        """The tape, gradient included, and the rows of each output."""
        tape, rows = roll([self.failures, *self.values], lambda slot: self.leaf_of(slot)[0].shared)
        outputs = [rows[:1], rows[1:]]
        if self.wrt:
            outputs += self._gradients(tape, int(rows[1]))
        return tape, outputs

    def _gradients(self, tape: Tape, root: int) -> list[Rows]:
        row_of = {slot: row for row, slot in enumerate(tape.inputs)}
        leaves = [self.leaves[k] for k in self.wrt]
        flat = np.array([row_of.get(leaf.first + e, -1) for leaf in leaves for e in range(leaf.width)], np.int32)
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


def _count_failures(graph: Graph, checks: Sequence[Check]) -> Node:
    """1.0 where a check fails, so that the batch's sum says whether to look for the example to blame."""
    if not checks:
        return graph.constant(0.0)
    good = checks[0].holds
    for check in checks[1:]:
        good = graph.add(OPS["and"], good, check.holds)
    return graph.add(OPS["where"], good, 0.0, 1.0)
