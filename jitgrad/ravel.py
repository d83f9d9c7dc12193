"""A pytree of parameters laid out in one flat vector per dtype, so that an optimizer step is a few NumPy calls."""

from __future__ import annotations

from collections.abc import Sequence
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

    tree: a pytree of floating-point NumPy arrays, NumPy scalars and Python floats
    """

    def __init__(self, tree: Tree) -> None:
        leaves, self._spec = flatten(tree)
        self._leaf_count = len(leaves)
        self._slots: dict[str, list[_Slot]] = {}  # vector's dtype, or _WEAK -> what lies in it
        for position, leaf in enumerate(leaves):
            slots = self._slots.setdefault(_WEAK if type(leaf) is float else leaf.dtype.str, [])
            start = slots[-1].stop if slots else 0
            shape = leaf.shape if isinstance(leaf, np.ndarray) else None
            slots.append(_Slot(position, start, start + int(np.size(leaf)), shape))
        self._dtypes = [np.dtype(np.float64 if key == _WEAK else key) for key in self._slots]

    def ravel(self, tree: Tree) -> tuple[Vector, ...]:
        """Fresh vectors, one per dtype, holding the leaves of `tree` one after the other; nothing is shared with it."""
        leaves, _ = flatten(tree)
        return tuple(
            np.concatenate([leaves[slot.position] for slot in slots], axis=None, dtype=dtype)
            for slots, dtype in zip(self._slots.values(), self._dtypes, strict=True)
        )

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
