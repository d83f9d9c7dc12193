"""Tape → LLVM for CUDA: what fills the holes of the shells in kernels/cuda_batch.py.

A thread is an example, or a few neighbouring ones; of a light body it moves their numbers 16 bytes at a time. Sums over
the batch are the warp's, over a board in shared memory (`batch_sums`); shared numbers lie in the block's shared memory, in
the order of their use, and are loaded where they are used, since registers are dear and that memory is near. The
arithmetic itself is the emitter's, as on the CPU.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from jitgrad.compiler.batch_sums import VECTOR_BYTES, WARP, BatchSums, Phase, board_stride
from jitgrad.compiler.emit import FLOAT, I32, I64, Emitter, counting, emit_rows
from jitgrad.compiler.emit_board import Board
from jitgrad.compiler.emit_warp import TransposedSum, Warp, load_anew, two_sum
from jitgrad.compiler.graph import OPS
from jitgrad.compiler.products import single_use_products
from jitgrad.compiler.program import Program
from jitgrad.compiler.schedule import CudaSchedule

GLOBAL = 1                         # NVVM's address space of device memory


class Layout:
    """Where a program's numbers lie on the device: which inputs are shared, in which array and column the others are.

    shared: row -> place in the program's vector of shared numbers; batched: row -> (array, column); stored: (array, column)
    of each per-example result; columns: the rows summed over the batch; column_of: which of them each reduced result is.
    """

    def __init__(self, program: Program):
        tape, _ = program.rolled
        self.program, self.tape, self.dtype = program, tape, program.dtype
        number = {leaf.first: k for k, leaf in enumerate(program.batched)}
        self.shared: dict[int, int] = {}
        self.batched: dict[int, tuple[int, int]] = {}
        for row, slot in enumerate(tape.inputs):
            leaf, element = program.leaf_of(slot)
            if leaf.shared:
                self.shared[row] = program.shared_offset[leaf.first] + element
            else:
                self.batched[row] = number[leaf.first], element
        self.in_widths = [leaf.width for leaf in program.batched]
        self.out_widths = [len(rows) for rows in program.example_outputs]
        self.widths = [*self.in_widths, *self.out_widths]
        self.stored = [(k, e) for k, width in enumerate(self.out_widths) for e in range(width)]
        self.stored_rows = [row for rows in program.example_outputs for row in rows.tolist()]
        # A row that is several results at once is summed once. Rows in tape order, which is backpropagation's own: what
        # the last layer's gradient needs is done with before the first layer's is begun, and few numbers are alive.
        columns, self.column_of = np.unique(program.reduced_rows, return_inverse=True)
        self.columns: list[int] = columns.tolist()

    @cached_property
    def sums(self) -> BatchSums:
        """How a straight line adds up the columns."""
        return BatchSums(self.tape, self.columns, self.stored_rows, self.dtype.itemsize)

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


class _InOrder:
    """Shared numbers laid out in the order of their use, as often as they are used, and loaded 16 bytes at a time.

    rows: what lies where. A body that reads a matrix by rows and then by columns finds both lying side by side.
    """

    def __init__(self, emitter: Emitter, numbers: ir.Value):
        self.emitter, self.numbers, self.count = emitter, numbers, VECTOR_BYTES // emitter.dtype.itemsize
        self.rows: list[int] = []
        self._vector: ir.Value = None                      # the numbers loaded last

    def load(self, row: int) -> ir.Value:
        """One number, in every lane of the emitter."""
        b, rows = self.emitter.builder, self.rows
        start = (len(rows) - 1) // self.count * self.count if rows else 0
        if row in rows[start:]:
            place = rows.index(row, start)
        else:
            place = len(rows)
            rows.append(row)
            if place % self.count == 0:
                # Volatile, or the compiler would load each number once and run out of registers keeping them all.
                self._vector = load_anew(b, _wide(self.emitter, self.numbers, place, self.count), VECTOR_BYTES)
        return self.emitter.splat(b.extract_element(self._vector, ir.Constant(I32, place % self.count)))


Cell = Callable[[int, int, int], tuple["_Numbers", int]]


class _ThreadSink:
    """A body's inputs and results on CUDA, of as many examples as the emitter has lanes.

    cell(array, column, member): the numbers in device memory where that column of that example is, and its place there;
    add(place, value): what becomes of a number that is summed over the batch.
    """

    def __init__(self, emitter: Emitter, layout: Layout, numbers: _InOrder, cell: Cell,
                 add: Callable[[int, ir.Value], None]):
        self.emitter, self.layout, self.numbers, self.cell, self.add = emitter, layout, numbers, cell, add
        self.anew = layout.shared

    def prefetch(self) -> None:
        """Load every batched input now."""
        for row in self.layout.batched:
            self.load(row)

    def load(self, row: int) -> ir.Value:
        if row in self.layout.shared:
            return self.numbers.load(row)
        array, column = self.layout.batched[row]
        cells = [self.cell(array, column, member) for member in range(self.emitter.lanes)]
        return joined(self.emitter, [held.load(k) for held, k in cells])

    def store(self, place: int, value: ir.Value) -> None:
        array, column = self.layout.stored[place]
        for member, one in enumerate(separate(self.emitter, self.emitter.number(value))):
            held, k = self.cell(array + len(self.layout.in_widths), column, member)
            held.store(k, one)

    def reduce(self, place: int, value: ir.Value) -> None:
        self.add(place, self.emitter.number(value))


def joined(emitter: Emitter, values: Sequence[ir.Value]) -> ir.Value:
    """One number a lane."""
    if emitter.lanes == 1:
        return values[0]
    vector = ir.Constant(emitter.wide(values[0].type), ir.Undefined)
    for lane, one in enumerate(values):
        vector = emitter.builder.insert_element(vector, one, ir.Constant(I32, lane))
    return vector


def separate(emitter: Emitter, value: ir.Value) -> list[ir.Value]:
    """The number of each lane."""
    if emitter.lanes == 1:
        return [value]
    return [emitter.builder.extract_element(value, ir.Constant(I32, lane)) for lane in range(emitter.lanes)]


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
        self._unstored: dict[int, list[ir.Value]] = defaultdict(lambda: [None] * count)
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
        """Number k, with its neighbours once all are there."""
        b, at = self.emitter.builder, k - k % self.count
        waiting = self._unstored[at]
        waiting[k - at] = value
        if None in waiting:
            return
        stored = value
        if self.count > 1:
            stored = ir.Constant(ir.VectorType(self.emitter.real, self.count), ir.Undefined)
            for place, one in enumerate(waiting):
                stored = b.insert_element(stored, one, ir.Constant(I32, place))
        b.store(stored, self._address(at), align=self._align)


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

    slots: accumulators a thread has; columns: sums that a warp's lanes keep; board: numbers of a warp's board.
    """

    def __init__(self, layout: Layout, plan: CudaSchedule):
        self.layout, self.plan, self.sums = layout, plan, layout.sums
        self.real = FLOAT[layout.dtype.name]
        self.slots, self.columns = max(1, self.sums.slots), max(1, self.sums.groups) * WARP
        self.board = self.sums.board_rows * board_stride(plan.unroll, layout.dtype.itemsize)

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """Which of the `columns` each reduced result is."""
        places: npt.NDArray[np.int64] = self.sums.place[self.layout.column_of]
        return places

    @property
    def boards(self) -> int:
        """Numbers of the boards of a block's warps."""
        return max(VECTOR_BYTES, self.board * self.plan.block // WARP)

    @property
    def room(self) -> int:
        """Room for `numbers`, which are loaded as whole vectors."""
        return max(1, -(-len(self.numbers) // 4)) * 4

    @cached_property
    def numbers(self) -> npt.NDArray[np.int64]:
        """Where each of the numbers that the body reads stands in the program's vector of shared numbers."""
        return np.array([self.layout.shared[row] for row in self.rows], np.int64)

    @cached_property
    def rows(self) -> list[int]:
        """The shared rows in the order in which the body reads them."""
        return self._emit_body(ir.Module("rehearsal"))[1]

    @cached_property
    def _joined(self) -> set[int]:
        """Products that the sums of derivatives alone read: these have no order to keep, nor roundings."""
        layout, tape = self.layout, self.layout.tape
        if tape.derivatives is None:
            return set()
        single, _ = single_use_products(tape, np.array([*layout.columns, *layout.stored_rows], np.int32))
        return {row for i in tape.instructions[tape.derivatives:] if i.op is OPS["sum"] and i.segments is not None
                for row in i.segments.elements[single[i.segments.elements]].tolist()}

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
        """`void body(acc, board, numbers, i, n, arrays…)`: a thread's `unroll` examples from i on, start to end.

        board: the boards of the block's warps, one after the other; numbers: those of `self.numbers`. Both and every
        array begin at a multiple of 16 bytes.
        """
        return self._emit_body(module)[0]

    def _emit_body(self, module: ir.Module) -> tuple[ir.Function, list[int]]:
        layout, pointer, unroll = self.layout, self.real.as_pointer(), self.plan.unroll
        names = [f"input{k}" for k in range(len(layout.in_widths))]
        names += [f"output{k}" for k in range(len(layout.out_widths))]
        arguments = {"acc": pointer, "board": pointer, "numbers": pointer, "i": I64, "n": I64}
        arguments |= dict.fromkeys(names, ir.PointerType(self.real, GLOBAL))
        function, one = _function(module, layout.dtype, "body", arguments)
        acc, board, numbers, i, n, *arrays = function.args
        b, emitter = one.builder, Emitter(one.builder, layout.dtype, unroll, "cuda")

        def held(first: ir.Value, count: Callable[[int], int]) -> list[_Numbers]:
            return [_Numbers(emitter, b.gep(array, [b.mul(first, ir.Constant(I64, width))]), count(width))
                    for array, width in zip(arrays, layout.widths, strict=True)]

        if self.plan.light:
            with b.if_else(b.icmp_signed("<=", b.add(i, ir.Constant(I64, unroll)), n), likely=True) as (whole, rest):
                with whole:
                    whole_vectors = held(i, lambda width: VECTOR_BYTES // layout.dtype.itemsize)
                    rows = self._light(one, numbers, whole_vectors, acc, unroll)
                with rest, counting(b, b.sub(n, i)) as k:
                    self._light(one, numbers, held(b.add(i, k), lambda width: 1), acc, 1)
        else:
            exists = [b.icmp_signed("<", b.add(i, ir.Constant(I64, member)), n) for member in range(unroll)]
            last = b.sub(n, ir.Constant(I64, 1))
            # One past the end repeats the last example, so that what it stores is there already, and adds zero.
            members = [held(b.select(is_there, b.add(i, ir.Constant(I64, member)), last), layout.vector)
                       for member, is_there in enumerate(exists)]
            rows = self._heavy(emitter, numbers, members, exists, acc, board)
        b.ret_void()
        return function, rows

    def _accumulate(self, emitter: Emitter, acc: ir.Value, k: int, value: ir.Value) -> None:
        """Into accumulator k, one lane's number after the other."""
        b, at = emitter.builder, self._at(emitter, acc, k)
        for member in separate(emitter, value):
            b.store(b.fadd(b.load(at), member), at)

    def _light(self, emitter: Emitter, numbers: ir.Value, held: list[_Numbers], acc: ir.Value, members: int) -> list[int]:
        """Neighbouring examples, which all exist, one after the other; each result is summed by the thread itself."""
        layout, widths = self.layout, self.layout.widths

        def sink(member: int) -> _ThreadSink:
            return _ThreadSink(emitter, layout, _InOrder(emitter, numbers),
                               lambda array, column, _: (held[array], member * widths[array] + column),
                               lambda place, value: self._accumulate(emitter, acc, place, value))
        sinks = [sink(member) for member in range(members)]
        for one in sinks:                           # all that is read is under way before any of it is used
            one.prefetch()
        for one in sinks:
            emit_rows(emitter, layout.tape, one, self._rows(self.sums.private), layout.stored_rows, self._joined)
        return sinks[0].numbers.rows

    def _heavy(self, emitter: Emitter, numbers: ir.Value, held: list[list[_Numbers]], exists: list[ir.Value], acc: ir.Value,
               board: ir.Value) -> list[int]:
        """Examples held[member], of which those that `exists` count; sums by the thread itself or over the board."""
        layout, sums, b, warp = self.layout, self.sums, emitter.builder, Warp(emitter)
        there, zero = joined(emitter, exists), emitter.constant(0.0)
        own = b.gep(board, [b.mul(warp.number, ir.Constant(I32, self.board))])
        shown = Board(emitter, warp, own, emitter.lanes)
        reduced, phase_of = self._rows(sums.private), dict[int, tuple[Phase, int]]()
        for phase in sums.phases:
            for at, row in enumerate(phase.board):
                phase_of[len(reduced)] = phase, at
                reduced.append(row)

        def add(place: int, value: ir.Value) -> None:
            if place not in phase_of:
                self._accumulate(emitter, acc, place, b.select(there, value, zero))
                return
            phase, at = phase_of[place]
            shown.write(at, value)
            if at + 1 == len(phase.board):
                shown.clear(len(phase.board), exists)
                warp.meet()
                for job in phase.jobs:
                    shown.add(job, lambda slot: self._at(emitter, acc, slot))
                warp.meet()
        sink = _ThreadSink(emitter, layout, _InOrder(emitter, numbers),
                           lambda array, column, member: (held[member][array], column), add)
        emit_rows(emitter, layout.tape, sink, reduced, layout.stored_rows, self._joined)
        return sink.numbers.rows

    def _rows(self, columns: Sequence[int]) -> list[int]:
        return [self.layout.columns[k] for k in columns]

    def fold(self, module: ir.Module) -> ir.Function:
        """`void fold(acc, tiles, first)`: the warp's sums, from tiles[first] on, += acc, compensated; acc = 0."""
        pointer = self.real.as_pointer()
        function, emitter = _function(module, self.layout.dtype, "fold",
                                      {"acc": pointer, "tiles": pointer, "first": I64})
        acc, tiles, first = function.args
        b, warp, pieces, sums = emitter.builder, Warp(emitter), self.layout.pieces, self.sums
        mine = b.gep(tiles, [b.add(first, b.zext(warp.lane, I64))])
        group, zero = iter(range(sums.groups)), emitter.constant(0.0)

        def deliver(value: ir.Value) -> None:
            at = next(group) * WARP
            places = [self._at(emitter, mine, at + piece * self.columns) for piece in range(pieces)]
            total, error = two_sum(b, b.load(places[0]), value)
            b.store(total, places[0])
            if pieces == 2:
                b.store(b.fadd(b.load(places[1]), error), places[1])

        jobs = sorted((job for phase in sums.phases for job in phase.jobs), key=lambda job: job.group)
        # The lanes that have parts of the same sum: for what each thread adds up itself, all of them.
        shared = [(len(sums.private), WARP), *((job.slots, job.share) for job in jobs)]
        slot = iter(range(self.slots))
        for slots, lanes in shared:
            transposed = TransposedSum(emitter, warp, deliver, range(6 - lanes.bit_length(), 5))
            for k in itertools.islice(slot, slots):
                place = self._at(emitter, acc, k)
                transposed.push(b.load(place))
                b.store(zero, place)
            transposed.finish()
        b.ret_void()
        return function
