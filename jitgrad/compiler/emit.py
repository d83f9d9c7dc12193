"""Tape → LLVM: the body of a kernel, emitted once for CPU and CUDA.

`Emitter` spells one operation, on scalars (CUDA: a thread is an example) or on vectors (CPU: examples are lanes).
`emit_rows` writes a whole tape as one straight line, each row when it is first needed, so that few are alive at once.
Where numbers come from and go to is the target's business (`Sink`): the shells in kernels/ have one hole, and this is
what fills it. No fast-math flags: a kernel computes what the graph says, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from jitgrad.compiler.graph import OPS, Op, spelling_graph
from jitgrad.compiler.tape import Rows, Tape
from jitgrad.kernels import vector_math
from jitgrad.kernels.dense import Splat

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
FLOAT = {"float32": ir.FloatType(), "float64": ir.DoubleType()}


class Emitter:
    """Spells operations of the table as LLVM instructions on `lanes` examples at once."""

    def __init__(self, builder: ir.IRBuilder, dtype: np.dtype[Any], lanes: int, target: str):
        self.builder, self.lanes, self.target = builder, lanes, target
        self.dtype = np.dtype(dtype)
        self.real = FLOAT[self.dtype.name]
        self.type = self.wide(self.real)

    def wide(self, scalar: ir.Type) -> ir.Type:
        """The type of one number per lane."""
        return scalar if self.lanes == 1 else ir.VectorType(scalar, self.lanes)

    def constant(self, value: float, boolean: bool = False) -> ir.Value:
        """The same number in every lane."""
        scalar: Any = int(value) if boolean else float(self.dtype.type(value))
        one = ir.Constant(I1 if boolean else self.real, scalar)
        if self.lanes == 1:
            return one
        # NVVM's LLVM is older than `splat`.
        return ir.Constant(self.wide(one.type), [one] * self.lanes) if self.target == "cuda" else Splat(one, self.lanes)

    def splat(self, scalar: ir.Value) -> ir.Value:
        """A scalar in every lane."""
        if self.lanes == 1:
            return scalar
        undefined = ir.Constant(self.wide(scalar.type), ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, self.lanes),
                                                                         [0] * self.lanes))

    def load(self, pointer: ir.Value, at: ir.Value) -> ir.Value:
        """The numbers of `lanes` neighbouring examples."""
        return self.builder.load(self._address(pointer, at), align=self.dtype.itemsize)

    def store(self, value: ir.Value, pointer: ir.Value, at: ir.Value) -> ir.Instruction:
        """Write the numbers of `lanes` neighbouring examples; conditions as 0 and 1."""
        return self.builder.store(self.number(value), self._address(pointer, at), align=self.dtype.itemsize)

    def _address(self, pointer: ir.Value, at: ir.Value) -> ir.Value:
        address = self.builder.gep(pointer, [at])
        return address if self.lanes == 1 else self.builder.bitcast(address, self.type.as_pointer())

    def is_condition(self, value: ir.Value) -> bool:
        """Whether a value holds truth, not numbers."""
        return value.type in (I1, self.wide(I1))

    def number(self, value: ir.Value) -> ir.Value:
        """A value as numbers: conditions become 0 and 1."""
        return self.builder.uitofp(value, self.type) if self.is_condition(value) else value

    def condition(self, value: ir.Value) -> ir.Value:
        """A value as truth: numbers are true where they are not 0."""
        return value if self.is_condition(value) else self.builder.fcmp_unordered("!=", value, self.constant(0.0))

    def apply(self, op: Op, args: Sequence[ir.Value]) -> ir.Value:
        """One operation of fixed arity."""
        if callable(op.spelling):
            return self._spell_out(op, args)
        args = [self.condition(a) if k in op.conditions else a for k, a in enumerate(args)]
        if op.spelling == "select":
            chosen = args[1:] if all(map(self.is_condition, args[1:])) else [self.number(a) for a in args[1:]]
            return self.builder.select(args[0], *chosen)
        if op.spelling in ("and", "or"):
            return getattr(self.builder, op.spelling + "_")(*args)
        if op.spelling == "not":
            return self.builder.not_(args[0])
        args = [self.number(a) for a in args]
        if op.spelling.startswith("fcmp "):
            predicate = {"lt": "<", "le": "<=", "eq": "==", "ne": "!="}[op.spelling[-2:]]
            compare = self.builder.fcmp_ordered if op.spelling[5] == "o" else self.builder.fcmp_unordered
            return compare(predicate, *args)
        if op.spelling == "fmul" and self.target == "cuda":
            # NVVM joins a product and a sum into one rounding, unless the product says how it rounds.
            return self._by_lane(f"llvm.nvvm.mul.rn.{'f' if self.dtype.itemsize == 4 else 'd'}", args)
        if op.spelling == "fneg" and self.target == "cuda":
            return self.builder.fsub(self.constant(-0.0), args[0])      # NVVM's LLVM is older than fneg
        if op.spelling in ("fadd", "fsub", "fmul", "fdiv", "fneg"):
            return getattr(self.builder, op.spelling)(*args)
        return self._call(op.spelling, args)

    def _spell_out(self, op: Op, args: Sequence[ir.Value]) -> ir.Value:
        return spelling_graph(op).evaluate(args, lambda n: self.constant(n.payload, n.kind == "bool"), self.apply)[0]

    def _call(self, name: str, args: Sequence[ir.Value]) -> ir.Value:
        """A C math function: libdevice on CUDA; on the CPU a vector form of our own, else libm lane by lane."""
        suffix = "f" if self.dtype.itemsize == 4 else ""
        if self.target == "cuda":
            return self._by_lane(f"__nv_{name}{suffix}", args)
        if self.lanes > 1 and name in vector_math.FUNCTIONS:
            return vector_math.call(self.builder, self.dtype, self.lanes, name, args)
        return self._by_lane(name + suffix, args)

    def multiply_add(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """X · y + z, rounded once."""
        return self._by_lane(f"llvm.fma.f{8 * self.dtype.itemsize}", [self.number(v) for v in (x, y, z)])

    def _by_lane(self, name: str, args: Sequence[ir.Value]) -> ir.Value:
        """A function of single numbers, lane by lane."""
        function = self._declare(name, self.real, len(args))
        if self.lanes == 1:
            return self.builder.call(function, args)
        out = ir.Constant(self.type, ir.Undefined)
        for lane in range(self.lanes):
            at = ir.Constant(I32, lane)
            one = self.builder.call(function, [self.builder.extract_element(a, at) for a in args])
            out = self.builder.insert_element(out, one, at)
        return out

    def _declare(self, name: str, kind: ir.Type, arity: int) -> ir.Function:
        module = self.builder.module
        if name in module.globals:
            return module.globals[name]
        return ir.Function(module, ir.FunctionType(kind, [kind] * arity), name)


@contextmanager
def counting(builder: ir.IRBuilder, stop: ir.Value, step: int | ir.Value = 1, start: int | ir.Value = 0,
             rolled: bool = False) -> Iterator[ir.Value]:
    """`for index in range(start, stop, step)` around what is emitted inside; yields the index.

    rolled: LLVM is not to write several trips one after the other.
    """
    start, step = (x if isinstance(x, ir.Value) else ir.Constant(I64, x) for x in (start, step))
    function, before = builder.function, builder.block
    head, body, after = (function.append_basic_block(name) for name in ("loop.head", "loop.body", "loop.after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    index.add_incoming(start, before)
    builder.cbranch(builder.icmp_signed("<", index, stop), body, after)
    builder.position_at_end(body)
    yield index
    index.add_incoming(builder.add(index, step), builder.block)
    back = builder.branch(head)
    if rolled:
        module = builder.module
        disabled, number = module.add_metadata(["llvm.loop.unroll.disable"]), ir.Constant(I32, len(module.metadata))
        mark = module.add_metadata([disabled, number])
        mark.operands = mark, disabled          # which is how LLVM tells one loop's mark from another's
        back.set_metadata("llvm.loop", mark)
    builder.position_at_end(after)


# An interpreter's operation codes: every elementwise operation of the table, in the table's order.
ELEMENTWISE = [op for op in OPS.values() if op.arity and not op.variadic]
CODE = {op: code for code, op in enumerate(ELEMENTWISE)} | {OPS["sum"]: -1, OPS["take"]: -2}


def emit_switch(emitter: Emitter, code: ir.Value, emit: Callable[[Op], None], ops: Sequence[Op] = ELEMENTWISE) -> None:
    """`emit(op)` for the one of these elementwise operations of the table that `code` says."""
    builder = emitter.builder
    leave = builder.function.append_basic_block("leave")
    switch = builder.switch(code, leave)
    for op in ops:
        block = builder.function.append_basic_block(op.name)
        switch.add_case(ir.Constant(code.type, CODE[op]), block)
        builder.position_at_end(block)
        emit(op)
        builder.branch(leave)
    builder.position_at_end(leave)


def emit_step(emitter: Emitter, rows: ir.Value, operands: ir.Value, code: ir.Value, lo: ir.Value, hi: ir.Value,
              stride: ir.Value, examples: Callable[[], AbstractContextManager[ir.Value]]) -> None:
    """One elementwise instruction of a tape, whichever `code` says.

    Row r of example k lies at rows[r * stride + k]; operand j of row lo + i is row operands[j * (hi - lo) + i].
    `examples()` wraps what is done for one vector of examples and yields their k.
    """
    builder = emitter.builder
    width = builder.sub(hi, lo)

    def step(op: Op) -> None:
        with counting(builder, width) as i:
            bases = []
            for j in range(op.arity):
                at = builder.add(builder.mul(width, ir.Constant(I64, j)), i)
                bases.append(builder.mul(builder.sext(builder.load(builder.gep(operands, [at])), I64), stride))
            out = builder.mul(builder.add(lo, i), stride)
            with examples() as k:
                args = [emitter.load(rows, builder.add(base, k)) for base in bases]
                emitter.store(emitter.apply(op, args), rows, builder.add(out, k))
    emit_switch(emitter, code, step)


def encode(tape: Tape, place: Rows | None = None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """The tape as an interpreter reads it: a line (code, lo, hi, operands at, uniform) each, and all operands.

    An instruction's operands follow each other argument by argument; of a list operation then come the places where
    each list starts and where the last one ends, counted from the beginning of `operands`, and the lists' elements.
    `place` says what to call each row, if not by its number.
    """
    place = np.arange(tape.size, dtype=np.int32) if place is None else place
    lines, parts, at = [], [], 0
    for i in tape.instructions:
        lines.append((CODE[i.op], i.lo, i.hi, at, i.uniform))
        mine = [place[a] for a in i.args]
        if i.segments is not None:
            first = at + sum(len(a) for a in i.args) + len(i.segments.start)
            mine += [i.segments.start + np.int32(first), place[i.segments.elements]]
        parts += mine
        at += sum(len(a) for a in mine)
    operands = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    return np.array(lines, np.int64).reshape(-1, 5), operands.astype(np.int32)


class Sink(Protocol):
    """Where a straight-line body gets its inputs and leaves its results."""

    @property
    def anew(self) -> Collection[int]:
        """Input rows to load again at every use, because loading is cheaper than holding on to the number."""

    def load(self, row: int) -> ir.Value:
        """The numbers of an input row."""

    def reduce(self, place: int, value: ir.Value) -> None:
        """Add `value` over the batch into result `place`."""

    def store(self, place: int, value: ir.Value) -> None:
        """Write `value` as per-example result `place`."""


def emit_rows(emitter: Emitter, tape: Tape, sink: Sink, reduced: Sequence[int], examples: Sequence[int],
              joined: Collection[int] = ()) -> None:
    """The tape as straight-line code: rows `examples` are stored per example, rows `reduced` summed over the batch.

    joined: products that are added to their sum without being rounded first.
    """
    line = _StraightLine(emitter, tape, sink, joined)
    for place, row in enumerate(examples):
        line.demand(row)
        sink.store(place, line.value(row))
    for place, row in enumerate(reduced):
        line.demand(row)
        sink.reduce(place, line.value(row))


class _StraightLine:
    def __init__(self, emitter: Emitter, tape: Tape, sink: Sink, joined: Collection[int]):
        self.emitter, self.tape, self.sink, self.joined = emitter, tape, sink, joined
        self.values: dict[int, ir.Value] = {}
        self.owner = tape.owner.tolist()
        self.boolean = tape.boolean

    def demand(self, row: int) -> None:
        """Make sure a row's value exists. A stack of generators, since a user's graph may be a very deep chain."""
        stack = [self._emit(row)]
        while stack:
            try:
                needed = next(stack[-1])
            except StopIteration:
                stack.pop()
            else:
                if needed not in self.values:
                    stack.append(self._emit(needed))

    def _loaded(self, row: int) -> ir.Value:
        value = self.sink.load(row)
        return self.emitter.condition(value) if self.boolean[row] else value

    def value(self, row: int) -> ir.Value:
        """The value of a row that has been demanded."""
        return self._loaded(row) if row in self.sink.anew else self.values[row]

    def _emit(self, row: int) -> Generator[int, None, None]:
        emitter, values = self.emitter, self.values
        if row in values:
            return
        if self.owner[row] < 0:
            if row in self.tape.constants:
                values[row] = emitter.constant(self.tape.constants[row], bool(self.boolean[row]))
            elif row not in self.sink.anew:
                values[row] = self._loaded(row)
            return
        i = self.tape.instructions[self.owner[row]]
        lane = row - i.lo
        args = [int(a[lane]) for a in i.args]
        yield from args
        if i.segments is None:
            values[row] = emitter.apply(i.op, [self.value(a) for a in args])
            return
        total: ir.Value = None if i.op.name == "sum" else emitter.constant(float("nan"))
        for position, e in enumerate(i.segments.elements[i.segments.start[lane]:i.segments.start[lane + 1]].tolist()):
            if total is not None and e in self.joined:
                product = self.tape.instructions[self.owner[e]]
                x, y = (int(a[e - product.lo]) for a in product.args)
                yield from (x, y)
                total = emitter.multiply_add(self.value(x), self.value(y), total)
                continue
            yield e
            if i.op.name == "sum":
                total = self.value(e) if total is None else emitter.apply(OPS["add"], [total, self.value(e)])
            else:
                here = emitter.apply(OPS["eq"], [self.value(args[0]), emitter.constant(float(position))])
                total = emitter.apply(OPS["where"], [here, self.value(e), total])
        values[row] = total
