"""Micro-kernels of a training step: from a batch's sums to the gradient, and whether numbers are finite."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from jitgrad.kernels.dense import Block

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
