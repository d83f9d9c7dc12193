"""An optimizer's update → LLVM for CUDA: what fills the last hole of the shells in kernels/cuda_training.py."""

from __future__ import annotations

from functools import cached_property

from llvmlite import ir

from jitgrad.compiler.emit import FLOAT, I64, Emitter, emit_rows
from jitgrad.compiler.identity import of_program
from jitgrad.compiler.program import Program

GRADIENT = 1                       # which argument of an optimizer's formula the gradient is


class UpdateCode:
    """An optimizer's formula, traced as a program whose examples are the parameters.

    Its arguments are (parameter, gradient, *averages, *scalars), its results (parameter, *averages). A model's numbers lie
    end to end: `room` that the loss reads, the `count` parameters first, then `count` for each average.
    kept: numbers that a parameter has, itself included; width: scalars.
    """

    def __init__(self, program: Program, count: int, room: int):
        self.tape, self.dtype, self.count, self.room = program.rolled[0], program.dtype, count, room
        self._program = program
        self.rows = [int(row) for rows in program.example_outputs for row in rows]
        self.kept, self.width = len(self.rows), program.shared_size
        self.starts = [0, *(room + k * count for k in range(self.kept - 1))]
        number = {leaf.first: k for k, leaf in enumerate(program.batched)}
        leaves = [program.leaf_of(slot)[0] for slot in self.tape.inputs]
        self.scalars = {row: program.shared_offset[leaf.first] for row, leaf in enumerate(leaves) if leaf.shared}
        self.arguments = {row: number[leaf.first] for row, leaf in enumerate(leaves) if not leaf.shared}

    @cached_property
    def identity(self) -> str:
        """Equal for updates that are computed by the same code."""
        return f"{of_program(self._program)} {self.arguments} {self.count} {self.room}"

    def start_of(self, argument: int) -> int:
        """Where argument number 0, 2, 3, … of parameter 0 lies among the numbers."""
        return self.starts[max(0, argument - GRADIENT)]

    def update(self, module: ir.Module) -> ir.Function:
        """`void update(row, old, new, g, j)`: new numbers of parameter j, of the old ones, its gradient and the scalars."""
        real = FLOAT[self.dtype.name]
        pointer = real.as_pointer()
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer, pointer, pointer, real, I64]),
                               "jitgrad_update")
        function.linkage = "internal"
        function.attributes.add("alwaysinline")
        emitter = Emitter(ir.IRBuilder(function.append_basic_block("entry")), self.dtype, 1, "cuda")
        emit_rows(emitter, self.tape, _Element(emitter, self, function), [], self.rows)
        emitter.builder.ret_void()
        return function


class _Element:
    """Where one parameter's update gets its numbers and leaves the new ones."""

    def __init__(self, emitter: Emitter, code: UpdateCode, function: ir.Function):
        self.emitter, self.code, self.anew = emitter, code, code.scalars
        self.row, self.old, self.new, self.gradient, self.j = function.args

    def _address(self, numbers: ir.Value, start: int) -> ir.Value:
        b = self.emitter.builder
        return b.gep(numbers, [b.add(self.j, ir.Constant(I64, start))])

    def load(self, row: int) -> ir.Value:
        b, code = self.emitter.builder, self.code
        if row in code.scalars:
            return b.load(b.gep(self.row, [ir.Constant(I64, code.scalars[row])]))
        argument = code.arguments[row]
        return self.gradient if argument == GRADIENT else b.load(self._address(self.old, code.start_of(argument)))

    def store(self, place: int, value: ir.Value) -> None:
        self.emitter.builder.store(self.emitter.number(value), self._address(self.new, self.code.starts[place]))

    def reduce(self, place: int, value: ir.Value) -> None:
        raise AssertionError("an update has no sums")
