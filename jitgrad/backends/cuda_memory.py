"""A GPU's memory: lent and lent again, filled through pinned memory, and errors that say what is wrong.

To ask the driver for memory, or to give it back, waits for the device; so memory whose last owner is gone is kept for the
next one of that size, at most KEPT bytes. Its owner may end anywhere, in any thread, where no CUDA context is current and
the driver takes nothing back: so what is beyond KEPT goes back at the next allocation, which has a context. All work goes
through CUDA's default stream, in order, so that memory may be written anew while an earlier kernel that reads it is still
running. In the simulator, device memory is NumPy's.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import math
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import cuda

from jitgrad import errors
from jitgrad.backends.device_arrays import CPU, CUDA, DeviceArray
from jitgrad.kernels.cuda_batch import SIMULATED

Array = npt.NDArray[Any]

KEPT = 1 << 30
ROUNDING = 512                     # bytes; memory of nearly the same size may stand in
STAGE = 16 << 20                   # bytes of each of two pinned buffers
STAGED = 1 << 20                   # smaller arrays the driver copies by itself
OUT_OF_MEMORY = 2                  # CUDA_ERROR_OUT_OF_MEMORY

_LOCK = threading.RLock()          # reentrant: the garbage collector may end a lease at any time
_free: dict[tuple[int, int], list[Any]] = defaultdict(list)         # by (GPU, bytes)
_kept = [0]                        # bytes in _free
# What is lent, by its id. Of a cycle that holds a lease the garbage collector would run numba's finalizer of the memory too,
# and before the lease's: the driver would have the memory back, and the next lease it as well.
_lent: dict[int, Any] = {}
_process: list[int] = []           # the process that first used CUDA here


def _failures() -> tuple[type[Exception], ...]:
    """The driver's errors, as numba raises them, and as cuda.core does, through which numba loads and launches kernels."""
    found: list[type[Exception]] = []
    for module, name in (("numba.cuda.cudadrv.error", "CudaDriverError"), ("cuda.core._utils.cuda_utils", "CUDAError")):
        with contextlib.suppress(ImportError, AttributeError):
            found.append(getattr(importlib.import_module(module), name))
    return tuple(found)


FAILURES = () if SIMULATED else _failures()


class OutOfMemory(Exception):
    """The device has no room for `asked` bytes: `free` of `total` are free."""

    def __init__(self, asked: int, free: int, total: int):
        super().__init__(asked)
        self.asked, self.free, self.total = asked, free, total


class _Lease:
    """The owner of device memory. It does not hold the memory itself: see `_lent`."""

    __slots__ = ("key", "number")

    def __init__(self, key: tuple[int, int], memory: Any):
        self.key, self.number = key, id(memory)
        _lent[self.number] = memory

    def __del__(self) -> None:
        with _LOCK:
            _free[self.key].append(_lent.pop(self.number))
            _kept[0] += self.key[1]


def has_been_used() -> bool:
    """Whether CUDA has been found to work, in this process or in one that it was forked from."""
    return bool(_process)


def forked() -> str | None:
    """Why a process that was forked from one that had used CUDA cannot: its driver does not survive that. Else None."""
    if not _process:
        _process.append(os.getpid())
    if _process[0] == os.getpid():
        return None
    return (f"this process (pid {os.getpid()}) was forked from one that had already used CUDA (pid {_process[0]}); start "
            f"workers afresh, multiprocessing.get_context('spawn'), or use the GPU in the workers alone")


def allocate(shape: tuple[int, ...], dtype: npt.DTypeLike, device: int = 0) -> DeviceArray:
    """An array of unspecified numbers; raises OutOfMemory."""
    dtype = np.dtype(dtype)
    size = max(1, math.prod(shape)) * dtype.itemsize
    size += -size % ROUNDING
    key = device, size
    with _LOCK:
        memory = _take(key) if _free[key] else _new(size, device)
        _trim()
    return DeviceArray(_address(memory), shape, dtype, _Lease(key, memory), device, platform=CPU if SIMULATED else CUDA)


def _new(size: int, device: int) -> Any:
    try:
        return _ask(size, device)
    except Exception as error:
        if getattr(error, "code", None) != OUT_OF_MEMORY:
            raise
    release()
    try:
        return _ask(size, device)
    except Exception as error:
        if getattr(error, "code", None) != OUT_OF_MEMORY:
            raise
        free, total = _room(device)
        raise OutOfMemory(size, free, total) from error


def _trim() -> None:
    """Give back to the driver what is kept beyond KEPT, the largest first."""
    while _kept[0] > KEPT:
        _take(max((key for key, blocks in _free.items() if blocks), key=lambda key: key[1]))


def _take(key: tuple[int, int]) -> Any:
    """Memory that is kept."""
    _kept[0] -= key[1]
    return _free[key].pop()


def _ask(size: int, device: int) -> Any:
    if SIMULATED:
        return np.empty(size, np.uint8)
    with cuda.gpus[device]:
        found = cuda.device_array(size, np.uint8)
        _leave_to_the_end(device)
    return found


@cache
def _leave_to_the_end(device: int) -> None:
    """When the interpreter ends, have numba not give back piece by piece what the driver then takes back at once.

    No context may be current there, and after a fault or a fork each piece would be refused, with a traceback. To be called
    once the device, which is current, has lent memory: what is registered last runs first, and numba's finalizers come with
    the memory.
    """
    atexit.register(cuda.current_context().defer_cleanup().__enter__)


def _room(device: int) -> tuple[int, int]:
    with cuda.gpus[device]:
        free, total = cuda.current_context().get_memory_info()
    return int(free), int(total)


def _address(memory: Any) -> int:
    if SIMULATED:
        return int(memory.ctypes.data)
    return int(memory.__cuda_array_interface__["data"][0] or 0)


def release() -> None:
    """Give back to the driver what is not in use."""
    with _LOCK:
        _free.clear()
        _kept[0] = 0


def native(array: DeviceArray) -> Any:
    """A contiguous device array as numba takes arrays."""
    if SIMULATED:
        return host_view(array)
    # Without the stream that the interface names for others: numba would not wait for a copy to the host on it.
    return cuda.from_cuda_array_interface({**array.__cuda_array_interface__, "stream": None}, owner=array.owner)


def host_view(array: DeviceArray) -> Array:
    """Device memory as NumPy sees it: in the simulator alone."""
    return np.asarray(DeviceArray(array.address, array.shape, array.dtype, array.owner, strides=array.strides, platform=CPU))


def upload(host: Array, device: int = 0) -> DeviceArray:
    """A copy on the device."""
    host = np.asarray(host, order="C")             # ascontiguousarray would give a single number an axis
    made = allocate(host.shape, host.dtype, device)
    fill(made, host)
    return made


def fill(target: DeviceArray, host: Array) -> None:
    """Copy a contiguous host array into a contiguous device array of its size."""
    if target.size == 0:
        return
    if SIMULATED:
        host_view(target).reshape(-1)[:] = host.reshape(-1)
        return
    given = host.reshape(-1).view(np.uint8)
    into = native(DeviceArray(target.address, (target.nbytes,), np.uint8, target.owner, target.device))
    if len(given) < STAGED:
        into.copy_to_device(given)
        return
    with _STAGING:
        # One buffer is filled while the other is on its way.
        stream, stages, sent = _stages()
        for number, start in enumerate(range(0, len(given), STAGE)):
            stage, event = stages[number % 2], sent[number % 2]
            event.synchronize()
            piece = given[start:start + STAGE]
            stage[:len(piece)] = piece
            into[start:start + len(piece)].copy_to_device(stage[:len(piece)], stream=stream)
            event.record(stream)
        stream.synchronize()


_STAGING = threading.Lock()        # the pinned buffers serve one thread at a time
_pinned: dict[int, Any] = {}


def _stages() -> Any:
    """A stream of this GPU's context, two pinned buffers, and for each an event: its last copy has ended."""
    number = cuda.current_context().device.id
    if number not in _pinned:
        buffers, sent = zip(*((cuda.pinned_array(STAGE, np.uint8), cuda.event()) for _ in range(2)), strict=True)
        _pinned[number] = cuda.stream(), buffers, sent
    return _pinned[number]


def download(array: DeviceArray) -> Array:
    """The numbers, once everything before has been computed."""
    if SIMULATED:
        return host_view(array).copy()
    with on(array.device):
        found: Array = native(array).copy_to_host()
    return found


def wait(device: int = 0) -> None:
    """Until the device has done all it was given."""
    if not SIMULATED:
        with on(device):
            cuda.synchronize()


@contextmanager
def on(device: int) -> Iterator[None]:
    """Work on the GPU of that number; raises DeviceError where there is none, where it fails and where it has no room."""
    if SIMULATED:
        yield
        return
    if device >= len(cuda.gpus):
        count = len(cuda.gpus)
        raise errors.DeviceError(errors.explain(
            f"there is no device 'cuda:{device}'; this machine has {count} GPU{'s' * (count != 1)}.", None,
            f"Choose from: {', '.join(f'cuda:{k}' for k in range(count))}."))
    with translated(), cuda.gpus[device]:
        yield


@contextmanager
def translated() -> Iterator[None]:
    """The driver's errors as jitgrad's."""
    try:
        yield
    except OutOfMemory as error:
        raise no_room(error) from error
    except FAILURES as error:
        first: BaseException = error                # leaving a context fails too, after a fault
        while isinstance(first.__context__, FAILURES):
            first = first.__context__
        raise errors.DeviceError(errors.explain(
            f"the GPU failed: {first}", None,
            "What lies on the host is as it was. After a fault inside a kernel this process cannot use the GPU any more: "
            "start another.")) from error


def no_room(error: OutOfMemory, work: str = "", advice: str = "") -> errors.DeviceError:
    """What to raise; work: what the memory is for."""
    return errors.DeviceError(errors.explain(
        f"the GPU has no room for {error.asked:,} bytes more{work}: {error.free:,} of its {error.total:,} bytes are free.",
        None, advice or "Free device memory that other arrays and programs hold."))
