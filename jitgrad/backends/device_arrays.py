"""Arrays that lie in a GPU's memory: other libraries' taken without a copy, and given back as that library's own.

CuPy, PyTorch and numba say where their arrays lie by the CUDA Array Interface, JAX by DLPack. A result leaves by DLPack,
which tells its new owner's library how to let it go. Nothing here imports CUDA or any of these libraries.

Kernels run on CUDA's default stream. What comes in by DLPack has been made ready for that stream by its library; by the
CUDA Array Interface, it is waited for where a stream is named, and lies on the default stream where none is, as the
interface demands.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad import errors

CUDA, CPU = 2, 1                   # DLPack's device types
DEFAULT_STREAM = 1                 # as DLPack and the CUDA Array Interface name CUDA's default stream
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_KINDS = {code: kind for kind, code in _CODES.items()}

# Where a library's `from_dlpack` is, by the package of its arrays' class.
LIBRARIES = {"cupy": "cupy", "torch": "torch", "jax": "jax.numpy", "jaxlib": "jax.numpy"}


class DeviceArray:
    """Numbers in a GPU's memory: what results are where the arguments are of no library that jitgrad knows.

    address: of the first element; strides: in bytes; device: the GPU's number; owner: keeps the memory alive;
    library: whose array this was, a key of LIBRARIES or ""; platform: DLPack's device type (the simulator's is the CPU).
    It has the CUDA Array Interface and DLPack; `copy_to_host()` makes it a NumPy array.
    """

    __slots__ = ("address", "device", "dtype", "library", "owner", "platform", "shape", "strides")

    def __init__(self, address: int, shape: tuple[int, ...], dtype: npt.DTypeLike, owner: Any, device: int = 0,
                 strides: tuple[int, ...] | None = None, library: str = "", platform: int = CUDA):
        self.address, self.shape, self.dtype, self.owner = address, tuple(map(int, shape)), np.dtype(dtype), owner
        self.device, self.library, self.platform = device, library, platform
        self.strides = contiguous(self.shape, self.dtype.itemsize) if strides is None else tuple(strides)

    def __repr__(self) -> str:
        return f"<DeviceArray of shape {self.shape}, {self.dtype}, on GPU {self.device}>"

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements follow each other in C's order."""
        wanted = contiguous(self.shape, self.dtype.itemsize)
        return self.size == 0 or all(n == 1 or a == b for n, a, b in zip(self.shape, self.strides, wanted, strict=True))

    @property
    def key(self) -> Any:
        """What calls must have in common to share their checks."""
        return DeviceArray, self.dtype, self.shape, self.library, self.device

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False),
                "strides": None if self.is_contiguous else self.strides, "stream": DEFAULT_STREAM}

    @property
    def __array_interface__(self) -> dict[str, Any]:
        # Of memory that the processor can read NumPy may make a view; of a GPU's never, not even by mistake.
        if self.platform != CPU:
            raise AttributeError("device memory: use copy_to_host()")
        return {"version": 3, "shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False),
                "strides": self.strides}

    def part(self, start: int, shape: tuple[int, ...]) -> DeviceArray:
        """`shape` elements from `start` on, of an array of one axis."""
        return DeviceArray(self.address + start * self.dtype.itemsize, shape, self.dtype, self.owner, self.device,
                           library=self.library, platform=self.platform)

    def reshaped(self, shape: tuple[int, ...]) -> DeviceArray:
        """A contiguous array's elements in another shape."""
        return self.part(0, shape)

    def between(self, axis: int, lo: int, hi: int) -> DeviceArray:
        """Its elements lo to hi along an axis, where they lie."""
        shape = list(self.shape)
        shape[axis] = min(hi, shape[axis]) - lo
        return DeviceArray(self.address + lo * self.strides[axis], tuple(shape), self.dtype, self.owner, self.device,
                           self.strides, self.library, self.platform)

    def moved(self, source: int, to: int) -> DeviceArray:
        """The same elements with an axis elsewhere."""
        order = list(range(self.ndim))
        order.insert(to, order.pop(source))
        return DeviceArray(self.address, tuple(self.shape[k] for k in order), self.dtype, self.owner, self.device,
                           tuple(self.strides[k] for k in order), self.library, self.platform)

    def copy_to_host(self) -> npt.NDArray[Any]:
        """The numbers, as a NumPy array; waits for what computes them."""
        from jitgrad.backends import cuda_copies, cuda_memory
        with cuda_memory.on(self.device):
            return cuda_memory.download(self if self.is_contiguous else cuda_copies.packed(self, self.dtype))

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.platform, self.device if self.platform == CUDA else 0

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        if self.platform == CUDA and stream not in (None, -1, 0, DEFAULT_STREAM):
            from jitgrad.backends.cuda_memory import wait
            wait(self.device)
        return _capsule(self)


def contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides in C's order, in bytes."""
    return tuple(itemsize * math.prod(shape[k + 1:]) for k in range(len(shape)))


def borrow(leaf: Any) -> DeviceArray | None:
    """An array of any library that lies on a GPU, seen without a copy; None for what does not lie there.

    Raises DtypeError for one that its library does not hand out (a PyTorch tensor that records gradients).
    """
    if isinstance(leaf, DeviceArray):
        return leaf
    library = type(leaf).__module__.split(".")[0]
    library = library if library in LIBRARIES else ""
    try:
        where = leaf.__dlpack_device__() if hasattr(leaf, "__dlpack_device__") else None
        if where is not None and int(where[0]) != CUDA:
            return None
        number = 0 if where is None else int(where[1])
        by_interface = not library.startswith("jax") and hasattr(type(leaf), "__cuda_array_interface__")
        if by_interface:
            return _by_interface(leaf, leaf.__cuda_array_interface__, number, library)
        return None if where is None else _by_dlpack(leaf.__dlpack__(stream=DEFAULT_STREAM), number, library)
    except (RuntimeError, TypeError, BufferError) as error:
        raise errors.DtypeError(errors.explain(f"a {type(leaf).__name__} on the GPU cannot be read: {error}", None,
                                               "For a PyTorch tensor that records gradients, pass x.detach().")) from error


def _by_interface(leaf: Any, interface: dict[str, Any], device: int, library: str) -> DeviceArray:
    if interface.get("stream") not in (None, DEFAULT_STREAM):
        from jitgrad.backends.cuda_memory import wait
        wait(device)
    return DeviceArray(int(interface["data"][0] or 0), interface["shape"], interface["typestr"], leaf, device,
                       interface.get("strides"), library)


def on_host(leaf: Any) -> Any:
    """An array of any library as NumPy's, if it lies on a GPU; anything else as it is."""
    found = None if isinstance(leaf, np.ndarray | np.generic | float) else borrow(leaf)
    return leaf if found is None else found.copy_to_host()


def to_library(array: DeviceArray, library: str) -> Any:
    """The same memory as an array of a library in LIBRARIES; for "" as it is."""
    if not library:
        return array
    module: Any = sys.modules[LIBRARIES[library]]
    return module.from_dlpack(array)


# DLPack's structures, version 0: https://dmlc.github.io/dlpack/latest/c_api.html.

class _Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
                ("byte_offset", ctypes.c_uint64)]


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_api = ctypes.pythonapi


def _c_api(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = ctypes.PYFUNCTYPE(result, *arguments)((name, _api))
    return function


_new = _c_api("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_pointer = _c_api("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
# A capsule that is being destroyed must not be counted once more: it goes by its address.
_dying_is = _c_api("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_dying_pointer = _c_api("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)

_NAME = b"dltensor"
_given: dict[int, Any] = {}        # what others hold: the structure's address -> everything it points to


def _let_go(managed: int) -> None:
    _given.pop(managed, None)


def _capsule_ends(capsule: int) -> None:
    if _dying_is(capsule, _NAME):                   # a capsule that somebody took has another name by now
        _let_go(_dying_pointer(capsule, _NAME))


_deleter, _destructor = _DELETER(_let_go), _DELETER(_capsule_ends)


def _capsule(array: DeviceArray) -> Any:
    itemsize = array.dtype.itemsize
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    strides = (ctypes.c_int64 * array.ndim)(*(s // itemsize for s in array.strides))
    tensor = _Tensor(array.address, *array.__dlpack_device__(), array.ndim, _CODES[array.dtype.kind], 8 * itemsize, 1,
                     shape, strides, 0)
    managed = _Managed(tensor, None, ctypes.cast(_deleter, ctypes.c_void_p))
    address = ctypes.addressof(managed)
    _given[address] = array, shape, strides, managed
    return _new(address, _NAME, ctypes.cast(_destructor, ctypes.c_void_p))


def _by_dlpack(capsule: Any, device: int, library: str) -> DeviceArray:
    """The array in a capsule, which is kept and not taken: it lets the memory go when it ends itself."""
    tensor = _Managed.from_address(_pointer(capsule, _NAME)).tensor
    if tensor.lanes != 1 or tensor.code not in _KINDS:
        raise TypeError(f"DLPack's type code {tensor.code} with {tensor.lanes} lanes is no number here")
    dtype = np.dtype(np.bool_) if tensor.code == _CODES["b"] else np.dtype(f"{_KINDS[tensor.code]}{tensor.bits // 8}")
    shape = tuple(tensor.shape[k] for k in range(tensor.ndim))
    strides = tuple(tensor.strides[k] * dtype.itemsize for k in range(tensor.ndim)) if tensor.strides else None
    return DeviceArray((tensor.data or 0) + tensor.byte_offset, shape, dtype, capsule, device, strides, library)
