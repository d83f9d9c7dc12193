"""The CPU backend for programs without a batch (recorded graphs): nothing is compiled for the program itself."""

from __future__ import annotations

import ctypes
import threading
from functools import cache, cached_property
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
from llvmlite import ir

from jitgrad.backends.native import Native
from jitgrad.compiler import schedule
from jitgrad.compiler.emit import FLOAT, I64, Emitter, counting, emit_switch
from jitgrad.compiler.graph import Op
from jitgrad.compiler.program import Program, Results
from jitgrad.compiler.rows import RowTables, tabulate_rows
from jitgrad.kernels import rows

Array = npt.NDArray[Any]


def row_step(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> ir.Function:
    """`void row_step(code, v, out, n, a, b, c)`: v[out:] = the elementwise operation of that code on v[a:], v[b:], v[c:]."""
    kinds = [I64, FLOAT[dtype.name].as_pointer(), *[I64] * 5]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "jitgrad_row_step")
    function.linkage = "internal"
    code, v, out, n, *places = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emitter = Emitter(builder, dtype, lanes, "cpu")

    def step(op: Op) -> None:
        with counting(builder, n, lanes) as j:
            args = [emitter.load(v, builder.add(place, j)) for place in places[:op.arity]]
            emitter.store(emitter.apply(op, args), v, builder.add(out, j))
    emit_switch(emitter, code, step)
    builder.ret_void()
    return function


def interpreter(dtype: np.dtype[Any], lanes: int) -> ir.Module:
    """The machine for all programs of a dtype."""
    module = ir.Module("jitgrad_rows")
    rows.machine(module, dtype, lanes, row_step(module, dtype, lanes))
    return module


@cache
def _code(dtype: np.dtype[Any], lanes: int) -> tuple[Native, Any]:
    llvm.initialize_native_target()                         # numba, which would have done so, need not be loaded for this
    llvm.initialize_native_asmprinter()
    native = Native(interpreter(dtype, lanes))
    return native, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(native.address("jitgrad_rows"))


class _Call(threading.local):
    """What one thread's calls work on: its rows, and the table of arguments."""

    def __init__(self, kernel: RowsKernel):
        t, dtype = kernel.tables, kernel.program.dtype
        self.v = np.zeros(t.size, dtype)
        for place, count, value in t.constants:
            self.v[place:place + count] = value
        self.table = np.zeros(rows.RESULT_COUNT + 1, np.int64)
        for word, array in ((rows.V, self.v), (rows.INPUTS, kernel.inputs), (rows.LINES, t.lines),
                            (rows.OPERANDS, t.operands), (rows.RESULTS, t.results)):
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

    def __call__(self, shared: Array, batched: list[Array], n: int) -> Results:
        call, found = self._call, np.empty(len(self.tables.results))
        call.table[rows.SHARED] = shared.ctypes.data
        call.table[rows.FOUND] = found.ctypes.data
        _code(self.program.dtype, self.lanes)[1](call.address)
        return Results(found, [])

    def as_text(self, form: str) -> str | None:
        """"llvm" and "asm" of the machine, which is the same for all programs of a dtype."""
        if form == "llvm":
            return str(interpreter(self.program.dtype, self.lanes))
        return _code(self.program.dtype, self.lanes)[0].assembly() if form == "asm" else None
