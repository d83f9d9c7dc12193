"""Micro-kernels that move numbers: between arrays and rows of neighbouring examples, and between rows.

Addresses and sizes are run-time arguments, so that each compiles once for all programs of a dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from jitgrad.kernels.dense import DOUBLE, I32, Block


def gather(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void gather(row, source, stride, count, …)`: row[k] = source[k · stride] for k < count."""
    k = Block(module, dtype, lanes, "jitgrad_gather", ("row", "source", "stride", "count", "unused1", "unused2"))
    row, source, stride, count, *_ = k.function.args
    b = k.builder
    with k.loop(k.number(0), count, 1) as at:
        b.store(b.load(b.gep(source, [b.mul(at, stride)])), b.gep(row, [at]))
    b.ret_void()


def scatter(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void scatter(row, target, stride, count, …)`: target[k · stride] = row[k] for k < count."""
    k = Block(module, dtype, lanes, "jitgrad_scatter", ("row", "target", "stride", "count", "unused1", "unused2"))
    row, target, stride, count, *_ = k.function.args
    b = k.builder
    with k.loop(k.number(0), count, 1) as at:
        b.store(b.load(b.gep(row, [at])), b.gep(target, [b.mul(at, stride)]))
    b.ret_void()


def stream(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void stream(row, target, unused, count, …)`: target[k] = row[k] for k < count, past the caches.

    What is too large for the caches is not found there again, and need not be read before it is overwritten. Only whole
    vectors where a vector may begin can be written so.
    """
    k = Block(module, dtype, lanes, "jitgrad_stream", ("row", "target", "unused", "count", "unused1", "unused2"))
    row, target, _, count, *_ = k.function.args
    b = k.builder
    size = lanes * k.size
    missing = b.and_(b.sub(k.number(0), b.ptrtoint(target, k.number(0).type)), k.number(size - 1))
    head = b.udiv(missing, k.number(k.size))
    head = b.select(b.icmp_signed("<", head, count), head, count)
    end = b.add(head, b.mul(b.sdiv(b.sub(count, head), k.number(lanes)), k.number(lanes)))
    past = k.builder.module.add_metadata([ir.Constant(I32, 1)])

    def one_by_one(start: ir.Value, stop: ir.Value) -> None:
        with k.loop(start, stop, 1) as at:
            b.store(b.load(b.gep(row, [at])), b.gep(target, [at]))
    one_by_one(k.number(0), head)
    with k.loop(head, end, lanes) as at:
        b.store(k.load(row, at), k.address(target, at), align=size).set_metadata("nontemporal", past)
    one_by_one(end, count)
    b.ret_void()


def transpose(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void transpose(row, source, stride, count, tile, columns)`: row[c · tile + k] = source[k · stride + c].

    For k < count and c < columns. Squares of `lanes` examples by `lanes` numbers are turned in registers; of the last one
    whole vectors are written to the rows.
    """
    k = Block(module, dtype, lanes, "jitgrad_transpose", ("row", "source", "stride", "count", "tile", "columns"))
    row, source, stride, count, tile, columns = k.function.args
    b = k.builder

    def put(numbers: ir.Value, at: ir.Value, c: ir.Value) -> None:
        k.store(numbers, row, b.add(b.mul(tile, c), at))

    def whole(at: ir.Value, c: ir.Value) -> None:
        square = [k.load(source, b.add(b.mul(b.add(at, k.number(j)), stride), c)) for j in range(lanes)]
        for j, numbers in enumerate(_turned(k, square)):
            put(numbers, at, b.add(c, k.number(j)))

    def edge(at: ir.Value, c: ir.Value, width: ir.Value) -> None:
        last = b.sub(count, k.number(1))
        examples = [_least(b, b.add(at, k.number(j)), last) for j in range(lanes)]
        square = [k.load_first(source, b.add(b.mul(example, stride), c), width) for example in examples]
        done = k.function.append_basic_block("done")
        for j, numbers in enumerate(_turned(k, square)):
            put(numbers, at, b.add(c, k.number(j)))
            more = k.function.append_basic_block("more")
            b.cbranch(b.icmp_signed("<", k.number(j + 1), width), more, done)
            b.position_at_end(more)
        b.branch(done)
        b.position_at_end(done)
    _squares(k, count, columns, whole, edge)


def transpose_back(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void transpose_back(row, target, stride, count, tile, columns)`: target[k · stride + c] = row[c · tile + k].

    For k < count and c < columns.
    """
    k = Block(module, dtype, lanes, "jitgrad_transpose_back", ("row", "target", "stride", "count", "tile", "columns"))
    row, target, stride, count, tile, columns = k.function.args
    b = k.builder

    def whole(at: ir.Value, c: ir.Value) -> None:
        square = [k.load(row, b.add(b.mul(tile, b.add(c, k.number(j))), at)) for j in range(lanes)]
        for j, numbers in enumerate(_turned(k, square)):
            k.store(numbers, target, b.add(b.mul(b.add(at, k.number(j)), stride), c))

    def edge(at: ir.Value, c: ir.Value, width: ir.Value) -> None:
        last = b.sub(width, k.number(1))
        places = [b.add(c, _least(b, k.number(j), last)) for j in range(lanes)]
        square = [k.load(row, b.add(b.mul(tile, place), at)) for place in places]
        for j, numbers in enumerate(_turned(k, square)):
            example = b.add(at, k.number(j))
            there = b.select(b.icmp_signed("<", example, count), width, k.number(0))
            k.store_first(numbers, target, b.add(b.mul(example, stride), c), there)
    _squares(k, count, columns, whole, edge)


def _squares(k: Block, count: ir.Value, columns: ir.Value, whole: Callable[[ir.Value, ir.Value], None],
             edge: Callable[[ir.Value, ir.Value, ir.Value], None]) -> None:
    """The rest of a function over `count` examples by `columns`: whole(example, column) for a whole square, else
    edge(example, column, columns of it).

    The last square of a row ends with the row, and does again what the one before it did.
    """
    b, lanes = k.builder, k.number(k.lanes)
    last = b.sub(columns, lanes)
    narrow = b.icmp_signed("<", last, k.number(0))
    last, width = b.select(narrow, k.number(0), last), b.select(narrow, columns, lanes)
    turned = b.select(narrow, k.number(0), b.sub(count, b.srem(count, lanes)))
    with k.loop(k.number(0), columns, k.lanes) as c:
        begin = _least(b, c, last)
        with k.loop(k.number(0), turned, k.lanes) as at:
            whole(at, begin)
        with k.loop(turned, count, k.lanes) as at:
            edge(at, begin, width)
    b.ret_void()


def _least(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.select(b.icmp_signed("<", x, y), x, y)


def _turned(k: Block, square: list[ir.Value]) -> list[ir.Value]:
    """A square's columns, from its rows."""
    half = k.lanes // 2
    for _ in range(k.lanes.bit_length() - 1):
        square = [both for j in range(half) for both in _interleave(k, square[j], square[j + half])]
    return square


def _interleave(k: Block, x: ir.Value, y: ir.Value) -> list[ir.Value]:
    """The numbers of x and y in turn, as two vectors: (x0, y0, x1, …) and what follows."""
    halves = []
    for start in (0, k.lanes // 2):
        order = [at for j in range(start, start + k.lanes // 2) for at in (j, k.lanes + j)]
        halves.append(k.builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, k.lanes), order)))
    return halves


def fill(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void fill(row, source, count, …)`: row[k] = source[0] for k < count, a whole number of vectors."""
    k = Block(module, dtype, lanes, "jitgrad_fill", ("row", "source", "count", "unused1", "unused2", "unused3"))
    row, source, count, *_ = k.function.args
    same = k.splat(k.builder.load(source))
    with k.loop(k.number(0), count, lanes) as at:
        k.store(same, row, at)
    k.builder.ret_void()


def pick(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void pick(row, source, operands, count, …)`: row[k] = source[operands[k]] for k < count."""
    k = Block(module, dtype, lanes, "jitgrad_pick", ("row", "source", "operands", "count", "unused1", "unused2"))
    row, source, operands, count, *_ = k.function.args
    b = k.builder
    with k.loop(k.number(0), count, 1) as at:
        b.store(b.load(b.gep(source, [k.operand(operands, at)])), b.gep(row, [at]))
    b.ret_void()


def sum_lists(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void sum_lists(v, operands, at, lo, n, tile)`: v[lo + j] = Σₑ v[operands[e]], in order, for j < n.

    e runs from operands[at + j] to operands[at + j + 1]; no list is empty.
    """
    k = Block(module, dtype, lanes, "jitgrad_sum_lists", ("v", "operands", "at", "lo", "n", "tile"))
    v, operands, at, lo, n, tile = k.function.args
    b = k.builder
    total = k.variable(k.vector)
    with k.loop(k.number(0), n, 1) as j:
        place = b.add(at, j)
        first, last = k.operand(operands, place), k.operand(operands, b.add(place, k.number(1)))
        out = b.mul(b.add(lo, j), tile)

        with k.loop(k.number(0), tile, lanes) as example:
            def element(e: ir.Value, example: ir.Value = example) -> ir.Value:
                return k.load(v, b.add(b.mul(k.operand(operands, e), tile), example))
            b.store(element(first), total)
            with k.loop(b.add(first, k.number(1)), last, 1) as e:
                b.store(b.fadd(b.load(total), element(e)), total)
            k.store(b.load(total), v, b.add(out, example))
    b.ret_void()


def takes(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void takes(v, operands, at, lo, n, tile)`: v[lo + j] = v[operands[first + i]], i being v[operands[at + j]].

    `first` is operands[at + n + j], and operands[at + n + j + 1] is where the list ends; an index outside gives NaN.
    """
    k = Block(module, dtype, lanes, "jitgrad_takes", ("v", "operands", "at", "lo", "n", "tile"))
    v, operands, at, lo, n, tile = k.function.args
    b = k.builder
    with k.loop(k.number(0), n, 1) as j:
        place = b.add(at, j)
        index = b.mul(k.operand(operands, place), tile)
        start = b.add(place, n)
        first, last = k.operand(operands, start), k.operand(operands, b.add(start, k.number(1)))
        out = b.mul(b.add(lo, j), tile)
        with k.loop(k.number(0), tile, 1) as example:
            inside, which = _place(k, b.load(b.gep(v, [b.add(index, example)])), b.sub(last, first))
            element = b.mul(k.operand(operands, b.add(first, which)), tile)
            taken = b.load(b.gep(v, [b.add(element, example)]))
            b.store(b.select(inside, taken, ir.Constant(k.real, float("nan"))), b.gep(v, [b.add(out, example)]))
    b.ret_void()


def gathers(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void gathers(v, w, operands, lo, n, tile)`: v[lo + j] = w[operands[first + i]], i being v[operands[j]]; n rows j.

    `first` is operands[n + j], and operands[n + j + 1] is where the list ends; an index outside gives NaN.
    """
    k = Block(module, dtype, lanes, "jitgrad_gathers", ("v", "w", "operands", "lo", "n", "tile"))
    v, w, operands, lo, n, tile = k.function.args
    b = k.builder
    with k.loop(k.number(0), n, 1) as j:
        index, start = b.mul(k.operand(operands, j), tile), b.add(j, n)
        first, last = k.operand(operands, start), k.operand(operands, b.add(start, k.number(1)))
        out = b.mul(b.add(lo, j), tile)
        with k.loop(k.number(0), tile, 1) as example:
            inside, place = _place(k, b.load(b.gep(v, [b.add(index, example)])), b.sub(last, first))
            taken = b.load(b.gep(w, [k.operand(operands, b.add(first, place))]))
            b.store(b.select(inside, taken, ir.Constant(k.real, float("nan"))), b.gep(v, [b.add(out, example)]))
    b.ret_void()


def scatter_sums(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> None:
    """`void scatter_sums(v, operands, sums, n, tile, count)`: sums[operands[2 + i]] += v[operands[1]].

    For each example below `count` i is its v[operands[0]], where that is a whole number below n; there are n places, -1
    for a sum that nobody wants.
    """
    k = Block(module, dtype, lanes, "jitgrad_scatter_sums", ("v", "operands", "sums", "n", "tile", "count"))
    v, operands, sums, n, tile, count = k.function.args
    b = k.builder
    index, row = (b.mul(k.operand(operands, k.number(j)), tile) for j in range(2))
    with k.loop(k.number(0), count, 1) as example:
        here = b.load(b.gep(v, [b.add(index, example)]))
        inside, place = _place(k, here, n)
        target = k.operand(operands, b.add(place, k.number(2)))
        whole = b.fcmp_ordered("==", b.sitofp(place, k.real), here)
        with b.if_then(b.and_(b.and_(inside, whole), b.icmp_signed(">=", target, k.number(0)))):
            own, total = b.load(b.gep(v, [b.add(row, example)])), b.gep(sums, [target])
            b.store(b.fadd(b.load(total), b.fpext(own, DOUBLE) if k.size == 4 else own), total)
    b.ret_void()


def _place(k: Block, index: ir.Value, n: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Whether a number is at least 0 and less than n, and if so its whole part, else 0."""
    b, zero = k.builder, ir.Constant(k.real, 0.0)
    inside = b.and_(b.fcmp_ordered(">=", index, zero), b.fcmp_ordered("<", index, b.sitofp(n, k.real)))
    return inside, b.fptosi(b.select(inside, index, zero), ir.IntType(64))
