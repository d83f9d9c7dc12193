"""Tape → LLVM for CUDA: what fills the holes of the shells in kernels/cuda_batch.py.

A thread is an example; of a light body, a few neighbouring examples, whose numbers it moves 16 bytes at a time. Sums over
the batch go through the warp, so that a thread needs one accumulator for 32 results; shared numbers lie in the block's
shared memory and are loaded where they are used, since registers are dear and that memory is near. The arithmetic itself
is the emitter's, as on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from jitgrad.compiler.emit import FLOAT, I32, I64, Emitter, counting, emit_rows, emit_switch
from jitgrad.compiler.emit_warp import TransposedSum, Warp, two_sum
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
        self.widths = [*self.in_widths, *self.out_widths]
        self.stored = [(k, e) for k, width in enumerate(self.out_widths) for e in range(width)]
        self.stored_rows = [row for rows in program.example_outputs for row in rows.tolist()]
        # A row that is several results at once is summed once. Rows in tape order, which is backpropagation's own: what
        # the last layer's gradient needs is done with before the first layer's is begun, and few numbers are alive.
        columns, self.column_of = np.unique(program.reduced_rows, return_inverse=True)
        self.columns: list[int] = columns.tolist()

    def share_first(self, rows: Sequence[int]) -> None:
        """Let the numbers of these shared rows come first, in this order."""
        order = list(dict.fromkeys([*rows, *self.shared]))
        self.shared_slots = self.shared_slots[[self.shared[row] for row in order]]
        self.shared = {row: place for place, row in enumerate(order)}

    def sum_in(self, columns: dict[int, int]) -> None:
        """Let each row's sum over the batch be in the column that is said; rows that are one number may share one."""
        self.column_of = np.array([columns[row] for row in self.columns], np.intp)[self.column_of]
        row_of = {column: row for row, column in columns.items()}
        self.columns = [row_of[column] for column in range(len(row_of))]

    def vector(self, width: int) -> int:
        """How many numbers of a row of `width` one instruction moves."""
        return math.gcd(width, VECTOR_BYTES // self.dtype.itemsize)

    @property
    def pieces(self) -> int:
        """Numbers a partial sum is kept in: float32 sums carry their rounding error."""
        return 2 if self.dtype.itemsize == 4 else 1


class _VolatileLoad(ir.LoadInstr):  # type: ignore[misc]
    """`load volatile`, which llvmlite has not."""

    def descr(self, buf: list[str]) -> None:
        super().descr(buf)
        buf[-1] = buf[-1].replace("load ", "load volatile ", 1)


class _ThreadSink:
    """A body's inputs and results on CUDA, of one example: `arrays` hold its numbers, of array k from member · width on."""

    def __init__(self, emitter: Emitter, layout: Layout, numbers: ir.Value, arrays: Sequence[_Numbers], member: int,
                 add: Callable[[int, ir.Value], None]):
        self.emitter, self.layout, self.numbers, self.arrays, self.member = emitter, layout, numbers, arrays, member
        self.add, self.anew = add, layout.shared
        self.quad: tuple[int, ir.Value] = (-1, None)       # the shared numbers loaded last, and from which place

    def prefetch(self) -> None:
        """Load every batched input now."""
        for row in self.layout.batched:
            self.load(row)

    def load(self, row: int) -> ir.Value:
        if row in self.layout.shared:
            return self._shared_number(self.layout.shared[row])
        array, column = self.layout.batched[row]
        return self.arrays[array].load(self.member * self.layout.widths[array] + column)

    def store(self, place: int, value: ir.Value) -> None:
        array, column = self.layout.stored[place]
        array += len(self.layout.in_widths)
        self.arrays[array].store(self.member * self.layout.widths[array] + column, self.emitter.number(value))

    def reduce(self, place: int, value: ir.Value) -> None:
        self.add(place, self.emitter.number(value))

    def _shared_number(self, place: int) -> ir.Value:
        # Volatile, or the compiler would load each number once and run out of registers keeping them all.
        b, count = self.emitter.builder, VECTOR_BYTES // self.emitter.dtype.itemsize
        at = place - place % count
        if self.quad[0] != at:
            load = _VolatileLoad(b.block, _wide(self.emitter, self.numbers, at, count))
            load.align = VECTOR_BYTES
            b._insert(load)
            self.quad = at, load
        return b.extract_element(self.quad[1], ir.Constant(I32, place % count))


def _wide(emitter: Emitter, pointer: ir.Value, at: int, count: int) -> ir.Value:
    """The address of `count` numbers from pointer[at] on, as one vector."""
    b = emitter.builder
    address = b.gep(pointer, [ir.Constant(I32, at)])
    return b.bitcast(address, ir.PointerType(ir.VectorType(emitter.real, count), pointer.type.addrspace))


class _Numbers:
    """Neighbouring numbers in device memory, loaded or stored `count` at a time."""

    def __init__(self, emitter: Emitter, base: ir.Value, count: int):
        self.emitter, self.base, self.count = emitter, base, count
        self._loaded: dict[int, ir.Value] = {}
        self._unstored: list[ir.Value] = []
        self._align = count * emitter.dtype.itemsize

    def _address(self, at: int) -> ir.Value:
        if self.count == 1:
            return self.emitter.builder.gep(self.base, [ir.Constant(I32, at)])
        return _wide(self.emitter, self.base, at, self.count)

    def load(self, k: int) -> ir.Value:
        """Number k, with its neighbours at its first use."""
        b, at = self.emitter.builder, k - k % self.count
        if at not in self._loaded:
            self._loaded[at] = b.load(self._address(at), align=self._align)
        return self._loaded[at] if self.count == 1 else b.extract_element(self._loaded[at], ir.Constant(I32, k - at))

    def store(self, k: int, value: ir.Value) -> None:
        """Number k; they come in order."""
        b, stored = self.emitter.builder, value
        self._unstored.append(value)
        if len(self._unstored) < self.count:
            return
        if self.count > 1:
            stored = ir.Constant(ir.VectorType(self.emitter.real, self.count), ir.Undefined)
            for place, one in enumerate(self._unstored):
                stored = b.insert_element(stored, one, ir.Constant(I32, place))
        b.store(stored, self._address(k + 1 - self.count), align=self._align)
        self._unstored.clear()


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
        """`void body(acc, numbers, i, n, arrays…)`: a thread's `unroll` examples from i on, start to end.

        Every array begins at a multiple of 16 bytes.
        """
        layout, pointer = self.layout, self.real.as_pointer()
        names = [f"input{k}" for k in range(len(layout.in_widths))]
        names += [f"output{k}" for k in range(len(layout.out_widths))]
        arguments = {"acc": pointer, "numbers": pointer, "i": I64, "n": I64}
        arguments |= dict.fromkeys(names, ir.PointerType(self.real, GLOBAL))
        function, emitter = _function(module, layout.dtype, "body", arguments)
        acc, numbers, i, n, *arrays = function.args
        b = emitter.builder

        def accumulate(k: int, value: ir.Value) -> None:
            at = self._at(emitter, acc, k)
            b.store(b.fadd(b.load(at), value), at)

        def sinks(first: ir.Value, count: Callable[[int], int], members: int = 1) -> list[_ThreadSink]:
            held = [_Numbers(emitter, b.gep(pointer, [b.mul(first, ir.Constant(I64, width))]), count(width))
                    for pointer, width in zip(arrays, layout.widths, strict=True)]
            return [_ThreadSink(emitter, layout, numbers, held, member, accumulate) for member in range(members)]

        def write(sink: _ThreadSink) -> None:
            emit_rows(emitter, layout.tape, sink, layout.columns, layout.stored_rows)

        unroll = ir.Constant(I64, self.plan.unroll)
        if self.plan.unroll > 1:
            with b.if_else(b.icmp_signed("<=", b.add(i, unroll), n), likely=True) as (whole, rest):
                with whole:
                    members = sinks(i, lambda width: VECTOR_BYTES // layout.dtype.itemsize, self.plan.unroll)
                    for member in members:          # all that is read is under way before any of it is used
                        member.prefetch()
                    for member in members:
                        write(member)
                with rest, counting(b, b.sub(n, i)) as k:
                    write(*sinks(b.add(i, k), lambda width: 1))
        else:
            # A lane past the end repeats the last example, so that what it stores is there already, and adds zero.
            exists = b.icmp_signed("<", i, n)
            (one,) = sinks(b.select(exists, i, b.sub(n, ir.Constant(I64, 1))), layout.vector)
            group = iter(range(self.groups))
            transposed = TransposedSum(emitter, Warp(emitter), lambda value: accumulate(next(group), value))

            def add(place: int, value: ir.Value) -> None:
                value = b.select(exists, value, emitter.constant(0.0))
                if self.plan.private:
                    accumulate(place, value)
                else:
                    transposed.push(value)
            one.add = add
            write(one)
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
