"""Batch loops on the CPU: tiles of examples, packed feature-major, a body with one hole, sums in a fixed order.

Examples are the lanes of SIMD vectors. A shell walks examples `lo` to `hi` in tiles of T: it packs the tile's inputs as
rows of T neighbouring examples, runs the hole over it, adds the tile's contribution to float64 sums, and unpacks
per-example results. The hole is the address of machine code that was generated for the program, so that the shells
compile once for all programs, and numba keeps them on disk. The order of every sum depends on `lo` and `hi` alone.

A column is one scalar of every example: a line (address of the first example's, stride in numbers). The dtype of all
numbers is that of `shared`.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def _pointer(typingctx: Any, address: Any, sample: Any) -> Any:
    """An integer address as a pointer to numbers of `sample`'s dtype."""
    kind = types.CPointer(sample.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(kind))
    return kind(types.int64, sample), codegen


@intrinsic
def _call(typingctx: Any, address: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
    """Call the machine code at `address` with six integers (addresses among them)."""
    signature = types.void(*[types.int64] * 7)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [word] * 6)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()
    return signature, codegen


def _compile(function: Any) -> Any:
    return nb.njit(nogil=True, error_model="numpy", cache=True)(function)


@_compile
def pack(tile: Any, rows: Any, columns: Any, first: int, count: int) -> None:
    """Gather tile[rows[c], k] = column c at example first + k."""
    for c in range(rows.size):
        stride, row = columns[c, 1], rows[c]
        source = nb.carray(_pointer(columns[c, 0], tile), ((first + count) * stride,))
        if stride == 1:
            for k in range(count):
                tile[row, k] = source[first + k]
        else:
            for k in range(count):
                tile[row, k] = source[(first + k) * stride]


@_compile
def unpack(tile: Any, rows: Any, columns: Any, first: int, count: int) -> None:
    """Column c at example first + k = tile[rows[c], k]."""
    for c in range(rows.size):
        stride, row = columns[c, 1], rows[c]
        target = nb.carray(_pointer(columns[c, 0], tile), ((first + count) * stride,))
        for k in range(count):
            target[(first + k) * stride] = tile[row, k]


@_compile
def add_lanes(partial: Any, lanes: int, sums: Any) -> None:
    """sums[r] += the lanes of partial[r], in order, in float64."""
    for r in range(sums.size):
        total = 0.0
        for lane in range(lanes):
            total += np.float64(partial[r * lanes + lane])
        sums[r] += total


@_compile
def run_body(body: int, lanes: int, tile: int, shared: Any, in_columns: Any, out_columns: Any, lo: int, hi: int,
             sums: Any) -> None:
    """The shell around a straight-line body.

    body(shared, inputs, outputs, partial, k, count): addresses of the shared numbers, the packed inputs (rows of `tile`
    examples), the per-example results (likewise) and the lane-wise partial sums; it handles examples k to k + lanes of
    the tile, of which those below `count` exist.
    """
    in_rows, out_rows = np.arange(in_columns.shape[0]), np.arange(out_columns.shape[0])
    inputs = np.empty((in_rows.size, tile), shared.dtype)
    outputs = np.empty((out_rows.size, tile), shared.dtype)
    partial = np.zeros(sums.size * lanes, shared.dtype)
    for first in range(lo, hi, tile):
        count = min(tile, hi - first)
        pack(inputs, in_rows, in_columns, first, count)
        partial[:] = 0
        for k in range(0, count, lanes):
            _call(body, shared.ctypes.data, inputs.ctypes.data, outputs.ctypes.data, partial.ctypes.data, k, count)
        add_lanes(partial, lanes, sums)
        unpack(outputs, out_rows, out_columns, first, count)


@_compile
def run_instruction(step: int, v: Any, line: Any, operands: Any) -> None:
    """One line of a tape over the tile `v` (rows, examples); code -1 is a sum over a list, -2 a take from one."""
    code, lo, hi, at = line[0], line[1], line[2], line[3]
    tile = v.shape[1]
    if code >= 0:
        _call(step, code, v.ctypes.data, operands.ctypes.data + 4 * at, lo, hi, tile)
    elif code == -1:
        for j in range(hi - lo):
            first, last = operands[at + j], operands[at + j + 1]
            out, source = v[lo + j], v[operands[first]]
            for k in range(tile):
                out[k] = source[k]
            for e in range(first + 1, last):
                source = v[operands[e]]
                for k in range(tile):
                    out[k] += source[k]
    else:
        for j in range(hi - lo):
            index, first, last = v[operands[at + j]], operands[at + hi - lo + j], operands[at + hi - lo + j + 1]
            out = v[lo + j]
            for k in range(tile):
                here = index[k]
                inside = here >= 0 and here < last - first
                out[k] = v[operands[first + np.int64(here)], k] if inside else np.nan


@_compile
def add_rows(v: Any, rows: Any, count: int, lanes: int, sums: Any) -> None:
    """sums[r] += row rows[r] over its first `count` examples: lane by lane, then the lanes in order, in float64."""
    partial = np.empty(lanes, v.dtype)
    whole = count - count % lanes
    for r in range(rows.size):
        row = v[rows[r]]
        partial[:] = 0
        for k in range(0, whole, lanes):
            for lane in range(lanes):
                partial[lane] += row[k + lane]
        for k in range(whole, count):
            partial[k - whole] += row[k]
        total = 0.0
        for lane in range(lanes):
            total += np.float64(partial[lane])
        sums[r] += total


@_compile
def run_tape(step: int, lanes: int, tile: int, shared: Any, in_columns: Any, out_columns: Any, lo: int, hi: int,
             sums: Any, size: int, in_rows: Any, out_rows: Any, sum_rows: Any, constant_rows: Any, constants: Any,
             shared_rows: Any, shared_slots: Any, table: Any, operands: Any) -> None:
    """The shell that interprets a tape.

    step(code, rows, operands, lo, hi, tile): one elementwise instruction over rows lo to hi of `tile` examples, the
    operands' rows read from the address `operands`. `table` has a line (code, lo, hi, operand offset, uniform) for each
    instruction; uniform ones are run once, not once a tile.
    """
    v = np.empty((size, tile), shared.dtype)
    for j in range(constant_rows.size):
        v[constant_rows[j], :] = constants[j]
    for j in range(shared_rows.size):
        v[shared_rows[j], :] = shared[shared_slots[j]]
    for c in range(in_rows.size):
        v[in_rows[c], :] = 0
    for t in range(table.shape[0]):
        if table[t, 4]:
            run_instruction(step, v, table[t], operands)
    for first in range(lo, hi, tile):
        count = min(tile, hi - first)
        pack(v, in_rows, in_columns, first, count)
        for t in range(table.shape[0]):
            if not table[t, 4]:
                run_instruction(step, v, table[t], operands)
        add_rows(v, sum_rows, count, lanes, sums)
        unpack(v, out_rows, out_columns, first, count)
