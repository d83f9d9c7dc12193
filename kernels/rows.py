"""The machine that runs a program without a batch, as LLVM: one call is one replay, and nothing else is compiled for it.

`v` holds one number a row. A line says (kind, out, n, a, b, c): what to do for the n rows from `out` on, and where the
operands are; jitgrad/compiler/rows.py writes them. Rows are the lanes of vectors. What the last vector of a line writes
beyond its rows falls on rows that later lines write, so there are no tails; the lines' order is that of their rows.

Every sum adds its elements one by one in their order, without fused multiply-adds, so that a value is that of the scalar
program, bit for bit; REDUCE alone adds lane by lane, and is for gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from jitgrad.kernels.dense import I32, I64, VECTORS, Block

# What a line does; from 0 on, the elementwise operation of that code on v[a:], v[b:] and v[c:].
COPY = -1                           # v[a:]
FILL = -2                           # v[a], repeated
GATHER = -3                         # v[operands[a:]]
DOT = -4                            # sums over e < b of v[operands[a + e]] · v[operands[a + b + e]:]
PAIR = -5                           # sums over e < b of v[operands[a + e]:] · v[operands[a + b + e]:]
LISTS = -6                          # sums over e < b of products of gathered rows
FEW = -7                            # the same, a sum at a time
REDUCE = -8                         # row r: the dot product of v[operands[a + r]:] and v[operands[a + n + r]:], b long
TAKE = -9                           # elements of lists at run-time places
FIELDS = 6                          # numbers a line has; a sum with c adds to what is in `out`

# The arguments of a call, a table of integers: addresses, and how many.
V, SHARED, FOUND, INPUTS, INPUT_COUNT, LINES, LINE_COUNT, OPERANDS, RESULTS, RESULT_COUNT = range(10)

ARGUMENTS = ("v", "operands", "out", "n", "a", "b", "c")


class _Line(Block):
    """One kind of line as a function of its own."""

    def __init__(self, module: ir.Module, dtype: np.dtype[Any], lanes: int, name: str):
        super().__init__(module, dtype, lanes, f"jitgrad_{name}", ARGUMENTS)
        self.v, self.operands, self.out, self.n, self.a, self.b, self.c = self.function.args
        # -0.0 is what addition leaves everything as it is with; 0.0 would lose the sign of a sum of zeros.
        self.nothing = ir.Constant(self.vector, [-0.0] * lanes)

    def row(self, at: ir.Value, first: ir.Value | None = None) -> ir.Value:
        """The row that operands[at] says, `first` beyond it."""
        row = self.operand(self.operands, at)
        return row if first is None else self.builder.add(row, first)

    def whole(self, rows: ir.Value) -> ir.Value:
        """Rows rounded up to whole vectors."""
        b = self.builder
        return b.mul(b.sdiv(b.add(rows, self.number(self.lanes - 1)), self.number(self.lanes)), self.number(self.lanes))

    def number_at(self, row: ir.Value) -> ir.Value:
        """v[row]."""
        return self.builder.load(self.builder.gep(self.v, [row]))

    def gathered(self, at: ir.Value) -> ir.Value:
        """The vector v[operands[at]], v[operands[at + 1]], …; the gather instructions of processors are no faster."""
        vector = ir.Constant(self.vector, ir.Undefined)
        for lane in range(self.lanes):
            number = self.number_at(self.row(self.builder.add(at, self.number(lane))))
            vector = self.builder.insert_element(vector, number, ir.Constant(I32, lane))
        return vector

    def started(self, at: ir.Value) -> ir.Value:
        """What a sum begins with: what is there already, or nothing."""
        more = self.builder.icmp_signed("!=", self.c, self.number(0))
        return self.builder.select(more, self.load(self.v, at), self.nothing)


def _moves(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> dict[int, ir.Function]:
    made = {}
    for kind, name in ((COPY, "copy"), (FILL, "fill"), (GATHER, "gather")):
        k = _Line(module, dtype, lanes, name)
        b = k.builder
        same = k.splat(k.number_at(k.a)) if kind == FILL else None
        with k.loop(k.number(0), k.n, lanes) as j:
            found = same or (k.load(k.v, b.add(k.a, j)) if kind == COPY else k.gathered(b.add(k.a, j)))
            k.store(found, k.v, b.add(k.out, j))
        b.ret_void()
        made[kind] = k.function
    return made


def _sums(module: ir.Module, dtype: np.dtype[Any], lanes: int, name: str, at_once: int,
          product: Callable[[_Line, ir.Value, ir.Value, int], list[ir.Value]]) -> ir.Function:
    """Sums of products, so many vectors of rows at once; `product(line, e, first, vectors)` is element e of them."""
    k = _Line(module, dtype, lanes, name)
    b = k.builder
    block = k.number(at_once * lanes)
    blocked = b.mul(b.sdiv(k.whole(k.n), block), block)
    parts = [(k.number(0), blocked, at_once), (blocked, k.n, 1)]
    for start, stop, vectors in parts[:at_once]:
        sums = [k.variable(k.vector) for _ in range(vectors)]
        with k.loop(start, stop, vectors * lanes) as first:
            places = [b.add(b.add(k.out, first), k.number(q * lanes)) for q in range(vectors)]
            for total, place in zip(sums, places, strict=True):
                b.store(k.started(place), total)
            with k.loop(k.number(0), k.b, 1) as e:
                for total, one in zip(sums, product(k, e, first, vectors), strict=True):
                    b.store(b.fadd(b.load(total), one), total)
            for total, place in zip(sums, places, strict=True):
                k.store(b.load(total), k.v, place)
    b.ret_void()
    return k.function


def _dot(k: _Line, e: ir.Value, first: ir.Value, vectors: int) -> list[ir.Value]:
    b = k.builder
    factor = k.splat(k.number_at(k.row(b.add(k.a, e))))
    x = k.row(b.add(b.add(k.a, k.b), e), first)
    return [b.fmul(factor, k.load(k.v, b.add(x, k.number(q * k.lanes)))) for q in range(vectors)]


def _pair(k: _Line, e: ir.Value, first: ir.Value, vectors: int) -> list[ir.Value]:
    b = k.builder
    x, y = k.row(b.add(k.a, e), first), k.row(b.add(b.add(k.a, k.b), e), first)
    return [b.fmul(*(k.load(k.v, b.add(one, k.number(q * k.lanes))) for one in (x, y))) for q in range(vectors)]


def _lists(k: _Line, e: ir.Value, first: ir.Value, vectors: int) -> list[ir.Value]:
    """Operands: element by element, the first factors of all rows (padded to whole vectors), then the second ones."""
    b = k.builder
    padded = k.whole(k.n)
    at = b.add(b.add(k.a, b.mul(e, padded)), first)
    other = b.add(at, b.mul(k.b, padded))
    return [b.fmul(*(k.gathered(b.add(one, k.number(q * k.lanes))) for one in (at, other))) for q in range(vectors)]


def _few(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> ir.Function:
    """Operands: row by row, the first factors of its elements; then likewise the second ones."""
    k = _Line(module, dtype, lanes, "few")
    b, total = k.builder, k.variable(k.real)
    with k.loop(k.number(0), k.n, 1) as r:
        place = b.gep(k.v, [b.add(k.out, r)])
        more = b.icmp_signed("!=", k.c, k.number(0))
        b.store(b.select(more, b.load(place), ir.Constant(k.real, -0.0)), total)
        first = b.add(k.a, b.mul(r, k.b))
        with k.loop(k.number(0), k.b, 1) as e:
            at = b.add(first, e)
            one = b.fmul(k.number_at(k.row(at)), k.number_at(k.row(b.add(at, b.mul(k.n, k.b)))))
            b.store(b.fadd(b.load(total), one), total)
        b.store(b.load(total), place)
    b.ret_void()
    return k.function


def _reduce(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> ir.Function:
    """Rows in blocks, so that several sums are under way at once; a row's lanes are added at its end, in a fixed order."""
    k = _Line(module, dtype, lanes, "reduce")
    b = k.builder
    blocked = b.mul(b.sdiv(k.n, k.number(VECTORS)), k.number(VECTORS))
    full = b.sub(k.b, b.srem(k.b, k.number(lanes)))
    lane = ir.Constant(ir.VectorType(I64, lanes), list(range(lanes)))
    undefined = ir.Constant(lane.type, ir.Undefined)
    left = b.shuffle_vector(b.insert_element(undefined, b.sub(k.b, full), ir.Constant(I32, 0)), undefined,
                            ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))
    exists = b.icmp_signed("<", lane, left)
    for start, stop, rows in ((k.number(0), blocked, VECTORS), (blocked, k.n, 1)):
        sums = [k.variable(k.vector) for _ in range(rows)]
        with k.loop(start, stop, rows) as r:
            at = [b.add(b.add(k.a, r), k.number(q)) for q in range(rows)]
            xs, ys = [k.row(one) for one in at], [k.row(b.add(one, k.n)) for one in at]

            def products(i: ir.Value, xs: list[ir.Value] = xs, ys: list[ir.Value] = ys,
                         sums: list[ir.Value] = sums) -> list[ir.Value]:
                return [k.multiply_add(k.load(k.v, b.add(x, i)), k.load(k.v, b.add(y, i)), b.load(total))
                        for x, y, total in zip(xs, ys, sums, strict=True)]
            for total in sums:
                b.store(k.zero(), total)
            with k.loop(k.number(0), full, lanes) as i:
                for total, value in zip(sums, products(i), strict=True):
                    b.store(value, total)
            with b.if_then(b.icmp_signed("<", full, k.b)):
                for total, value in zip(sums, products(full), strict=True):
                    b.store(b.select(exists, value, b.load(total)), total)
            for q, total in enumerate(sums):
                place = b.gep(k.v, [b.add(b.add(k.out, r), k.number(q))])
                more = b.icmp_signed("!=", k.c, k.number(0))
                before = b.select(more, b.load(place), ir.Constant(k.real, 0.0))
                b.store(b.fadd(before, _added_lanes(k, b.load(total))), place)
    b.ret_void()
    return k.function


def _added_lanes(k: Block, vector: ir.Value) -> ir.Value:
    """The sum of a vector's lanes, as a balanced tree."""
    width = k.lanes
    while width > 1:
        width //= 2
        low, high = (k.builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(I32, width),
                                                                          list(range(s, s + width)))) for s in (0, width))
        vector = k.builder.fadd(low, high)
    return k.builder.extract_element(vector, ir.Constant(I32, 0))


def _take(module: ir.Module, dtype: np.dtype[Any], lanes: int) -> ir.Function:
    """Operands: where each list begins and the last one ends, counted from `a`; the indices' rows; the lists."""
    k = _Line(module, dtype, lanes, "take")
    b = k.builder
    with k.loop(k.number(0), k.n, 1) as j:
        first, last = (k.operand(k.operands, b.add(b.add(k.a, j), k.number(q))) for q in (0, 1))
        index = k.number_at(k.row(b.add(b.add(b.add(k.a, k.n), k.number(1)), j)))
        length = b.sitofp(b.sub(last, first), k.real)
        inside = b.and_(b.fcmp_ordered(">=", index, ir.Constant(k.real, 0.0)), b.fcmp_ordered("<", index, length))
        place = b.gep(k.v, [b.add(k.out, j)])
        with b.if_else(inside) as (then, otherwise):
            with then:
                at = b.add(b.add(k.a, first), b.fptosi(index, I64))
                b.store(k.number_at(k.row(at)), place)
            with otherwise:
                b.store(ir.Constant(k.real, float("nan")), place)
    b.ret_void()
    return k.function


def machine(module: ir.Module, dtype: np.dtype[Any], lanes: int, step: ir.Function) -> None:
    """`void jitgrad_rows(table)`: inputs in, all lines, results out. step(code, v, out, n, a, b, c): elementwise lines."""
    kinds = {**_moves(module, dtype, lanes), DOT: _sums(module, dtype, lanes, "dot", VECTORS, _dot),
             PAIR: _sums(module, dtype, lanes, "pair", 1, _pair), LISTS: _sums(module, dtype, lanes, "lists", 1, _lists),
             FEW: _few(module, dtype, lanes), REDUCE: _reduce(module, dtype, lanes), TAKE: _take(module, dtype, lanes)}
    k = Block(module, dtype, lanes, "jitgrad_rows", ("table",))
    b, double = k.builder, ir.DoubleType()
    table = b.inttoptr(k.function.args[0], I64.as_pointer())
    word = [b.load(b.gep(table, [k.number(q)])) for q in range(RESULT_COUNT + 1)]
    v, shared = (b.inttoptr(word[q], k.real.as_pointer()) for q in (V, SHARED))
    found = b.inttoptr(word[FOUND], double.as_pointer())
    inputs, lines, results = (b.inttoptr(word[q], I64.as_pointer()) for q in (INPUTS, LINES, RESULTS))
    operands = b.inttoptr(word[OPERANDS], I32.as_pointer())
    with k.loop(k.number(0), word[INPUT_COUNT], 1) as j:
        b.store(b.load(b.gep(shared, [b.load(b.gep(inputs, [j]))])), b.gep(v, [j]))
    with k.loop(k.number(0), word[LINE_COUNT], 1) as t:
        first = b.mul(t, k.number(FIELDS))
        kind, *rest = (b.load(b.gep(lines, [b.add(first, k.number(q))])) for q in range(FIELDS))
        done = k.function.append_basic_block("done")
        elementwise = k.function.append_basic_block("elementwise")
        switch = b.switch(kind, elementwise)
        for code, function in kinds.items():
            block = k.function.append_basic_block(function.name)
            switch.add_case(k.number(code), block)
            b.position_at_end(block)
            b.call(function, [v, operands, *rest])
            b.branch(done)
        b.position_at_end(elementwise)
        b.call(step, [kind, v, *rest])
        b.branch(done)
        b.position_at_end(done)
    with k.loop(k.number(0), word[RESULT_COUNT], 1) as j:
        number = b.load(b.gep(v, [b.load(b.gep(results, [j]))]))
        b.store(number if dtype.itemsize == 8 else b.fpext(number, double), b.gep(found, [j]))
    b.ret_void()
