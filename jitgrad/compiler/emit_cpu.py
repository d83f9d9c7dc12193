"""Program → CPU code: a straight-line body over a tile of examples, or one instruction of an interpreter.

Examples are the lanes of LLVM vectors. What moves numbers and adds them up comes from kernels/.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from jitgrad.compiler import schedule
from jitgrad.compiler.emit import FLOAT, I32, I64, Emitter, counting, emit_rows, emit_step
from jitgrad.compiler.graph import OPS
from jitgrad.compiler.program import Program
from jitgrad.compiler.tape import Tape
from jitgrad.kernels import dense, moves, steps, vector_math


class TileSink:
    """A body's inputs and results on the CPU: columns of a tile, and one vector of partial sums a reduced row."""

    anew = ()

    def __init__(self, emitter: Emitter, tape: Tape, program: Program, args: tuple[ir.Value, ...]):
        self.emitter = emitter
        self.shared, self.inputs, self.outputs, self.partial, count, self.k = args
        self.shared_place = shared_slots(tape, program)
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

    def reduce(self, place: int | ir.Value, value: ir.Value) -> None:
        emitter = self.emitter
        lanes = ir.Constant(I64, emitter.lanes)
        at = emitter.builder.mul(place, lanes) if isinstance(place, ir.Value) else ir.Constant(I64, place * emitter.lanes)
        kept = emitter.builder.select(self.exists, emitter.number(value), emitter.constant(0.0))
        emitter.store(emitter.apply(OPS["add"], [emitter.load(self.partial, at), kept]), self.partial, at)

    def store(self, place: int, value: ir.Value) -> None:
        self.emitter.store(value, self._column(self.outputs, place), self.k)


def shared_slots(tape: Tape, program: Program) -> dict[int, int]:
    """For each shared input row, its place in the vector of shared scalars."""
    rows = np.flatnonzero(tape.shared)
    slots = np.array(tape.inputs, np.int64)[rows]
    return dict(zip(rows.tolist(), program.shared_places(slots).tolist(), strict=True)) if len(rows) else {}


def fused_body(module: ir.Module, program: Program, plan: schedule.CpuSchedule) -> ir.Function:
    """`void jitgrad_body(shared, inputs, outputs, partial, count, rows)`: a tile, vector by vector.

    inputs and outputs are tables of addresses, one a column (see kernels/cpu_batch.py).
    """
    tape, _ = program.rolled
    real, table = FLOAT[program.dtype.name].as_pointer(), I64.as_pointer()
    kinds = [real, table, table, real, I64, I64]
    one = make_function(module, "jitgrad_vector", kinds, ("shared", "inputs", "outputs", "partial", "count", "k"))
    one.linkage = "internal"
    # Inlined into the loop, partial sums stay in registers. A large body would only lose: its shared numbers, hoisted
    # out of the loop as whole vectors, no longer fit the first-level cache.
    small = schedule.is_inlined(tape)
    one.attributes.add("alwaysinline" if small else "noinline")
    builder = ir.IRBuilder(one.append_basic_block("entry"))
    emitter = Emitter(builder, program.dtype, plan.lanes, "cpu")
    sink = TileSink(emitter, tape, program, one.args)
    examples = [r for rows in program.example_outputs for r in rows.tolist()]
    emit_rows(emitter, tape, sink, program.reduced_rows.tolist(), examples)
    builder.ret_void()
    for function in module.functions:
        if function.name.startswith(vector_math.PREFIX):
            # A call costs a few per cent; a hundred copies of tanh cost the compiler seconds.
            function.attributes.add("alwaysinline" if small else "noinline")

    body = make_function(module, "jitgrad_body", kinds, ("shared", "inputs", "outputs", "partial", "count", "rows"))
    builder = ir.IRBuilder(body.append_basic_block("entry"))
    *same, _ = body.args
    with counting(builder, body.args[4], plan.lanes) as k:
        builder.call(one, [*same, k])
    builder.ret_void()
    return body


def make_function(module: ir.Module, name: str, kinds: list[ir.Type], names: tuple[str, ...]) -> ir.Function:
    """A function without a result, whose pointers are to memory of their own."""
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


def movement(dtype: np.dtype[Any], lanes: int) -> ir.Module:
    """What every shell calls, for all programs of a dtype: moving numbers, and adding up lanes."""
    module = ir.Module("jitgrad")
    for kernel in (moves.gather, moves.transpose, moves.scatter, moves.stream, moves.transpose_back):
        kernel(module, dtype, lanes)
    dense.flush(module, dtype, lanes, "jitgrad_flush")
    return module


def interpreter(dtype: np.dtype[Any], lanes: int) -> ir.Module:
    """What the tape shell calls besides, for all programs of a dtype."""
    module = ir.Module("jitgrad")
    interpreter_step(module, dtype, lanes)
    dense.dot(module, dtype, lanes, "jitgrad_dot_one", 1)
    dense.dot(module, dtype, lanes, "jitgrad_dot_block", dense.ROWS)
    dense.pair(module, dtype, lanes, "jitgrad_pair")
    dense.outer(module, dtype, lanes, "jitgrad_outer_one", 1)
    dense.outer(module, dtype, lanes, "jitgrad_outer_block", dense.ROWS)
    dense.sum_rows(module, dtype, lanes, "jitgrad_sum_rows")
    for kernel in (moves.fill, moves.pick, moves.sum_lists, moves.takes, moves.gathers, moves.scatter_sums):
        kernel(module, dtype, lanes)
    return module


def training(dtype: np.dtype[Any], lanes: int) -> ir.Module:
    """What the shell of training steps calls besides, for all programs of a dtype."""
    module = ir.Module("jitgrad")
    for kernel in (steps.settle, steps.clip, steps.finite, steps.copy):
        kernel(module, dtype, lanes)
    return module
