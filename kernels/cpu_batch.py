"""Batch loops on the CPU: tiles of examples, packed feature-major, machine code called by address, sums in a fixed order.

Examples are the lanes of SIMD vectors. A shell is given chunks of the batch, chunk c being examples bounds[c] to
bounds[c + 1], and walks each in tiles of T: it brings the tile's inputs into rows of T neighbouring examples, runs the
program's machine code over them, adds the tile's contribution to the chunk's float64 sums, and takes per-example results
out. The order of every sum depends on `bounds` alone.

A shell's one argument is the address of a table of 64-bit integers (kernels/place.py names the places): sizes, addresses of
numbers, and addresses of machine code. So shells know no dtype and are compiled once for all programs, ahead of time:
`python -m jitgrad.kernels.ahead` turns the functions here into kernels/cpu_batch.ll.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from jitgrad.kernels import place


def _word_pointer(builder: Any, address: Any, k: Any) -> Any:
    return builder.gep(builder.inttoptr(address, ir.IntType(64).as_pointer()), [k])


@intrinsic
def word(typingctx: Any, address: Any, k: Any) -> Any:
    """The k-th 64-bit integer at an address."""
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_word_pointer(builder, *args))
    return types.int64(types.int64, types.int64), codegen


@intrinsic
def put(typingctx: Any, address: Any, k: Any, number: Any) -> Any:
    """Make `number` the k-th 64-bit integer at an address."""
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _word_pointer(builder, *args[:2]))
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def run(typingctx: Any, address: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
    """Call the machine code at `address` with six integers (addresses among them)."""
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [integer] * 6)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()
    return types.void(*[types.int64] * 7), codegen


@register_jitable
def bring_inputs(call: int, first: int, count: int, sources: int, direct: bool) -> None:
    """Bring a tile's inputs into rows, examples first to first + count.

    A move is (array, byte of its first number, numbers from example to example, columns, first row). Where `sources` is a
    table, it is told where each row lies; a column of neighbouring numbers may then stay where it is, if `direct`. A body
    that FETCHES knows where rows lie that were brought together, and is told where the next tile's will come from.
    """
    size = word(call, place.SIZE)
    row_bytes = word(call, place.TILE) * size
    for m in range(word(call, place.MOVE_COUNT)):
        move = word(call, place.MOVES) + place.LINE * m
        stride, columns, row = word(move, 2), word(move, 3), word(move, 4)
        source = word(word(call, place.ARRAYS), word(move, 0)) + word(move, 1) + first * stride * size
        target = word(call, place.ROWS) + row * row_bytes
        if direct and stride == 1:
            put(sources, row, source)
            continue
        if columns == 1:
            run(word(call, place.GATHER), target, source, stride, count, 0, 0)
        else:
            run(word(call, place.TRANSPOSE), target, source, stride, count, word(call, place.TILE), columns)
        if columns > 1 and word(call, place.FETCHES) == 1:
            put(sources, row, source + count * stride * size)
        elif sources != 0:
            for c in range(columns):
                put(sources, row + c, target + c * row_bytes)


@register_jitable
def result(call: int, move: int, first: int) -> int:
    """Where the per-example results of a move begin for example `first`."""
    size = word(call, place.SIZE)
    return word(word(call, place.RESULTS), word(move, 0)) + word(move, 1) + first * word(move, 2) * size


@register_jitable
def take_out(call: int, move: int, first: int, count: int) -> None:
    """Write rows of per-example results where they belong."""
    size, tile = word(call, place.SIZE), word(call, place.TILE)
    stride, columns = word(move, 2), word(move, 3)
    rows, target = word(call, place.ROWS) + word(move, 4) * tile * size, result(call, move, first)
    if columns == 1:
        streams = word(call, place.STREAMING) == 1 and stride == 1
        run(word(call, place.STREAM) if streams else word(call, place.SCATTER), rows, target, stride, count, 0, 0)
    else:
        run(word(call, place.TRANSPOSE_BACK), rows, target, stride, count, tile, columns)


def run_body(call: int) -> None:
    """The shell around a straight-line body.

    BODY(shared, inputs, outputs, partial, count, rows): addresses of the shared numbers, of a table with the address of
    each column's numbers for this tile, of another for the per-example results, of the lane-wise partial sums, and of the
    tile's rows. A column of neighbouring numbers is read and written where it is, unless the tile ends within a vector or
    results are to bypass the caches. A body that FETCHES is told where rows will go together.
    """
    lanes, tile = word(call, place.LANES), word(call, place.TILE)
    sources, targets = word(call, place.SOURCES), word(call, place.TARGETS)
    bounds, sums, sum_count = word(call, place.BOUNDS), word(call, place.SUMS), word(call, place.SUM_COUNT)
    row_bytes = tile * word(call, place.SIZE)
    for chunk in range(word(call, place.FIRST_CHUNK), word(call, place.LAST_CHUNK)):
        waiting = 0
        first, stop = word(bounds, chunk), word(bounds, chunk + 1)
        while first < stop:
            count = min(tile, stop - first)
            whole = count % lanes == 0
            written = whole and word(call, place.STREAMING) == 0
            bring_inputs(call, first, count, sources, whole)
            c = 0
            for m in range(word(call, place.OUT_COUNT)):
                move = word(call, place.OUTS) + place.LINE * m
                if written and word(move, 2) == 1:
                    put(targets, c, result(call, move, first))
                    c += 1
                elif word(call, place.FETCHES) == 1 and word(move, 3) > 1:
                    put(targets, c, result(call, move, first))
                    c += word(move, 3)
                else:
                    for j in range(word(move, 3)):
                        put(targets, c, word(call, place.ROWS) + (word(move, 4) + j) * row_bytes)
                        c += 1
            run(word(call, place.BODY), word(call, place.SHARED), sources, targets, word(call, place.PARTIAL), count,
                word(call, place.ROWS))
            for m in range(word(call, place.OUT_COUNT)):
                move = word(call, place.OUTS) + place.LINE * m
                if not (written and word(move, 2) == 1):
                    take_out(call, move, first, count)
            first += tile
            waiting += count
            if waiting >= word(call, place.FLUSH_AFTER) or first >= stop:
                run(word(call, place.FLUSH), word(call, place.PARTIAL), sums + 8 * chunk * sum_count, sum_count, 0, 0, 0)
                waiting = 0


@register_jitable
def run_line(call: int, v: int, line: int, tile: int) -> None:
    """One line of a table over rows of `tile` numbers.

    (operation, lo, hi, operands at, length): an elementwise operation's code; -1 a sum over a list, -2 a take from one;
    -3 a block of dot products with shared factors in w, -4 one dot product of two lists of `length` rows; -5 a take from a
    list of shared numbers in w.
    """
    kind, lo, hi, at, length = word(line, 0), word(line, 1), word(line, 2), word(line, 3), word(line, 4)
    operands = word(call, place.OPERANDS)
    if kind >= 0:
        run(word(call, place.STEP), kind, v, operands + 4 * at, lo, hi, tile)
    elif kind == -1:
        run(word(call, place.SUM_LISTS), v, operands, at, lo, hi - lo, tile)
    elif kind == -2:
        run(word(call, place.TAKES), v, operands, at, lo, hi - lo, tile)
    elif kind == -3:
        dot = word(call, place.DOT_ONE) if hi - lo == 1 else word(call, place.DOT_BLOCK)
        run(dot, v, word(call, place.W), operands + 4 * at, lo, length, tile)
    elif kind == -5:
        run(word(call, place.GATHERS), v, word(call, place.W), operands + 4 * at, lo, hi - lo, tile)
    else:
        run(word(call, place.PAIR), v, word(call, place.W), operands + 4 * at, lo, length, tile)


def run_tape(call: int) -> None:
    """The shell that interprets a tape, as jitgrad/compiler/products.py tabulates it.

    W holds one number for each row that all examples share, the constants among them already; the lines ONCE compute
    the others. ROWS holds a tile's rows. A reduction (rows, n, operands at) is a block of a weight gradient, with
    rows = 0 a sum of plain rows, with rows = -1 one of a row that goes to the sum its index names; they add to the
    chunk's sums themselves.
    """
    tile, size, w, v = word(call, place.TILE), word(call, place.SIZE), word(call, place.W), word(call, place.ROWS)
    bounds, sums, sum_count = word(call, place.BOUNDS), word(call, place.SUMS), word(call, place.SUM_COUNT)
    operands = word(call, place.OPERANDS)
    run(word(call, place.PICK), w + word(call, place.SHARED_AT) * size, word(call, place.SHARED),
        word(call, place.SHARED_SLOTS), word(call, place.SHARED_COUNT), 0, 0)
    for t in range(word(call, place.ONCE_COUNT)):
        run_line(call, w, word(call, place.ONCE) + place.LINE * t, 1)
    for j in range(word(call, place.SPREAD_COUNT)):
        spread = word(call, place.SPREADS) + place.LINE * j
        run(word(call, place.FILL), v + word(spread, 0) * tile * size, w + word(spread, 1) * size, tile, 0, 0, 0)
    for chunk in range(word(call, place.FIRST_CHUNK), word(call, place.LAST_CHUNK)):
        first, stop = word(bounds, chunk), word(bounds, chunk + 1)
        while first < stop:
            count = min(tile, stop - first)
            bring_inputs(call, first, count, 0, False)
            for t in range(word(call, place.LINE_COUNT)):
                run_line(call, v, word(call, place.LINES) + place.LINE * t, tile)
            for t in range(word(call, place.REDUCTION_COUNT)):
                line = word(call, place.REDUCTIONS) + place.LINE * t
                rows = word(line, 0)
                kernel = (place.SCATTER_SUMS if rows < 0 else place.SUM_ROWS if rows == 0 else
                          place.OUTER_ONE if rows == 1 else place.OUTER_BLOCK)
                run(word(call, kernel), v, operands + 4 * word(line, 2), sums + 8 * chunk * sum_count, word(line, 1), tile,
                    count)
            for m in range(word(call, place.OUT_COUNT)):
                take_out(call, word(call, place.OUTS) + place.LINE * m, first, count)
            first += tile


def run_steps(steps: int) -> None:
    """Training: for each step the loss and gradient of a batch, shortened if need be, then the update of the parameters.

    STATUS is (the step's loss, why to stop): the step of a loss or of parameters that are not finite, or of examples
    that failed a check, changes nothing, and DONE says how many steps there were before it.
    """
    call, status, sums = word(steps, place.CALL), word(steps, place.STATUS), word(steps, place.STEP_SUMS)
    sum_count, parameters = word(call, place.SUM_COUNT), word(steps, place.PARAMETERS)
    for s in range(word(steps, place.STEP_COUNT)):
        line = word(steps, place.STEP_LINES) + place.LINE * s
        first, last = word(line, 0), word(line, 1)
        put(call, place.FIRST_CHUNK, first)
        put(call, place.LAST_CHUNK, last)
        put(call, place.TILE, word(line, 2))
        put(call, place.SUMS, sums - 8 * first * sum_count)
        run(word(steps, place.RUN), call, 0, 0, 0, 0, 0)
        run(word(steps, place.SETTLE), sums, last - first, sum_count, word(line, 3), status, word(steps, place.GRADIENT))
        put(word(steps, place.LOSSES), s, word(status, 0))
        if word(status, 1) != 0:
            return
        if word(steps, place.CLIP) != 0:
            run(word(steps, place.CLIP), word(steps, place.GRADIENT), parameters, word(steps, place.NORM), 0, 0, 0)
        run(word(steps, place.UPDATE), word(steps, place.SCALARS) + s * word(steps, place.SCALAR_BYTES),
            word(steps, place.INPUTS), word(steps, place.OUTPUTS), word(steps, place.UPDATED), parameters, 0)
        run(word(steps, place.FINITE), word(steps, place.NEW), status, parameters, 0, 0, 0)
        if word(status, 1) != 0:
            return
        for c in range(word(steps, place.COPY_COUNT)):
            copy = word(steps, place.COPIES) + place.LINE * c
            run(word(steps, place.COPY), word(copy, 0), word(copy, 1), word(copy, 2), 0, 0, 0)
        put(steps, place.DONE, s + 1)


SHELLS = (run_body, run_tape, run_steps)
