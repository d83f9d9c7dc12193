"""Batches that do not lie in memory as a whole: values and gradients are added up block by block, always in the same order.

A block's sums over its examples are a short float64 vector. Vectors of neighbours are added in pairs, then pairs of pairs,
up to one: a tree that depends on nothing but the number of blocks. So the blocks decide the bits, whoever computes them: one
process from a file, or Dask's workers, however many there are and whichever of them took a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from jitgrad.arguments import Bound, unflatten
from jitgrad.compiler.program import Results

if TYPE_CHECKING:
    from jitgrad.api import Transformed

Vector = npt.NDArray[np.float64]

BLOCK_BYTES = 4 << 20               # of examples: many times what a kernel's start costs, little beside any memory


class Sums:
    """The tree of sums, given vectors from left to right; keeps one vector a level."""

    def __init__(self, vectors: Iterable[Vector] = ()) -> None:
        self._parts: list[tuple[int, Vector]] = []          # (vectors in it, their sum), each at least twice the next
        for vector in vectors:
            self.add(vector)

    def add(self, vector: Vector) -> None:
        """One more vector on the right."""
        count = 1
        while self._parts and self._parts[-1][0] == count:
            vector = self._parts.pop()[1] + vector
            count *= 2
        self._parts.append((count, vector))

    def total(self) -> Vector:
        """The sum of all; at least one must have been added."""
        *others, (_, total) = self._parts
        for _, vector in reversed(others):
            total = vector + total
        return total


def block_size(example_bytes: int) -> int:
    """The examples of a block of a file, each of so many bytes."""
    return max(1, BLOCK_BYTES // max(1, example_bytes))


def bounds(count: int, size: int) -> list[tuple[int, int]]:
    """Where the blocks of `count` examples begin and end; the last may be smaller."""
    return list(pairwise([*range(0, count, size), count]))


def elsewhere(leaves: Sequence[Any]) -> Callable[[Transformed, tuple[Any, ...], Any], Any] | None:
    """What makes the call of a transformed function whose arguments do not lie in memory; None where all do."""
    if any(is_dask(leaf) for leaf in leaves):
        from jitgrad.distributed import over_partitions
        return over_partitions
    return over_blocks if any(isinstance(leaf, np.memmap) for leaf in leaves) else None


def is_dask(leaf: Any) -> bool:
    """Whether something is a collection of Dask's, which need not be installed."""
    return hasattr(type(leaf), "__dask_graph__")


def over_blocks(step: Transformed, args: tuple[Any, ...], out: Any = None) -> Any:
    """The call of arguments some of which are memory maps.

    Where arguments or results have a gradient or a value an example, which is no smaller than the batch itself, or results
    have memory of their own (`out`), the call is made in one piece.
    """
    bound = step.bind(args)
    whole = tuple(unflatten(bound.structure, [np.asarray(leaf) if isinstance(leaf, np.memmap) else leaf
                                              for leaf in bound.given]))
    if out is not None or bound.n is None or bound.on is not None:
        return step(*whole, out=out)
    size = block_size(sum(array.nbytes // bound.n for array, axis in _arrays(bound) if axis is not None))
    layout, answer = step.layout(whole)
    if bound.n <= size or not layout.is_reduced:
        return step(*whole)
    total = Sums(step.sums(part(bound, lo, hi), range(lo, hi)) for lo, hi in bounds(bound.n, size)).total()
    return answer.of(*layout.finish(Results(total, []), bound.n))


def part(bound: Bound, lo: int, hi: int) -> tuple[Any, ...]:
    """The arguments of a call for examples lo to hi, as views."""
    found: tuple[Any, ...] = unflatten(bound.structure, [
        leaf if axis is None else between(array, axis, lo, hi)
        for leaf, (array, axis) in zip(bound.given, _arrays(bound), strict=True)])
    return found


def between(array: npt.NDArray[Any], axis: int, lo: int, hi: int) -> npt.NDArray[Any]:
    """Examples lo to hi along an axis, as a view."""
    return array[(slice(None),) * (axis % array.ndim) + (slice(lo, hi),)]


def _arrays(bound: Bound) -> list[tuple[npt.NDArray[Any], int | None]]:
    """All arguments, which lie on the host, with their axes."""
    return [(array, axis) for array, axis in zip(bound.arrays, bound.axes, strict=True) if isinstance(array, np.ndarray)]
