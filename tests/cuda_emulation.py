"""jitgrad's CUDA backend with ptx_machine in the place of the driver: real PTX, this CPU.

`emulated()` is a context in which `device="cuda"` works: what is allocated, copied and launched goes to the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import ptx_machine
import pytest
from numba import cuda, from_dtype, types
from ptx_memory import Memory

from jitgrad.backends import cuda as backend
from jitgrad.backends import cuda_copies, cuda_memory, cuda_training
from jitgrad.backends.device_arrays import CPU, DeviceArray, contiguous

HEAP = 1 << 23                     # bytes; each word has its watchers beside it


class Device:
    """The machine's memory, and what has been launched: (kernel's name, grid, block)."""

    def __init__(self, size: int = HEAP):
        self.memory = Memory(size)
        self.launches: list[tuple[str, Any, Any]] = []
        self.executed = 0

    def allocate(self, shape: tuple[int, ...], dtype: Any, device: int = 0) -> DeviceArray:
        size = max(1, int(np.prod(shape))) * np.dtype(dtype).itemsize
        return DeviceArray(self.memory.allocate(size), shape, dtype, self, device, platform=CPU)

    def fill(self, target: DeviceArray, host: Any) -> None:
        self.memory.fill(target.address, host)

    def download(self, array: DeviceArray) -> Any:
        return cuda_memory.host_view(array).copy()

    def launch(self, kernel: Any, grid: Any, block: Any, *args: Any, shared: int = 0) -> None:
        given: list[Any] = []
        signature = types.void(*[_flatten(argument, given) for argument in args])
        text = _compiled(kernel, signature)
        self.launches.append((kernel.py_func.__qualname__, grid, block))
        self.executed += ptx_machine.launch(text, self.memory, _three(grid), _three(block), given, shared)


def _three(shape: Any) -> tuple[int, int, int]:
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    return (*map(int, shape), *[1] * (3 - len(shape)))      # type: ignore[return-value]


@cache
def _compiled(kernel: Any, signature: Any) -> str:
    text, _ = cuda.compile(kernel.py_func, signature, cc=backend.CC, device=False, abi="numba", output="ptx")
    return str(text)


def _flatten(argument: Any, given: list[Any]) -> Any:
    """Append an argument as numba's launcher lays it out; returns numba's type of it."""
    if isinstance(argument, tuple):
        return types.UniTuple([_flatten(x, given) for x in argument][-1], len(argument))
    if isinstance(argument, DeviceArray):
        strides = contiguous(argument.shape, argument.dtype.itemsize)
        given += [np.int64(x) for x in (0, 0, argument.size, argument.dtype.itemsize, argument.address, *argument.shape,
                                        *strides)]
        return types.Array(from_dtype(argument.dtype), argument.ndim, "C")
    if isinstance(argument, float | np.floating):
        given.append(argument if isinstance(argument, np.floating) else np.float64(argument))
        return from_dtype(given[-1].dtype)
    given.append(np.int64(argument))
    return types.int64


@contextmanager
def emulated(size: int = HEAP) -> Iterator[Device]:
    """`device="cuda"` is the machine."""
    device = Device(size)

    @contextmanager
    def on(number: int) -> Iterator[None]:
        with cuda_memory.translated():
            yield
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "problem", lambda: None)
        for module in (backend, cuda_copies, cuda_training):
            patch.setattr(module, "launch", device.launch)
        for name, function in {"allocate": device.allocate, "fill": device.fill, "download": device.download,
                               "native": lambda array: array, "on": on, "wait": lambda device=0: None}.items():
            patch.setattr(cuda_memory, name, function)
        yield device
