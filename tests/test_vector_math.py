"""kernels/vector_math.py against 80-bit floats: the stated errors in ULP, and every special case exactly."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from llvmlite import ir

from jitgrad.backends.native import native
from jitgrad.compiler.emit import I64, Emitter, counting
from jitgrad.kernels import vector_math

Array = np.ndarray[Any, Any]
LONG = np.longdouble
COUNT = 100_000

# The errors that the module's docstring states.
ULP = {"exp": 1.1, "log": 1.0, "log1p": 1.5, "tanh": 2.6, "sin": 1.5, "cos": 1.5, "erf": 2.1, "pow": 1.7, "sqrt": 0.5,
       "fabs": 0.0}
REFERENCE: dict[str, Callable[..., Any]] = {
    "exp": np.exp, "log": np.log, "log1p": np.log1p, "tanh": np.tanh, "sin": np.sin, "cos": np.cos, "sqrt": np.sqrt,
    "fabs": np.abs, "pow": np.power, "erf": np.vectorize(lambda v: math.erf(float(v)), otypes=[LONG])}
RANGES: dict[str, list[tuple[tuple[float, float], ...]]] = {
    "exp": [((-750, 715),), ((-104, 90),), ((-1, 1),), ((-1e-3, 1e-3),)],
    "log": [((1e-320, 1e-300),), ((0, 2),), ((0.9, 1.1),), ((0, 1e300),)],
    "log1p": [((-1, 1),), ((-1e-5, 1e-5),), ((0, 1e10),)],
    "tanh": [((-25, 25),), ((-1, 1),), ((-1e-4, 1e-4),)],
    "sin": [((-10, 10),), ((-1e4, 1e4),), ((-9e5, 9e5),), ((-1e9, 1e9),)],
    "cos": [((-10, 10),), ((-1e4, 1e4),), ((-9e5, 9e5),), ((-1e9, 1e9),)],
    "erf": [((-7, 7),), ((-1.2, 1.2),), ((-1e-5, 1e-5),)],
    "sqrt": [((0, 10),), ((0, 1e300),)], "fabs": [((-10, 10),)],
    "pow": [((0, 10), (-10, 10)), ((0.5, 2), (-100, 100)), ((0.99, 1.01), (-5000, 5000)), ((0, 1e30), (-10, 10)),
            ((0.5, 2), (-1000, 1000))]}
SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 5e-324, -5e-324, 1e-310, 1e-45, 1e-40, 3e38, -3e38,
           1e308, -1e308, 89.0, -104.0, 710.0, -750.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 5.0, 1e30, -1e30, 1e-30]


def compiled(name: str, dtype: Any, arity: int) -> Callable[..., Array]:
    """The function over whole arrays, for a machine's usual vector width."""
    dtype, lanes = np.dtype(dtype), 64 // np.dtype(dtype).itemsize
    module = ir.Module("vector_math")
    real = ir.FloatType() if dtype.itemsize == 4 else ir.DoubleType()
    kind = ir.FunctionType(ir.VoidType(), [real.as_pointer()] * (arity + 1) + [I64])
    function = ir.Function(module, kind, "over")
    builder = ir.IRBuilder(function.append_basic_block())
    emitter = Emitter(builder, dtype, lanes, "cpu")
    out, *inputs, count = function.args
    with counting(builder, count, lanes) as k:
        found = vector_math.call(builder, dtype, lanes, name, [emitter.load(p, k) for p in inputs])
        emitter.store(found, out, k)
    builder.ret_void()
    code = native(lambda: module, str(module))
    run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (arity + 1), ctypes.c_int64)(code.address("over"))

    def over(*args: Array) -> Array:
        n = len(args[0])
        whole = lanes * -(-n // lanes)
        padded = [np.concatenate([a, np.ones(whole - n, dtype)]) for a in args]
        result = np.empty(whole, dtype)
        run(result.ctypes.data, *(a.ctypes.data for a in padded), whole)
        assert code is not None                       # the machine code lives as long as this closure
        return result[:n]
    return over


def largest_error(name: str, found: Array, args: tuple[Array, ...]) -> tuple[float, int]:
    """The largest error in ULP of the rounded true value, and where."""
    with np.errstate(all="ignore"):
        true = REFERENCE[name](*(a.astype(LONG) for a in args))
        rounded = true.astype(found.dtype)
        plain = np.isfinite(rounded) & (rounded != 0)
        error = np.abs(found.astype(LONG) - true) / np.spacing(np.abs(rounded)).astype(LONG)
    same = (found == rounded) | (np.isnan(found) & np.isnan(rounded))
    error = np.where(plain, error, np.where(same, 0.0, np.inf))
    return float(error.max()), int(np.argmax(error))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", vector_math.FUNCTIONS)
def test_errors_stay_within_the_stated_bounds(name: str, dtype: Any) -> None:
    random = np.random.default_rng(0)
    function = compiled(name, dtype, len(RANGES[name][0]))
    top = float(np.finfo(dtype).max) * 0.99
    for ranges in RANGES[name]:
        args = tuple(random.uniform(max(lo, -top), min(hi, top), COUNT if name != "erf" else COUNT // 5).astype(dtype)
                     for lo, hi in ranges)
        error, at = largest_error(name, function(*args), args)
        assert error <= ULP[name], f"{name}{tuple(a[at] for a in args)} is off by {error:.2f} ULP on {ranges}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", vector_math.FUNCTIONS)
def test_special_cases_come_out_as_from_libm(name: str, dtype: Any) -> None:
    with np.errstate(over="ignore"):
        special = np.array(SPECIAL).astype(dtype)
    args = (special,) if name != "pow" else tuple(v.ravel() for v in np.meshgrid(special, special))
    found = compiled(name, dtype, len(args))(*args)
    with np.errstate(all="ignore"):
        expected = REFERENCE[name](*(a.astype(LONG) for a in args)).astype(dtype)
        near = np.abs(found - expected) <= 3 * np.spacing(np.abs(expected))
    signs = np.signbit(found) == np.signbit(expected)
    right = (np.isnan(found) & np.isnan(expected)) | (signs & ((found == expected) | near))
    wrong = [(*(a[k] for a in args), found[k], expected[k]) for k in np.flatnonzero(~right)]
    assert not wrong, f"{name}: (arguments, found, expected) {wrong}"


def test_a_function_is_emitted_once_a_module() -> None:
    module = ir.Module()
    kind = ir.VectorType(ir.FloatType(), 16)
    function = ir.Function(module, ir.FunctionType(kind, [kind]), "twice")
    builder = ir.IRBuilder(function.append_basic_block())
    once = vector_math.call(builder, np.dtype(np.float32), 16, "exp", [function.args[0]])
    builder.ret(vector_math.call(builder, np.dtype(np.float32), 16, "exp", [once]))
    assert str(module).count("define internal") == 1
