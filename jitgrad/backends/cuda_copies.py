"""Small kernels around a program's own: arrays of any strides and dtype into its layout, and its sums into results."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import from_dtype

from jitgrad import errors
from jitgrad.backends import cuda_memory as memory
from jitgrad.backends.device_arrays import DeviceArray
from jitgrad.kernels import cuda_moves
from jitgrad.kernels.cuda_batch import SIMULATED

ALIGNMENT = 16                     # bytes; where a program's arrays begin
AXES = 4
INT32 = (1 << 31) - 1              # the largest number of 32 bits
BLOCKS = 1024                      # at most; a thread moves several numbers


def launch(kernel: Any, grid: int, block: Any, *args: Any, shared: int = 0) -> None:
    """Start a kernel on the default stream; shared: bytes of shared memory beside what the kernel names itself."""
    _configured(kernel, grid, block, shared)(*args)


_CONFIGURING = threading.Lock()    # the filters of warnings are the process's: two threads' changes would not nest


@lru_cache(256)
def _configured(kernel: Any, grid: int, block: Any, shared: int) -> Any:
    with _CONFIGURING, warnings.catch_warnings():
        warnings.simplefilter("ignore")             # numba warns of small grids; a small batch has one
        return kernel[grid, block, 0, shared]


def _over(size: int, kernel: Any, *args: Any) -> None:
    """A kernel that walks `size` numbers."""
    launch(kernel, max(1, min(BLOCKS, -(-size // cuda_moves.BLOCK))), cuda_moves.BLOCK, *args)


def _place(array: DeviceArray) -> Any:
    return memory.host_view(array).reshape(-1) if SIMULATED else array.address


@cache
def _copy(source: np.dtype[Any], target: np.dtype[Any]) -> Any:
    return cuda_moves.copy_shell(from_dtype(source), from_dtype(target))


@cache
def _gather(dtype: np.dtype[Any]) -> Any:
    return cuda_moves.gather_shell(from_dtype(dtype))


@cache
def _result(dtype: np.dtype[Any]) -> Any:
    return cuda_moves.result_shell(from_dtype(dtype))


def copy(target: DeviceArray, source: DeviceArray) -> None:
    """Every element of `source`, in C's order and converted, into a contiguous array of its size."""
    axes = [(n, s // source.dtype.itemsize) for n, s in zip(source.shape, source.strides, strict=True) if n != 1]
    joined: list[tuple[int, int]] = []              # axes that follow each other in memory are one
    for length, stride in axes:
        if joined and joined[-1][1] == length * stride:
            joined[-1] = joined[-1][0] * length, stride
        else:
            joined.append((length, stride))
    if len(joined) > AXES:
        raise errors.ShapeError(errors.explain(
            f"an array on the GPU has {len(joined)} axes that do not follow each other in memory; {AXES} can be copied.",
            None, "Make it contiguous first (cupy.ascontiguousarray, x.contiguous())."))
    joined = [(1, 0)] * (AXES - len(joined)) + joined
    (_, s0), (d1, s1), (d2, s2), (d3, s3) = joined
    given: Any = source.address
    if SIMULATED:
        # A flat view from the first element on, as far as the strides reach.
        reach = 1 + sum((n - 1) * s for n, s in joined)
        given = memory.host_view(DeviceArray(source.address, (reach,), source.dtype, source.owner))
    _over(source.size, _copy(source.dtype, target.dtype), _place(target), given, source.size, d1, d2, d3, s0, s1, s2, s3)


def packed(array: DeviceArray, dtype: np.dtype[Any]) -> DeviceArray:
    """The array itself where a program can read it as it is: of its dtype, contiguous, aligned. Else a copy that is."""
    if array.dtype == dtype and array.is_contiguous and array.address % ALIGNMENT == 0:
        return array
    made = memory.allocate(array.shape, dtype, array.device)
    copy(made, array)
    return made


def gather(target: DeviceArray, sources: Sequence[DeviceArray], where: DeviceArray) -> None:
    """target[k] = sources[where[0, k]][where[1, k]] as far as `where` goes, and zeros: one launch, however many sources."""
    _over(target.size, _gather(target.dtype), _place(target), tuple(map(_place, sources)), memory.native(where),
          where.shape[1], target.size)


@cache
def _rows(dtype: np.dtype[Any]) -> Any:
    return cuda_moves.rows_shell(from_dtype(dtype))


def rows(source: DeviceArray, places: DeviceArray) -> DeviceArray:
    """Rows of an array of two axes, in the order of `places`."""
    width = source.shape[1]
    made = memory.allocate((places.size, width), source.dtype, source.device)
    _over(made.size, _rows(source.dtype), _place(made), _place(source), memory.native(places), width)
    return made


def take(source: DeviceArray, examples: npt.NDArray[np.intp], axis: int) -> DeviceArray:
    """These examples of an array, which are counted along an axis."""
    with memory.on(source.device):
        first = packed(source.moved(axis, 0), source.dtype)
        width = first.size // max(1, first.shape[0])
        small = np.int32 if first.shape[0] <= INT32 else np.int64
        found = rows(first.reshaped((first.shape[0], width)), memory.upload(examples.astype(small), source.device))
        made = found.reshaped((len(examples), *first.shape[1:])).moved(0, axis)
    made.library = source.library
    return made


def results(sums: DeviceArray, dtype: np.dtype[Any], divisor: int) -> DeviceArray:
    """Reduced results in a dtype: sums / divisor."""
    made = memory.allocate((sums.size,), dtype, sums.device)
    _over(made.size, _result(dtype), _place(made), memory.native(sums), made.size, float(divisor))
    return made
