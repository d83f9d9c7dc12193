"""The CPU backend: numba shells, bodies emitted as LLVM vectors, chunks of the batch on a thread pool."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from jitgrad.backends.native import Native
from jitgrad.compiler import schedule
from jitgrad.compiler.emit import FLOAT, I32, I64, Emitter, counting, emit_rows, emit_step
from jitgrad.compiler.graph import OPS
from jitgrad.compiler.products import Tables, tabulate
from jitgrad.compiler.program import Program, Results
from jitgrad.compiler.tape import Tape
from jitgrad.kernels import cpu_batch, dense, vector_math

Array = npt.NDArray[Any]

# Below this many scalar operations a thread costs more to wake than it saves.
PARALLEL_WORK = 200_000


class _TileSink:
    """A body's inputs and results on the CPU: columns of a tile, and one vector of partial sums a reduced row."""

    anew = ()

    def __init__(self, emitter: Emitter, tape: Tape, program: Program, streaming: bool, args: tuple[ir.Value, ...]):
        self.emitter, self.streaming = emitter, streaming
        self.shared, self.inputs, self.outputs, self.partial, count, self.k = args
        self.shared_place = _shared_slots(tape, program)
        self.column = {row: c for c, row in enumerate(np.flatnonzero(~tape.shared).tolist())}
        b = emitter.builder
        lanes = ir.Constant(ir.VectorType(I64, emitter.lanes), list(range(emitter.lanes)))
        wide = emitter.splat
        self.exists = b.icmp_signed("<", b.add(wide(self.k), lanes), wide(count))

    def _column(self, table: ir.Value, place: int) -> ir.Value:
        builder = self.emitter.builder
        address = builder.load(builder.gep(table, [ir.Constant(I64, place)]))
        return builder.inttoptr(address, self.emitter.real.as_pointer())

    def load(self, row: int) -> ir.Value:
        emitter = self.emitter
        if row in self.shared_place:
            at = ir.Constant(I64, self.shared_place[row])
            return emitter.splat(emitter.builder.load(emitter.builder.gep(self.shared, [at])))
        return emitter.load(self._column(self.inputs, self.column[row]), self.k)

    def reduce(self, place: int, value: ir.Value) -> None:
        emitter, at = self.emitter, ir.Constant(I64, place * self.emitter.lanes)
        kept = emitter.builder.select(self.exists, emitter.number(value), emitter.constant(0.0))
        emitter.store(emitter.apply(OPS["add"], [emitter.load(self.partial, at), kept]), self.partial, at)

    def store(self, place: int, value: ir.Value) -> None:
        builder, emitter = self.emitter.builder, self.emitter
        stored = emitter.store(value, self._column(self.outputs, place), self.k)
        if self.streaming:
            # Past the caches: the results are too large to be found there again, and are not read to be overwritten.
            stored.align = schedule.VECTOR_BYTES
            stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(I32, 1)]))


def _shared_slots(tape: Tape, program: Program) -> dict[int, int]:
    """For each shared input row, its place in the vector of shared scalars."""
    places = {}
    for row in np.flatnonzero(tape.shared).tolist():
        leaf, element = program.leaf_of(tape.inputs[row])
        places[row] = program.shared_offset[leaf.first] + element
    return places


def fused_body(module: ir.Module, program: Program, plan: schedule.CpuSchedule, streaming: bool = False) -> ir.Function:
    """`void jitgrad_body(shared, inputs, outputs, partial, count, unused)`: a tile, vector by vector.

    inputs and outputs are tables of addresses, one a column (see kernels/cpu_batch.py); streaming: outputs are aligned
    to vectors and bypass the caches.
    """
    tape, _ = program.rolled
    real, table = FLOAT[program.dtype.name].as_pointer(), I64.as_pointer()
    kinds = [real, table, table, real, I64, I64]
    one = _function(module, "jitgrad_vector", kinds, ("shared", "inputs", "outputs", "partial", "count", "k"))
    one.linkage = "internal"
    # Inlined into the loop, partial sums stay in registers. A large body would only lose: its shared numbers, hoisted
    # out of the loop as whole vectors, no longer fit the first-level cache.
    small = tape.operations() <= schedule.INLINED_LIMIT
    one.attributes.add("alwaysinline" if small else "noinline")
    builder = ir.IRBuilder(one.append_basic_block("entry"))
    emitter = Emitter(builder, program.dtype, plan.lanes, "cpu")
    sink = _TileSink(emitter, tape, program, streaming, one.args)
    examples = [r for rows in program.example_outputs for r in rows.tolist()]
    emit_rows(emitter, tape, sink, program.reduced_rows.tolist(), examples)
    builder.ret_void()
    for function in module.functions:
        if function.name.startswith(vector_math.PREFIX):
            # A call costs a few per cent; a hundred copies of tanh cost the compiler seconds.
            function.attributes.add("alwaysinline" if small else "noinline")

    body = _function(module, "jitgrad_body", kinds, ("shared", "inputs", "outputs", "partial", "count", "unused"))
    builder = ir.IRBuilder(body.append_basic_block("entry"))
    *same, _ = body.args
    with counting(builder, body.args[4], plan.lanes) as k:
        builder.call(one, [*same, k])
    builder.ret_void()
    return body


def _function(module: ir.Module, name: str, kinds: list[ir.Type], names: tuple[str, ...]) -> ir.Function:
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    for argument, label in zip(function.args, names, strict=True):
        argument.name = label
        if isinstance(argument.type, ir.PointerType):
            argument.add_attribute("noalias")
    return function


def interpreter_step(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> ir.Function:
    """`void step(code, rows, operands, lo, hi, tile)`: one elementwise instruction over a tile of examples."""
    real = FLOAT[dtype.name]
    kinds = [I64, real.as_pointer(), I32.as_pointer(), I64, I64, I64]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "jitgrad_step")
    code, rows, operands, lo, hi, tile = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emit_step(Emitter(builder, dtype, lanes, "cpu"), rows, operands, code, lo, hi, tile,
              lambda: counting(builder, tile, lanes))
    builder.ret_void()
    return function


@cache
def _interpreter(dtype: np.dtype[Any], lanes: int) -> Native:
    return Native(interpreter(dtype, lanes))


def interpreter(dtype: np.dtype[Any], lanes: int) -> ir.Module:
    """Everything the tape shell calls, for all programs of a dtype."""
    module = ir.Module("jitgrad")
    interpreter_step(module, dtype, lanes)
    dense.dot(module, dtype, lanes, "jitgrad_dot_one", 1)
    dense.dot(module, dtype, lanes, "jitgrad_dot_block", dense.ROWS)
    dense.pair(module, dtype, lanes, "jitgrad_pair")
    dense.outer(module, dtype, lanes, "jitgrad_outer_one", 1)
    dense.outer(module, dtype, lanes, "jitgrad_outer_block", dense.ROWS)
    dense.sum_rows(module, dtype, lanes, "jitgrad_sum_rows")
    dense.flush(module, dtype, lanes, "jitgrad_flush")
    return module


# In the order that kernels/cpu_batch.py numbers them.
BODY = ("flush", "body")
INTERPRETER = ("flush", "step", "dot_one", "dot_block", "pair", "outer_one", "outer_block", "sum_rows")


_LOCK = threading.RLock()
_POOL: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _POOL
    _POOL = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)        # a forked child has none of its parent's threads


def _pool() -> ThreadPoolExecutor:
    global _POOL
    with _LOCK:
        if _POOL is None:
            _POOL = ThreadPoolExecutor(_threads(), thread_name_prefix="jitgrad")
        return _POOL


@cache
def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Columns:
    """Which arrays' columns a shell reads or writes; `at(addresses)` is the table it takes (see kernels/cpu_batch.py)."""

    def __init__(self, array: list[int], element: list[int], stride: list[int], dtype: np.dtype[Any]):
        self._array = np.array(array, np.intp)
        self._table = np.empty((len(array), 2), np.int64)
        self._table[:, 0] = np.array(element, np.int64) * dtype.itemsize
        self._table[:, 1] = stride

    def at(self, arrays: list[Array]) -> npt.NDArray[np.int64]:
        """The columns of these arrays, each (n, width) and contiguous."""
        table = self._table.copy()
        if len(arrays):
            table[:, 0] += np.array([a.__array_interface__["data"][0] for a in arrays], np.int64)[self._array]
        return table


def _empty(n: int, width: int, dtype: np.dtype[Any], aligned: bool) -> Array:
    if not aligned:
        return np.empty((n, width), dtype)
    room = np.empty(n * width + schedule.VECTOR_BYTES // dtype.itemsize, dtype)
    skipped = -room.__array_interface__["data"][0] % schedule.VECTOR_BYTES // dtype.itemsize
    return room[skipped:skipped + n * width].reshape(n, width)


def _lines(rows: Sequence[tuple[int, ...]], width: int) -> npt.NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(-1, width)


class CpuKernel:
    """A program on the CPU; compiled by its first call, for any batch size."""

    def __init__(self, program: Program):
        self.program = program
        tape, _ = program.rolled
        self._tables = None if schedule.is_fused(tape) else self._tabulate()
        self.plan = schedule.for_cpu(program.dtype, None if self._tables is None else self._tables.v_size)
        places = [program.leaf_of(tape.inputs[r]) for r in np.flatnonzero(~tape.shared).tolist()]
        number = {leaf.first: k for k, leaf in enumerate(program.batched)}
        self._inputs = _Columns([number[leaf.first] for leaf, _ in places], [element for _, element in places],
                                [leaf.width for leaf, _ in places], program.dtype)
        self._out_widths = [len(rows) for rows in program.example_outputs]
        columns = [(k, element, width) for k, width in enumerate(self._out_widths) for element in range(width)]
        self._outputs = _Columns([k for k, _, _ in columns], [element for _, element, _ in columns],
                                 [width for _, _, width in columns], program.dtype)
        self._scratch = threading.local()
        self._operations = tape.operations()
        self._sum_rows = program.reduced_rows.astype(np.int64)

    @cached_property
    def _code(self) -> Native:
        """The machine code of the hole."""
        with _LOCK:
            if not self.plan.fused:
                return _interpreter(self.program.dtype, self.plan.lanes)
            module = ir.Module("jitgrad")
            fused_body(module, self.program, self.plan)
            dense.flush(module, self.program.dtype, self.plan.lanes, "jitgrad_flush")
            return Native(module)

    def _thread_scratch(self) -> Array:
        """This thread's memory for a tape's rows, kept from call to call."""
        found: Array | None = getattr(self._scratch, "rows", None)
        if found is None:
            assert self._tables is not None
            size = self._tables.v_size * self.plan.tile + (self._tables.w_size + len(self._sum_rows)) * self.plan.lanes
            found = self._scratch.rows = np.zeros(size, self.program.dtype)
        return found

    def _streams(self, n: int) -> bool:
        """Whether results are too large for the caches, and lie so that whole vectors can be written past them."""
        written = n * sum(self._out_widths) * self.program.dtype.itemsize
        return written >= schedule.STREAMED_BYTES and set(self._out_widths) == {1}

    @cached_property
    def _streaming_code(self) -> Native:
        with _LOCK:
            module = ir.Module("jitgrad")
            fused_body(module, self.program, self.plan, streaming=True)
            return Native(module)

    @cached_property
    def _streaming_address(self) -> Any:
        return np.append(self._address, self._streaming_code.address("jitgrad_body"))

    @cached_property
    def _address(self) -> Any:
        """Where the code is that the shell calls."""
        names = BODY if self.plan.fused else INTERPRETER
        return np.array([self._code.address(f"jitgrad_{name}") for name in names], np.int64)

    def _tabulate(self) -> Tables:
        program = self.program
        examples = np.concatenate([*program.example_outputs, np.zeros(0, np.int32)])
        return tabulate(program.rolled[0], program.reduced_rows, examples.astype(np.int32))

    @cached_property
    def _tape_arguments(self) -> tuple[Any, ...]:
        t, dtype = self._tables, self.program.dtype
        assert t is not None
        slots = _shared_slots(self.program.rolled[0], self.program)
        operands = t.operands
        return (t.v_size, t.w_size, np.array(t.in_rows, np.int64), np.array(t.out_rows, np.int64),
                np.array([row for row, _ in t.constants], np.int64),
                np.array([value for _, value in t.constants], np.float64).astype(dtype),
                _lines([(row, slots[source]) for row, source in t.shared], 2), _lines(t.spread, 2), _lines(t.once, 5),
                _lines(t.lines, 5), _lines(t.reductions, 3), operands)

    def __call__(self, shared: Array, batched: list[Array], n: int) -> Results:
        program, fused, lanes, tile = self.program, self.plan.fused, self.plan.lanes, self.plan.tile
        streaming = fused and self._streams(n)
        results = [_empty(n, width, program.dtype, streaming) for width in self._out_widths]
        columns = (self._inputs.at(batched), self._outputs.at(results))
        address = self._streaming_address if streaming else self._address
        bounds = schedule.chunks(n, tile)
        sums = np.zeros((len(bounds) - 1, len(self._sum_rows)))
        unit = dense.tile_unit(lanes)
        short = min(tile, unit * -(-n // unit))

        def work(lo: int, hi: int) -> None:
            where = (shared, *columns, bounds[lo:hi + 1], sums[lo:hi])
            if fused:
                cpu_batch.run_body(address, lanes, tile, *where, streaming)
            else:
                cpu_batch.run_tape(address, lanes, short, *where, self._thread_scratch(), *self._tape_arguments)

        if len(sums) == 1 or n * self._operations < PARALLEL_WORK or _threads() == 1:
            work(0, len(sums))
        else:
            parts = np.linspace(0, len(sums), min(len(sums), _threads()) + 1).astype(int).tolist()
            others = [_pool().submit(work, lo, hi) for lo, hi in pairwise(parts[1:])]
            work(parts[0], parts[1])                        # this thread need not be woken
            for other in others:
                other.result()
        return Results(sums[0] if len(sums) == 1 else sums.sum(axis=0), results)

    def as_text(self, form: str) -> str | None:
        """"llvm": the emitted body (or the interpreter's step); "asm": the machine's code, compiling if need be."""
        if form == "llvm":
            module = ir.Module("jitgrad")
            if self.plan.fused:
                fused_body(module, self.program, self.plan)
            else:
                module = interpreter(self.program.dtype, self.plan.lanes)
            return str(module)
        if form == "asm":
            return self._code.assembly()
        return None
