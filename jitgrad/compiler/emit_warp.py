"""LLVM for the 32 threads of a CUDA warp: exchanges, sums over the lanes, sums that carry their rounding error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from jitgrad.compiler.batch_sums import WARP
from jitgrad.compiler.emit import I1, I32, I64, Emitter


class _VolatileLoad(ir.LoadInstr):  # type: ignore[misc]
    """`load volatile`, which llvmlite has not."""

    def descr(self, buf: list[str]) -> None:
        super().descr(buf)
        buf[-1] = buf[-1].replace("load ", "load volatile ", 1)


def load_anew(b: ir.IRBuilder, pointer: ir.Value, align: int) -> ir.Value:
    """A number that the compiler is to load here, and not to have kept in a register since it was last loaded."""
    loaded = _VolatileLoad(b.block, pointer)
    loaded.align = align
    b._insert(loaded)
    return loaded


class Warp:
    """The 32 threads of a warp as one thread sees them."""

    def __init__(self, emitter: Emitter):
        self.emitter, self.builder = emitter, emitter.builder
        thread = self.intrinsic("llvm.nvvm.read.ptx.sreg.tid.x", I32, ())
        self.thread = self.builder.call(thread, ())
        self.lane = self.builder.and_(self.thread, ir.Constant(I32, WARP - 1))

    def intrinsic(self, name: str, result: ir.Type, args: Sequence[ir.Type]) -> ir.Function:
        """A function that NVVM knows by name."""
        module = self.builder.module
        return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, args), name)

    @property
    def number(self) -> ir.Value:
        """The warp's place in its block."""
        return self.builder.lshr(self.thread, ir.Constant(I32, 5))

    def meet(self) -> None:
        """Wait for the other lanes; what they have written to shared memory is seen from here on."""
        barrier = self.intrinsic("llvm.nvvm.bar.warp.sync", ir.VoidType(), (I32,))
        self.builder.call(barrier, [ir.Constant(I32, -1)])

    def bit(self, k: int) -> ir.Value:
        """Whether bit k of the lane number is set."""
        masked = self.builder.and_(self.lane, ir.Constant(I32, 1 << k))
        return self.builder.icmp_unsigned("!=", masked, ir.Constant(I32, 0))

    def exchange(self, k: int, value: ir.Value) -> ir.Value:
        """The value of the lane whose number differs in bit k."""
        b = self.builder
        shuffle = self.intrinsic("llvm.nvvm.shfl.sync.i32", ir.LiteralStructType((I32, I1)), (I32,) * 5)
        everyone, butterfly, partner, last = (ir.Constant(I32, x) for x in (-1, 3, 1 << k, WARP - 1))

        def word(bits: ir.Value) -> ir.Value:
            return b.extract_value(b.call(shuffle, [everyone, butterfly, bits, partner, last]), 0)
        if self.emitter.dtype.itemsize == 4:
            return b.bitcast(word(b.bitcast(value, I32)), value.type)
        both = b.bitcast(value, I64)
        low, high = word(b.trunc(both, I32)), word(b.trunc(b.lshr(both, ir.Constant(I64, 32)), I32))
        joined = b.or_(b.zext(low, I64), b.shl(b.zext(high, I64), ir.Constant(I64, 32)))
        return b.bitcast(joined, value.type)


class TransposedSum:
    """Adds up values over the lanes that differ in `bits` of their number, leaving each of these with one of the sums.

    Two values become one whenever a pair of the same level waits: half of the lanes keep the first and give away their
    part of the second, the other half the other way round. Of all five bits, 32 values cost 31 exchanges instead of 160,
    five wait at most, and lane p is left with the sum of the p-th; each sum is a balanced tree over the lanes.
    """

    def __init__(self, emitter: Emitter, warp: Warp, deliver: Callable[[ir.Value], None], bits: Sequence[int]):
        self.emitter, self.warp, self.deliver, self.bits = emitter, warp, deliver, bits
        self.waiting: list[ir.Value | None] = [None] * len(bits)
        self.set = [warp.bit(k) for k in bits]

    def push(self, value: ir.Value) -> None:
        """The next value of every lane."""
        for level in range(len(self.bits)):
            first, self.waiting[level] = self.waiting[level], None
            if first is None:
                self.waiting[level] = value
                return
            value = self._merge(level, first, value)
        self.deliver(value)

    def finish(self) -> None:
        """Complete the last ones with zeros."""
        carried: ir.Value | None = None
        zero = self.emitter.constant(0.0)
        for level in range(len(self.bits)):
            first, self.waiting[level] = self.waiting[level], None
            if first is not None:
                carried = self._merge(level, first, zero if carried is None else carried)
            elif carried is not None:
                carried = self._merge(level, carried, zero)
        if carried is not None:
            self.deliver(carried)

    def _merge(self, level: int, first: ir.Value, second: ir.Value) -> ir.Value:
        b, upper = self.emitter.builder, self.set[level]
        kept, given = b.select(upper, second, first), b.select(upper, first, second)
        return b.fadd(kept, self.warp.exchange(self.bits[level], given))


def two_sum(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The sum rounded, and its rounding error (Knuth 1969): six operations, any order of magnitudes."""
    total = b.fadd(x, y)
    of_y = b.fsub(total, x)
    return total, b.fadd(b.fsub(x, b.fsub(total, of_y)), b.fsub(y, of_y))
