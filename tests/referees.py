"""What the tests hold results against: the backends by name, exact and near sameness, and the named tolerances."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest

from jitgrad.compiler import schedule, wide

# Two evaluations of one formula in float64, by libraries good to a few ulp (ε = 2.2e-16) over some dozens of operations.
FLOAT64 = 1e-10
# One operation in float32 (ε = 1.2e-7) by a library good to 4 ulp, its derivative a product of a few such.
FLOAT32 = 4e-6
# Central differences of step ε^(1/3) are good to ε^(2/3) = 4e-11 times the third derivative and cancellation.
DIFFERENCES = 2e-7

# "cpu" is the straight-line kernel, "cpu-tape" the CPU's interpreter of tapes, which large programs get. Programs over long
# rows get one more form, see test_wide_rows.py.
OURS = ("interpret", "cpu", "cpu-tape")
BACKENDS = (*OURS, "jax")
# What a GPU would run, straight line and interpreter, as PTX on ptx_machine: slow, so for what is compiled once.
EMULATED = ("cuda", "cuda-tape")


@contextmanager
def forced(backend: str) -> Iterator[str]:
    """Inside, a kernel's first call for the device that is yielded makes it the way `backend` says."""
    device, _, tape = backend.partition("-")
    with ExitStack() as stack:
        if device in ("cpu", "cuda"):
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(schedule, "FUSED_LIMIT", -1 if tape else 10**9)
        if device == "cpu":
            patch.setattr(wide, "NARROWEST", 10**9)
        if device == "cuda":
            pytest.importorskip("numba_cuda", reason="numba-cuda is not installed", exc_type=ImportError)
            from cuda_emulation import emulated
            stack.enter_context(emulated())
        yield device


def bits(x: float) -> bytes:
    """Identity of a number: -0.0 differs from 0.0, and any NaN is the same NaN."""
    return b"nan" if x != x else struct.pack("<d", x)


def assert_same_bits(found: Any, expected: Any, names: Sequence[Any] | None = None) -> None:
    """Every element is the same number, NaN meeting NaN and the zeros differing."""
    a, b = np.broadcast_arrays(np.asarray(found, np.float64), np.asarray(expected, np.float64))
    same = ((a == b) & (np.signbit(a) == np.signbit(b))) | (np.isnan(a) & np.isnan(b))
    if not same.all():
        worst = tuple(int(k) for k in np.argwhere(~same)[0])
        name = f"{names[worst[-1]]}: " if names is not None else ""
        raise AssertionError(f"{name}element {worst} is {a[worst]!r}, not {b[worst]!r} ({(~same).sum()} differ)")


def assert_close(found: Any, expected: Any, tolerance: float, what: str = "") -> None:
    """Elements agree to `tolerance` of max(1, |expected|); NaN meets NaN and infinities meet with their sign."""
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert a.shape == b.shape, f"{what}: shape {a.shape}, not {b.shape}"
    with np.errstate(invalid="ignore"):
        error = np.abs(a - b) / np.maximum(1.0, np.abs(b))
        fine = (a == b) | (np.isnan(a) & np.isnan(b)) | (error <= tolerance)
    if not fine.all():
        worst = np.unravel_index(np.nanargmax(np.where(fine, -1.0, np.nan_to_num(error, nan=np.inf))), a.shape)
        raise AssertionError(f"{what}: element {tuple(map(int, worst))} is {a[worst]!r}, not {b[worst]!r} "
                             f"(error {error[worst]:.1e}, allowed {tolerance:.0e})")


def assert_trees_close(found: Any, expected: Any, tolerance: float) -> None:
    """Pytrees of dicts, lists and tuples agree leaf by leaf."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_trees_close(found[key], expected[key], tolerance)
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_trees_close(a, b, tolerance)
    else:
        assert_close(found, expected, tolerance)
