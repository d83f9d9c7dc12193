"""Memory of large results, used again once nobody looks at them.

Fresh memory comes page by page and zeroed: for five derivatives of a million examples that takes twice as long as
computing them. So the memory of a large result is kept when its array and all views of it are gone, and lent to the next
result of that size: no more than LIMIT bytes, the longest unused going first.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LIMIT = 128 << 20
LARGE = 1 << 20                    # smaller memory the system's allocator keeps itself
ALIGNMENT = 64

_LOCK = threading.RLock()          # reentrant: the garbage collector may end a lease at any time
_free: list[Array] = []


class _Lease:
    """The owner of an array's memory."""

    __slots__ = ("__array_interface__", "memory")

    def __init__(self, memory: Array, shape: tuple[int, ...], dtype: np.dtype[Any]):
        self.memory = memory
        start = memory.__array_interface__["data"][0]
        self.__array_interface__ = {"version": 3, "data": (start + -start % ALIGNMENT, False), "typestr": dtype.str,
                                    "shape": shape}

    def __del__(self) -> None:
        with _LOCK:
            _free.append(self.memory)
            kept = sum(m.nbytes for m in _free)
            while kept > LIMIT:
                kept -= _free.pop(0).nbytes


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array of unspecified numbers; a large one begins at a multiple of 64 bytes."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size < LARGE:
        return np.empty(shape, dtype)
    with _LOCK:
        at = next((k for k in reversed(range(len(_free))) if _free[k].nbytes == size + ALIGNMENT), None)
        memory = np.empty(size + ALIGNMENT, np.uint8) if at is None else _free.pop(at)
    return np.asarray(_Lease(memory, shape, dtype))


def release() -> int:
    """Give back to the system what is not in use; returns how many bytes that was."""
    with _LOCK:
        size = sum(m.nbytes for m in _free)
        _free.clear()
    return size
