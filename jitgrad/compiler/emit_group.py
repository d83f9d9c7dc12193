"""LLVM for the CUDA threads that share an example: a part of a warp, a warp, or several warps of a block.

A reduction crosses the group by exchanges of which both sides compute the same bits; what crosses warps goes through shared
memory, in warp order. So every lane has the same result.
"""

from __future__ import annotations

from llvmlite import ir

from jitgrad.compiler.batch_sums import WARP
from jitgrad.compiler.emit import I32, Emitter
from jitgrad.compiler.emit_terms import ADD
from jitgrad.compiler.emit_warp import Warp
from jitgrad.compiler.graph import OPS, Op
from jitgrad.compiler.wide_schedule import WidePlan


class Group:
    """The lanes of one example as a thread sees them."""

    def __init__(self, emitter: Emitter, plan: WidePlan):
        self.emitter, self.plan, self.warp = emitter, plan, Warp(emitter)
        b = emitter.builder
        self.thread = self.warp.thread
        self.lane = b.and_(self.thread, ir.Constant(I32, plan.lanes - 1))
        self.number = b.udiv(self.thread, ir.Constant(I32, plan.lanes))
        self.first = b.mul(self.lane, ir.Constant(I32, plan.count))       # element of this lane's first vector

    def barrier(self) -> None:
        """Wait for every thread of the block."""
        self.emitter.builder.call(self.warp.intrinsic("llvm.nvvm.barrier0", ir.VoidType(), ()), ())

    def combine(self, op: Op, x: ir.Value, y: ir.Value) -> ir.Value:
        """Two parts of a reduction as one."""
        if op is OPS["sum"]:
            return self.emitter.apply(ADD, [x, y])
        if self.emitter.dtype.itemsize == 4:
            # One instruction where the table's spelling takes five; it keeps NaN too. NVVM has no name for it.
            word = "max" if op is OPS["maximum"] else "min"
            kind = ir.FunctionType(x.type, (x.type, x.type))
            return self.emitter.builder.asm(kind, f"{word}.NaN.f32 $0, $1, $2;", "=f,f,f", [x, y], False)
        return self.emitter.apply(op, [x, y])

    def across(self, op: Op, value: ir.Value, lanes: int) -> ir.Value:
        """Of `lanes` neighbouring lanes, in every one of them: a balanced tree."""
        b = self.emitter.builder
        for k in range(lanes.bit_length() - 1):
            other = self.warp.exchange(k, value)
            # The lower lane's first, or two lanes might disagree on the sign of a zero.
            upper = self.warp.bit(k)
            value = self.combine(op, b.select(upper, other, value), b.select(upper, value, other))
        return value

    def reduce(self, parts: list[tuple[Op, ir.Value]], board: ir.Value, places: int) -> list[ir.Value]:
        """Each reduction of the lanes' parts; of more than a warp through the board, from place `places` on."""
        b, lanes = self.emitter.builder, self.plan.lanes
        warps, inner = lanes // WARP, min(lanes, WARP)
        values = [self.across(op, value, inner) for op, value in parts]
        if warps <= 1 or not parts:
            return values
        step = self.plan.block // WARP
        mine = b.lshr(self.thread, ir.Constant(I32, 5))
        with b.if_then(b.icmp_unsigned("==", self.warp.lane, ir.Constant(I32, 0))):
            for k, value in enumerate(values):
                b.store(value, b.gep(board, [b.add(mine, ir.Constant(I32, (places + k) * step))]))
        self.barrier()
        source = b.add(b.and_(mine, ir.Constant(I32, -warps)), b.and_(self.warp.lane, ir.Constant(I32, warps - 1)))
        found = [b.load(b.gep(board, [b.add(source, ir.Constant(I32, (places + k) * step))])) for k in range(len(parts))]
        return [self.across(op, value, warps) for (op, _), value in zip(parts, found, strict=True)]
