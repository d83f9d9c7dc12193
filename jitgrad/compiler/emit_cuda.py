"""Tape → LLVM for CUDA: what fills the holes of the shells in kernels/cuda_batch.py.

A thread is an example. Sums over the batch go through the warp, so that a thread needs one accumulator for 32 results;
shared numbers lie in the block's shared memory and are loaded where they are used, since registers are dear and that
memory is near. The arithmetic itself is the emitter's, as on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from jitgrad.compiler.emit import FLOAT, I1, I32, I64, Emitter, counting, emit_rows, emit_switch
from jitgrad.compiler.graph import Op
from jitgrad.compiler.program import Program
from jitgrad.compiler.schedule import WARP, CudaSchedule

GLOBAL = 1                         # NVVM's address space of device memory
VECTOR_BYTES = 16                  # what one instruction loads or stores at most
ROWS_AHEAD = 4                     # rows of an instruction the interpreter has in flight


class Layout:
    """Where a program's numbers lie on the device: which inputs are shared, in which array and column the others are.

    shared: row -> place among the shared numbers; batched: row -> (array, column); stored: (array, column) of each
    per-example result; columns: the rows summed over the batch; column_of: which of them each reduced result is.
    """

    def __init__(self, program: Program):
        tape, _ = program.rolled
        self.program, self.tape, self.dtype = program, tape, program.dtype
        number = {leaf.first: k for k, leaf in enumerate(program.batched)}
        self.shared: dict[int, int] = {}
        self.batched: dict[int, tuple[int, int]] = {}
        slots: list[int] = []
        for row, slot in enumerate(tape.inputs):
            leaf, element = program.leaf_of(slot)
            if leaf.shared:
                self.shared[row] = len(slots)
                slots.append(program.shared_offset[leaf.first] + element)
            else:
                self.batched[row] = number[leaf.first], element
        self.shared_slots = np.array(slots, np.int64)
        self.in_widths = [leaf.width for leaf in program.batched]
        self.out_widths = [len(rows) for rows in program.example_outputs]
        self.stored = [(k, e) for k, width in enumerate(self.out_widths) for e in range(width)]
        self.stored_rows = [row for rows in program.example_outputs for row in rows.tolist()]
        # A row that is several results at once is summed once. Rows in tape order, which is backpropagation's own: what
        # the last layer's gradient needs is done with before the first layer's is begun, and few numbers are alive.
        columns, self.column_of = np.unique(program.reduced_rows, return_inverse=True)
        self.columns: list[int] = columns.tolist()

    def vector(self, width: int) -> int:
        """How many numbers of a row of `width` one instruction moves."""
        return math.gcd(width, VECTOR_BYTES // self.dtype.itemsize)

    @property
    def pieces(self) -> int:
        """Numbers a partial sum is kept in: float32 sums carry their rounding error."""
        return 2 if self.dtype.itemsize == 4 else 1


class Warp:
    """The 32 threads of a warp as one thread sees them."""

    def __init__(self, emitter: Emitter):
        self.emitter, self.builder = emitter, emitter.builder
        thread = self._intrinsic("llvm.nvvm.read.ptx.sreg.tid.x", I32, ())
        self.lane = self.builder.and_(self.builder.call(thread, ()), ir.Constant(I32, WARP - 1))

    def _intrinsic(self, name: str, result: ir.Type, args: Sequence[ir.Type]) -> ir.Function:
        module = self.builder.module
        return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, args), name)

    def bit(self, k: int) -> ir.Value:
        """Whether bit k of the lane number is set."""
        masked = self.builder.and_(self.lane, ir.Constant(I32, 1 << k))
        return self.builder.icmp_unsigned("!=", masked, ir.Constant(I32, 0))

    def exchange(self, k: int, value: ir.Value) -> ir.Value:
        """The value of the lane whose number differs in bit k."""
        b = self.builder
        shuffle = self._intrinsic("llvm.nvvm.shfl.sync.i32", ir.LiteralStructType((I32, I1)), (I32,) * 5)
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
    """Adds up values over the warp, 32 at a time, leaving lane p with the sum of the p-th.

    Two values become one whenever a pair of the same level waits: half of the lanes keep the first and give away their
    part of the second, the other half the other way round. So 32 values cost 31 exchanges instead of 160, five wait at
    most, and each sum is a balanced tree over the lanes.
    """

    def __init__(self, emitter: Emitter, warp: Warp, deliver: Callable[[ir.Value], None]):
        self.emitter, self.warp, self.deliver = emitter, warp, deliver
        self.waiting: list[ir.Value | None] = [None] * 5
        self.bits = [warp.bit(k) for k in range(5)]

    def push(self, value: ir.Value) -> None:
        """The next value of every lane."""
        for level in range(5):
            first, self.waiting[level] = self.waiting[level], None
            if first is None:
                self.waiting[level] = value
                return
            value = self._merge(level, first, value)
        self.deliver(value)

    def finish(self) -> None:
        """Complete the last 32 with zeros."""
        carried: ir.Value | None = None
        zero = self.emitter.constant(0.0)
        for level in range(5):
            first, self.waiting[level] = self.waiting[level], None
            if first is not None:
                carried = self._merge(level, first, zero if carried is None else carried)
            elif carried is not None:
                carried = self._merge(level, carried, zero)
        if carried is not None:
            self.deliver(carried)

    def _merge(self, level: int, first: ir.Value, second: ir.Value) -> ir.Value:
        b, upper = self.emitter.builder, self.bits[level]
        kept, given = b.select(upper, second, first), b.select(upper, first, second)
        return b.fadd(kept, self.warp.exchange(level, given))


def two_sum(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The sum rounded, and its rounding error (Knuth 1969): six operations, any order of magnitudes."""
    total = b.fadd(x, y)
    of_y = b.fsub(total, x)
    return total, b.fadd(b.fsub(x, b.fsub(total, of_y)), b.fsub(y, of_y))


class _VolatileLoad(ir.LoadInstr):  # type: ignore[misc]
    """`load volatile`, which llvmlite has not."""

    def descr(self, buf: list[str]) -> None:
        super().descr(buf)
        buf[-1] = buf[-1].replace("load ", "load volatile ", 1)


class _ThreadSink:
    """A body's inputs and results on CUDA: one example, wherever its arrays lie.

    i: the example's number. A lane past the end repeats the last example, so that what it stores is there already, and
    adds zero to the sums.
    """

    def __init__(self, emitter: Emitter, layout: Layout, numbers: ir.Value, arrays: Sequence[ir.Value], i: ir.Value,
                 n: ir.Value, add: Callable[[int, ir.Value], None]):
        self.emitter, self.layout, self.numbers, self.add = emitter, layout, numbers, add
        self.anew = layout.shared
        b = emitter.builder
        self.exists = b.icmp_signed("<", i, n)
        example = b.select(self.exists, i, b.sub(n, ir.Constant(I64, 1)))
        widths = [*layout.in_widths, *layout.out_widths]
        self.bases = [b.gep(pointer, [b.mul(example, ir.Constant(I64, width))])
                      for pointer, width in zip(arrays, widths, strict=True)]
        self.loaded: dict[tuple[int, int], ir.Value] = {}
        self.unstored: list[ir.Value] = []
        self.quad: tuple[int, ir.Value] = (-1, None)       # the shared numbers loaded last, and from which place

    def _wide(self, pointer: ir.Value, at: int, count: int) -> ir.Value:
        b = self.emitter.builder
        address = b.gep(pointer, [ir.Constant(I32, at)])
        if count == 1:
            return address
        return b.bitcast(address, ir.PointerType(ir.VectorType(self.emitter.real, count), pointer.type.addrspace))

    def prefetch(self) -> None:
        """Load every batched input now."""
        for row in self.layout.batched:
            self.load(row)

    def load(self, row: int) -> ir.Value:
        b, layout = self.emitter.builder, self.layout
        if row in layout.shared:
            return self._shared_number(layout.shared[row])
        array, element = layout.batched[row]
        count = layout.vector(layout.in_widths[array])
        key = array, element - element % count
        if key not in self.loaded:
            address = self._wide(self.bases[array], key[1], count)
            self.loaded[key] = b.load(address, align=count * self.emitter.dtype.itemsize)
        if count == 1:
            return self.loaded[key]
        return b.extract_element(self.loaded[key], ir.Constant(I32, element % count))

    def _shared_number(self, place: int) -> ir.Value:
        # Volatile, or the compiler would load each number once and run out of registers keeping them all.
        b, count = self.emitter.builder, VECTOR_BYTES // self.emitter.dtype.itemsize
        at = place - place % count
        if self.quad[0] != at:
            load = _VolatileLoad(b.block, self._wide(self.numbers, at, count))
            load.align = VECTOR_BYTES
            b._insert(load)
            self.quad = at, load
        return b.extract_element(self.quad[1], ir.Constant(I32, place % count))

    def reduce(self, place: int, value: ir.Value) -> None:
        emitter = self.emitter
        self.add(place, emitter.builder.select(self.exists, emitter.number(value), emitter.constant(0.0)))

    def store(self, place: int, value: ir.Value) -> None:
        array, element = self.layout.stored[place]
        count = self.layout.vector(self.layout.out_widths[array])
        self.unstored.append(self.emitter.number(value))
        if len(self.unstored) < count:
            return
        b, stored = self.emitter.builder, self.unstored[0]
        if count > 1:
            stored = ir.Constant(ir.VectorType(self.emitter.real, count), ir.Undefined)
            for k, one in enumerate(self.unstored):
                stored = b.insert_element(stored, one, ir.Constant(I32, k))
        address = self._wide(self.bases[len(self.layout.in_widths) + array], element + 1 - count, count)
        b.store(stored, address, align=count * self.emitter.dtype.itemsize)
        self.unstored.clear()


def _function(module: ir.Module, dtype: np.dtype[Any], name: str,
              arguments: dict[str, ir.Type]) -> tuple[ir.Function, Emitter]:
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), list(arguments.values())), f"jitgrad_{name}")
    function.linkage = "internal"
    function.attributes.add("alwaysinline")
    for argument, given in zip(function.args, arguments, strict=True):
        argument.name = given
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    return function, Emitter(builder, dtype, 1, "cuda")


class FusedCode:
    """The straight-line functions that fill the holes of `cuda_batch.fused_shell`.

    groups: how often the warp's 32 lanes take a column each; slots: accumulators a thread has.
    """

    def __init__(self, layout: Layout, plan: CudaSchedule):
        self.layout, self.plan = layout, plan
        self.real = FLOAT[layout.dtype.name]
        self.groups = -(-len(layout.columns) // WARP)
        self.slots = len(layout.columns) if plan.private else self.groups

    @staticmethod
    def _at(emitter: Emitter, pointer: ir.Value, k: int) -> ir.Value:
        return emitter.builder.gep(pointer, [ir.Constant(I32, k)])

    def clear(self, module: ir.Module) -> ir.Function:
        """`void clear(acc)`: zero in every accumulator."""
        function, emitter = _function(module, self.layout.dtype, "clear", {"acc": self.real.as_pointer()})
        for k in range(self.slots):
            emitter.builder.store(emitter.constant(0.0), self._at(emitter, function.args[0], k))
        emitter.builder.ret_void()
        return function

    def body(self, module: ir.Module) -> ir.Function:
        """`void body(acc, numbers, i, stride, n, arrays…)`: `unroll` examples of one thread, start to end."""
        layout, pointer = self.layout, self.real.as_pointer()
        names = [f"input{k}" for k in range(len(layout.in_widths))]
        names += [f"output{k}" for k in range(len(layout.out_widths))]
        arguments = {"acc": pointer, "numbers": pointer, "i": I64, "stride": I64, "n": I64}
        arguments |= dict.fromkeys(names, ir.PointerType(self.real, GLOBAL))
        function, emitter = _function(module, layout.dtype, "body", arguments)
        acc, numbers, i, stride, n, *arrays = function.args
        b = emitter.builder

        def accumulate(k: int, value: ir.Value) -> None:
            at = self._at(emitter, acc, k)
            b.store(b.fadd(b.load(at), value), at)

        sinks = []
        for _ in range(self.plan.unroll):
            sinks.append(_ThreadSink(emitter, layout, numbers, arrays, i, n, accumulate))
            i = b.add(i, stride)
        if self.plan.private:
            for sink in sinks if self.plan.unroll > 1 else ():
                sink.prefetch()
            for sink in sinks:
                emit_rows(emitter, layout.tape, sink, layout.columns, layout.stored_rows)
        else:
            group = iter(range(self.groups))
            transposed = TransposedSum(emitter, Warp(emitter), lambda value: accumulate(next(group), value))
            sinks[0].add = lambda place, value: transposed.push(value)
            emit_rows(emitter, layout.tape, sinks[0], layout.columns, layout.stored_rows)
            transposed.finish()
        b.ret_void()
        return function

    def fold(self, module: ir.Module) -> ir.Function:
        """`void fold(acc, tiles, first)`: the warp's sums, from tiles[first] on, += acc, compensated; acc = 0."""
        pointer = self.real.as_pointer()
        function, emitter = _function(module, self.layout.dtype, "fold",
                                      {"acc": pointer, "tiles": pointer, "first": I64})
        acc, tiles, first = function.args
        b, warp, pieces = emitter.builder, Warp(emitter), self.layout.pieces
        mine = b.gep(tiles, [b.add(first, b.zext(warp.lane, I64))])
        group, zero = iter(range(self.groups)), emitter.constant(0.0)

        def deliver(value: ir.Value) -> None:
            at = next(group) * WARP
            places = [self._at(emitter, mine, at + piece * self.groups * WARP) for piece in range(pieces)]
            total, error = two_sum(b, b.load(places[0]), value)
            b.store(total, places[0])
            if pieces == 2:
                b.store(b.fadd(b.load(places[1]), error), places[1])

        transposed = TransposedSum(emitter, warp, deliver)
        for k in range(self.slots):
            place = self._at(emitter, acc, k)
            (transposed.push if self.plan.private else deliver)(b.load(place))
            b.store(zero, place)
        transposed.finish()
        b.ret_void()
        return function


def interpreter_step(module: ir.Module, dtype: np.dtype[Any]) -> ir.Function:
    """`void step(code, v, base, uniform, operands, at, width, out, first, step)`: one elementwise instruction.

    Of `width` rows, those numbered first, first + step, …; row r of this thread's example lies at v[base + 32 r], the
    same for every example at uniform[~r] where r is negative. Operand j of row k is operands[at + j * width + k], and
    the result goes to row out + k.
    """
    real = FLOAT[dtype.name]
    pointer = real.as_pointer()
    function, emitter = _function(module, dtype, "step", {
        "code": I64, "v": pointer, "base": I64, "uniform": pointer, "operands": I32.as_pointer(), "at": I64,
        "width": I64, "out": I64, "first": I64, "step": I64})
    code, v, base, uniform, operands, at, width, out, first, step = function.args
    b = emitter.builder
    v = b.gep(b.addrspacecast(v, ir.PointerType(real, GLOBAL)), [base])
    uniform = b.addrspacecast(uniform, ir.PointerType(real, GLOBAL))
    operands = b.gep(b.addrspacecast(operands, ir.PointerType(I32, GLOBAL)), [at])
    warp, last = ir.Constant(I64, WARP), b.sub(width, ir.Constant(I64, 1))

    def operand(op_row: ir.Value, j: int) -> ir.Value:
        place = b.load(b.gep(operands, [b.add(b.mul(width, ir.Constant(I64, j)), op_row)]))
        row = b.sext(place, I64)
        varying = b.gep(v, [b.mul(row, warp)])
        same = b.gep(uniform, [b.not_(row)])
        return b.load(b.select(b.icmp_signed("<", row, ir.Constant(I64, 0)), same, varying))

    def rows(op: Op) -> None:
        with counting(b, width, b.mul(step, ir.Constant(I64, ROWS_AHEAD)), first) as k:
            # Past the end the last row is computed again: the same thread writes the same number.
            ahead = []
            for _ in range(ROWS_AHEAD):
                ahead.append(b.select(b.icmp_signed("<", k, width), k, last))
                k = b.add(k, step)
            args = [[operand(row, j) for j in range(op.arity)] for row in ahead]
            results = [emitter.number(emitter.apply(op, a)) for a in args]
            for row, result in zip(ahead, results, strict=True):
                b.store(result, b.gep(v, [b.mul(b.add(out, row), warp)]))

    emit_switch(emitter, code, rows)
    b.ret_void()
    return function
