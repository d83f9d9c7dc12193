"""The CUDA backend: numba-CUDA shells, bodies emitted once for CPU and CUDA, sums over the batch through the warp."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import config, cuda, types

from jitgrad import errors
from jitgrad.compiler import schedule
from jitgrad.compiler.emit import I1, I32, I64, Emitter, emit_rows
from jitgrad.compiler.graph import OPS
from jitgrad.compiler.program import Program
from jitgrad.kernels import cuda_batch
from jitgrad.kernels.cuda_batch import WARP

Array = npt.NDArray[Any]
Values = tuple[ir.Value, ...]

CC = (9, 0, "a")                   # what is compiled for where there is no GPU: H100 and H200
GLOBAL, CONSTANT = 1, 4            # NVVM's address spaces
SHARED_NAME = "jitgrad_shared"


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

        def half(word: ir.Value) -> ir.Value:
            butterfly = [ir.Constant(I32, x) for x in (-1, 3, 1 << k, WARP - 1)]
            return b.extract_value(b.call(shuffle, [butterfly[0], butterfly[1], word, *butterfly[2:]]), 0)
        if self.emitter.dtype.itemsize == 4:
            return b.bitcast(half(b.bitcast(value, I32)), value.type)
        word = b.bitcast(value, I64)
        low, high = half(b.trunc(word, I32)), half(b.trunc(b.lshr(word, ir.Constant(I64, 32)), I32))
        joined = b.or_(b.zext(low, I64), b.shl(b.zext(high, I64), ir.Constant(I64, 32)))
        return b.bitcast(joined, value.type)


def two_sum(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> Values:
    """x + y rounded, and its rounding error (Knuth 1969): six operations, any order of magnitudes."""
    total = b.fadd(x, y)
    of_y = b.fsub(total, x)
    return total, b.fadd(b.fsub(x, b.fsub(total, of_y)), b.fsub(y, of_y))


def add_compensated(b: ir.IRBuilder, x: Values, y: Values) -> Values:
    """The sum of two numbers, each (sum, error) or, with nothing to compensate, one number."""
    if len(x) == 1:
        return (b.fadd(x[0], y[0]),)
    total, error = two_sum(b, x[0], y[0])
    return total, b.fadd(b.fadd(x[1], y[1]), error)


class TransposedSum:
    """Adds up values over the warp, 32 at a time, leaving lane p with the sum of the p-th.

    Two values become one whenever a pair of the same level waits: half of the lanes keep the first and give away their
    part of the second, the other half the other way round. So 32 values cost 31 exchanges instead of 160, five wait at
    most, and each sum is a balanced tree over the lanes.
    """

    def __init__(self, emitter: Emitter, warp: Warp, deliver: Callable[[Values], None]):
        self.emitter, self.warp, self.deliver = emitter, warp, deliver
        self.waiting: list[Values | None] = [None] * 5
        self.bits = [warp.bit(k) for k in range(5)]

    def push(self, value: Values) -> None:
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
        carried: Values | None = None
        for level in range(5):
            first, self.waiting[level] = self.waiting[level], None
            if first is None and carried is None:
                continue
            zero = tuple(self.emitter.constant(0.0) for _ in (first or carried or ()))
            carried = self._merge(level, first, carried or zero) if first else self._merge(level, carried or (), zero)
        if carried is not None:
            self.deliver(carried)

    def _merge(self, level: int, first: Values, second: Values) -> Values:
        b, upper = self.emitter.builder, self.bits[level]
        kept = tuple(b.select(upper, y, x) for x, y in zip(first, second, strict=True))
        given = (b.select(upper, x, y) for x, y in zip(first, second, strict=True))
        return add_compensated(b, kept, tuple(self.warp.exchange(level, x) for x in given))


class ThreadSink:
    """A body's inputs and results on CUDA: one example, wherever its arrays lie.

    i: the example's number; a lane past the end repeats the last example, so that what it stores is already there, and
    adds zero to the sums.
    """

    def __init__(self, emitter: Emitter, layout: Layout, shared: ir.Value, arrays: Sequence[ir.Value], i: ir.Value,
                 n: ir.Value, add: Callable[[int, ir.Value], None]):
        self.emitter, self.layout, self.shared, self.add = emitter, layout, shared, add
        b = emitter.builder
        self.exists = b.icmp_signed("<", i, n)
        example = b.select(self.exists, i, b.sub(n, ir.Constant(I64, 1)))
        widths = [*layout.in_widths, *layout.out_widths]
        self.bases = [b.gep(pointer, [b.mul(example, ir.Constant(I64, width))]) if width else None
                      for pointer, width in zip(arrays, widths, strict=True)]
        self.loaded: dict[tuple[int, int], ir.Value] = {}
        self.unstored: list[ir.Value] = []

    def _wide(self, array: int, element: int, count: int) -> ir.Value:
        b, base = self.emitter.builder, self.bases[array]
        address = b.gep(base, [ir.Constant(I64, element)])
        if count > 1:
            address = b.bitcast(address, ir.PointerType(ir.VectorType(self.emitter.real, count), GLOBAL))
        return address

    def prefetch(self) -> None:
        """Load every batched input now."""
        for row in self.layout.batched:
            self.load(row)

    def load(self, row: int) -> ir.Value:
        b, layout = self.emitter.builder, self.layout
        if row in layout.shared:
            return b.load(b.gep(self.shared, [ir.Constant(I32, 0), ir.Constant(I32, layout.shared[row])]))
        array, element = layout.batched[row]
        count = layout.vector(layout.in_widths[array])
        key = array, element - element % count
        if key not in self.loaded:
            self.loaded[key] = b.load(self._wide(*key, count), align=count * self.emitter.dtype.itemsize)
        if count == 1:
            return self.loaded[key]
        return b.extract_element(self.loaded[key], ir.Constant(I32, element % count))

    def reduce(self, place: int, value: ir.Value) -> None:
        emitter = self.emitter
        self.add(place, emitter.builder.select(self.exists, emitter.number(value), emitter.constant(0.0)))

    def store(self, place: int, value: ir.Value) -> None:
        array, element = self.layout.stored[place]
        count = self.layout.vector(self.layout.out_widths[array])
        self.unstored.append(self.emitter.number(value))
        if len(self.unstored) < count:
            return
        b = self.emitter.builder
        stored = self.unstored[0]
        if count > 1:
            stored = ir.Constant(ir.VectorType(self.emitter.real, count), ir.Undefined)
            for k, one in enumerate(self.unstored):
                stored = b.insert_element(stored, one, ir.Constant(I32, k))
        address = self._wide(len(self.layout.in_widths) + array, element + 1 - count, count)
        b.store(stored, address, align=count * self.emitter.dtype.itemsize)
        self.unstored.clear()


class Layout:
    """Where a program's rows lie on the device: which are shared, in which array and column the others are."""

    def __init__(self, program: Program):
        tape, _ = program.rolled
        self.program, self.tape, self.dtype = program, tape, program.dtype
        number = {leaf.first: k for k, leaf in enumerate(program.batched)}
        self.shared: dict[int, int] = {}              # row -> place in constant memory
        self.batched: dict[int, tuple[int, int]] = {}  # row -> array, column
        slots = []
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
        # A row may be several results at once (the same gradient, or none): it is summed once.
        rows = program.reduced_rows
        first, inverse = np.unique(rows, return_index=True, return_inverse=True)[1:]
        order = np.argsort(first)
        self.columns = rows[first[order]].tolist()
        self.column_of = np.argsort(order)[inverse]

    def vector(self, width: int) -> int:
        """How many numbers of a row of `width` one instruction of at most 16 bytes moves."""
        return math.gcd(width, 16 // self.dtype.itemsize)

    @property
    def pieces(self) -> int:
        """Numbers a partial sum is kept in: float32 sums carry their rounding error."""
        return 2 if self.dtype.itemsize == 4 else 1


class FusedCode:
    """The straight-line functions that fill the holes of `cuda_batch.fused_shell`, emitted into an LLVM module."""

    def __init__(self, layout: Layout, plan: schedule.CudaSchedule):
        self.layout, self.plan, self.real = layout, plan, Emitter(ir.IRBuilder(), layout.dtype, 1, "cuda").real
        self.groups = max(1, -(-len(layout.columns) // WARP))
        self.slots = max(1, len(layout.columns)) if plan.private else self.groups

    def _function(self, module: ir.Module, name: str, arguments: dict[str, ir.Type]) -> tuple[ir.Function, Emitter]:
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), list(arguments.values())), f"jitgrad_{name}")
        function.linkage = "internal"
        function.attributes.add("alwaysinline")
        for argument, given in zip(function.args, arguments, strict=True):
            argument.name = given
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        return function, Emitter(builder, self.layout.dtype, 1, "cuda")

    def _state(self, *names: str) -> dict[str, ir.Type]:
        return dict.fromkeys(names, self.real.as_pointer())

    @staticmethod
    def _at(emitter: Emitter, pointer: ir.Value, k: int) -> ir.Value:
        return emitter.builder.gep(pointer, [ir.Constant(I32, k)])

    def clear(self, module: ir.Module) -> ir.Function:
        """`void clear(acc, high, low)`: zero in all of them."""
        function, emitter = self._function(module, "clear", self._state("acc", "high", "low"))
        for pointer in function.args:
            for k in range(self.slots):
                emitter.builder.store(emitter.constant(0.0), self._at(emitter, pointer, k))
        emitter.builder.ret_void()
        return function

    def body(self, module: ir.Module) -> ir.Function:
        """`void body(acc, i, stride, n, arrays…)`: `unroll` examples of one thread, start to end."""
        layout = self.layout
        array = ir.PointerType(self.real, GLOBAL)
        names = [f"input{k}" for k in range(len(layout.in_widths))]
        names += [f"output{k}" for k in range(len(layout.out_widths))]
        function, emitter = self._function(module, "body", self._state("acc") | dict.fromkeys(("i", "stride", "n"), I64)
                                           | dict.fromkeys(names, array))
        acc, i, stride, n, *arrays = function.args
        b = emitter.builder
        for k in range(len(layout.in_widths)):
            arrays[k].add_attribute("noalias")
        shared = ir.GlobalVariable(module, ir.ArrayType(self.real, max(1, len(layout.shared_slots))), SHARED_NAME,
                                   addrspace=CONSTANT)
        shared.initializer = ir.Constant(shared.value_type, None)
        shared.align = 16

        def accumulate(k: int, value: ir.Value) -> None:
            at = self._at(emitter, acc, k)
            b.store(b.fadd(b.load(at), value), at)

        def deliver(value: Values) -> None:
            accumulate(next(group), value[0])

        sinks = []
        for _ in range(self.plan.unroll):
            group = iter(range(self.groups))
            sinks.append(ThreadSink(emitter, layout, shared, arrays, i, n, accumulate))
            i = b.add(i, stride)
        for sink in sinks if self.plan.unroll > 1 else []:
            sink.prefetch()
        examples = [r for rows in layout.program.example_outputs for r in rows.tolist()]
        if not self.plan.private:
            transposed = TransposedSum(emitter, Warp(emitter), deliver)
            sinks[0].add = lambda place, value: transposed.push((value,))
        for sink in sinks:
            emit_rows(emitter, layout.tape, sink, layout.columns, examples)
        if not self.plan.private:
            transposed.finish()
        b.ret_void()
        return function

    def _loaded(self, emitter: Emitter, k: int, *pointers: ir.Value) -> Values:
        return tuple(emitter.builder.load(self._at(emitter, p, k)) for p in pointers[:self.layout.pieces])

    def fold(self, module: ir.Module) -> ir.Function:
        """`void fold(acc, high, low)`: (high, low) += acc, compensated; acc = 0."""
        function, emitter = self._function(module, "fold", self._state("acc", "high", "low"))
        acc, *sums = function.args
        b, zero = emitter.builder, emitter.constant(0.0)
        for k in range(self.slots):
            term = (b.load(self._at(emitter, acc, k)), zero)[:self.layout.pieces]
            for value, pointer in zip(add_compensated(b, self._loaded(emitter, k, *sums), term), sums, strict=False):
                b.store(value, self._at(emitter, pointer, k))
            b.store(zero, self._at(emitter, acc, k))
        b.ret_void()
        return function

    def flush(self, module: ir.Module) -> ir.Function:
        """`void flush(high, low, tile)`: tile[lane of every group] += the warp's sums, compensated."""
        function, emitter = self._function(module, "flush", self._state("high", "low", "tile"))
        high, low, tile = function.args
        b, warp, columns = emitter.builder, Warp(emitter), self.groups * WARP
        group = iter(range(self.groups))

        def deliver(value: Values) -> None:
            first = b.add(warp.lane, ir.Constant(I32, WARP * next(group)))
            places = [b.gep(tile, [b.add(first, ir.Constant(I32, columns * piece))]) for piece in range(len(value))]
            for total, place in zip(add_compensated(b, tuple(map(b.load, places)), value), places, strict=True):
                b.store(total, place)

        transposed = TransposedSum(emitter, warp, deliver)
        for k in range(self.slots):
            value = self._loaded(emitter, k, high, low)
            if self.plan.private:
                transposed.push(value)
            else:
                deliver(value)
        transposed.finish()
        b.ret_void()
        return function


def _hole(arity: int, function_of: Callable[[ir.Module], ir.Function]) -> Any:
    """A numba-CUDA intrinsic calling an emitted function: arrays go in as pointers, tuples of addresses one by one."""
    from numba.cuda.extending import intrinsic

    def typing(typingctx: Any, *args: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
            callee = function_of(builder.module)
            given = []
            for kind, value in zip(signature.args, values, strict=True):
                if isinstance(kind, types.Array):
                    given.append(context.make_array(kind)(context, builder, value).data)
                elif isinstance(kind, types.BaseTuple):
                    given += [builder.extract_value(value, k) for k in range(len(kind))]
                else:
                    given.append(value)
            wanted = callee.function_type.args
            given = [builder.inttoptr(v, t) if t.is_pointer and not v.type.is_pointer else v
                     for v, t in zip(given, wanted, strict=True)]
            builder.call(callee, given)
            return context.get_dummy_value()
        return types.void(*args), codegen
    # numba reads an intrinsic's arity off its signature.
    names = ", ".join(f"a{k}" for k in range(arity))
    scope: dict[str, Any] = {"typing": typing}
    exec(f"def hole(typingctx, {names}): return typing(typingctx, {names})", scope)
    return intrinsic(scope["hole"])
