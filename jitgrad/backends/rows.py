"""The CPU backend for programs without a batch (recorded graphs): nothing is compiled for the program itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from jitgrad.backends.cpu import Words, address, lines
from jitgrad.backends.native import Native, shell
from jitgrad.compiler import schedule
from jitgrad.compiler.emit import FLOAT, I32, I64, Emitter, counting, emit_switch
from jitgrad.compiler.graph import Op
from jitgrad.compiler.program import Program, Results
from jitgrad.compiler.rows import tabulate_rows
from jitgrad.kernels import moves, place, rows

Array = npt.NDArray[Any]

_INTERPRETER = {place.ROW_STEP: "row_step", place.ROW_SUMS: "row_sums", place.ROW_PRODUCTS: "row_products",
                place.ROW_TAKES: "takes"}


def row_step(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void row_step(code, v, operands, lo, n, unused)`: n rows by the elementwise operation of that code."""
    kinds = [I64, FLOAT[dtype.name].as_pointer(), I32.as_pointer(), I64, I64, I64]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "jitgrad_row_step")
    code, v, operands, lo, n, _ = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emitter = Emitter(builder, dtype, lanes, "cpu")
    whole = ir.Constant(I64, lanes)
    padded = builder.mul(builder.sdiv(builder.add(n, ir.Constant(I64, lanes - 1)), whole), whole)

    def step(op: Op) -> None:
        with counting(builder, n, lanes) as j:
            args = []
            for k in range(op.arity):
                at = builder.add(builder.mul(padded, ir.Constant(I64, k)), j)
                vector = ir.Constant(emitter.type, ir.Undefined)
                for lane in range(lanes):
                    row = builder.load(builder.gep(operands, [builder.add(at, ir.Constant(I64, lane))]))
                    number = builder.load(builder.gep(v, [builder.sext(row, I64)]))
                    vector = builder.insert_element(vector, number, ir.Constant(I32, lane))
                args.append(vector)
            emitter.store(emitter.apply(op, args), v, builder.add(lo, j))
    emit_switch(emitter, code, step)
    builder.ret_void()


def interpreter(dtype: np.dtype[Any], lanes: int) -> ir.Module:
    """Everything the shell calls, for all programs of a dtype."""
    module = ir.Module("jitgrad_rows")
    row_step(module, dtype, lanes)
    rows.row_sums(module, dtype, lanes, "jitgrad_row_sums", products=False)
    rows.row_sums(module, dtype, lanes, "jitgrad_row_products", products=True)
    moves.takes(module, dtype, lanes)
    return module


@cache
def _code(dtype: np.dtype[Any], lanes: int) -> Native:
    return Native(interpreter(dtype, lanes))


class RowsKernel:
    """A program without a batch on the CPU."""

    def __init__(self, program: Program):
        self.program = program
        self.lanes = schedule.VECTOR_BYTES // program.dtype.itemsize

    @cached_property
    def _tables(self) -> tuple[Words, Array, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The shell's table, V with its constants, and the places of inputs among the shared numbers and of results."""
        program, dtype = self.program, self.program.dtype
        tape, _ = program.rolled
        tables = tabulate_rows(tape, program.reduced_rows, self.lanes)
        places = [program.leaf_of(slot) for slot in tape.inputs]
        inputs = [program.shared_offset[leaf.first] + element for leaf, element in places]
        v = np.zeros(tables.size, dtype)
        v[tables.constants] = tables.values
        code = _code(dtype, self.lanes)
        table = np.zeros(place.ROW_PLACES, np.int64)
        for at, name in _INTERPRETER.items():
            table[at] = code.address(f"jitgrad_{name}")
        self._kept = (tables.operands, lines(tables.lines))
        table[place.ROW_OPERANDS], table[place.ROW_LINES] = address(self._kept[0]), address(self._kept[1])
        table[place.ROW_LINE_COUNT] = len(tables.lines)
        return table, v, np.array(inputs, np.int64), tables.results.astype(np.int64)

    def __call__(self, shared: Array, batched: list[Array], n: int, out: Sequence[Array | None] = ()) -> Results:
        template, constants, inputs, results = self._tables
        table, v = template.copy(), constants.copy()
        v[:len(inputs)] = shared[inputs]
        table[place.V] = address(v)
        shell("run_rows")(address(table))
        return Results(v[results].astype(np.float64), [])

    def as_text(self, form: str) -> str | None:
        """"llvm" and "asm" of the interpreter, which is the same for all programs of a dtype."""
        if form == "llvm":
            return str(interpreter(self.program.dtype, self.lanes))
        return _code(self.program.dtype, self.lanes).assembly() if form == "asm" else None
