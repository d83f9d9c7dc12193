"""Micro-kernels of a training step: from a batch's sums to the gradient, its length, and whether numbers are finite."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from jitgrad.kernels.dense import I32, Block
from jitgrad.kernels.place import SQUARES

# Why a step is not made.
LOSS_NOT_FINITE, CHECK_FAILED, PARAMETERS_NOT_FINITE = 1, 2, 3


def settle(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void settle(sums, chunks, n, divisor, status, row)`: row[r - 2] = Σ over chunks of sums[·, r] / divisor.

    Chunks are added in order, in float64, and rounded once. r = 0 counts failed checks, r = 1 is the loss; status is
    (the loss as a double, why to stop or 0). The sums are left as zeros.
    """
    k = Block(module, dtype, lanes, "jitgrad_settle", ("sums", "chunks", "n", "divisor", "status", "row"))
    sums, chunks, n, divisor, status, row = k.function.args
    b, double = k.builder, ir.DoubleType()
    sums = b.inttoptr(sums, double.as_pointer())
    place, total = b.inttoptr(status, double.as_pointer()), k.variable(double)
    reason = b.gep(b.inttoptr(status, k.number(0).type.as_pointer()), [k.number(1)])
    zero = ir.Constant(double, 0.0)

    def summed(r: ir.Value) -> ir.Value:
        b.store(b.load(b.gep(sums, [r])), total)
        b.store(zero, b.gep(sums, [r]))
        with k.loop(k.number(1), chunks, 1) as chunk:
            here = b.gep(sums, [b.add(b.mul(chunk, n), r)])
            b.store(b.fadd(b.load(total), b.load(here)), total)
            b.store(zero, here)
        quotient = b.fdiv(b.load(total), b.sitofp(divisor, double))
        return b.fptrunc(quotient, k.real) if k.size == 4 else quotient

    failed = summed(k.number(0))
    loss = summed(k.number(1))
    b.store(b.fpext(loss, double) if k.size == 4 else loss, place)
    finite = b.fcmp_ordered("==", b.fsub(loss, loss), ir.Constant(k.real, 0.0))
    unchecked = b.fcmp_unordered("!=", failed, ir.Constant(k.real, 0.0))
    b.store(b.select(unchecked, k.number(CHECK_FAILED),
                     b.select(finite, k.number(0), k.number(LOSS_NOT_FINITE))), reason)
    with k.loop(k.number(2), n, 1) as r:
        b.store(summed(r), b.gep(row, [b.sub(r, k.number(2))]))
    b.ret_void()


def clip(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void clip(row, n, norm, …)`: row *= norm / length where its length, sqrt(Σ row[k]**2), is greater than norm.

    norm is a double, by its bits. Computed as `optim.shortened` computes it, bit for bit, in units of the largest element; a
    row of zeros, or one that is not finite, has a length that is NaN, and stays as it is. Numbers beyond row[n] up to a
    multiple of SQUARES are zeros.
    """
    k = Block(module, dtype, SQUARES, "jitgrad_clip", ("row", "n", "norm", "unused1", "unused2", "unused3"))
    row, n, norm, *_ = k.function.args
    b, double = k.builder, ir.DoubleType()
    wide = ir.VectorType(double, SQUARES)
    absolute = ir.Function(module, ir.FunctionType(wide, [wide]), f"llvm.fabs.v{SQUARES}f64")
    root = ir.Function(module, ir.FunctionType(double, [double]), "llvm.sqrt.f64")
    most, sums = k.variable(wide), k.variable(wide)
    for variable in (most, sums):
        b.store(ir.Constant(wide, [0.0] * SQUARES), variable)

    def elements(at: ir.Value) -> ir.Value:
        return b.fpext(k.load(row, at), wide) if k.size == 4 else k.load(row, at)

    def each(variable: ir.Value) -> list[ir.Value]:
        return [b.extract_element(b.load(variable), ir.Constant(I32, lane)) for lane in range(SQUARES)]

    with k.loop(k.number(0), n, SQUARES) as at:
        size = b.call(absolute, [elements(at)])
        b.store(b.select(b.fcmp_ordered(">", size, b.load(most)), size, b.load(most)), most)
    largest = ir.Constant(double, 0.0)
    for one in each(most):
        largest = b.select(b.fcmp_ordered(">", one, largest), one, largest)
    unit = k.splat(largest)
    with k.loop(k.number(0), n, SQUARES) as at:
        part = b.fdiv(elements(at), unit)
        b.store(b.fadd(b.load(sums), b.fmul(part, part)), sums)
    total = ir.Constant(double, 0.0)
    for one in each(sums):
        total = b.fadd(total, one)
    length, limit = b.call(root, [total]), b.fdiv(b.bitcast(norm, double), largest)
    with b.if_then(b.fcmp_ordered(">", length, limit)):
        shorter = b.fdiv(limit, length)
        factor = k.splat(b.fptrunc(shorter, k.real) if k.size == 4 else shorter)
        with k.loop(k.number(0), n, SQUARES) as at:
            k.store(b.fmul(k.load(row, at), factor), row, at)
    b.ret_void()


def finite(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void finite(row, status, n, …)`: status[1] = PARAMETERS_NOT_FINITE unless row[k] is finite for all k < n."""
    k = Block(module, dtype, lanes, "jitgrad_finite", ("row", "status", "n", "unused1", "unused2", "unused3"))
    row, status, n, *_ = k.function.args
    b = k.builder
    total = k.variable(k.real)
    zero = ir.Constant(k.real, 0.0)
    b.store(zero, total)
    with k.loop(k.number(0), n, 1) as at:
        number = b.load(b.gep(row, [at]))
        b.store(b.fadd(b.load(total), b.fsub(number, number)), total)           # 0, or NaN for ever
    reason = b.gep(b.inttoptr(status, k.number(0).type.as_pointer()), [k.number(1)])
    fine = b.fcmp_ordered("==", b.load(total), zero)
    b.store(b.select(fine, k.number(0), k.number(PARAMETERS_NOT_FINITE)), reason)
    b.ret_void()


def copy(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void copy(target, source, n, …)`: target[k] = source[k] for k < n."""
    k = Block(module, dtype, lanes, "jitgrad_copy", ("target", "source", "n", "unused1", "unused2", "unused3"))
    target, source, n, *_ = k.function.args
    b = k.builder
    whole = b.sub(n, b.srem(n, k.number(lanes)))
    with k.loop(k.number(0), whole, lanes) as at:
        k.store(k.load(source, at), target, at)
    with k.loop(whole, n, 1) as at:
        b.store(b.load(b.gep(source, [at])), b.gep(target, [at]))
    b.ret_void()
