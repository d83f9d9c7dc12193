"""LLVM for the lines of kernels/cuda_tape.py: what the threads of a block do to a tile of examples.

A tile's row is its examples' numbers side by side, 1 << shift vectors of 16 bytes and one more of padding, so that
neighbouring rows begin in different banks. Threads take items of a line in turn: an item is a vector of one row, a vector
of eight neighbouring rows of a dense layer, or a small tile of a weight gradient. See compiler/cuda_tables.py for lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir

from jitgrad.compiler.batch_sums import VECTOR_BYTES
from jitgrad.compiler.cuda_tables import ALIGNED, TALL, TILES, fits
from jitgrad.compiler.emit import FLOAT, I32, I64, Emitter, counting, emit_switch
from jitgrad.compiler.emit_warp import load_anew
from jitgrad.compiler.graph import OPS, Op

GLOBAL = 1                         # NVVM's address space of device memory
POINTERS = ("v", "w", "packed", "acc")
# What the function of each kind of line is given: pointers, and 64-bit integers.
ARGUMENTS = {
    "step": "v base w operands code lo m at shift thread threads",
    "dense": "v base packed operands lo m n at b joined shift thread threads",
    "thin": "v base packed operands lo m n at b joined shift thread threads",
    "pair": "v base w operands lo m n at joined shift thread threads",
    "outer": "v base operands acc first m n at tile count shift thread threads",
    "plain": "v base operands acc first m at count shift thread threads",
}


def _number(value: int) -> ir.Value:
    return ir.Constant(I32, value)


class _Line:
    """A function of one kind of line: `void jitgrad_NAME(its ARGUMENTS)`."""

    def __init__(self, module: ir.Module, dtype: np.dtype[Any], name: str):
        real, labels = FLOAT[dtype.name], ARGUMENTS[name].split()
        kinds = {"operands": I32.as_pointer()} | {k: real.as_pointer() for k in POINTERS}
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), [kinds.get(k, I64) for k in labels]),
                                    f"jitgrad_{name}")
        self.function.linkage = "internal"
        self.function.attributes.add("alwaysinline")
        self.builder = b = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.count = VECTOR_BYTES // dtype.itemsize
        self.one, self.wide = (Emitter(b, dtype, lanes, "cuda") for lanes in (1, self.count))
        self.real = real
        self.given = dict(zip(labels, self.function.args, strict=True))
        for label, argument in self.given.items():
            argument.name = label
        self.v = b.gep(self.given["v"], [self.given["base"]])
        self.shift = b.trunc(self.given["shift"], I32)
        self.examples = b.shl(_number(self.count), self.shift)
        self.stride = b.add(self.examples, _number(self.count))

    def small(self, name: str) -> ir.Value:
        """An argument as a 32-bit integer."""
        return self.builder.trunc(self.given[name], I32)

    def device(self, name: str) -> ir.Value:
        """A pointer argument that points to device memory."""
        pointer = self.given[name]
        return self.builder.addrspacecast(pointer, ir.PointerType(pointer.type.pointee, GLOBAL))

    @contextmanager
    def items(self, stop: ir.Value) -> Iterator[ir.Value]:
        """This thread's items below `stop`."""
        b = self.builder
        with counting(b, b.sext(stop, I64), self.given["threads"], self.given["thread"],
                      rolled=True) as item:
            yield b.trunc(item, I32)

    @contextmanager
    def upto(self, stop: ir.Value, step: int = 1, start: ir.Value | None = None) -> Iterator[ir.Value]:
        """Numbers below `stop`."""
        b = self.builder
        with counting(b, b.sext(stop, I64), step, 0 if start is None else b.sext(start, I64),
                      rolled=True) as k:
            yield b.trunc(k, I32)

    def split(self, item: ir.Value, shift: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Item >> shift, and the bits below."""
        b = self.builder
        low = b.sub(b.shl(_number(1), shift), _number(1))
        return b.lshr(item, shift), b.and_(item, low)

    def load(self, pointer: ir.Value, at: ir.Value, count: int = 1) -> ir.Value:
        """pointer[at], or a vector of `count` numbers from there on."""
        b = self.builder
        place = b.gep(pointer, [at])
        if count > 1:
            kind = ir.VectorType(pointer.type.pointee, count)
            return b.load(b.bitcast(place, ir.PointerType(kind, place.type.addrspace)), align=VECTOR_BYTES)
        return b.load(place)

    def vector(self, row: ir.Value, column: ir.Value) -> ir.Value:
        """The examples from `column` on of a row."""
        return self.load(self.v, self.builder.add(self.builder.mul(row, self.stride), column), self.count)

    def store(self, value: ir.Value, row: ir.Value, column: ir.Value) -> None:
        """Write one number or a vector."""
        b = self.builder
        place = b.gep(self.v, [b.add(b.mul(row, self.stride), column)])
        if value.type != self.real:
            place = b.bitcast(place, ir.PointerType(value.type, place.type.addrspace))
        b.store(value, place, align=VECTOR_BYTES if value.type != self.real else self.one.dtype.itemsize)

    def variable(self, kind: ir.Type) -> ir.Value:
        """A local variable; LLVM keeps it in a register."""
        with self.builder.goto_entry_block():
            return self.builder.alloca(kind)

    def lanes(self, vector: ir.Value) -> list[ir.Value]:
        """A vector's numbers."""
        return [self.builder.extract_element(vector, _number(k)) for k in range(self.count)]

    def either(self, given: Callable[[bool], None]) -> None:
        """`given(joined)` as the line says."""
        b = self.builder
        with b.if_else(b.icmp_signed("!=", self.given["joined"], ir.Constant(I64, 0))) as (then, other):
            with then:
                given(True)
            with other:
                given(False)

    def accumulate(self, emitter: Emitter, place: ir.Value, x: ir.Value, y: ir.Value, joined: bool) -> None:
        """Variable += x · y, the product rounded unless `joined`."""
        b = self.builder
        total = b.load(place)
        b.store(emitter.multiply_add(x, y, total) if joined else b.fadd(total, emitter.apply(OPS["mul"], [x, y])), place)

    def done(self) -> ir.Function:
        """The function."""
        self.builder.ret_void()
        return self.function


@cache
def _is_long(op: Op, dtype: np.dtype[Any]) -> bool:
    """Whether an operation divides or calls a library."""
    line = _Line(ir.Module("trial"), dtype, "step")
    line.one.apply(op, [line.one.constant(0.5)] * op.arity)
    text = str(line.function)
    return "fdiv" in text or "__nv_" in text


def step(module: ir.Module, dtype: np.dtype[Any]) -> ir.Function:
    """Elementwise: v[lo + k] = code(rows operands[at + j · m + k] for each argument j), for k < m."""
    line = _Line(module, dtype, "step")
    b, m, lo, at = line.builder, line.small("m"), line.small("lo"), line.small("at")
    operands, w = line.device("operands"), line.device("w")

    def operand(emitter: Emitter, k: ir.Value, j: int, column: ir.Value) -> ir.Value:
        row = line.load(operands, b.add(at, b.add(b.mul(m, _number(j)), k)))
        same = b.icmp_signed("<", row, _number(0))
        place = b.add(b.mul(b.select(same, _number(0), row), line.stride), column)
        number = line.load(w, b.select(same, b.not_(row), _number(0)))
        return b.select(same, emitter.splat(number), line.load(line.v, place, emitter.lanes))

    def rows(op: Op) -> None:
        # A vector at a time, but for what is a page of code for each number.
        emitter = line.one if _is_long(op, dtype) else line.wide
        shift = b.add(line.shift, _number((line.count // emitter.lanes).bit_length() - 1))
        with line.items(b.shl(m, shift)) as item:
            k, q = line.split(item, shift)
            column = b.mul(q, _number(emitter.lanes))
            found = emitter.apply(op, [operand(emitter, k, j, column) for j in range(op.arity)])
            line.store(emitter.number(found), b.add(lo, k), column)
    emit_switch(line.one, line.given["code"], rows)
    return line.done()


def dense(module: ir.Module, dtype: np.dtype[Any]) -> ir.Function:
    """v[lo + r] = Σₑ packed[b + (r // TALL · n + e) · TALL + r % TALL] · v[operands[at + e]], in the order of e; r < m."""
    line = _Line(module, dtype, "dense")
    b, m, n, lo, at = line.builder, *map(line.small, ("m", "n", "lo", "at"))
    operands, packed, wide = line.device("operands"), line.device("packed"), line.wide
    sums = [line.variable(wide.type) for _ in range(TALL)]
    groups = b.sdiv(b.add(m, _number(TALL - 1)), _number(TALL))
    whole = b.sub(n, b.srem(n, _number(ALIGNED)))

    def add(row: ir.Value, weights: ir.Value, column: ir.Value, joined: bool) -> None:
        x = line.vector(row, column)
        factors = [w for first in range(0, TALL, line.count)
                   for w in line.lanes(line.load(packed, b.add(weights, _number(first)), line.count))]
        for place, w in zip(sums, factors, strict=True):
            line.accumulate(wide, place, wide.splat(w), x, joined)

    def run(joined: bool) -> None:
        with line.items(b.shl(groups, line.shift)) as item:
            group, q = line.split(item, line.shift)
            column = b.mul(q, _number(line.count))
            weights = b.add(line.small("b"), b.mul(b.mul(group, n), _number(TALL)))
            for place in sums:
                b.store(wide.constant(-0.0), place)          # to which any number can be added without changing
            with line.upto(whole, ALIGNED) as e:
                rows = line.load(operands, b.add(at, e), ALIGNED)
                for k in range(ALIGNED):
                    here = b.add(weights, b.mul(b.add(e, _number(k)), _number(TALL)))
                    add(b.extract_element(rows, _number(k)), here, column, joined)
            with line.upto(n, 1, whole) as e:
                add(line.load(operands, b.add(at, e)), b.add(weights, b.mul(e, _number(TALL))), column, joined)
            for k, place in enumerate(sums):
                row = b.add(b.mul(group, _number(TALL)), _number(k))
                with b.if_then(b.icmp_signed("<", row, m)):
                    line.store(b.load(place), b.add(lo, row), column)
    line.either(run)
    return line.done()


def thin(module: ir.Module, dtype: np.dtype[Any]) -> ir.Function:
    """v[lo + r] = Σₑ packed[b + r · n + e] · v[operands[at + e]], in the order of e, for r < m: an example at a time."""
    line = _Line(module, dtype, "thin")
    b, m, n, lo, at = line.builder, *map(line.small, ("m", "n", "lo", "at"))
    operands, packed, total = line.device("operands"), line.device("packed"), line.variable(line.real)

    def run(joined: bool) -> None:
        shift = b.add(line.shift, _number(line.count.bit_length() - 1))
        with line.items(b.shl(m, shift)) as item:
            row, example = line.split(item, shift)
            weights = b.add(line.small("b"), b.mul(row, n))
            b.store(line.one.constant(-0.0), total)
            whole = b.sub(n, b.srem(n, _number(ALIGNED)))

            def add(rows: list[ir.Value], e: ir.Value) -> None:
                pairs = [(line.load(packed, b.add(weights, b.add(e, _number(k)))),
                          line.load(line.v, b.add(b.mul(row, line.stride), example))) for k, row in enumerate(rows)]
                for w, x in pairs:
                    line.accumulate(line.one, total, w, x, joined)
            with line.upto(whole, ALIGNED) as e:                # all loads are under way before the first is used
                rows = line.load(operands, b.add(at, e), ALIGNED)
                add([b.extract_element(rows, _number(k)) for k in range(ALIGNED)], e)
            with line.upto(n, 1, whole) as e:
                add([line.load(operands, b.add(at, e))], e)
            line.store(b.load(total), b.add(lo, row), example)
    line.either(run)
    return line.done()


def pair(module: ir.Module, dtype: np.dtype[Any]) -> ir.Function:
    """v[lo + r] = Σₑ of a_e · b_e, in the order of e from operands[at + r] to operands[at + r + 1], for r < m.

    operands[e] is the row of b_e, operands[n + e] of a_e.
    """
    line = _Line(module, dtype, "pair")
    b, m, n, lo, at = line.builder, *map(line.small, ("m", "n", "lo", "at"))
    operands, w, total = line.device("operands"), line.device("w"), line.variable(line.real)

    def factor(e: ir.Value, example: ir.Value) -> ir.Value:
        row = line.load(operands, e)
        same = b.icmp_signed("<", row, _number(0))
        varying = line.load(line.v, b.add(b.mul(b.select(same, _number(0), row), line.stride), example))
        return b.select(same, line.load(w, b.select(same, b.not_(row), _number(0))), varying)

    def run(joined: bool) -> None:
        shift = b.add(line.shift, _number(line.count.bit_length() - 1))
        with line.items(b.shl(m, shift)) as item:
            row, example = line.split(item, shift)
            first, stop = (line.load(operands, b.add(at, b.add(row, _number(k)))) for k in range(2))
            b.store(line.one.constant(-0.0), total)
            with line.upto(stop, 1, first) as e:
                line.accumulate(line.one, total, factor(b.add(e, n), example), factor(e, example), joined)
            line.store(b.load(total), b.add(lo, row), example)
    line.either(run)
    return line.done()


def outer(module: ir.Module, dtype: np.dtype[Any]) -> ir.Function:
    """acc[first + place_i + j] += Σ over the examples below `count` of d_i · x_j, for i < m and j < n.

    operands[at] on: m rows d, m places, n rows x. A thread has a tile, TILES[tile], of rows and columns that lie the number
    of tiles apart; past the end the last ones again, which are not written.
    """
    line = _Line(module, dtype, "outer")
    b, m, n, at = line.builder, *map(line.small, ("m", "n", "at"))
    operands, acc, count = line.device("operands"), b.gep(line.device("acc"), [line.given["first"]]), line.small("count")
    sums = [line.variable(line.real) for _ in range(TILES[0][0] * TILES[0][1])]

    def run(sides: tuple[int, int]) -> None:
        tiles = [b.sdiv(b.add(size, _number(side - 1)), _number(side)) for size, side in zip((m, n), sides, strict=True)]
        with line.items(b.mul(*tiles)) as item:
            begin = b.udiv(item, tiles[1]), b.urem(item, tiles[1])
            numbers, exists, rows = [], [], []
            lists = at, b.add(at, b.mul(m, _number(2)))
            for start, apart, size, list_at, side in zip(begin, tiles, (m, n), lists, sides, strict=True):
                here = [b.add(start, b.mul(apart, _number(k))) for k in range(side)]
                there = [b.icmp_signed("<", k, size) for k in here]
                here = [b.select(is_there, k, b.sub(size, _number(1))) for is_there, k in zip(there, here, strict=True)]
                numbers.append(here)
                exists.append(there)
                rows.append([b.mul(line.load(operands, b.add(list_at, k)), line.stride) for k in here])

            def places() -> list[ir.Value]:
                # Twice, since there are no registers to keep them in meanwhile.
                firsts = [load_anew(b, b.gep(operands, [b.add(b.add(at, m), k)]), 4) for k in numbers[0]]
                return [b.gep(acc, [b.zext(b.add(f, k), I64)]) for f in firsts for k in numbers[1]]
            for place, total in zip(places(), sums, strict=False):
                b.store(b.load(place), total)

            def from_column(column: ir.Value) -> list[list[ir.Value]]:
                return [[b.gep(line.v, [b.add(row, column)]) for row in some] for some in rows]

            def add(here: list[list[ir.Value]], at: int, exist: list[ir.Value] | None = None) -> None:
                d, x = ([line.lanes(line.load(row, _number(at), line.count)) for row in some] for some in here)
                if exist is not None:
                    zero = line.one.constant(0.0)
                    d, x = ([[b.select(e, one, zero) for e, one in zip(exist, lanes, strict=True)] for lanes in some]
                            for some in (d, x))
                for k, total in enumerate(sums[:sides[0] * sides[1]]):
                    for one, other in zip(d[k // sides[1]], x[k % sides[1]], strict=True):
                        line.accumulate(line.one, total, one, other, True)
            twice = b.sub(count, b.srem(count, _number(2 * line.count)))
            with line.upto(twice, 2 * line.count) as column:
                here = from_column(column)
                add(here, 0)
                add(here, line.count)
            # The last tile's: of an example that does not exist, zeros.
            with line.upto(count, line.count, twice) as column:
                exist = [b.icmp_signed("<", b.add(column, _number(k)), count) for k in range(line.count)]
                add(from_column(column), 0, exist)
            for k, (place, total) in enumerate(zip(places(), sums, strict=False)):
                with b.if_then(b.and_(exists[0][k // sides[1]], exists[1][k % sides[1]]), likely=True):
                    b.store(b.load(total), place)

    for number, sides in enumerate(TILES):
        if fits(sides, dtype.itemsize):
            with b.if_then(b.icmp_signed("==", line.given["tile"], ir.Constant(I64, number))):
                run(sides)
    return line.done()


def plain(module: ir.Module, dtype: np.dtype[Any]) -> ir.Function:
    """acc[first + place_i] += Σ over the examples below `count` of row i; operands[at] on: m rows, m places."""
    line = _Line(module, dtype, "plain")
    b, m, at, count = line.builder, *map(line.small, ("m", "at", "count"))
    operands, acc = line.device("operands"), b.gep(line.device("acc"), [line.given["first"]])
    total = line.variable(line.real)
    with line.items(m) as k:
        row, place = (line.load(operands, b.add(at, p)) for p in (k, b.add(m, k)))
        b.store(line.one.constant(0.0), total)
        whole = b.sdiv(count, _number(line.count))
        with line.upto(whole) as q:
            values = line.lanes(line.vector(row, b.mul(q, _number(line.count))))
            while len(values) > 1:
                values = [b.fadd(x, y) for x, y in zip(values[::2], values[1::2], strict=True)]
            b.store(b.fadd(b.load(total), values[0]), total)
        with line.upto(count, 1, b.mul(whole, _number(line.count))) as example:
            b.store(b.fadd(b.load(total), line.load(line.v, b.add(b.mul(row, line.stride), example))), total)
        place = b.gep(acc, [place])
        b.store(b.fadd(b.load(place), b.load(total)), place)
    return line.done()


LINES: dict[str, Callable[[ir.Module, np.dtype[Any]], ir.Function]] = {
    "step": step, "dense": dense, "thin": thin, "pair": pair, "outer": outer, "plain": plain}
