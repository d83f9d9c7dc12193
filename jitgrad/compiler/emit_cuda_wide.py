"""Wide program → LLVM for CUDA: what fills the holes of the shell in kernels/cuda_wide.py.

An example's elements lie across a group of lanes, a lane having vectors of `count` neighbours: element
(vector · lanes + lane) · count + k. A reduction adds up a lane's own elements, then crosses the group by exchanges of which
both sides compute the same bits; what crosses warps goes through shared memory, in warp order. So every lane knows every
plain number, and computes with it what the others do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir

from jitgrad.compiler.batch_sums import WARP
from jitgrad.compiler.emit import FLOAT, I32, I64, Emitter, counting
from jitgrad.compiler.emit_cuda import GLOBAL, Layout
from jitgrad.compiler.emit_group import Group
from jitgrad.compiler.emit_terms import ADD, NAN, NEUTRAL, inside, operation
from jitgrad.compiler.emit_warp import two_sum
from jitgrad.compiler.graph import OPS, Op
from jitgrad.compiler.phases import Phase
from jitgrad.compiler.wide import Term, Wide
from jitgrad.compiler.wide_schedule import LINE, WidePlan


class WideCode:
    """The straight-line functions that fill the holes of `cuda_wide.wide_shell`.

    slots: numbers a thread sums over the batch, each `layout.pieces` long: plain ones, then a lane's elements of whole rows.
    """

    def __init__(self, layout: Layout, wide: Wide, plan: WidePlan):
        self.layout, self.wide, self.plan = layout, wide, plan
        self.real = FLOAT[layout.dtype.name]
        # Whole rows lie element beside element, shared ones from a multiple of a vector on.
        self.place = {row: place for place, row in enumerate(dict.fromkeys([*wide.shared, *layout.shared]))}
        self.numbers = np.array([layout.shared[row] for row in self.place], np.int64)
        self.plain = [(column, t) for column, t in wide.reduced if not wide.terms[t].wide]
        self.rows = [pair for phase in plan.phases for pair in phase.sums]
        self.slots = len(self.plain) + len(self.rows) * plan.elements

    @property
    def board(self) -> int:
        """Numbers of shared memory: a place for each reduction of a phase and warp; at the end, one for each thread."""
        crossings = sum(len(phase.reductions) for phase in self.plan.phases) * self.plan.block // WARP
        return max(crossings, self.layout.pieces * self.plan.block)

    def clear(self, module: ir.Module) -> ir.Function:
        """`void clear(acc)`: zero in every sum."""
        function, emitter = self._function(module, "clear", {"acc": self.real.as_pointer()})
        for k in range(self.slots * self.layout.pieces):
            emitter.builder.store(emitter.constant(0.0), _at(emitter, function.args[0], k))
        emitter.builder.ret_void()
        return function

    def body(self, module: ir.Module) -> ir.Function:
        """`void body(acc, board, numbers, i, then, n, arrays…)`: a thread's share of example i, of n; `then` comes after i.

        Threads of an example past the end do the last one again, and add nothing. Arrays begin at multiples of 16 bytes.
        """
        pointer, far = self.real.as_pointer(), ir.PointerType(self.real, GLOBAL)
        names = [f"input{k}" for k in range(len(self.layout.in_widths))]
        names += [f"output{k}" for k in range(len(self.layout.out_widths))]
        arguments = {"acc": pointer, "board": pointer, "numbers": far, "i": I64, "then": I64, "n": I64}
        arguments |= dict.fromkeys(names, far)
        function, emitter = self._function(module, "body", arguments)
        _Example(self, emitter, function.args).emit()
        emitter.builder.ret_void()
        return function

    def finish(self, module: ir.Module) -> ir.Function:
        """`void finish(acc, board, part, at)`: the block's sums, its groups added in order, from part[at] on.

        First a number a column; then, where they are kept, the rounding errors.
        """
        pointer = self.real.as_pointer()
        function, emitter = self._function(module, "finish", {
            "acc": pointer, "board": pointer, "part": ir.PointerType(self.real, GLOBAL), "at": I64})
        acc, board, part, at = function.args
        b, plan, group = emitter.builder, self.plan, Group(emitter, self.plan)
        part = b.gep(part, [at])
        for slot in range(self.slots):
            total, error = self._sum_of_groups(emitter, group, board, self.pieces_of(emitter, acc, slot))
            if error is not None:                           # what was computed as the error of an infinite sum is NaN
                finite = b.fcmp_ordered("==", b.fsub(total, total), emitter.constant(0.0))
                error = b.select(finite, error, emitter.constant(0.0))
            mine = b.icmp_unsigned("==", group.number, ir.Constant(I32, 0))
            if slot < len(self.plain):
                column: ir.Value = ir.Constant(I32, self.plain[slot][0])
                mine = b.and_(mine, b.icmp_unsigned("==", group.lane, ir.Constant(I32, 0)))
            else:
                row, k = divmod(slot - len(self.plain), plan.elements)
                element = b.add(group.first, ir.Constant(I32, k // plan.count * plan.lanes * plan.count + k % plan.count))
                column = b.add(element, ir.Constant(I32, self.rows[row][0]))
                mine = b.and_(mine, b.icmp_unsigned("<", element, ir.Constant(I32, self.wide.width)))
            with b.if_then(mine):
                b.store(total, b.gep(part, [column]))
                if error is not None:
                    b.store(error, b.gep(part, [b.add(column, ir.Constant(I32, len(self.layout.columns)))]))
        b.ret_void()
        return function

    def _sum_of_groups(self, emitter: Emitter, group: Group, board: ir.Value,
                       pieces: list[ir.Value]) -> tuple[ir.Value, ir.Value | None]:
        """A slot's sum over the block's examples, in group 0."""
        b, block, count = emitter.builder, self.plan.block, self.plan.examples
        if count > 1:
            group.barrier()                                 # the board's last numbers have been read
            for k, place in enumerate(pieces):
                b.store(b.load(place), b.gep(board, [b.add(group.thread, ir.Constant(I32, k * block))]))
            group.barrier()
            with counting(b, ir.Constant(I64, count), 1, 1) as other:
                at = b.add(b.trunc(b.mul(other, ir.Constant(I64, self.plan.lanes)), I32), group.lane)
                error = b.load(b.gep(board, [b.add(at, ir.Constant(I32, block))])) if len(pieces) == 2 else None
                self.add(emitter, pieces, b.load(b.gep(board, [at])), error)
        return b.load(pieces[0]), b.load(pieces[1]) if len(pieces) == 2 else None

    def pieces_of(self, emitter: Emitter, acc: ir.Value, slot: int) -> list[ir.Value]:
        """Where a slot's sum, and its rounding error if that is kept, lie."""
        return [_at(emitter, acc, slot * self.layout.pieces + k) for k in range(self.layout.pieces)]

    @staticmethod
    def add(emitter: Emitter, pieces: list[ir.Value], value: ir.Value, error: ir.Value | None = None) -> None:
        """Add a value, and its rounding error, to a sum that lies in `pieces`."""
        b = emitter.builder
        if len(pieces) == 1:
            b.store(b.fadd(b.load(pieces[0]), value), pieces[0])
            return
        total, lost = two_sum(b, b.load(pieces[0]), value)
        b.store(total, pieces[0])
        lost = lost if error is None else b.fadd(lost, error)
        b.store(b.fadd(b.load(pieces[1]), lost), pieces[1])

    def _function(self, module: ir.Module, name: str, arguments: dict[str, ir.Type]) -> tuple[ir.Function, Emitter]:
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), list(arguments.values())), f"jitgrad_{name}")
        function.linkage = "internal"
        function.attributes.add("alwaysinline")
        for argument, given in zip(function.args, arguments, strict=True):
            argument.name = given
        return function, Emitter(ir.IRBuilder(function.append_basic_block("entry")), self.layout.dtype, 1, "cuda")


class _Example:
    """The body's text: phase after phase, plain numbers first, then along the row, then across the lanes."""

    def __init__(self, code: WideCode, emitter: Emitter, arguments: Any):
        self.code, self.emitter, self.layout = code, emitter, code.layout
        self.wide, self.plan, self.terms = code.wide, code.plan, code.wide.terms
        self.acc, self.board, self.shared, i, self.then, self.n, *self.arrays = arguments
        b = emitter.builder
        self.group = Group(emitter, self.plan)
        self.exists = b.icmp_signed("<", i, self.n)
        self.i = b.select(self.exists, i, b.sub(self.n, ir.Constant(I64, 1)))
        self.numbers: dict[int, ir.Value] = {}               # plain terms
        self.elements: dict[tuple[int, int], ir.Value] = {}  # (wide term, this lane's element)
        self.lane_place = b.sitofp(self.group.first, emitter.real)
        self.barriers = 0

    def emit(self) -> None:
        """Everything but the return."""
        places = 0
        for phase in self.plan.phases:
            for t in phase.numbers:
                self.numbers[t] = self._number(t)
            parts = self._along(phase)
            ops = [self._reduces_by(t) for t in phase.reductions]
            found = self.group.reduce(list(zip(ops, parts, strict=True)), self.board, places)
            places += len(parts)
            self.barriers += bool(parts)
            for t, value in zip(phase.reductions, found, strict=True):
                self.numbers[t] = self._made(t, value)
        if self.barriers == 1 and self.plan.lanes > WARP:
            self.group.barrier()                            # a fast warp must not write what a slow one has yet to read
        self._results()

    # Plain numbers.

    def _number(self, t: int) -> ir.Value:
        term, emitter = self.terms[t], self.emitter
        if term.kind == "constant":
            return emitter.constant(term.value, term.boolean)
        if term.kind == "input":
            return self._condition(term, emitter.builder.load(self._address(term.row), align=emitter.dtype.itemsize))
        if term.kind == "take":
            return self._element_at(term)
        return operation(emitter, term, [self.numbers[a] for a in term.args])

    def _condition(self, term: Term, value: ir.Value) -> ir.Value:
        return self.emitter.condition(value) if term.boolean else value

    def _element_at(self, term: Term) -> ir.Value:
        """The element of a wide input at an index, read where it lies; NaN outside."""
        b, emitter = self.emitter.builder, self.emitter
        index, source = emitter.number(self.numbers[term.args[0]]), self.terms[term.args[1]]
        found = inside(emitter, index, self.wide.width)
        at = b.fptosi(b.select(found, index, emitter.constant(0.0)), I32)
        value = b.load(b.gep(self._address(source.row), [at]), align=emitter.dtype.itemsize)
        return b.select(found, value, emitter.constant(NAN))

    def _made(self, t: int, value: ir.Value) -> ir.Value:
        """A reduction with its plain terms; of a `take`, NaN where no element has the index."""
        term, emitter = self.terms[t], self.emitter
        assert term.op is not None
        if term.kind == "take":
            found = inside(emitter, self.numbers[term.args[0]], self.wide.width)
            value = emitter.builder.select(found, value, emitter.constant(NAN))
            return self._condition(term, value)
        for a in term.args:
            if not self.terms[a].wide:
                value = emitter.apply(ADD if term.op is OPS["sum"] else term.op, [value, self.numbers[a]])
        return value

    def _address(self, row: int) -> ir.Value:
        """Where an input row's number lies: this example's, or everyone's."""
        b = self.emitter.builder
        if row in self.layout.shared:
            return b.gep(self.shared, [ir.Constant(I32, self.code.place[row])])
        array, column = self.layout.batched[row]
        return b.gep(self._example(array), [ir.Constant(I32, column)])

    def _example(self, array: int, i: ir.Value | None = None) -> ir.Value:
        """Where an example's numbers begin in an array; this one's, if not said otherwise."""
        b = self.emitter.builder
        return b.gep(self.arrays[array], [b.mul(i or self.i, ir.Constant(I64, self.layout.widths[array]))])

    # Along the row.

    def _reduces_by(self, t: int) -> Op:
        term = self.terms[t]
        assert term.op is not None
        return OPS["sum"] if term.kind == "take" else term.op

    def _along(self, phase: Phase) -> list[ir.Value]:
        """Walk along the row; returns this lane's part of each reduction."""
        b, emitter, plan = self.emitter.builder, self.emitter, self.plan
        if not (phase.reductions or phase.sums or phase.stores):
            return []
        parts: list[list[ir.Value]] = []
        for t in phase.reductions:
            parts.append([self._cell() for _ in range(plan.count)])
            for cell in parts[-1]:
                b.store(emitter.constant(NEUTRAL[self._reduces_by(t)]), cell)
        if plan.chunks == 1:
            self._walk(phase, parts, ir.Constant(I32, 0), self.lane_place)
        else:
            chunk = plan.lanes * plan.count * plan.vectors
            with counting(b, ir.Constant(I64, plan.chunks)) as k:
                begin = b.mul(b.trunc(k, I32), ir.Constant(I32, chunk))
                place = b.fadd(self.lane_place, b.sitofp(begin, emitter.real))
                self.elements.clear()
                self._walk(phase, parts, begin, place)
        combined = []
        for t, cells in zip(phase.reductions, parts, strict=True):
            values = [b.load(cell) for cell in cells]
            while len(values) > 1:
                pairs = zip(values[::2], values[1::2], strict=True)
                values = [self.group.combine(self._reduces_by(t), x, y) for x, y in pairs]
            combined.append(values[0])
        return combined

    def _cell(self) -> ir.Value:
        """A local number; those of the entry block become registers."""
        b = self.emitter.builder
        with b.goto_entry_block():
            return b.alloca(self.emitter.real)

    def _walk(self, phase: Phase, parts: list[list[ir.Value]], begin: ir.Value, place: ir.Value) -> None:
        """The lane's vectors from element `begin` of the row on; `place` is the first one's index as a number."""
        plan = self.plan
        for t in phase.loads:                               # all that is read is under way before any of it is used
            for vector in range(plan.vectors):
                self._load(t, vector, begin)
        if plan.chunks == 1:
            for t in phase.loads:
                self._announce(t)
        for vector in range(plan.vectors):
            for k in range(vector * plan.count, (vector + 1) * plan.count):
                for t in phase.terms:
                    self.elements[t, k] = self._element(t, k, place)
                for t, cells in zip(phase.reductions, parts, strict=True):
                    self._gather(t, k, cells[k % plan.count], begin, place)
                for pair in phase.sums:
                    self._sum(self.code.rows.index(pair), pair[1], k)
            for array, column, t in phase.stores:
                self._store(array, column, t, vector, begin)

    def _offset(self, vector: int) -> int:
        return vector * self.plan.lanes * self.plan.count

    def _valid(self, vector: int, begin: ir.Value) -> ir.Value | None:
        """Whether this lane's vector lies within the row; None where every lane's does."""
        if self.plan.whole(vector, self.wide.width):
            return None
        b = self.emitter.builder
        first = b.add(b.add(begin, self.group.first), ir.Constant(I32, self._offset(vector)))
        return b.icmp_signed("<", first, ir.Constant(I32, self.wide.width))

    def _vector(self, base: ir.Value, vector: int, begin: ir.Value, valid: ir.Value | None) -> ir.Value:
        """The address of a lane's vector in a row; of the row's first one where that is outside."""
        b = self.emitter.builder
        offset: ir.Value = b.add(begin, ir.Constant(I32, self._offset(vector)))
        if valid is not None:
            offset = b.select(valid, offset, b.neg(self.group.first))
        return b.gep(b.gep(base, [self.group.first]), [offset])

    def _load(self, t: int, vector: int, begin: ir.Value) -> None:
        b, emitter, count, row = self.emitter.builder, self.emitter, self.plan.count, self.terms[t].row
        address = self._vector(self._address(row), vector, begin, self._valid(vector, begin))
        if count > 1:
            loaded = b.load(_as_vector(emitter, address, count), align=count * emitter.dtype.itemsize)
            values = [b.extract_element(loaded, ir.Constant(I32, k)) for k in range(count)]
        else:
            values = [b.load(address, align=emitter.dtype.itemsize)]
        for k, value in enumerate(values):
            self.elements[t, vector * count + k] = self._condition(self.terms[t], value)

    def _announce(self, t: int) -> None:
        """Ask for this lane's share of the same row of the next example: it comes to the second-level cache meanwhile."""
        b, row, size = self.emitter.builder, self.terms[t].row, self.emitter.dtype.itemsize
        if row in self.layout.shared:
            return
        line, last = LINE // size, self.wide.width - 1
        with b.if_then(b.icmp_signed("<", self.then, self.n)):
            base = self._example(self.layout.batched[row][0], self.then)
            for first in range(0, self.wide.width, line * self.plan.lanes):
                at = b.add(b.mul(self.group.lane, ir.Constant(I32, line)), ir.Constant(I32, first))
                if first + line * self.plan.lanes > last:
                    at = b.select(b.icmp_unsigned("<", at, ir.Constant(I32, last)), at, ir.Constant(I32, last))
                address = b.ptrtoint(b.gep(base, [at]), I64)
                b.asm(ir.FunctionType(ir.VoidType(), (I64,)), "prefetch.global.L2 [$0];", "l", [address], True)

    def _element(self, t: int, k: int, place: ir.Value) -> ir.Value:
        term, emitter, plan = self.terms[t], self.emitter, self.plan
        if term.kind == "place":
            offset = self._offset(k // plan.count) + k % plan.count + term.value
            return emitter.builder.fadd(place, emitter.constant(offset))
        return operation(emitter, term, [self._of(a, k) for a in term.args])

    def _of(self, t: int, k: int) -> ir.Value:
        """A term at this lane's element k."""
        return self.elements[t, k] if self.terms[t].wide else self.numbers[t]

    def _gather(self, t: int, k: int, cell: ir.Value, begin: ir.Value, place: ir.Value) -> None:
        """Take this lane's element k into its part of a reduction."""
        b, emitter, term = self.emitter.builder, self.emitter, self.terms[t]
        valid, op = self._valid(k // self.plan.count, begin), self._reduces_by(t)
        if term.kind == "take":
            here = emitter.apply(OPS["eq"], [self.numbers[term.args[0]], self._element_place(k, place)])
            values = [b.select(here, emitter.number(self._of(term.args[1], k)), emitter.constant(-0.0))]
        else:
            values = [emitter.number(self._of(a, k)) for a in term.args if self.terms[a].wide]
        for value in values:
            so_far = b.load(cell)
            total = self.group.combine(op, so_far, value)
            b.store(total if valid is None else b.select(valid, total, so_far), cell)

    def _element_place(self, k: int, place: ir.Value) -> ir.Value:
        offset = self._offset(k // self.plan.count) + k % self.plan.count
        return self.emitter.builder.fadd(place, self.emitter.constant(float(offset)))

    def _sum(self, row: int, t: int, k: int) -> None:
        """Add this lane's element k to its sum over the batch."""
        emitter = self.emitter
        value = emitter.builder.select(self.exists, emitter.number(self._of(t, k)), emitter.constant(0.0))
        slot = len(self.code.plain) + row * self.plan.elements + k
        self.code.add(emitter, self.code.pieces_of(emitter, self.acc, slot), value)

    def _store(self, array: int, column: int, t: int, vector: int, begin: ir.Value) -> None:
        b, emitter, count = self.emitter.builder, self.emitter, self.plan.count
        array += len(self.layout.in_widths)
        with _where(b, self._valid(vector, begin)):
            base = b.gep(self._example(array), [ir.Constant(I32, column)])
            address = self._vector(base, vector, begin, None)
            values = [emitter.number(self._of(t, vector * count + k)) for k in range(count)]
            if count == 1 or self.layout.widths[array] % count or column % count:
                for k, value in enumerate(values):
                    b.store(value, b.gep(address, [ir.Constant(I32, k)]), align=emitter.dtype.itemsize)
                return
            joined: ir.Value = ir.Constant(ir.VectorType(emitter.real, count), ir.Undefined)
            for k, value in enumerate(values):
                joined = b.insert_element(joined, value, ir.Constant(I32, k))
            b.store(joined, _as_vector(emitter, address, count), align=count * emitter.dtype.itemsize)

    def _results(self) -> None:
        """What is one number: summed over the batch by every lane, written by one."""
        b, emitter = self.emitter.builder, self.emitter
        for slot, (_, t) in enumerate(self.code.plain):
            value = b.select(self.exists, emitter.number(self.numbers[t]), emitter.constant(0.0))
            self.code.add(emitter, self.code.pieces_of(emitter, self.acc, slot), value)
        plain = [(array, column, t) for array, column, t, whole in self.wide.stored if not whole]
        if plain:
            with b.if_then(b.icmp_unsigned("==", self.group.lane, ir.Constant(I32, 0))):
                for array, column, t in plain:
                    base = self._example(len(self.layout.in_widths) + array)
                    b.store(emitter.number(self.numbers[t]), b.gep(base, [ir.Constant(I32, column)]),
                            align=emitter.dtype.itemsize)


@contextmanager
def _where(b: ir.IRBuilder, condition: ir.Value | None) -> Iterator[None]:
    """What is emitted inside happens where the condition holds; always, if there is none."""
    if condition is None:
        yield
        return
    with b.if_then(condition):
        yield


def _at(emitter: Emitter, pointer: ir.Value, k: int) -> ir.Value:
    return emitter.builder.gep(pointer, [ir.Constant(I32, k)])


def _as_vector(emitter: Emitter, address: ir.Value, count: int) -> ir.Value:
    kind = ir.PointerType(ir.VectorType(emitter.real, count), address.type.addrspace)
    return emitter.builder.bitcast(address, kind)
