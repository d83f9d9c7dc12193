"""What PTX's arithmetic instructions compute, on NumPy arrays: a function, the types of its operands and of its result."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

Array = Any

TYPES: dict[str, Any] = {"pred": np.dtype(np.bool_)}
for _bits in (8, 16, 32, 64):
    TYPES |= {f"s{_bits}": np.dtype(f"i{_bits // 8}"), f"u{_bits}": np.dtype(f"u{_bits // 8}"),
              f"b{_bits}": np.dtype(f"u{_bits // 8}")}
TYPES |= {"f16": np.dtype(np.float16), "f32": np.dtype(np.float32), "f64": np.dtype(np.float64)}
WIDER = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}


def unsigned(dtype: Any) -> Any:
    """The unsigned integers of that width."""
    return np.dtype(f"u{np.dtype(dtype).itemsize}")


def _high(a: Array, b: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    product = np.asarray(a).astype(object) * np.asarray(b).astype(object)
    return (np.asarray(product >> bits, object) & ((1 << bits) - 1)).astype(unsigned(a.dtype)).view(a.dtype)


def _quotient(a: Array, b: Array) -> Array:
    if a.dtype.kind == "u":
        return a // b
    floor = a // b
    return floor + ((a - floor * b != 0) & ((a < 0) != (b < 0)))


def _fma(a: Array, b: Array, c: Array, rounding: str) -> Array:
    if a.dtype == np.float32:
        exact = a.astype(np.longdouble) * b.astype(np.longdouble) + c.astype(np.longdouble)
        return _rounded(exact, rounding)
    product = a * b
    # Dekker's exact product: its error, by halves of 26 bits.
    split = 134217729.0
    high_a = a * split - (a * split - a)
    high_b = b * split - (b * split - b)
    low_a, low_b = a - high_a, b - high_b
    error = ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b
    total = product + c
    of_c = total - product
    rest = (product - (total - of_c)) + (c - of_c)
    found = total + (rest + error)
    return np.where(np.isfinite(found) & np.isfinite(error), found, product + c)


def _rounded(exact: Array, rounding: str) -> Array:
    """A long double as float32: to nearest, down, up or towards zero."""
    nearest = exact.astype(np.float32)
    back = nearest.astype(np.longdouble)
    down, up = np.nextafter(nearest, np.float32(-np.inf)), np.nextafter(nearest, np.float32(np.inf))
    below = np.where(back > exact, down, nearest)
    above = np.where(back < exact, up, nearest)
    return {"rn": nearest, "rm": below, "rp": above, "rz": np.where(exact >= 0, below, above)}[rounding]


def _flushed(x: Array) -> Array:
    """Subnormal float32 numbers are zeros."""
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(x.dtype.type(0), x), x)


def _coarse(x: Array) -> Array:
    """A float64 of which only the upper 32 bits are computed."""
    return (np.asarray(x, np.float64).view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)


def _unordered(compare: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda a, b: compare(a, b) | np.isnan(a) | np.isnan(b)


COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)), "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}
COMPARE |= {"lo": COMPARE["lt"], "ls": COMPARE["le"], "hi": COMPARE["gt"], "hs": COMPARE["ge"]}
COMPARE |= {f"{name}u": _unordered(COMPARE[name]) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
JOIN: dict[str, Callable[[Array, Array], Array]] = {
    "and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b}


def _bits_of(a: Array, bits: int) -> Array:
    return (a[..., None] >> np.arange(bits, dtype=a.dtype)) & a.dtype.type(1)


def _leading(a: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    set_bits = _bits_of(np.atleast_1d(a), bits).astype(bool)[..., ::-1]
    return np.where(set_bits.any(-1), set_bits.argmax(-1), bits).astype(np.uint32)


def _inserted(a: Array, b: Array, at: Array, length: Array) -> Array:
    kind = b.dtype.type
    at, length = at.astype(b.dtype) & kind(255), length.astype(b.dtype) & kind(255)
    ones = np.where(length >= 8 * b.dtype.itemsize, ~kind(0), (kind(1) << length) - kind(1))
    return (b & ~(ones << at)) | ((a & ones) << at)


def _extracted(a: Array, at: Array, length: Array) -> Array:
    at, length = at.astype(np.int64) & 255, length.astype(np.int64) & 255
    value = (a.astype(np.int64) >> np.minimum(at, 63)) & ((np.int64(1) << length) - 1)
    if a.dtype.kind == "i":
        sign = np.int64(1) << np.maximum(length - 1, 0)
        value = np.where(length > 0, (value ^ sign) - sign, 0)
    return value.astype(a.dtype)


def _permuted(a: Array, b: Array, selector: Array) -> Array:
    both = a.astype(np.uint64) | (b.astype(np.uint64) << np.uint64(32))
    total = np.zeros(np.broadcast(a, b, selector).shape, np.uint64)
    for k in range(4):
        chosen = (selector.astype(np.uint64) >> np.uint64(4 * k)) & np.uint64(15)
        byte = (both >> ((chosen & np.uint64(7)) * np.uint64(8))) & np.uint64(255)
        sign = np.where(byte >> np.uint64(7), np.uint64(255), np.uint64(0))
        total |= np.where(chosen >> np.uint64(3), sign, byte) << np.uint64(8 * k)
    return total.astype(np.uint32)


def _shifted(a: Array, by: Array, left: bool) -> Array:
    bits = 8 * a.dtype.itemsize
    by = by.astype(np.uint64)
    inside = np.minimum(by, np.uint64(bits - 1)).astype(a.dtype)
    found = a << inside if left else a >> inside
    beyond = np.where(a < 0, a.dtype.type(-1), a.dtype.type(0)) if a.dtype.kind == "i" and not left else a.dtype.type(0)
    return np.where(by >= bits, beyond, found)


def _funnel(low: Array, high: Array, by: Array, left: bool, wrap: bool) -> Array:
    amount = (by & np.uint32(31)) if wrap else np.minimum(by, np.uint32(32))
    both = low.astype(np.uint64) | (high.astype(np.uint64) << np.uint64(32))
    shift = amount.astype(np.uint64)
    return ((both << shift) >> np.uint64(32) if left else both >> shift).astype(np.uint32)


def _lop3(a: Array, b: Array, c: Array, table: Array) -> Array:
    look, total = int(table), np.zeros(np.broadcast(a, b, c).shape, a.dtype)
    for k in range(8):
        if look >> k & 1:
            total |= (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
    return total


def _converted(x: Array, target: Any, rounding: str, saturated: bool) -> Array:
    rounds = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
    if x.dtype.kind == "f" and target.kind == "f":
        whole = rounds[rounding](x) if rounding in rounds else x
        if rounding in ("rm", "rp", "rz") and target.itemsize < x.dtype.itemsize:
            whole = _rounded(whole.astype(np.longdouble), rounding)
        found = whole.astype(target)
        return np.where(np.isnan(found), 0, np.clip(found, 0, 1)).astype(target) if saturated else found
    if x.dtype.kind == "f":
        whole = rounds[rounding](x.astype(np.float64))
        info = np.iinfo(target)
        nan = 0 if target.itemsize < 8 and x.dtype.itemsize < 8 else 1 << (8 * target.itemsize - 1)
        inside = (whole > float(info.min)) & (whole < float(info.max))
        found = np.where(inside, whole, 0).astype(target)
        found = np.where(whole >= float(info.max), target.type(info.max), found)
        found = np.where(whole <= float(info.min), target.type(info.min), found)
        return np.where(np.isnan(x), np.array(nan, unsigned(target)).view(target), found)
    if target.kind == "f":
        return x.astype(target)
    if saturated:
        info = np.iinfo(target)
        return np.clip(x.astype(object), info.min, info.max).astype(target)
    return x.astype(target)


def _carrying(name: str, dtype: Any, high: bool) -> Callable[..., Any]:
    """add, sub and mad with a carry in (addc …) and out (.cc): (result, carry)."""
    bits = 8 * dtype.itemsize

    def number(x: Array) -> Array:
        return np.asarray(x).astype(unsigned(dtype)).astype(object)

    def compute(*operands: Array) -> tuple[Array, Array]:
        *values, carry = operands
        into = number(carry) if name[-1] == "c" else 0
        a, b = number(values[0]), number(values[1])
        if name.startswith("sub"):
            total = a - b - into
            return np.asarray(total % (1 << bits)).astype(dtype), np.asarray(total < 0)
        if name.startswith("mad"):
            product = a * b
            a, b = product >> bits if high else product % (1 << bits), number(values[2])
        total = a + b + into
        return np.asarray(total % (1 << bits)).astype(dtype), np.asarray(total >> bits).astype(np.uint64)
    return compute


@cache
def arithmetic(opcode: str) -> tuple[Callable[..., Any] | None, tuple[str, ...], str]:
    """(function, operands' types, result's type) of an instruction without side effects; no function: unknown."""
    name, *mods = opcode.split(".")
    kind = mods[-1]
    dtype = TYPES.get(kind, TYPES["b32"])
    flush, real = "ftz" in mods and kind == "f32", kind in ("f32", "f64")
    rounding = next((m for m in mods if m in ("rn", "rm", "rp", "rz")), "rn")

    def same(count: int, function: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[str, ...], str]:
        if flush:
            return (lambda *a: _flushed(np.asarray(function(*map(_flushed, a)))), (kind,) * count, kind)
        if "sat" in mods:
            return (lambda *a: np.clip(np.nan_to_num(function(*a)), 0, 1)), (kind,) * count, kind
        return function, (kind,) * count, kind

    if "cc" in mods or name in ("addc", "subc", "madc"):
        return _carrying(name, dtype, "hi" in mods), (kind,) * (3 if name.startswith("mad") else 2), kind
    if name in ("add", "sub") and real and rounding != "rn":
        sign = 1 if name == "add" else -1
        return same(2, lambda a, b: _rounded(a.astype(np.longdouble) + sign * b.astype(np.longdouble), rounding))
    if name in ("mul", "mad") and "wide" in mods:
        wide = TYPES[WIDER[kind]]
        if name == "mul":
            return (lambda a, b: a.astype(wide) * b.astype(wide)), (kind, kind), WIDER[kind]
        return (lambda a, b, c: a.astype(wide) * b.astype(wide) + c), (kind, kind, WIDER[kind]), WIDER[kind]
    if name in ("mul", "mad") and "hi" in mods:
        return same(2, _high) if name == "mul" else same(3, lambda a, b, c: _high(a, b) + c)
    if name == "fma" or (name == "mad" and real):
        return same(3, lambda a, b, c: _fma(a, b, c, rounding))
    if name == "div":
        return same(2, (lambda a, b: a / b) if real else _quotient)
    if name in ("min", "max") and real:
        plain = {"min": np.fmin, "max": np.fmax} if "NaN" not in mods else {"min": np.minimum, "max": np.maximum}
        return same(2, plain[name])
    simple: dict[str, tuple[int, Callable[..., Any]]] = {
        "add": (2, lambda a, b: a + b), "sub": (2, lambda a, b: a - b), "mul": (2, lambda a, b: a * b),
        "mad": (3, lambda a, b, c: a * b + c), "min": (2, np.minimum), "max": (2, np.maximum),
        "neg": (1, lambda a: -a), "abs": (1, np.abs), "and": (2, lambda a, b: a & b), "or": (2, lambda a, b: a | b),
        "xor": (2, lambda a, b: a ^ b), "not": (1, lambda a: ~a), "sqrt": (1, np.sqrt),
        "copysign": (2, lambda a, b: np.copysign(b, a)),
        "rem": (2, lambda a, b: a - _quotient(a, b) * b), "ex2": (1, np.exp2), "lg2": (1, np.log2),
        "sin": (1, np.sin), "cos": (1, np.cos), "tanh": (1, np.tanh), "prmt": (3, _permuted),
    }
    if name in ("rcp", "rsqrt"):
        function = (lambda a: 1 / a) if name == "rcp" else (lambda a: 1 / np.sqrt(a))
        coarse = kind == "f64" and "approx" in mods
        return same(1, (lambda a: _coarse(np.asarray(function(a)))) if coarse else function)
    if name in simple:
        return same(*simple[name])
    if name == "setp":
        compare = COMPARE[mods[0]]
        if real and mods[0] == "ne":
            return (lambda a, b: (a != b) & ~np.isnan(a) & ~np.isnan(b)), (kind, kind), "pred"
        if mods[1] in JOIN:
            join = JOIN[mods[1]]
            return (lambda a, b, c: join(compare(a, b), c)), (kind, kind, "pred"), "pred"
        return compare, (kind, kind), "pred"
    if name == "selp":
        return (lambda a, b, p: np.where(p, a, b)), (kind, kind, "pred"), kind
    if name in ("shl", "shr"):
        return (lambda a, by: _shifted(a, by, name == "shl")), (kind, "u32"), kind
    if name == "shf":
        left, wrap = "l" in mods, "wrap" in mods
        return (lambda low, high, by: _funnel(low, high, by, left, wrap)), ("b32", "b32", "u32"), "b32"
    if name == "bfi":
        return _inserted, (kind, kind, "u32", "u32"), kind
    if name == "bfe" and dtype.itemsize == 4:
        return _extracted, (kind, "u32", "u32"), kind
    if name == "clz":
        return _leading, (kind,), "u32"
    if name == "popc":
        return (lambda a: _bits_of(np.atleast_1d(a), 8 * dtype.itemsize).sum(-1).astype(np.uint32)), (kind,), "u32"
    if name == "lop3":
        return _lop3, ("b32", "b32", "b32", "u32"), "b32"
    if name == "cvt":
        target, source = mods[-2], mods[-1]
        how = next((m for m in mods if m in ("rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi")), "rn")
        return (lambda x: _converted(np.asarray(x), TYPES[target], how, "sat" in mods)), (source,), target
    return None, (), kind
