"""How a program runs on CUDA: as one straight line, or interpreted; each form's kernel, and what a launch of it takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import from_dtype, types

from jitgrad.backends import cuda_copies
from jitgrad.backends import cuda_memory as memory
from jitgrad.backends.device_arrays import DeviceArray
from jitgrad.backends.interpret import run_instruction
from jitgrad.compiler import schedule
from jitgrad.compiler.emit import encode
from jitgrad.compiler.emit_cuda import FusedCode, Layout, interpreter_step
from jitgrad.kernels import cuda_batch
from jitgrad.kernels.cuda_batch import SIMULATED, WARP

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
        self.columns, self.block = self.code.groups * WARP, (plan.block,)
        # Whole vectors of shared numbers are loaded, so there is room for whole ones.
        self.room = max(4, -(-len(layout.shared_slots) // 4) * 4)
        count = len(layout.in_widths) + len(layout.out_widths)
        self.signature = types.void(INT, INT, types.UniTuple(INT, max(1, count)), INT)

    @cached_property
    def kernel(self) -> Any:
        code, plan, layout = self.code, self.plan, self.layout
        if SIMULATED:
            from jitgrad.backends.cuda_simulator import fused_holes
            holes = fused_holes(code)
        else:
            holes = (hole(1, code.clear), hole(5, code.body), hole(3, code.fold))
        return cuda_batch.fused_shell(*holes, from_dtype(layout.dtype), code.slots, self.columns, self.room, plan.block,
                                      plan.unroll, layout.pieces)

    def emit(self, module: ir.Module) -> None:
        """Everything emitted for this program."""
        for function in (self.code.clear, self.code.body, self.code.fold):
            function(module)

    def arguments(self, held: Held, part: DeviceArray, shared: Array | DeviceArray, arrays: list[DeviceArray], blocks: int,
                  n: int) -> list[Any]:
        numbers = shared_numbers(held, self.layout, shared, self.room)
        return [address(part), address(numbers), tuple(map(address, arrays)) or (0,), n]


def shared_numbers(held: Held, layout: Layout, shared: Array | DeviceArray, room: int) -> DeviceArray:
    """The numbers that all examples share in the layout's order, and zeros up to `room`."""
    slots = layout.shared_slots
    if isinstance(shared, DeviceArray):
        numbers = held.scratch("numbers", room, layout.dtype)
        places = held.table("slots", lambda: slots if len(slots) else np.zeros(1, np.int64))
        cuda_copies.gather(numbers, shared, places, len(slots))
        return numbers
    filled = np.zeros(room, layout.dtype)
    filled[:len(slots)] = shared[slots]
    return held.keep(filled)


class Tape:
    """A program interpreted; see `cuda_batch.tape_shell`."""

    def __init__(self, layout: Layout, plan: schedule.CudaSchedule):
        self.layout, self.plan, self.columns = layout, plan, len(layout.columns)
        self.block = (WARP, plan.block // WARP)
        tape = layout.tape
        self.rows = int((~tape.uniform).sum())
        # A varying row's place is its number among them, a uniform row's ~ its number among those.
        self.place = np.where(tape.uniform, ~(np.cumsum(tape.uniform) - 1), np.cumsum(~tape.uniform) - 1)
        self.place = self.place.astype(np.int32)
        real = types.Array(from_dtype(layout.dtype), 1, "C")
        table, operands = types.Array(INT, 2, "C"), types.Array(types.int32, 1, "C")
        self.signature = types.void(real, real, real, types.Array(INT, 1, "C"), table, table, types.Array(INT, 1, "C"),
                                    table, operands, INT, INT)

    @cached_property
    def kernel(self) -> Any:
        return _interpreter(self.layout.dtype, self.plan.block // WARP, self.layout.pieces)

    def emit(self, module: ir.Module) -> None:
        """The interpreter's step."""
        interpreter_step(module, self.layout.dtype)

    @cached_property
    def tables(self) -> list[Array]:
        """inputs, outputs, sums, table, operands of `cuda_batch.tape_shell`."""
        layout, place = self.layout, self.place
        first_output = len(layout.in_widths)
        inputs = [(a, layout.in_widths[a], c, place[row]) for row, (a, c) in layout.batched.items()]
        outputs = [(first_output + a, layout.out_widths[a], c, place[row])
                   for row, (a, c) in zip(layout.stored_rows, layout.stored, strict=True)]
        lines, operands = encode(layout.tape, place)
        varying = lines[lines[:, 4] == 0]
        table = np.stack([varying[:, 0], varying[:, 2] - varying[:, 1], place[varying[:, 1]], varying[:, 3]], axis=1)
        return [np.array(inputs, np.int64).reshape(-1, 4), np.array(outputs, np.int64).reshape(-1, 4),
                place[layout.columns].astype(np.int64), np.ascontiguousarray(table, np.int64),
                operands if len(operands) else np.zeros(1, np.int32)]

    def uniform(self, shared: Array) -> Array:
        """The rows that are the same for every example, worked out here: they cost one example's time."""
        tape, layout = self.layout.tape, self.layout
        v = np.zeros((tape.size, 1), layout.dtype)
        for row, place in layout.shared.items():
            v[row] = shared[layout.shared_slots[place]]
        for row, value in tape.constants.items():
            v[row] = value
        with np.errstate(all="ignore"):
            for i in tape.instructions:
                if i.uniform:
                    run_instruction(i, v)
        found = v[tape.uniform, 0]
        return found if len(found) else np.zeros(1, layout.dtype)

    def arguments(self, held: Held, part: DeviceArray, shared: Array | DeviceArray, arrays: list[DeviceArray], blocks: int,
                  n: int) -> list[Any]:
        tables = [held.table(f"table {k}", lambda k=k: self.tables[k]) for k in range(5)]  # type: ignore[misc]
        scratch = held.scratch("rows", self.rows * WARP * blocks, self.layout.dtype)
        numbers = shared if isinstance(shared, np.ndarray) else shared.copy_to_host()
        addresses: Any = [address(a) for a in arrays]
        if not SIMULATED:
            addresses = memory.native(held.keep(np.array(addresses or [0], np.int64)))
        varying = [memory.native(a) for a in (part, scratch, held.keep(self.uniform(numbers)))]
        return [*varying, addresses, *map(memory.native, tables), self.rows, n]


@cache
def _interpreter(dtype: np.dtype[Any], warps: int, pieces: int) -> Any:
    if SIMULATED:
        from jitgrad.backends.cuda_simulator import tape_step as step
    else:
        step = hole(10, lambda module: interpreter_step(module, dtype))
    return cuda_batch.tape_shell(step, from_dtype(dtype), warps, pieces)


@cache
def sum_kernel(pieces: int) -> Any:
    """The kernel that adds up what blocks left; see `cuda_batch.sum_shell`."""
    return cuda_batch.sum_shell(pieces)


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
