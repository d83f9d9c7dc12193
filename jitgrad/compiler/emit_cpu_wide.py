"""Wide program → CPU code: a loop along the row for each phase, examples being the lanes of LLVM vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import dropwhile, takewhile

from llvmlite import ir

from jitgrad.compiler import schedule
from jitgrad.compiler.emit import FLOAT, I32, I64, Emitter, counting
from jitgrad.compiler.emit_cpu import TileSink, make_function
from jitgrad.compiler.emit_terms import ADD, NAN, NEUTRAL, inside, operation
from jitgrad.compiler.graph import OPS, Op
from jitgrad.compiler.phases import Phase
from jitgrad.compiler.program import Program
from jitgrad.compiler.wide import TREES
from jitgrad.compiler.wide_rows import WideRows
from jitgrad.kernels import vector_math

UNROLLED = 4                       # elements a trip, where a maximum would wait for the one before it
CALL = 20                          # operations of an exponential or the like
FETCHED = 1 << 16                  # numbers of a tile up to which the next one has room beside it in the second-level cache
SECOND_LEVEL = 2                   # of llvm.prefetch


def wide_body(module: ir.Module, program: Program, rows: WideRows, plan: schedule.CpuSchedule) -> ir.Function:
    """`void jitgrad_body(shared, inputs, outputs, partial, count, rows)`: a tile, vector by vector.

    inputs and outputs are tables of addresses, one a column, for what is one number an example (see kernels/cpu_batch.py).
    """
    real, table = FLOAT[program.dtype.name].as_pointer(), I64.as_pointer()
    body = make_function(module, "jitgrad_body", [real, table, table, real, I64, real],
                         ("shared", "inputs", "outputs", "partial", "count", "rows"))
    builder = ir.IRBuilder(body.append_basic_block("entry"))
    with counting(builder, body.args[4], plan.lanes) as k:
        _Vector(Emitter(builder, program.dtype, plan.lanes, "cpu"), program, rows, plan, body.args, k).emit()
    builder.ret_void()
    for function in module.functions:
        if function.name.startswith(vector_math.PREFIX):
            function.attributes.add("alwaysinline")
    return body


class _Vector:
    """The text for one vector of examples: phase after phase, plain numbers first, then along the row."""

    def __init__(self, emitter: Emitter, program: Program, rows: WideRows, plan: schedule.CpuSchedule,
                 arguments: Sequence[ir.Value], k: ir.Value):
        self.emitter, self.rows, self.plan, self.k = emitter, rows, plan, k
        self.wide, self.terms = rows.wide, rows.wide.terms
        tape, _ = program.rolled
        *same, self.memory = arguments
        self.sink = TileSink(emitter, tape, program, (*same, k))
        self.longest = max(rows.phases, key=self._work) if rows.size * plan.tile <= FETCHED else None
        self.numbers: dict[int, ir.Value] = {}              # plain terms
        self.elements: dict[int, ir.Value] = {}             # wide terms, at the element of this trip

    def emit(self) -> None:
        """Everything but the return."""
        for phase in self.rows.phases:
            for t in phase.numbers:
                self.numbers[t] = self._number(t)
            self.numbers |= self._along(phase)
        for place, t in self.rows.sums:
            if not self.terms[t].wide:
                self.sink.reduce(ir.Constant(I64, place), self.numbers[t])
        place = 0
        for _, _, t, whole in self.wide.stored:
            if not whole:
                self.sink.store(place, self.numbers[t])
            place += self.wide.width if whole else 1

    def _work(self, phase: Phase) -> int:
        """What a phase costs, roughly, in operations on vectors."""
        ops = [self.terms[t].op for t in phase.terms]
        return len(phase.reductions) + sum(CALL if op and self._calls(op) else 1 for op in ops)

    @staticmethod
    def _calls(op: Op) -> bool:
        return callable(op.spelling) or op.spelling in vector_math.FUNCTIONS

    def _number(self, t: int) -> ir.Value:
        term, emitter = self.terms[t], self.emitter
        if term.kind == "constant":
            return emitter.constant(term.value, term.boolean)
        if term.kind == "input":
            return self._condition(t, self.sink.load(term.row))
        if term.kind == "take":
            return self._element_at(t)
        return operation(emitter, term, [self.numbers[a] for a in term.args])

    def _condition(self, t: int, value: ir.Value) -> ir.Value:
        return self.emitter.condition(value) if self.terms[t].boolean else value

    def _element_at(self, t: int) -> ir.Value:
        """The element of a wide input at each example's own index, read where it lies; NaN outside."""
        emitter, b, source = self.emitter, self.emitter.builder, self.terms[t].args[1]
        index = emitter.number(self.numbers[self.terms[t].args[0]])
        found = inside(emitter, index, self.wide.width)
        at = b.fptosi(b.select(found, index, emitter.constant(0.0)), emitter.wide(I64))
        values: ir.Value = ir.Constant(emitter.type, ir.Undefined)
        for lane in range(emitter.lanes):
            here = ir.Constant(I32, lane)
            element = b.extract_element(at, here)
            if self._is_in_rows(source):
                pointer = b.gep(self._row(source, element), [ir.Constant(I64, lane)])
            else:
                pointer = self._element_of(source, element)
            values = b.insert_element(values, b.load(pointer), here)
        return self._condition(t, b.select(found, values, emitter.constant(NAN)))

    # Along the row.

    def _along(self, phase: Phase) -> dict[int, ir.Value]:
        """Walk along the row; returns what the phase makes of it."""
        if not (phase.reductions or phase.sums or phase.stores):
            return {}
        # A maximum's order is free, so that several are on their way at once; a sum is in the tape's order.
        trip = UNROLLED if any(self._is_free(t) for t in phase.reductions) else 1
        cells = {t: [self._cell(t) for _ in range(trip if self._is_free(t) else 1)] for t in phase.reductions}
        whole = self.wide.width - self.wide.width % trip
        with counting(self.emitter.builder, ir.Constant(I64, whole), trip) as j:
            for u in range(trip):
                self._element(phase, cells, self.emitter.builder.add(j, ir.Constant(I64, u)), u)
        for j in range(whole, self.wide.width):
            self._element(phase, cells, ir.Constant(I64, j), 0)
        return {t: self._made(t, mine) for t, mine in cells.items()}

    def _is_free(self, t: int) -> bool:
        """Whether a reduction's order is free."""
        return self._reduces_by(t) in TREES

    def _reduces_by(self, t: int) -> Op:
        op = self.terms[t].op
        assert op is not None
        return op

    def _cell(self, t: int) -> ir.Value:
        """A local variable for a reduction: what stands before the row's elements, else what changes no number."""
        emitter, term, op = self.emitter, self.terms[t], self._reduces_by(t)
        before = takewhile(lambda a: not self.terms[a].wide, term.args)
        begin = emitter.constant(NAN if term.kind == "take" else NEUTRAL[op])
        if op is OPS["sum"]:
            begin = self._joined(ADD, [begin, *(self.numbers[a] for a in before)])
        with emitter.builder.goto_entry_block():
            cell = emitter.builder.alloca(emitter.type)
        emitter.builder.store(begin, cell)
        return cell

    def _joined(self, op: Op, values: list[ir.Value]) -> ir.Value:
        return reduce(lambda x, y: self.emitter.apply(op, [x, y]), values)

    def _made(self, t: int, cells: list[ir.Value]) -> ir.Value:
        """A reduction, from its variables."""
        args, op = self.terms[t].args, self._reduces_by(t)
        values = [self.emitter.builder.load(cell) for cell in cells]
        if self.terms[t].kind == "take":
            return self._condition(t, values[0])
        left = dropwhile(lambda a: not self.terms[a].wide, args) if op is OPS["sum"] else args
        values += [self.numbers[a] for a in left if not self.terms[a].wide]
        return self._joined(ADD if op is OPS["sum"] else op, values)

    def _fetch(self, j: ir.Value) -> None:
        """Ask for a line of each array that the next tile reads, and of each that this one will write.

        As many as there are elements and vectors of examples: they come to the second-level cache while this is computed.
        """
        b, byte = self.emitter.builder, ir.IntType(8).as_pointer()
        function = b.module.globals.get("llvm.prefetch.p0") or ir.Function(
            b.module, ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32]), "llvm.prefetch.p0")
        vector = b.udiv(self.k, ir.Constant(I64, self.emitter.lanes))
        line = b.add(b.mul(vector, ir.Constant(I64, self.wide.width)), j)
        offset = b.mul(line, ir.Constant(I64, schedule.VECTOR_BYTES))

        def ask(table: ir.Value, place: int, writes: bool) -> None:
            begin = b.load(b.gep(table, [ir.Constant(I64, place)]))
            b.call(function, [b.inttoptr(b.add(begin, offset), byte), I32(int(writes)), I32(SECOND_LEVEL), I32(1)])
        for t, term in enumerate(self.terms):
            if term.wide and term.kind == "input" and self._is_in_rows(t):
                ask(self.sink.inputs, self.rows.place[t], writes=False)
        place = 0
        for _, _, _, whole in self.wide.stored:
            if whole:
                ask(self.sink.outputs, place, writes=True)
            place += self.wide.width if whole else 1

    def _element(self, phase: Phase, cells: dict[int, list[ir.Value]], j: ir.Value, u: int) -> None:
        """One element of all terms of a phase, then of its reductions, sums over the batch, and rows to be written."""
        emitter, b = self.emitter, self.emitter.builder
        if phase is self.longest:
            self._fetch(j)
        self.elements.clear()
        for t in phase.terms:
            self.elements[t] = self._term(t, j)
        for t, mine in cells.items():
            term, cell = self.terms[t], mine[u % len(mine)]
            if term.kind == "take":
                here = emitter.apply(OPS["eq"], [self.numbers[term.args[0]], self._place(j)])
                b.store(b.select(here, emitter.number(self._of(term.args[1], j)), b.load(cell)), cell)
                continue
            op = self._reduces_by(t)
            for a in term.args:
                if self.terms[a].wide:
                    b.store(self._joined(ADD if op is OPS["sum"] else op, [b.load(cell), self._of(a, j)]), cell)
        for place, t in self.rows.sums:
            if t in {of for _, of in phase.sums}:
                self.sink.reduce(b.add(j, ir.Constant(I64, place)), self._of(t, j))
        for t in dict.fromkeys([*phase.terms, *(t for _, _, t in phase.stores)]):
            there_before = self.terms[t].kind == "input" and self._is_in_rows(t)
            if t in self.rows.place and not there_before:
                emitter.store(self._of(t, j), self._row(t, j), ir.Constant(I64, 0))

    def _of(self, t: int, j: ir.Value) -> ir.Value:
        """A term at element j."""
        if not self.terms[t].wide:
            return self.numbers[t]
        if t not in self.elements:
            self.elements[t] = self._read(t, j) if self._is_in_rows(t) else self._term(t, j)
        return self.elements[t]

    def _is_in_rows(self, t: int) -> bool:
        """Whether a term that this phase does not compute lies in rows: not what is as cheap to make again."""
        kind = self.terms[t].kind
        return kind == "apply" or (kind == "input" and self.terms[t].row not in self.sink.shared_place)

    def _term(self, t: int, j: ir.Value) -> ir.Value:
        emitter, term = self.emitter, self.terms[t]
        if term.kind == "place":
            return emitter.apply(ADD, [self._place(j), emitter.constant(term.value)])
        if term.kind == "input":
            return self._condition(t, emitter.splat(emitter.builder.load(self._element_of(t, j))))
        return operation(emitter, term, [self._of(a, j) for a in term.args])

    def _place(self, j: ir.Value) -> ir.Value:
        """An element's index as a number."""
        return self.emitter.splat(self.emitter.builder.sitofp(j, self.emitter.real))

    def _read(self, t: int, j: ir.Value) -> ir.Value:
        return self._condition(t, self.emitter.load(self._row(t, j), ir.Constant(I64, 0)))

    def _row(self, t: int, j: ir.Value) -> ir.Value:
        """Where element j of a term lies for this vector of examples."""
        b = self.emitter.builder
        row = b.add(j, ir.Constant(I64, self.rows.place[t]))
        return b.gep(self.memory, [b.add(b.mul(row, ir.Constant(I64, self.plan.tile)), self.k)])

    def _element_of(self, t: int, j: ir.Value) -> ir.Value:
        """Where element j of an argument lies that all examples share."""
        b = self.emitter.builder
        return b.gep(self.sink.shared, [b.add(j, ir.Constant(I64, self.sink.shared_place[self.terms[t].row]))])
