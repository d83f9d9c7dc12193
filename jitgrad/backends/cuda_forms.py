"""How a program runs on CUDA: as one straight line, or interpreted; each form's kernel, and what a launch of it takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import from_dtype, types

from jitgrad.backends import cuda_copies
from jitgrad.backends import cuda_memory as memory
from jitgrad.backends.cuda_compiled import identity, once
from jitgrad.backends.device_arrays import DeviceArray
from jitgrad.backends.interpret import run_instruction
from jitgrad.compiler import emit_tile, schedule
from jitgrad.compiler.batch_sums import VECTOR_BYTES
from jitgrad.compiler.cuda_tables import TileTables
from jitgrad.compiler.emit_cuda import FusedCode, Layout
from jitgrad.kernels import cuda_batch, cuda_tape
from jitgrad.kernels.cuda_batch import SIMULATED

Array = npt.NDArray[Any]

INT = types.int64


def hole(arity: int, function_of: Callable[[ir.Module], ir.Function]) -> Any:
    """A numba-CUDA intrinsic calling an emitted function: arrays go in as pointers, tuples of addresses one by one."""
    from numba.cuda.extending import intrinsic

    def typing(typingctx: Any, *args: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
            callee = function_of(builder.module)
            given = []
            for kind, value in zip(signature.args, values, strict=True):
                if isinstance(kind, types.Array):
                    given.append(context.make_array(kind)(context, builder, value).data)
                elif isinstance(kind, types.BaseTuple):
                    given += [builder.extract_value(value, k) for k in range(len(kind))]
                else:
                    given.append(value)
            wanted = callee.function_type.args
            builder.call(callee, [builder.inttoptr(v, t) if t.is_pointer and not v.type.is_pointer else v
                                  for v, t in zip(given, wanted, strict=False)])
            return context.get_dummy_value()
        wide = [INT if isinstance(a, types.Integer) else a for a in args]
        return types.void(*wide), codegen
    # numba reads an intrinsic's arity off its signature.
    names = ", ".join(f"a{k}" for k in range(arity))
    scope: dict[str, Any] = {"typing": typing}
    exec(f"def hole(typingctx, {names}): return typing(typingctx, {names})", scope)
    return intrinsic(scope["hole"])


class Fused:
    """A program as one straight line; see `cuda_batch.fused_shell`."""

    def __init__(self, layout: Layout, plan: schedule.CudaSchedule):
        self.layout, self.plan, self.code = layout, plan, FusedCode(layout, plan)
        self.columns, self.places, self.block = self.code.columns, self.code.places, (plan.block,)
        count = len(layout.in_widths) + len(layout.out_widths)
        self.signature = types.void(INT, INT, types.UniTuple(INT, max(1, count)), INT)

    @cached_property
    def kernel(self) -> Any:
        return once(self._kernel, "fused", identity(self.layout), self.plan, cuda_batch.FOLD)

    def _kernel(self) -> Any:
        code, plan, layout = self.code, self.plan, self.layout
        if SIMULATED:
            from jitgrad.backends.cuda_simulator import fused_holes
            holes = fused_holes(code)
        else:
            holes = (hole(1, code.clear), hole(6, code.body), hole(3, code.fold))
        return cuda_batch.fused_shell(*holes, from_dtype(layout.dtype), code.slots, self.columns, code.boards, code.room,
                                      plan.block, plan.unroll, layout.pieces)

    def emit(self, module: ir.Module) -> None:
        """Everything emitted for this program."""
        for function in (self.code.clear, self.code.body, self.code.fold):
            function(module)

    def arguments(self, held: Held, part: DeviceArray, shared: Array | SharedNumbers, arrays: list[DeviceArray],
                  blocks: int, n: int) -> list[Any]:
        numbers = shared_numbers(held, self.layout, shared, self.code.numbers, self.code.room)
        return [address(part), address(numbers), tuple(map(address, arrays)) or (0,), n]


def shared_numbers(held: Held, layout: Layout, shared: Array | SharedNumbers, slots: Array, room: int) -> DeviceArray:
    """The numbers at `slots` of the program's vector of shared numbers, and zeros up to `room`."""
    if isinstance(shared, SharedNumbers):
        numbers = held.scratch("numbers", room, layout.dtype)
        cuda_copies.gather(numbers, shared.sources, held.table(f"where {shared.label}", lambda: shared.where(slots)))
        return numbers
    filled = np.zeros(room, layout.dtype)
    filled[:len(slots)] = shared[slots]
    return held.keep(filled)


class Tape:
    """A program run line by line over tiles of examples; see kernels/cuda_tape.py."""

    def __init__(self, layout: Layout):
        program = layout.program
        self.layout, self.columns, self.places = layout, len(layout.columns), layout.column_of.astype(np.int64)
        columns, stored = (np.array(rows, np.int32) for rows in (layout.columns, layout.stored_rows))
        self.tables = TileTables(layout.tape, columns, stored, program.dtype.itemsize, schedule.TILE_THREADS)
        self.plan, self.near = schedule.for_tile(self.tables.rows, program.dtype)
        self.block, self.count = (self.plan.block,), VECTOR_BYTES // program.dtype.itemsize
        real, flat = (types.Array(t, 1, "C") for t in (from_dtype(layout.dtype), INT))
        table = types.Array(INT, 2, "C")
        self.signature = types.void(*[real] * 5, flat, *[table] * 4, types.Array(types.int32, 1, "C"), *[INT] * 4)

    @cached_property
    def kernel(self) -> Any:
        return _interpreter(self.layout.dtype, self.near, self.plan.block)

    def emit(self, module: ir.Module) -> None:
        """What fills the interpreter's holes."""
        for line in emit_tile.LINES.values():
            line(module, self.layout.dtype)

    @cached_property
    def listed(self) -> list[Array]:
        """inputs, outputs, spread, table, operands of `cuda_tape.tape_shell`."""
        layout, t = self.layout, self.tables.tables
        first_output = len(layout.in_widths)
        inputs = [(a, layout.in_widths[a], c, row) for row, (a, c) in zip(t.in_rows, layout.batched.values(), strict=True)]
        outputs = [(first_output + a, layout.out_widths[a], c, row)
                   for row, (a, c) in zip(t.out_rows, layout.stored, strict=True)]
        found = [np.array(rows, np.int64).reshape(-1, width) for rows, width in ((inputs, 4), (outputs, 4), (t.spread, 2))]
        return [*found, self.tables.lines, t.operands if t.length else np.zeros(1, np.int32)]

    def numbers(self, shared: Array) -> tuple[Array, Array]:
        """`w` and `packed`, worked out here: they cost one example's time."""
        tape, layout, w = self.layout.tape, self.layout, self.tables.w
        v = np.ones((tape.size + 1, 1), layout.dtype)               # the last row is the number 1
        for row, place in layout.shared.items():
            v[row] = shared[place]
        for row, value in tape.constants.items():
            v[row] = value
        with np.errstate(all="ignore"):
            for i in tape.instructions:
                if i.uniform:
                    run_instruction(i, v)
        found = np.zeros(self.tables.tables.w_size, layout.dtype)
        found[w[w >= 0]] = v[w >= 0, 0]
        return found, found[self.tables.packed]

    def _numbers_on_device(self, held: Held, shared: SharedNumbers) -> list[DeviceArray]:
        """The same where they are constants and what was given, in the order of `products.Tabulation`."""
        layout, t, packed = self.layout, self.tables.tables, self.tables.packed
        begin = -(-t.w_size // self.count) * self.count            # `packed` too begins at a multiple of 16 bytes
        constants = held.table("constants", lambda: np.array(t.constants, layout.dtype))

        def where() -> Array:
            slots = np.array([layout.shared[row] for row in t.shared], np.int64)
            w = np.stack([np.full(len(t.constants), len(shared.sources)), np.arange(len(t.constants))])
            w = np.concatenate((w, shared.where(slots), np.zeros((2, begin - t.w_size), np.int64)), axis=1)
            return np.ascontiguousarray(np.concatenate((w, w[:, packed]), axis=1))
        made = held.scratch("numbers", begin + len(packed), layout.dtype)
        cuda_copies.gather(made, [*shared.sources, constants], held.table(f"where {shared.label}", where))
        return [made.part(0, (t.w_size,)), made.part(begin, (max(1, len(packed)),))]

    def arguments(self, held: Held, part: DeviceArray, shared: Array | SharedNumbers, arrays: list[DeviceArray],
                  blocks: int, n: int) -> list[Any]:
        dtype, tables = self.layout.dtype, self.tables
        listed = [held.table(f"table {k}", lambda k=k: self.listed[k]) for k in range(5)]  # type: ignore[misc]
        acc = held.scratch("acc", self.columns * blocks, dtype)
        stride = self.plan.examples + self.count
        scratch = held.scratch("rows", 1 if self.near else tables.rows * stride * blocks, dtype)
        if isinstance(shared, SharedNumbers) and not tables.tables.once:
            numbers = self._numbers_on_device(held, shared)
        else:
            there = shared.to_host() if isinstance(shared, SharedNumbers) else shared
            numbers = [held.keep(a) for a in self.numbers(there)]
        addresses: Any = [address(a) for a in arrays]
        if not SIMULATED:
            addresses = memory.native(held.keep(np.array(addresses or [0], np.int64)))
        shift = (self.plan.examples // self.count).bit_length() - 1
        return [*map(memory.native, [part, acc, scratch, *numbers]), addresses, *map(memory.native, listed), tables.rows,
                self.columns, shift, n]


@cache
def _interpreter(dtype: np.dtype[Any], near: bool, threads: int) -> Any:
    if SIMULATED:
        from jitgrad.backends.cuda_simulator import tape_holes
        holes = tape_holes(dtype)
    else:
        def line(name: str) -> Any:
            arity = len(emit_tile.ARGUMENTS[name].split())
            return hole(arity, lambda module: emit_tile.LINES[name](module, dtype))
        holes = {name: line(name) for name in emit_tile.LINES}
    return cuda_tape.tape_shell(holes, from_dtype(dtype), near, threads, dtype.itemsize)


@cache
def sum_kernel(pieces: int, dtype: np.dtype[Any]) -> Any:
    """The kernel that adds up what blocks left; see `cuda_batch.sum_shell`."""
    return cuda_batch.sum_shell(pieces, from_dtype(dtype))


class SharedNumbers(NamedTuple):
    """A program's shared numbers on a GPU: leaves there, by their place in the vector, and a vector with all others.

    vector: None where there are no others.
    """

    leaves: dict[int, DeviceArray]
    vector: DeviceArray | None

    @property
    def sources(self) -> list[DeviceArray]:
        """The arrays that numbers come from."""
        return [*self.leaves.values(), *([] if self.vector is None else [self.vector])]

    @property
    def label(self) -> str:
        """What `where` depends on."""
        return str(list(self.leaves))

    def where(self, slots: Array) -> Array:
        """In which of the sources each of these places of the vector is, and where there."""
        found = np.stack([np.full(len(slots), len(self.leaves)), slots]).astype(np.int64)
        for k, (start, leaf) in enumerate(self.leaves.items()):
            mine = (slots >= start) & (slots < start + leaf.size)
            found[:, mine] = np.stack([np.full(int(mine.sum()), k), slots[mine] - start])
        return found

    def to_host(self) -> Array:
        """The whole vector, read back."""
        parts = {start: leaf.copy_to_host().reshape(-1) for start, leaf in self.leaves.items()}
        if self.vector is None:
            return np.concatenate([parts[start] for start in sorted(parts)])
        whole = self.vector.copy_to_host()
        for start, part in parts.items():
            whole[start:start + len(part)] = part
        return whole


def address(array: DeviceArray) -> Any:
    """A device array as the shells take it."""
    return memory.host_view(array).reshape(-1) if SIMULATED else array.address


class Held:
    """Device memory of one kernel on one GPU: tables and scratch kept from call to call, and what one call has copied in."""

    def __init__(self, device: int) -> None:
        self.device = device
        self._kept: dict[str, DeviceArray] = {}
        self._call: list[DeviceArray] = []

    def scratch(self, name: str, size: int, dtype: Any) -> DeviceArray:
        """`size` numbers of device memory, whatever they hold."""
        known = self._kept.get(name)
        if known is None or known.size < size:
            known = self._kept[name] = memory.allocate((max(1, size),), dtype, self.device)
        return known.part(0, (max(1, size),))

    def table(self, name: str, make: Callable[[], Array]) -> DeviceArray:
        """Numbers that never change, copied in once."""
        if name not in self._kept:
            self._kept[name] = memory.upload(make(), self.device)
        return self._kept[name]

    def keep(self, array: Array) -> DeviceArray:
        """A copy on the device that lives until `done`."""
        self._call.append(memory.upload(array, self.device))
        return self._call[-1]

    def done(self) -> None:
        """Let this call's copies go."""
        self._call.clear()
