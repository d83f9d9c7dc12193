"""Four backends behind one interface: give a program, get a kernel; call the kernel with arrays.

A kernel is called as kernel(shared, batched, n, out): `shared` all shared scalars in one vector, `batched` one C-contiguous
array (n, width) a batched leaf, both of the program's dtype; it answers with the program's `Results`. `out` may offer an
array for each per-example result, which a kernel may use or not.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from jitgrad import errors
from jitgrad.compiler.program import Program, Results

# `auto` takes the GPU when there is one and a call does at least this many scalar operations: below it, copying the
# batch and launching cost more than two CPU cores need for the work itself.
GPU_WORK = 50_000_000

NAMES = ("cpu", "cuda", "interpret", "jax")


class Kernel(Protocol):
    """A program made ready for one backend."""

    def __call__(self, shared: npt.NDArray[Any], batched: list[npt.NDArray[Any]], n: int,
                 out: Sequence[npt.NDArray[Any] | None] = ()) -> Results:
        """Run the program over a batch of n examples."""

    def as_text(self, form: str) -> str | None:
        """Generated code in a form this backend has, else None."""


@dataclass(frozen=True)
class Device:
    """A backend's name, whether it runs here, and what it is or what it lacks."""

    name: str
    available: bool
    detail: str


def _cpu(program: Program) -> Kernel:
    if not program.batched:
        from jitgrad.backends.rows import RowsKernel
        return RowsKernel(program)
    from jitgrad.backends.cpu import CpuKernel
    return CpuKernel(program)


def _cuda(program: Program, number: int = 0) -> Kernel:
    try:
        from jitgrad.backends.cuda import CudaKernel
    except ImportError as error:
        raise errors.DeviceError(errors.explain("device 'cuda' needs numba-cuda, which cannot be imported here.",
                                                str(error), "Install it with: pip install 'jitgrad[cuda]'.")) from error
    return CudaKernel(program, number)


def _interpret(program: Program) -> Kernel:
    from jitgrad.backends.interpret import InterpretKernel
    return InterpretKernel(program)


def _jax(program: Program) -> Kernel:
    try:
        from jitgrad.backends.jax import JaxKernel
    except ImportError as error:
        raise errors.DeviceError(errors.explain("device 'jax' needs JAX, which cannot be imported here.", str(error),
                                                "Install it with: pip install 'jitgrad[jax]'.")) from error
    return JaxKernel(program)


_MAKERS: dict[str, Callable[[Program], Kernel]] = {"cpu": _cpu, "cuda": _cuda, "interpret": _interpret, "jax": _jax}


def kernel(program: Program, device: str) -> Kernel:
    """The kernel of a program on a device named by `resolve`."""
    name, _, number = device.partition(":")
    return _cuda(program, int(number)) if number else _MAKERS[name](program)


def check_name(device: str) -> str:
    """The device asked for, JITGRAD_DEVICE standing in for "auto"; raises DeviceError for a name there is not."""
    asked = os.environ.get("JITGRAD_DEVICE", "auto") if device == "auto" else device
    if asked != "auto" and asked not in _MAKERS and not re.fullmatch(r"cuda:\d{1,3}", asked):
        source = "" if asked == device else " (from JITGRAD_DEVICE)"
        raise errors.DeviceError(errors.explain(f"there is no device {asked!r}{source}.", None,
                                                f"Choose from: auto, {', '.join(NAMES)}; a second GPU is cuda:1."))
    return "cuda" if asked == "cuda:0" else asked


def resolve(device: str, work: int, on: int | None = None) -> str:
    """The backend to use for a call of `work` scalar operations; see GPU_WORK for the rule of "auto".

    on: the number of the GPU on which arguments lie, None if all lie on the host.
    """
    asked = check_name(device)
    if on is not None:
        there = f"cuda:{on}" if on else "cuda"
        if asked not in ("auto", there):
            raise errors.DeviceError(errors.explain(
                f"an argument lies on the GPU ({there}), and device {asked!r} computes elsewhere.", None,
                f"Use device={there!r} or 'auto', or copy the arguments to the host first."))
        return there
    if asked != "auto":
        return asked
    return "cuda" if work >= GPU_WORK and has_gpu() else "cpu"


def has_gpu() -> bool:
    """Whether CUDA kernels can be launched here. Where there is no driver nothing is imported to find that out."""
    return _has_driver() and cuda_problem() is None


@cache
def _has_driver() -> bool:
    """Whether the driver's library is where numba looks for it: importing numba to ask it takes 0.3 s."""
    import ctypes
    names = ["nvcuda.dll"] if sys.platform == "win32" else ["libcuda.so", "libcuda.so.1"]
    folders = ["", "/usr/lib/", "/usr/lib64/"] if sys.platform != "win32" else ["", "\\windows\\system32\\"]
    for path in [folder + name for folder in folders for name in names]:
        with contextlib.suppress(OSError):
            ctypes.CDLL(path)
            return True
    return False


_cuda_problem: dict[int, str | None] = {}          # by process: a forked one cannot use what its parent could


def cuda_problem() -> str | None:
    """Why CUDA kernels cannot be launched here, or None; found out once."""
    process = os.getpid()
    if process not in _cuda_problem:
        try:
            from jitgrad.backends.cuda import problem
        except ImportError as error:
            _cuda_problem[process] = (f"numba-cuda cannot be imported ({error}); install it with: pip install "
                                      f"'jitgrad[cuda]'")
        else:
            _cuda_problem[process] = problem()
    return _cuda_problem[process]


def devices() -> list[Device]:
    """Every backend, whether it is usable here, and why or why not."""
    import importlib.util
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    problem = cuda_problem()
    gpus = [Device("cuda", False, problem or "")]
    if problem is None:
        from jitgrad.backends.cuda import count, describe
        gpus = [Device(f"cuda:{k}" if k else "cuda", True, describe(k)) for k in range(count())]
    has_jax = importlib.util.find_spec("jax") is not None
    return [Device("cpu", True, f"numba, {cores} cores"),
            *gpus,
            Device("interpret", True, f"NumPy {np.__version__}, the reference"),
            Device("jax", has_jax, "the referee" if has_jax else "JAX is not installed: pip install 'jitgrad[jax]'")]
