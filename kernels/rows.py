"""Micro-kernels for programs without a batch, as LLVM vectors: the lanes are rows of an instruction.

`v` holds one number a row. Every list of operands is padded to whole vectors by repeating its last entry, and what a
vector writes beyond its instruction falls on rows that are computed later; so there are no tails. Operands are gathered
one by one: the gather instructions of current processors are no faster.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from jitgrad.kernels.dense import I32, Block

NAMES = ("v", "operands", "lo", "n", "length", "unused")


def gathered(k: Block, v: ir.Value, operands: ir.Value, at: ir.Value) -> ir.Value:
    """The vector v[operands[at]], v[operands[at + 1]], …"""
    b = k.builder
    vector = ir.Constant(k.vector, ir.Undefined)
    for lane in range(k.lanes):
        row = k.operand(operands, b.add(at, k.number(lane)))
        vector = b.insert_element(vector, b.load(b.gep(v, [row])), ir.Constant(I32, lane))
    return vector


def row_sums(module: ir.Module, dtype: np.dtype[Any], lanes: int, name: str, products: bool) -> None:
    """`void row_sums(v, operands, lo, n, length, unused)`: n sums of `length` elements, added in order.

    v[lo + j] = Σₑ v[operands[e m + j]], m being n rounded up to whole vectors; with `products` each element is
    multiplied by its factor, whose rows follow in the same arrangement after length · m operands.
    """
    k = Block(module, dtype, lanes, name, NAMES)
    v, operands, lo, n, length, _ = k.function.args
    b = k.builder
    padded = b.mul(b.sdiv(b.add(n, k.number(lanes - 1)), k.number(lanes)), k.number(lanes))
    factors = b.mul(length, padded)
    total = k.variable(k.vector)
    with k.loop(k.number(0), n, lanes) as j:
        def element(e: ir.Value) -> ir.Value:
            at = b.add(b.mul(e, padded), j)
            one = gathered(k, v, operands, at)
            return b.fmul(one, gathered(k, v, operands, b.add(factors, at))) if products else one
        b.store(element(k.number(0)), total)
        with k.loop(k.number(1), length, 1) as e:
            b.store(b.fadd(b.load(total), element(e)), total)
        k.store(b.load(total), v, b.add(lo, j))
    b.ret_void()
