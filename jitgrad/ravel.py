"""A pytree of parameters laid out in one flat vector per dtype, so that an optimizer step is a few NumPy calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jitgrad.arguments import flatten, unflatten

Tree = Any
Vector = npt.NDArray[Any]

_WEAK = "python float"  # kept apart from float64 arrays: it must reach the program as a float, which does not promote


class _Slot(NamedTuple):
    """Where a leaf lies: its position among the tree's leaves and its range in the vector."""

    position: int
    start: int
    stop: int
    shape: tuple[int, ...] | None  # None: a scalar, which is read by index and not by view


class Raveled:
    """The layout of one tree of parameters: `ravel` packs such a tree into vectors, `unravel` takes them apart.

    A tree has floating-point NumPy arrays, NumPy scalars and Python floats. Trees of one kind share a layout.
    """

    def __init__(self, spec: Any, kinds: Sequence[tuple[str, tuple[int, ...] | None]]) -> None:
        self._spec, self._leaf_count = spec, len(kinds)
        self._slots: dict[str, list[_Slot]] = {}  # vector's dtype, or _WEAK -> what lies in it
        for position, (kind, shape) in enumerate(kinds):
            slots = self._slots.setdefault(kind, [])
            start = slots[-1].stop if slots else 0
            slots.append(_Slot(position, start, start + math.prod(shape or ()), shape))
        self._dtypes = [np.dtype(np.float64 if key == _WEAK else key) for key in self._slots]

    @staticmethod
    def of(leaves: Sequence[Any], spec: Any) -> Raveled:
        """The layout of a tree with these leaves."""
        kinds = [(_WEAK, None) if type(leaf) is float else
                 (leaf.dtype.str, leaf.shape if isinstance(leaf, np.ndarray) else None) for leaf in leaves]
        return _layout(spec, tuple(kinds))

    def ravel(self, tree: Tree) -> tuple[Vector, ...]:
        """Fresh vectors, one per dtype, holding the leaves of `tree` one after the other; nothing is shared with it."""
        return self.pack(flatten(tree)[0])

    def pack(self, leaves: Sequence[Any]) -> tuple[Vector, ...]:
        """The same of a tree's leaves."""
        return tuple(table[0] for table in self.pack_all([leaves]))

    def pack_all(self, trees: Sequence[Sequence[Any]]) -> tuple[npt.NDArray[Any], ...]:
        """The same of the leaves of several trees: for each dtype a table with a row a tree."""
        return tuple(
            np.concatenate([leaves[slot.position] for leaves in trees for slot in slots], axis=None, dtype=dtype)
            .reshape(len(trees), slots[-1].stop)
            for slots, dtype in zip(self._slots.values(), self._dtypes, strict=True)
        )

    def zeros(self) -> tuple[Vector, ...]:
        """Vectors of zeros, one per dtype."""
        sizes = [slots[-1].stop for slots in self._slots.values()]
        return tuple(np.zeros(size, dtype) for size, dtype in zip(sizes, self._dtypes, strict=True))

    def unravel(self, vectors: Sequence[Vector]) -> Tree:
        """The tree whose arrays are views into `vectors`."""
        leaves: list[Any] = [None] * self._leaf_count
        for (key, slots), vector in zip(self._slots.items(), vectors, strict=True):
            if key == _WEAK:
                for slot, number in zip(slots, vector.tolist(), strict=True):
                    leaves[slot.position] = number
                continue
            for position, start, stop, shape in slots:
                leaves[position] = vector[start] if shape is None else vector[start:stop].reshape(shape)
        return unflatten(self._spec, leaves)


@lru_cache(256)
def _layout(spec: Any, kinds: tuple[tuple[str, tuple[int, ...] | None], ...]) -> Raveled:
    return Raveled(spec, kinds)
