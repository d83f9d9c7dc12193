"""The CPU backend for programs without a batch (recorded graphs): nothing is compiled for the program itself."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from jitgrad.backends.native import Native, native
from jitgrad.compiler import schedule
from jitgrad.compiler.emit import ELEMENTWISE, FLOAT, I64, Emitter, counting, emit_switch
from jitgrad.compiler.graph import Op, spelling_graph
from jitgrad.compiler.identity import of_table
from jitgrad.compiler.program import Program, Results
from jitgrad.compiler.rows import RowTables, tabulate_rows
from jitgrad.kernels import rows, vector_math

Array = npt.NDArray[Any]


@cache
def _is_elementary(op: Op) -> bool:
    """Whether an operation is made of elementary functions, on which the compiler spends as long as on all else."""
    if callable(op.spelling):
        return any(_is_elementary(n.op) for n in spelling_graph(op).nodes)
    return op.spelling in vector_math.FUNCTIONS


def row_step(module: ir.Module, dtype: np.dtype[Any], lanes: int, ops: list[Op]) -> ir.Function:
    """`void row_step(code, v, out, n, a, b, c)`: v[out:] = the elementwise operation of that code on v[a:], v[b:], v[c:]."""
    kinds = [I64, FLOAT[dtype.name].as_pointer(), *[I64] * 5]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "jitgrad_row_step")
    code, v, out, n, *places = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emitter = Emitter(builder, dtype, lanes, "cpu")

    def step(op: Op) -> None:
        with counting(builder, n, lanes) as j:
            args = [emitter.load(v, builder.add(place, j)) for place in places[:op.arity]]
            emitter.store(emitter.apply(op, args), v, builder.add(out, j))
    emit_switch(emitter, code, step, ops)
    builder.ret_void()
    return function


def interpreter(dtype: np.dtype[Any], lanes: int, elementary: bool) -> ir.Module:
    """The machine for all programs of a dtype, with the elementary functions or without."""
    module = ir.Module("jitgrad_rows")
    rows.machine(module, dtype, lanes,
                 row_step(module, dtype, lanes, [op for op in ELEMENTWISE if elementary or not _is_elementary(op)]))
    for function in module.functions:
        if not function.is_declaration and function.name != "jitgrad_rows":
            # Called a few hundred times a replay; inlined, they only take the compiler longer.
            function.linkage = "internal"
            function.attributes.add("noinline")
    return module


@cache
def _code(dtype: np.dtype[Any], lanes: int, elementary: bool) -> tuple[Native, Any]:
    code = native(partial(interpreter, dtype, lanes, elementary), "rows", dtype.name, f"{lanes} {elementary}", of_table())
    return code, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address("jitgrad_rows"))


class _Call(threading.local):
    """What one thread's calls work on: its rows, and the table of arguments."""

    def __init__(self, kernel: RowsKernel):
        t, dtype = kernel.tables, kernel.program.dtype
        self.v = np.zeros(t.size, dtype)
        for place, count, value in t.constants:
            self.v[place:place + count] = value
        self.shared, self.found = np.zeros(kernel.program.shared_size, dtype), np.zeros(len(t.results))
        self.table = np.zeros(rows.RESULT_COUNT + 1, np.int64)
        arrays = {rows.V: self.v, rows.SHARED: self.shared, rows.FOUND: self.found, rows.INPUTS: kernel.inputs,
                  rows.LINES: t.lines, rows.OPERANDS: t.operands, rows.RESULTS: t.results}
        for word, array in arrays.items():
            self.table[word] = array.ctypes.data
        self.table[[rows.INPUT_COUNT, rows.LINE_COUNT, rows.RESULT_COUNT]] = len(kernel.inputs), len(t.lines), len(t.results)
        self.address = self.table.ctypes.data


class RowsKernel:
    """A program without a batch on the CPU."""

    def __init__(self, program: Program):
        self.program = program
        self.lanes = schedule.VECTOR_BYTES // program.dtype.itemsize

    @cached_property
    def tables(self) -> RowTables:
        """The lines that the machine runs."""
        return tabulate_rows(self.program.rolled[0], self.program.reduced_rows, self.lanes)

    @cached_property
    def inputs(self) -> npt.NDArray[np.int64]:
        """For each row from 0 on, which shared number it holds."""
        slots = np.array(self.program.rolled[0].inputs, np.int64)
        return self.program.shared_places(slots)[self.tables.inputs]

    @cached_property
    def _call(self) -> _Call:
        return _Call(self)

    @cached_property
    def _elementary(self) -> bool:
        return any(_is_elementary(i.op) for i in self.program.rolled[0].instructions)

    @cached_property
    def _machine(self) -> Any:
        return _code(self.program.dtype, self.lanes, self._elementary)[1]

    def __call__(self, shared: Array, batched: list[Array], n: int, out: Sequence[Array | None] = ()) -> Results:
        call = self._call
        call.shared[:] = shared
        self._machine(call.address)
        return Results(call.found.copy(), [])

    def as_text(self, form: str) -> str | None:
        """"llvm" and "asm" of the machine, which is the same for all programs of a dtype with such operations."""
        if form == "llvm":
            return str(interpreter(self.program.dtype, self.lanes, self._elementary))
        return _code(self.program.dtype, self.lanes, self._elementary)[0].assembly() if form == "asm" else None
