"""Batch loops on the CPU: tiles of examples, packed feature-major, a body with one hole, sums in a fixed order.

Examples are the lanes of SIMD vectors. A shell is given chunks of the batch, chunk c being examples bounds[c] to
bounds[c + 1], and walks each in tiles of T: it packs the tile's inputs as rows of T neighbouring examples, runs the hole
over it, adds the tile's contribution to the chunk's float64 sums, and unpacks per-example results. The hole is the
address of machine code that was generated for the program, so that the shells compile once for all programs, and numba
keeps them on disk. The order of every sum depends on `bounds` alone.

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
def pack(row: Any, column: Any, first: int, count: int) -> None:
    """Gather `row` from examples first to first + count of a column."""
    stride = column[1]
    source = nb.carray(_pointer(column[0], row), ((first + count) * stride,))
    if stride == 1:
        for k in range(count):
            row[k] = source[first + k]
    else:
        for k in range(count):
            row[k] = source[(first + k) * stride]


@_compile
def unpack(row: Any, column: Any, first: int, count: int) -> None:
    """Scatter `row` to examples first to first + count of a column."""
    stride = column[1]
    target = nb.carray(_pointer(column[0], row), ((first + count) * stride,))
    for k in range(count):
        target[(first + k) * stride] = row[k]


@_compile
def add_lanes(partial: Any, lanes: int, sums: Any) -> None:
    """sums[r] += the lanes of partial[r], in order, in float64."""
    for r in range(sums.size):
        total = 0.0
        for lane in range(lanes):
            total += np.float64(partial[r * lanes + lane])
        sums[r] += total


@_compile
def run_body(body: int, lanes: int, tile: int, shared: Any, in_columns: Any, out_columns: Any, bounds: Any,
             sums: Any) -> None:
    """The shell around a straight-line body.

    body(shared, inputs, outputs, partial, count, 0): addresses of the shared numbers, of a table with the address of
    each column's numbers for this tile, of another for the per-example results, and of the lane-wise partial sums. A
    column of neighbouring numbers is read and written where it is, unless the tile ends within a vector.
    """
    inputs = np.empty((in_columns.shape[0], tile), shared.dtype)
    outputs = np.empty((out_columns.shape[0], tile), shared.dtype)
    partial = np.zeros(sums.shape[1] * lanes, shared.dtype)
    size = shared.itemsize
    sources, targets = np.empty(in_columns.shape[0], np.int64), np.empty(out_columns.shape[0], np.int64)
    for chunk in range(sums.shape[0]):
        for first in range(bounds[chunk], bounds[chunk + 1], tile):
            count = min(tile, bounds[chunk + 1] - first)
            whole = count % lanes == 0
            for c in range(sources.size):
                if whole and in_columns[c, 1] == 1:
                    sources[c] = in_columns[c, 0] + first * size
                else:
                    pack(inputs[c], in_columns[c], first, count)
                    sources[c] = inputs[c].ctypes.data
            for c in range(targets.size):
                direct = whole and out_columns[c, 1] == 1
                targets[c] = out_columns[c, 0] + first * size if direct else outputs[c].ctypes.data
            partial[:] = 0
            _call(body, shared.ctypes.data, sources.ctypes.data, targets.ctypes.data, partial.ctypes.data, count, 0)
            add_lanes(partial, lanes, sums[chunk])
            for c in range(targets.size):
                if not (whole and out_columns[c, 1] == 1):
                    unpack(outputs[c], out_columns[c], first, count)


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
def run_tape(step: int, lanes: int, tile: int, shared: Any, in_columns: Any, out_columns: Any, bounds: Any, sums: Any,
             size: int, in_rows: Any, out_rows: Any, sum_rows: Any, constant_rows: Any, constants: Any, shared_rows: Any,
             shared_slots: Any, table: Any, operands: Any) -> None:
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
    for chunk in range(sums.shape[0]):
        for first in range(bounds[chunk], bounds[chunk + 1], tile):
            count = min(tile, bounds[chunk + 1] - first)
            for c in range(in_rows.size):
                pack(v[in_rows[c]], in_columns[c], first, count)
            for t in range(table.shape[0]):
                if not table[t, 4]:
                    run_instruction(step, v, table[t], operands)
            add_rows(v, sum_rows, count, lanes, sums[chunk])
            for c in range(out_rows.size):
                unpack(v[out_rows[c]], out_columns[c], first, count)
