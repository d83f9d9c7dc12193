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


PACKED = 16                         # examples gathered at a time


def _compile(function: Any) -> Any:
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return nb.njit(cache=True, **options)(function)
    except RuntimeError:                # nowhere to write: neither beside this file nor in the user's cache folder
        return nb.njit(**options)(function)


@_compile
def pack(tile: Any, rows: Any, columns: Any, first: int, count: int, strided_only: bool) -> None:
    """Gather tile[rows[c], k] = column c at example first + k, a few examples of all columns at a time.

    So what one array holds of these examples is read while it is in the first-level cache.
    """
    for start in range(0, count, PACKED):
        stop = min(start + PACKED, count)
        for c in range(rows.size):
            stride, row = columns[c, 1], tile[rows[c]]
            if strided_only and stride == 1:
                continue
            source = nb.carray(_pointer(columns[c, 0], tile), ((first + count) * stride,))
            for k in range(start, stop):
                row[k] = source[(first + k) * stride]


@_compile
def unpack(row: Any, column: Any, first: int, count: int) -> None:
    """Scatter `row` to examples first to first + count of a column."""
    stride = column[1]
    target = nb.carray(_pointer(column[0], row), ((first + count) * stride,))
    for k in range(count):
        target[(first + k) * stride] = row[k]


# Places of addresses in `code`: what adds up lanes (kernels/dense.py), then the body, or the interpreter's kernels.
FLUSH, BODY, STREAM = 0, 1, 2
STEP, DOT_ONE, DOT_BLOCK, PAIR, OUTER_ONE, OUTER_BLOCK, SUM_ROWS = range(1, 8)

# Lane-wise partial sums go to float64 after about this many examples: 64 additions a lane in float32.
FLUSH_EXAMPLES = 1024


@_compile
def run_body(code: Any, lanes: int, tile: int, shared: Any, in_columns: Any, out_columns: Any, bounds: Any,
             sums: Any, streaming: bool) -> None:
    """The shell around a straight-line body.

    code[BODY](shared, inputs, outputs, partial, count, 0): addresses of the shared numbers, of a table with the address of
    each column's numbers for this tile, of another for the per-example results, and of the lane-wise partial sums. A
    column of neighbouring numbers is read and written where it is, unless the tile ends within a vector. When
    `streaming`, every result is such a column, aligned to vectors, and code[STREAM] is used for whole tiles.
    """
    in_rows = np.arange(in_columns.shape[0])
    inputs = np.empty((in_rows.size, tile), shared.dtype)
    outputs = np.empty((out_columns.shape[0], tile), shared.dtype)
    partial = np.zeros(sums.shape[1] * lanes, shared.dtype)
    size = shared.itemsize
    sources, targets = np.empty(in_columns.shape[0], np.int64), np.empty(out_columns.shape[0], np.int64)
    for chunk in range(sums.shape[0]):
        for first in range(bounds[chunk], bounds[chunk + 1], tile):
            count = min(tile, bounds[chunk + 1] - first)
            whole = count % lanes == 0
            pack(inputs, in_rows, in_columns, first, count, whole)
            for c in range(sources.size):
                direct = whole and in_columns[c, 1] == 1
                sources[c] = in_columns[c, 0] + first * size if direct else inputs[c].ctypes.data
            for c in range(targets.size):
                direct = whole and out_columns[c, 1] == 1
                targets[c] = out_columns[c, 0] + first * size if direct else outputs[c].ctypes.data
            body = code[STREAM] if streaming and whole else code[BODY]
            _call(body, shared.ctypes.data, sources.ctypes.data, targets.ctypes.data, partial.ctypes.data, count, 0)
            _call(code[FLUSH], partial.ctypes.data, sums[chunk].ctypes.data, sums.shape[1], 0, 0, 0)
            for c in range(targets.size):
                if not (whole and out_columns[c, 1] == 1):
                    unpack(outputs[c], out_columns[c], first, count)


@_compile
def run_line(code: Any, v: Any, w: Any, line: Any, operands: Any) -> None:
    """One line of a table over the rows of `v`.

    (operation, lo, hi, operands at, length): an elementwise operation's code; -1 a sum over a list, -2 a take from one;
    -3 a block of dot products with shared factors in `w`, -4 one dot product of two lists of `length` rows.
    """
    kind, lo, hi, at, length = line[0], line[1], line[2], line[3], line[4]
    tile = v.shape[1]
    if kind >= 0:
        _call(code[STEP], kind, v.ctypes.data, operands.ctypes.data + 4 * at, lo, hi, tile)
    elif kind == -3:
        _call(code[DOT_ONE] if hi - lo == 1 else code[DOT_BLOCK], v.ctypes.data, w.ctypes.data,
              operands.ctypes.data + 4 * at, lo, length, tile)
    elif kind == -4:
        _call(code[PAIR], v.ctypes.data, w.ctypes.data, operands.ctypes.data + 4 * at, lo, length, tile)
    elif kind == -1:
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
def run_tape(code: Any, lanes: int, tile: int, shared: Any, in_columns: Any, out_columns: Any, bounds: Any, sums: Any,
             scratch: Any, v_size: int, w_size: int, in_rows: Any, out_rows: Any, constants: Any, constant_values: Any,
             shared_rows: Any, spread: Any, once: Any, lines: Any, reductions: Any, operands: Any) -> None:
    """The shell that interprets a tape, as jitgrad/compiler/products.py tabulates it.

    `w` (w_size, lanes) holds what all examples share, computed once by the lines `once`; `v` (v_size, tile) a tile's
    rows; both lie in `scratch`, the partial sums behind them. A reduction (rows, n, operands at) is a block of a weight
    gradient, or with rows = 0 a sum of plain rows.
    """
    w = scratch[:w_size * lanes].reshape((w_size, lanes))
    v = scratch[w_size * lanes:w_size * lanes + v_size * tile].reshape((v_size, tile))
    partial = scratch[w_size * lanes + v_size * tile:][:sums.shape[1] * lanes]
    partial[:] = 0
    for j in range(constants.size):
        w[constants[j], :] = constant_values[j]
    for j in range(shared_rows.shape[0]):
        w[shared_rows[j, 0], :] = shared[shared_rows[j, 1]]
    for t in range(once.shape[0]):
        run_line(code, w, w, once[t], operands)
    for j in range(spread.shape[0]):
        v[spread[j, 0], :] = w[spread[j, 1], 0]
    for chunk in range(sums.shape[0]):
        waiting = 0
        for first in range(bounds[chunk], bounds[chunk + 1], tile):
            count = min(tile, bounds[chunk + 1] - first)
            pack(v, in_rows, in_columns, first, count, False)
            for t in range(lines.shape[0]):
                run_line(code, v, w, lines[t], operands)
            for t in range(reductions.shape[0]):
                rows, n, at = reductions[t, 0], reductions[t, 1], reductions[t, 2]
                kernel = code[SUM_ROWS] if rows == 0 else code[OUTER_ONE] if rows == 1 else code[OUTER_BLOCK]
                _call(kernel, v.ctypes.data, operands.ctypes.data + 4 * at, partial.ctypes.data, n, tile, count)
            waiting += count
            if waiting >= FLUSH_EXAMPLES or first + count == bounds[chunk + 1]:
                _call(code[FLUSH], partial.ctypes.data, sums[chunk].ctypes.data, sums.shape[1], 0, 0, 0)
                waiting = 0
            for c in range(out_rows.size):
                unpack(v[out_rows[c]], out_columns[c], first, count)


# Places of addresses in `code` for a program without a batch (kernels/rows.py).
ROW_STEP, ROW_SUMS, ROW_PRODUCTS = range(3)


@_compile
def run_rows(code: Any, lanes: int, shared: Any, size: int, constants: Any, constant_values: Any, inputs: Any,
             lines: Any, operands: Any, results: Any) -> Any:
    """The shell of a program without a batch: every number once, an instruction's rows side by side.

    A line is (operation, lo, rows, operands at, length), as jitgrad/compiler/rows.py tabulates them: an elementwise
    operation's code, -1 sums, -2 takes, -3 sums of products. Returns the numbers of the rows `results`.
    """
    v = np.zeros(size, shared.dtype)
    for j in range(constants.size):
        v[constants[j]] = constant_values[j]
    for j in range(inputs.size):
        v[j] = shared[inputs[j]]
    for t in range(lines.shape[0]):
        kind, lo, n, at, length = lines[t, 0], lines[t, 1], lines[t, 2], lines[t, 3], lines[t, 4]
        place = operands.ctypes.data + 4 * at
        if kind >= 0:
            _call(code[ROW_STEP], kind, v.ctypes.data, place, lo, n, 0)
        elif kind == -2:
            for j in range(n):
                first, last, index = operands[at + j], operands[at + j + 1], v[operands[at + n + 1 + j]]
                inside = index >= 0 and index < last - first
                v[lo + j] = v[operands[first + np.int64(index)]] if inside else np.nan
        else:
            _call(code[ROW_SUMS] if kind == -1 else code[ROW_PRODUCTS], v.ctypes.data, place, lo, n, length, 0)
    found = np.empty(results.size, np.float64)
    for j in range(results.size):
        found[j] = v[results[j]]
    return found
