"""The CPU backend: numba shells, bodies emitted as LLVM vectors, chunks of the batch on a thread pool."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from jitgrad.backends.native import Native
from jitgrad.compiler import schedule
from jitgrad.compiler.emit import FLOAT, I32, I64, Emitter, counting, emit_rows, emit_step, encode
from jitgrad.compiler.graph import OPS
from jitgrad.compiler.program import Program, Results
from jitgrad.compiler.tape import Tape
from jitgrad.kernels import cpu_batch

Array = npt.NDArray[Any]

# Below this many scalar operations a thread costs more to wake than it saves.
PARALLEL_WORK = 200_000


class _TileSink:
    """A body's inputs and results on the CPU: packed tiles, and one vector of partial sums for each reduced row."""

    anew = ()

    def __init__(self, emitter: Emitter, tape: Tape, program: Program, tile: int, args: tuple[ir.Value, ...]):
        self.emitter, self.tile = emitter, tile
        self.shared, self.inputs, self.outputs, self.partial, self.k, count = args
        self.shared_place = _shared_slots(tape, program)
        self.column = {row: c for c, row in enumerate(np.flatnonzero(~tape.shared).tolist())}
        b = emitter.builder
        lanes = ir.Constant(ir.VectorType(I64, emitter.lanes), list(range(emitter.lanes)))
        wide = emitter.splat
        self.exists = b.icmp_signed("<", b.add(wide(self.k), lanes), wide(count))

    def _at(self, row: int) -> ir.Value:
        return self.emitter.builder.add(ir.Constant(I64, row * self.tile), self.k)

    def load(self, row: int) -> ir.Value:
        emitter = self.emitter
        if row in self.shared_place:
            at = ir.Constant(I64, self.shared_place[row])
            return emitter.splat(emitter.builder.load(emitter.builder.gep(self.shared, [at])))
        return emitter.load(self.inputs, self._at(self.column[row]))

    def reduce(self, place: int, value: ir.Value) -> None:
        emitter, at = self.emitter, ir.Constant(I64, place * self.emitter.lanes)
        kept = emitter.builder.select(self.exists, emitter.number(value), emitter.constant(0.0))
        emitter.store(emitter.apply(OPS["add"], [emitter.load(self.partial, at), kept]), self.partial, at)

    def store(self, place: int, value: ir.Value) -> None:
        self.emitter.store(value, self.outputs, self._at(place))


def _shared_slots(tape: Tape, program: Program) -> dict[int, int]:
    """For each shared input row, its place in the vector of shared scalars."""
    places = {}
    for row in np.flatnonzero(tape.shared).tolist():
        leaf, element = program.leaf_of(tape.inputs[row])
        places[row] = program.shared_offset[leaf.first] + element
    return places


def fused_body(module: ir.Module, program: Program, plan: schedule.CpuSchedule) -> ir.Function:
    """`void body(shared, inputs, outputs, partial, k, count)`: one vector of examples, start to end."""
    tape, _ = program.rolled
    pointer = FLOAT[program.dtype.name].as_pointer()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 4 + [I64] * 2), "jitgrad_body")
    for argument, name in zip(function.args, ("shared", "inputs", "outputs", "partial", "k", "count"), strict=True):
        argument.name = name
        if argument.type != I64:
            argument.add_attribute("noalias")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emitter = Emitter(builder, program.dtype, plan.lanes, "cpu")
    sink = _TileSink(emitter, tape, program, plan.tile, function.args)
    examples = [r for rows in program.example_outputs for r in rows.tolist()]
    emit_rows(emitter, tape, sink, program.reduced_rows.tolist(), examples)
    builder.ret_void()
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
    module = ir.Module("jitgrad")
    interpreter_step(module, dtype, lanes)
    return Native(module)


_LOCK = threading.RLock()
_POOL: ThreadPoolExecutor | None = None


def _pool() -> ThreadPoolExecutor:
    global _POOL
    with _LOCK:
        if _POOL is None:
            _POOL = ThreadPoolExecutor(_threads(), thread_name_prefix="jitgrad")
        return _POOL


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


class CpuKernel:
    """A program on the CPU; compiled by its first call, for any batch size."""

    def __init__(self, program: Program):
        self.program = program
        tape, _ = program.rolled
        self.plan = schedule.for_cpu(tape, program.dtype)
        places = [program.leaf_of(tape.inputs[r]) for r in np.flatnonzero(~tape.shared).tolist()]
        number = {leaf.first: k for k, leaf in enumerate(program.batched)}
        self._inputs = _Columns([number[leaf.first] for leaf, _ in places], [element for _, element in places],
                                [leaf.width for leaf, _ in places], program.dtype)
        self._out_widths = [len(rows) for rows in program.example_outputs]
        columns = [(k, element, width) for k, width in enumerate(self._out_widths) for element in range(width)]
        self._outputs = _Columns(*([c[j] for c in columns] for j in range(3)), program.dtype)
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
            return Native(module)

    @cached_property
    def _address(self) -> int:
        return self._code.address("jitgrad_body" if self.plan.fused else "jitgrad_step")

    @cached_property
    def _tape_arguments(self) -> tuple[Any, ...]:
        tape, dtype = self.program.rolled[0], self.program.dtype
        shared = _shared_slots(tape, self.program)
        out_rows = [r for rows in self.program.example_outputs for r in rows.tolist()]
        return (tape.size, np.flatnonzero(~tape.shared), np.array(out_rows, np.int64), self._sum_rows,
                np.array(list(tape.constants), np.int64), np.array(list(tape.constants.values()), dtype),
                np.array(list(shared), np.int64), np.array(list(shared.values()), np.int64), *encode(tape))

    def __call__(self, shared: Array, batched: list[Array], n: int) -> Results:
        program, fused, lanes, tile = self.program, self.plan.fused, self.plan.lanes, self.plan.tile
        results = [np.empty((n, width), program.dtype) for width in self._out_widths]
        columns = (self._inputs.at(batched), self._outputs.at(results))
        ranges = schedule.chunks(n, tile)
        sums = np.zeros((len(ranges), len(self._sum_rows)))

        def work(k: int) -> None:
            lo, hi = ranges[k]
            if fused:
                cpu_batch.run_body(self._address, lanes, tile, shared, *columns, lo, hi, sums[k])
            else:
                short = min(tile, lanes * -(-(hi - lo) // lanes))
                cpu_batch.run_tape(self._address, lanes, short, shared, *columns, lo, hi, sums[k], *self._tape_arguments)

        work(0)                             # numba compiles the shell here, if this is the first call of all
        if len(ranges) == 1:
            return Results(sums[0], results)
        if n * self._operations > PARALLEL_WORK:
            list(_pool().map(work, range(1, len(ranges))))
        else:
            for k in range(1, len(ranges)):
                work(k)
        return Results(sums.sum(axis=0), results)

    def as_text(self, form: str) -> str | None:
        """"llvm": the emitted body (or the interpreter's step); "asm": the machine's code, compiling if need be."""
        if form == "llvm":
            module = ir.Module("jitgrad")
            if self.plan.fused:
                fused_body(module, self.program, self.plan)
            else:
                interpreter_step(module, self.program.dtype, self.plan.lanes)
            return str(module)
        if form == "asm":
            return self._code.assembly()
        return None
