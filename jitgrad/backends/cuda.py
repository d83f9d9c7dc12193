"""The CUDA backend: numba-CUDA shells around emitted bodies; without a GPU, everything but the launch.

A call copies in what lies on the host, launches two kernels (the program, then the sum over blocks) and leaves the results
on the device (`on_device`) or copies them out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any, NamedTuple

import numba_cuda  # noqa: F401  (without it, numba.cuda is something older)
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import cuda, from_dtype, types

from jitgrad import errors
from jitgrad.backends import cuda_copies, cuda_text
from jitgrad.backends import cuda_memory as memory
from jitgrad.backends.cuda_copies import launch
from jitgrad.backends.device_arrays import DeviceArray
from jitgrad.backends.interpret import run_instruction
from jitgrad.compiler import schedule
from jitgrad.compiler.emit import encode
from jitgrad.compiler.emit_cuda import FusedCode, Layout, interpreter_step
from jitgrad.compiler.program import Program, Results
from jitgrad.kernels import cuda_batch
from jitgrad.kernels.cuda_batch import SIMULATED, WARP

Array = npt.NDArray[Any]

CC = (9, 0, "a")                   # what is compiled for where there is no GPU: H100 and H200
INT = types.int64

_LOCK = threading.RLock()          # numba compiles one function at a time, and a kernel's scratch serves one call


def problem() -> str | None:
    """Why CUDA kernels cannot be launched here, or None."""
    if SIMULATED:
        return "NUMBA_ENABLE_CUDASIM is set: numba simulates CUDA, and the simulator is not a device"
    if memory.has_been_used() or cuda.is_available():
        return memory.forked()
    reason = " ".join(str(cuda.cuda_error() or "").split())
    return f"no usable GPU or driver was found ({reason})" if reason else "no usable GPU was found"


def count() -> int:
    """How many GPUs there are."""
    return len(cuda.gpus)


def describe(number: int = 0) -> str:
    """The GPU of that number."""
    device = cuda.gpus[number]
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    major, minor = device.compute_capability[:2]
    return f"{name}, compute capability {major}.{minor}, {device.MULTIPROCESSOR_COUNT} multiprocessors"


def _capability() -> tuple[Any, ...]:
    """What to compile text for: this machine's GPU, else CC."""
    if problem() is not None:
        return CC
    major, minor = cuda.get_current_device().compute_capability[:2]
    return (major, minor, "a") if major >= 9 else (major, minor)


def _hole(arity: int, function_of: Callable[[ir.Module], ir.Function]) -> Any:
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


class _Fused:
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
            holes = (_hole(1, code.clear), _hole(5, code.body), _hole(3, code.fold))
        return cuda_batch.fused_shell(*holes, from_dtype(layout.dtype), code.slots, self.columns, self.room, plan.block,
                                      plan.unroll, layout.pieces)

    def emit(self, module: ir.Module) -> None:
        """Everything emitted for this program."""
        for function in (self.code.clear, self.code.body, self.code.fold):
            function(module)

    def arguments(self, held: _Held, part: DeviceArray, shared: Array | DeviceArray, arrays: list[DeviceArray], blocks: int,
                  n: int) -> list[Any]:
        slots = self.layout.shared_slots
        if isinstance(shared, DeviceArray):
            numbers = held.scratch("numbers", self.room, self.layout.dtype)
            places = held.table("slots", lambda: slots if len(slots) else np.zeros(1, np.int64))
            cuda_copies.gather(numbers, shared, places, len(slots))
        else:
            room = np.zeros(self.room, self.layout.dtype)
            room[:len(slots)] = shared[slots]
            numbers = held.keep(room)
        return [_address(part), _address(numbers), tuple(map(_address, arrays)) or (0,), n]


class _Tape:
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

    def arguments(self, held: _Held, part: DeviceArray, shared: Array | DeviceArray, arrays: list[DeviceArray], blocks: int,
                  n: int) -> list[Any]:
        tables = [held.table(f"table {k}", lambda k=k: self.tables[k]) for k in range(5)]  # type: ignore[misc]
        scratch = held.scratch("rows", self.rows * WARP * blocks, self.layout.dtype)
        numbers = shared if isinstance(shared, np.ndarray) else shared.copy_to_host()
        addresses: Any = [_address(a) for a in arrays]
        if not SIMULATED:
            addresses = memory.native(held.keep(np.array(addresses or [0], np.int64)))
        varying = [memory.native(a) for a in (part, scratch, held.keep(self.uniform(numbers)))]
        return [*varying, addresses, *map(memory.native, tables), self.rows, n]


@cache
def _interpreter(dtype: np.dtype[Any], warps: int, pieces: int) -> Any:
    if SIMULATED:
        from jitgrad.backends.cuda_simulator import tape_step as step
    else:
        step = _hole(10, lambda module: interpreter_step(module, dtype))
    return cuda_batch.tape_shell(step, from_dtype(dtype), warps, pieces)


@cache
def _sums(pieces: int) -> Any:
    return cuda_batch.sum_shell(pieces)


def _address(array: DeviceArray) -> Any:
    """A device array as the shells take it."""
    return memory.host_view(array).reshape(-1) if SIMULATED else array.address


class _Held:
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


class DeviceResults(NamedTuple):
    """What a kernel left on the device. sums: of columns, in float64; places: which column each reduced result is."""

    sums: DeviceArray
    places: DeviceArray
    examples: list[DeviceArray]


class CudaKernel:
    """A program on CUDA; compiled by its first call, for any batch size. device: the GPU's number."""

    def __init__(self, program: Program, device: int = 0):
        self.program, self.device = program, device
        tape, _ = program.rolled
        self.layout = Layout(program)
        self.plan = schedule.for_cuda(tape, program.dtype, len(self.layout.columns))
        self._form: _Fused | _Tape = (_Fused if self.plan.fused else _Tape)(self.layout, self.plan)
        self._held = _Held(device)
        self._texts: dict[tuple[Any, ...], str] = {}

    def __call__(self, shared: Array, batched: list[Array], n: int, out: Sequence[Array | None] = ()) -> Results:
        """Run the program over a batch of n examples; raises DeviceError where there is no GPU to run it."""
        with self._running(n):
            found = self._run(shared, [self._held.keep(a) for a in batched], n)
            sums = memory.download(found.sums)
            return Results(sums[self.layout.column_of], [memory.download(a) for a in found.examples])

    def on_device(self, shared: Array | DeviceArray, batched: list[DeviceArray], n: int) -> DeviceResults:
        """The same, of arrays on this GPU, contiguous and from a multiple of 16 bytes on; nothing is waited for."""
        with self._running(n):
            return self._run(shared, batched, n)

    @contextmanager
    def _running(self, n: int) -> Iterator[None]:
        """A call's turn on the device, and its errors as jitgrad's."""
        missing = None if SIMULATED else problem()
        if missing is not None:
            raise errors.DeviceError(errors.explain(
                f"CUDA kernels cannot be launched here: {missing}.", None,
                "Use device='auto', which falls back to the CPU, or device='cpu'. Lowering works without a GPU: "
                "step.lower(...).as_text('ptx')."))
        with _LOCK, memory.on(self.device):
            try:
                yield
            except memory.OutOfMemory as error:
                raise self._no_room(error, n) from error
            except memory.Failure as error:
                raise errors.DeviceError(errors.explain(
                    f"the GPU failed: {error}", None,
                    "What lies on the host is as it was. After a fault inside a kernel this process cannot use the GPU any "
                    "more: start another.")) from error
            finally:
                self._held.done()

    def _no_room(self, error: memory.OutOfMemory, n: int) -> errors.DeviceError:
        example = self.program.dtype.itemsize * max(1, sum(self.layout.widths))
        fitting = int(0.8 * error.free) // example
        advice = "Free device memory that other arrays and programs hold."
        if self.layout.widths and 0 < fitting < n:
            digits = 10 ** (len(str(fitting)) - 1)
            advice = f"Call it on parts of the batch: about {fitting // digits * digits:,} examples fit."
        return errors.DeviceError(errors.explain(
            f"the GPU has no room for {error.asked:,} bytes more, for a batch of {n:,} examples of {example:,} bytes: "
            f"{error.free:,} of its {error.total:,} bytes are free.", None, advice))

    def _run(self, shared: Array | DeviceArray, batched: list[DeviceArray], n: int) -> DeviceResults:
        layout, form, held, dtype = self.layout, self._form, self._held, self.program.dtype
        blocks, columns = self.plan.grid(n), form.columns
        outputs = [memory.allocate((n, w), dtype, self.device) for w in layout.out_widths]
        part = held.scratch("part", blocks * layout.pieces * columns, dtype)
        sums = memory.allocate((columns,), np.float64, self.device)
        launch(form.kernel, blocks, form.block, *form.arguments(held, part, shared, batched + outputs, blocks, n))
        launch(_sums(layout.pieces), -(-columns // WARP), (WARP, cuda_batch.SLICES), memory.native(part),
               memory.native(sums), blocks, columns)
        return DeviceResults(sums, held.table("places", lambda: layout.column_of.astype(np.int64)), outputs)

    def ptx(self, capability: tuple[Any, ...] | None = None) -> str:
        """The kernel for a compute capability, as (9, 0, "a"); by default this machine's GPU, else CC."""
        wanted = capability or _capability()
        with _LOCK:
            if wanted not in self._texts:
                text, _ = cuda.compile(self._form.kernel.py_func, self._form.signature, cc=wanted, device=False,
                                       abi="numba", output="ptx")
                self._texts[wanted] = str(text)
            return self._texts[wanted]

    def as_text(self, form: str) -> str | None:
        """"llvm": what is emitted into the kernel; "ptx": the kernel; "sass": its machine code, where nvdisasm is."""
        if form == "llvm":
            module = ir.Module("jitgrad")
            self._form.emit(module)
            return str(module)
        if form == "ptx":
            return self.ptx()
        if form == "sass":
            return cuda_text.sass(self.ptx())
        return None

    def resources(self, capability: tuple[Any, ...] | None = None) -> dict[str, Any]:
        """registers, spills and stack (bytes a thread), shared_memory (bytes a block), by ptxas; None without it."""
        return cuda_text.resources(self.ptx(capability))
