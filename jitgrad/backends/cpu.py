"""The CPU backend: numba shells, bodies emitted as LLVM vectors, chunks of the batch on a thread pool."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from jitgrad.compiler import schedule
from jitgrad.compiler.emit import I32, I64, Emitter, emit_rows
from jitgrad.compiler.graph import OPS
from jitgrad.compiler.program import Program
from jitgrad.compiler.tape import Tape
from jitgrad.kernels import cpu_batch

Array = npt.NDArray[Any]

# Below this many scalar operations a thread costs more to wake than it saves.
PARALLEL_WORK = 200_000


class _TileSink:
    """A body's inputs and results on the CPU: packed tiles, and one vector of partial sums for each reduced row."""

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
    real = Emitter(ir.IRBuilder(), program.dtype, plan.lanes, "cpu").real
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [real.as_pointer()] * 4 + [I64] * 2), "jitgrad_body")
    function.linkage = "internal"
    function.attributes.add("alwaysinline")
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


def _hole(arity: int, pointers: dict[int, ir.Type], function_of: Callable[[ir.Module], ir.Function]) -> Any:
    """A numba intrinsic of `arity` int64 arguments calling an emitted function; `pointers` are passed as addresses."""
    def typing(typingctx: Any, *args: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
            callee = function_of(builder.module)
            given = [builder.inttoptr(v, pointers[k]) if k in pointers else v for k, v in enumerate(values)]
            builder.call(callee, given)
            return context.get_dummy_value()
        return types.void(*[types.int64] * arity), codegen
    # numba reads an intrinsic's arity off its signature.
    names = ", ".join(f"a{k}" for k in range(arity))
    scope: dict[str, Any] = {"typing": typing}
    exec(f"def hole(typingctx, {names}): return typing(typingctx, {names})", scope)
    return intrinsic(scope["hole"])


# The interpreter's operation codes: every elementwise operation of the table, in the table's order.
ELEMENTWISE = [op for op in OPS.values() if op.arity and not op.variadic]
CODE = {op: code for code, op in enumerate(ELEMENTWISE)} | {OPS["sum"]: -1, OPS["take"]: -2}


def interpreter_step(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> ir.Function:
    """`void step(code, rows, operands, lo, hi, tile)`: one elementwise instruction, a loop nest for each operation."""
    real = Emitter(ir.IRBuilder(), dtype, lanes, "cpu").real
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, real.as_pointer(), I32.as_pointer(), I64, I64,
                                                                   I64]), "jitgrad_step")
    function.linkage = "internal"
    code, rows, operands, lo, hi, tile = function.args
    entry, leave = function.append_basic_block("entry"), function.append_basic_block("leave")
    builder = ir.IRBuilder(entry)
    width = builder.sub(hi, lo)
    switch = builder.switch(code, leave)
    for op in ELEMENTWISE:
        block = function.append_basic_block(op.name)
        switch.add_case(CODE[op], block)
        builder.position_at_end(block)
        emitter = Emitter(builder, dtype, lanes, "cpu")
        with cgutils.for_range(builder, width, intp=I64) as loop:
            bases = []
            for k in range(op.arity):
                at = builder.add(builder.mul(width, ir.Constant(I64, k)), loop.index)
                bases.append(builder.mul(builder.sext(builder.load(builder.gep(operands, [at])), I64), tile))
            out = builder.mul(builder.add(lo, loop.index), tile)
            with cgutils.for_range_slice(builder, ir.Constant(I64, 0), tile, ir.Constant(I64, lanes), intp=I64) as (k, _):
                args = [emitter.load(rows, builder.add(base, k)) for base in bases]
                emitter.store(emitter.apply(op, args), rows, builder.add(out, k))
        builder.branch(leave)
    builder.position_at_end(leave)
    builder.ret_void()
    return function


@cache
def _interpreter(dtype: np.dtype[Any], lanes: int) -> Any:
    real = Emitter(ir.IRBuilder(), dtype, lanes, "cpu").real
    step = _hole(6, {1: real.as_pointer(), 2: I32.as_pointer()},
                 lambda module: _once(module, "jitgrad_step", lambda: interpreter_step(module, dtype, lanes)))
    return cpu_batch.tape_shell(step, dtype, lanes)


def _once(module: ir.Module, name: str, make: Callable[[], ir.Function]) -> ir.Function:
    return module.globals[name] if name in module.globals else make()


def encode(tape: Tape) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """The tape as the interpreter reads it: a line (code, lo, hi, operands at, uniform) each, and all operands."""
    lines, parts, at = [], [], 0
    for i in tape.instructions:
        lines.append((CODE[i.op], i.lo, i.hi, at, i.uniform))
        mine = list(i.args)
        if i.segments is not None:
            first = at + sum(len(a) for a in i.args) + len(i.segments.start)
            mine += [i.segments.start + np.int32(first), i.segments.elements]
        parts += mine
        at += sum(len(a) for a in mine)
    operands = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    return np.array(lines, np.int64).reshape(-1, 5), operands.astype(np.int32)


_LOCK = threading.RLock()                   # numba compiles one function at a time
_POOL: ThreadPoolExecutor | None = None


def _pool() -> ThreadPoolExecutor:
    global _POOL
    with _LOCK:
        if _POOL is None:
            _POOL = ThreadPoolExecutor(_threads(), thread_name_prefix="jitgrad")
        return _POOL


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class CpuKernel:
    """A program on the CPU; compiled by its first call, for any batch size."""

    def __init__(self, program: Program):
        self.program = program
        tape, _ = program.rolled
        self.plan = schedule.for_cpu(tape, program.dtype)
        places = [program.leaf_of(tape.inputs[r]) for r in np.flatnonzero(~tape.shared).tolist()]
        number = {leaf.first: k for k, leaf in enumerate(program.batched)}
        self._in_array = np.array([number[leaf.first] for leaf, _ in places], np.int64)
        self._in_element = np.array([element for _, element in places], np.int64)
        self._out_widths = np.array([len(r) for r in program.example_outputs], np.int64)
        self._out_array = np.repeat(np.arange(len(self._out_widths)), self._out_widths)
        self._out_element = np.concatenate([np.arange(w) for w in self._out_widths.tolist()] or [np.zeros(0, np.int64)])
        self._sum_rows = program.reduced_rows.astype(np.int64)

    @cached_property
    def _run(self) -> Any:
        with _LOCK:
            if not self.plan.fused:
                return self._bind_interpreter()
            real = Emitter(ir.IRBuilder(), self.program.dtype, self.plan.lanes, "cpu").real.as_pointer()
            body = _hole(6, dict.fromkeys(range(4), real), lambda module: _once(
                module, "jitgrad_body", lambda: fused_body(module, self.program, self.plan)))
            return cpu_batch.fused_shell(body, self.program.dtype, self.plan.lanes, self.plan.tile)

    def _bind_interpreter(self) -> Callable[..., None]:
        tape, dtype = self.program.rolled[0], self.program.dtype
        run = _interpreter(dtype, self.plan.lanes)
        table, operands = encode(tape)
        shared = _shared_slots(tape, self.program)
        rest = (tape.size, np.flatnonzero(~tape.shared),
                np.array([r for rows in self.program.example_outputs for r in rows.tolist()], np.int64),
                self._sum_rows, np.array(list(tape.constants), np.int64),
                np.array(list(tape.constants.values()), np.float64).astype(dtype),
                np.array(list(shared), np.int64), np.array(list(shared.values()), np.int64), table, operands)

        def bound(*args: Any) -> None:
            lo, hi = args[-3], args[-2]
            lanes = self.plan.lanes
            run(*args, min(self.plan.tile, lanes * -(-(hi - lo) // lanes)), *rest)
        return bound

    def __call__(self, shared: Array, batched: list[Array], n: int) -> list[Array]:
        program, dtype = self.program, self.program.dtype
        ranges = schedule.chunks(n, self.plan.tile)
        sums = np.zeros((len(ranges), len(self._sum_rows)))
        results = [np.empty((n, int(w)), dtype) for w in self._out_widths]
        addresses = np.array([a.ctypes.data for a in batched], np.int64)
        widths = np.array([leaf.width for leaf in program.batched], np.int64)
        out_addresses = np.array([a.ctypes.data for a in results], np.int64)

        def work(k: int) -> None:
            self._run(shared, addresses, widths, self._in_array, self._in_element, out_addresses, self._out_widths,
                      self._out_array, self._out_element, *ranges[k], sums[k])

        work(0)                             # compiles, if this is the first call
        if len(ranges) > 1 and n * program.rolled[0].operations() > PARALLEL_WORK:
            list(_pool().map(work, range(1, len(ranges))))
        else:
            for k in range(1, len(ranges)):
                work(k)
        return program.collect(sums.sum(axis=0), results)

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
            with _LOCK:
                shell = self._run if self.plan.fused else _interpreter(self.program.dtype, self.plan.lanes)
            if not shell.signatures:
                self(np.zeros(self.program.shared_size, self.program.dtype),
                     [np.zeros((1, leaf.width), self.program.dtype) for leaf in self.program.batched], 1)
            return "\n".join(shell.inspect_asm().values())
        return None
