"""Register-blocked micro-kernels of dense layers, as LLVM vectors: sums of products that are never stored.

Examples are lanes. `v` holds rows of `tile` neighbouring examples; `w` holds numbers that all examples share, one each.
Sizes are run-time arguments, so that the kernels compile once for every model. Within an example a product is rounded
before it is added, as everywhere in jitgrad: the result is that of the scalar program, bit for bit. Sums over the batch
have no scalar program to agree with: a tile's are fused multiply-adds lane by lane, then a tree over the lanes, and are
added in float64 to those of the tiles before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir

I32, I64, DOUBLE = ir.IntType(32), ir.IntType(64), ir.DoubleType()
ROWS = 4                            # results a block computes at once
VECTORS = 4                         # vectors of examples a block of results keeps in registers


class Splat(ir.Constant):  # type: ignore[misc]
    """The same constant in every lane. Written out lane by lane, constants would be most of a module's text."""

    def __init__(self, one: ir.Constant, lanes: int):
        self.type, self.constant, self.one = ir.VectorType(one.type, lanes), one.constant, one

    def _get_reference(self) -> str:
        return f"splat ({self.one})"


def tile_unit(lanes: int) -> int:
    """Tiles are whole multiples of this many examples."""
    return VECTORS * lanes


_Sums = list[list[ir.Value]]


class Block:
    """A builder with the vocabulary of these kernels."""

    def __init__(self, module: ir.Module, dtype: np.dtype[Any], lanes: int, name: str, names: tuple[str, ...]):
        self.lanes, self.size = lanes, dtype.itemsize
        self.real = ir.FloatType() if dtype.itemsize == 4 else ir.DoubleType()
        self.vector = ir.VectorType(self.real, lanes)
        pointers = dict.fromkeys(("v", "w", "row", "source", "target"), self.real) | {"operands": I32, "sums": DOUBLE}
        kinds = [pointers[n].as_pointer() if n in pointers else I64 for n in names]
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
        for argument, label in zip(self.function.args, names, strict=True):
            argument.name = label
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))

    def number(self, value: int) -> ir.Value:
        """A 64-bit integer."""
        return ir.Constant(I64, value)

    def zero(self) -> ir.Value:
        """A vector of 0.0."""
        return Splat(ir.Constant(self.real, 0.0), self.lanes)

    def operand(self, operands: ir.Value, at: ir.Value) -> ir.Value:
        """operands[at] as a 64-bit integer."""
        b = self.builder
        return b.sext(b.load(b.gep(operands, [at])), I64)

    def address(self, pointer: ir.Value, at: ir.Value) -> ir.Value:
        """Where the vector beginning at pointer[at] lies."""
        return self.builder.bitcast(self.builder.gep(pointer, [at]), self.vector.as_pointer())

    def load(self, pointer: ir.Value, at: ir.Value) -> ir.Value:
        """The vector beginning at pointer[at]."""
        return self.builder.load(self.address(pointer, at), align=self.size)

    def store(self, value: ir.Value, pointer: ir.Value, at: ir.Value) -> None:
        """Write a vector beginning at pointer[at]."""
        self.builder.store(value, self.address(pointer, at), align=self.size)

    def load_first(self, pointer: ir.Value, at: ir.Value, count: ir.Value) -> ir.Value:
        """The first `count` numbers of the vector beginning at pointer[at], and zeros; no other is touched."""
        where, first = self.address(pointer, at), self.first(count)
        function = self._masked("load", self.vector, [where.type, I32, first.type, self.vector])
        return self.builder.call(function, [where, ir.Constant(I32, self.size), first, self.zero()])

    def store_first(self, value: ir.Value, pointer: ir.Value, at: ir.Value, count: ir.Value) -> None:
        """Write the first `count` numbers of a vector beginning at pointer[at]."""
        where, first = self.address(pointer, at), self.first(count)
        function = self._masked("store", ir.VoidType(), [self.vector, where.type, I32, first.type])
        self.builder.call(function, [value, where, ir.Constant(I32, self.size), first])

    def first(self, count: ir.Value) -> ir.Value:
        """Which lanes come before lane `count`."""
        lane = ir.Constant(ir.VectorType(I64, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", lane, self.splat(count))

    def _masked(self, does: str, result: ir.Type, kinds: list[ir.Type]) -> ir.Function:
        vector = f"v{self.lanes}f{8 * self.size}"
        name, module = f"llvm.masked.{does}.{vector}.p0{vector}", self.builder.module
        return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, kinds), name)

    def splat(self, scalar: ir.Value) -> ir.Value:
        """A number in every lane."""
        undefined = ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(first, undefined,
                                           ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes))

    def add_lanes(self, vectors: list[ir.Value], targets: list[ir.Value]) -> None:
        """Add the sums of each vector's lanes to doubles side by side: the first vectors' from targets[0] on, and so on.

        Lanes are added to their neighbours, the pairs to theirs, and so on, for as many vectors at once as have lanes.
        """
        b, columns = self.builder, len(vectors) // len(targets)
        for first in range(0, len(vectors), self.lanes):
            now = vectors[first:first + self.lanes]
            count, width = len(now), self.lanes
            while len(now) > 1:
                now = [self._pairs(x, y, width) for x, y in zip(now[::2], now[1::2], strict=True)]
            while width > count:
                width //= 2
                now = [self._pairs(now[0], now[0], width)]
            total = now[0] if self.size == 8 else b.fpext(now[0], ir.VectorType(DOUBLE, count))
            for k in range(0, count, columns):
                part = b.shuffle_vector(total, total, ir.Constant(ir.VectorType(I32, columns), list(range(k, k + columns))))
                place = b.bitcast(targets[(first + k) // columns], part.type.as_pointer())
                b.store(b.fadd(b.load(place, align=8), part), place, align=8)

    def _pairs(self, x: ir.Value, y: ir.Value, width: int) -> ir.Value:
        """The first `width` sums of neighbours in x and then y."""
        b, kind = self.builder, ir.VectorType(I32, width)
        even, odd = (b.shuffle_vector(x, y, ir.Constant(kind, list(range(k, 2 * width, 2)))) for k in (0, 1))
        return b.fadd(even, odd)

    def multiply_add(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """X · y + z, rounded once where the processor can."""
        name = f"llvm.fmuladd.v{self.lanes}f{8 * self.size}"
        module = self.builder.module
        function = module.globals.get(name)
        if function is None:
            function = ir.Function(module, ir.FunctionType(self.vector, [self.vector] * 3), name)
        return self.builder.call(function, [x, y, z])

    def variable(self, kind: ir.Type) -> ir.Value:
        """A local variable; LLVM keeps it in a register."""
        with self.builder.goto_entry_block():
            return self.builder.alloca(kind)

    @contextmanager
    def loop(self, start: ir.Value, stop: ir.Value, step: int) -> Iterator[ir.Value]:
        """`for index in range(start, stop, step)`; yields the index."""
        b, place = self.builder, self.variable(I64)
        head, body, after = (self.function.append_basic_block(n) for n in ("head", "body", "after"))
        b.store(start, place)
        b.branch(head)
        b.position_at_end(head)
        b.cbranch(b.icmp_signed("<", b.load(place), stop), body, after)
        b.position_at_end(body)
        index = b.load(place)
        yield index
        b.store(b.add(index, self.number(step)), place)
        b.branch(head)
        b.position_at_end(after)


def dot(module: ir.Module, dtype: np.dtype[Any], lanes: int, name: str, rows: int) -> None:
    """`void dot(v, w, operands, lo, n, tile)`: `rows` sums over one list of x, a dense layer's block of neurons.

    v[lo + b] = Σₑ w[operands[(1 + b) n + e]] · v[operands[e]] for b < rows, added in the order of e.
    """
    k = Block(module, dtype, lanes, name, ("v", "w", "operands", "lo", "n", "tile"))
    v, w, operands, lo, n, tile = k.function.args
    b = k.builder

    def product(e: ir.Value, row: int, x: ir.Value) -> ir.Value:
        at = k.operand(operands, b.add(b.mul(n, k.number(1 + row)), e))
        return b.fmul(k.splat(b.load(b.gep(w, [at]))), x)
    _sum_products(k, v, operands, lo, n, tile, rows, product)


def pair(module: ir.Module, dtype: np.dtype[Any], lanes: int, name: str) -> None:
    """`void pair(v, w, operands, lo, n, tile)`: v[lo] = Σₑ v[operands[n + e]] · v[operands[e]], in the order of e."""
    k = Block(module, dtype, lanes, name, ("v", "w", "operands", "lo", "n", "tile"))
    v, _, operands, lo, n, tile = k.function.args
    b = k.builder
    here = k.variable(I64)                                   # the examples at hand, for the second factor

    def product(e: ir.Value, row: int, x: ir.Value) -> ir.Value:
        at = b.mul(k.operand(operands, b.add(n, e)), tile)
        return b.fmul(k.load(v, b.add(at, b.load(here))), x)
    _sum_products(k, v, operands, lo, n, tile, 1, product, here)


def _sum_products(k: Block, v: ir.Value, operands: ir.Value, lo: ir.Value, n: ir.Value, tile: ir.Value, rows: int,
                  product: Callable[[ir.Value, int, ir.Value], ir.Value], here: ir.Value | None = None) -> None:
    b = k.builder
    sums = [[k.variable(k.vector) for _ in range(VECTORS)] for _ in range(rows)]
    with k.loop(k.number(0), tile, VECTORS * k.lanes) as first:
        def add(e: ir.Value, begin: bool) -> None:
            base = b.add(b.mul(k.operand(operands, e), tile), first)
            for j in range(VECTORS):
                offset = k.number(j * k.lanes)
                if here is not None:
                    b.store(b.add(first, offset), here)
                x = k.load(v, b.add(base, offset))
                for row in range(rows):
                    term = product(e, row, x)
                    b.store(term if begin else b.fadd(b.load(sums[row][j]), term), sums[row][j])
        add(k.number(0), True)
        with k.loop(k.number(1), n, 1) as e:
            add(e, False)
        for row in range(rows):
            out = b.add(b.mul(b.add(lo, k.number(row)), tile), first)
            for j in range(VECTORS):
                k.store(b.load(sums[row][j]), v, b.add(out, k.number(j * k.lanes)))
    b.ret_void()


def outer(module: ir.Module, dtype: np.dtype[Any], lanes: int, name: str, rows: int) -> None:
    """`void outer(v, operands, sums, n, tile, count)`: a dense layer's weight gradient, summed over a tile.

    sums[places[b] + e] += Σ over examples below `count` of v[d[b]] · v[x[e]]; `operands` is d (`rows`), then places
    (`rows`), then x (n).
    """
    k = Block(module, dtype, lanes, name, ("v", "operands", "sums", "n", "tile", "count"))
    v, operands, sums, n, tile, count = k.function.args
    b = k.builder
    d = [b.mul(k.operand(operands, k.number(row)), tile) for row in range(rows)]
    places = [k.operand(operands, k.number(rows + row)) for row in range(rows)]
    blocked = b.sub(n, b.srem(n, k.number(ROWS)))
    for start, stop, columns in ((k.number(0), blocked, ROWS), (blocked, n, 1)):
        totals = [[k.variable(k.vector) for _ in range(columns)] for _ in range(rows)]
        with k.loop(start, stop, columns) as e:
            x = [b.mul(k.operand(operands, b.add(e, k.number(2 * rows + q))), tile) for q in range(columns)]

            def added(at: ir.Value, x: list[ir.Value] = x, totals: _Sums = totals) -> _Sums:
                xs = [k.load(v, b.add(one, at)) for one in x]
                ds = [k.load(v, b.add(one, at)) for one in d]
                return [[k.multiply_add(one, other, b.load(total)) for other, total in zip(xs, row, strict=True)]
                        for one, row in zip(ds, totals, strict=True)]
            _over_examples(k, count, totals, added)
            k.add_lanes([b.load(one) for row in totals for one in row],
                        [b.gep(sums, [b.add(place, e)]) for place in places])
    b.ret_void()


def sum_rows(module: ir.Module, dtype: np.dtype[Any], lanes: int, name: str) -> None:
    """`void sum_rows(v, operands, sums, n, tile, count)`: sums[place] += Σ over examples below `count` of v[row].

    `operands` is n rows, then n places.
    """
    k = Block(module, dtype, lanes, name, ("v", "operands", "sums", "n", "tile", "count"))
    v, operands, sums, n, tile, count = k.function.args
    b = k.builder
    total = [[k.variable(k.vector)]]
    with k.loop(k.number(0), n, 1) as e:
        row = b.mul(k.operand(operands, e), tile)
        _over_examples(k, count, total, lambda at: [[b.fadd(b.load(total[0][0]), k.load(v, b.add(row, at)))]])
        k.add_lanes([b.load(total[0][0])], [b.gep(sums, [k.operand(operands, b.add(n, e))])])
    b.ret_void()


def flush(module: ir.Module, dtype: np.dtype[Any], lanes: int, name: str) -> None:
    """`void flush(v, w, n, …)`: w[r] += the lanes of v[r], in float64, as a balanced tree; then v[r] = 0, for r < n.

    v: n vectors; w: n doubles. The tree is the same for every r and every run.
    """
    k = Block(module, dtype, lanes, name, ("v", "w", "n", "unused1", "unused2", "unused3"))
    v, w, n, *_ = k.function.args
    b = k.builder
    sums = b.bitcast(w, DOUBLE.as_pointer())
    with k.loop(k.number(0), n, 1) as r:
        at = b.mul(r, k.number(lanes))
        wide = k.load(v, at)
        if dtype.itemsize == 4:
            wide = b.fpext(wide, ir.VectorType(DOUBLE, lanes))
        width = lanes
        while width > 1:
            width //= 2
            low, high = (b.shuffle_vector(wide, wide, ir.Constant(ir.VectorType(I32, width), list(range(s, s + width))))
                         for s in (0, width))
            wide = b.fadd(low, high)
        place = b.gep(sums, [r])
        b.store(b.fadd(b.load(place), b.extract_element(wide, ir.Constant(I32, 0))), place)
        k.store(k.zero(), v, at)
    b.ret_void()


def _over_examples(k: Block, count: ir.Value, sums: _Sums, added: Callable[[ir.Value], _Sums]) -> None:
    """From 0, sums = added(at) over the tile's vectors; in the last one only for the examples that exist."""
    b = k.builder
    for row in sums:
        for one in row:
            b.store(k.zero(), one)
    whole = b.sub(count, b.srem(count, k.number(k.lanes)))
    with k.loop(k.number(0), whole, k.lanes) as at:
        for row, values in zip(sums, added(at), strict=True):
            for one, value in zip(row, values, strict=True):
                b.store(value, one)
    with b.if_then(b.icmp_signed("<", whole, count)):
        exists = k.first(b.sub(count, whole))
        for row, values in zip(sums, added(whole), strict=True):
            for one, value in zip(row, values, strict=True):
                b.store(b.select(exists, value, b.load(one)), one)
