"""The CUDA backend: numba-CUDA shells around emitted bodies; without a GPU, everything but the launch.

A call copies in what lies on the host, launches two kernels (the program, then the sum over blocks) and leaves the results
on the device (`on_device`) or copies them out.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numba_cuda  # noqa: F401  (without it, numba.cuda is something older)
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import cuda

from jitgrad import errors
from jitgrad.backends import cuda_memory as memory
from jitgrad.backends import cuda_text
from jitgrad.backends.cuda_copies import launch
from jitgrad.backends.cuda_forms import Fused, Held, SharedNumbers, Tape, address, sum_kernel
from jitgrad.backends.cuda_wide_form import WideForm, wide_form
from jitgrad.backends.device_arrays import DeviceArray
from jitgrad.compiler import schedule
from jitgrad.compiler.emit_cuda import Layout
from jitgrad.compiler.program import Program, Results
from jitgrad.kernels import cuda_batch
from jitgrad.kernels.cuda_batch import SIMULATED, WARP

Array = npt.NDArray[Any]

CC = (9, 0, "a")                   # what is compiled for where there is no GPU: H100 and H200

_STARTING = threading.Lock()       # numba has a thread use the driver that another has only begun to start
_LOCK = threading.RLock()          # numba compiles one function at a time, and a kernel's scratch serves one call


def problem() -> str | None:
    """Why CUDA kernels cannot be launched here, or None."""
    if SIMULATED:
        return "NUMBA_ENABLE_CUDASIM is set: numba simulates CUDA, and the simulator is not a device"
    lacking = ""
    try:
        with _STARTING:
            if memory.has_been_used() or cuda.is_available():
                return memory.forked()
    except RuntimeError as error:                  # of a library that numba looks for, once there is a driver
        lacking = str(error).partition("\n")[0]
    reason = cuda.cuda_error()
    if reason is None:
        return (f"there is a driver, and libNVVM, with which numba compiles for the GPU, was not found ({lacking}); install "
                f"it with: pip install 'jitgrad[cuda]', or set CUDA_HOME")
    return f"no usable GPU or driver was found ({' '.join(str(reason).split())})"


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


def ptx_of(kernel: Any, signature: Any, capability: tuple[Any, ...]) -> str:
    """A shell as text for a compute capability."""
    with _LOCK:
        text, _ = cuda.compile(kernel.py_func, signature, cc=capability, device=False, abi="numba", output="ptx",
                               launch_bounds=kernel.targetoptions.get("launch_bounds"))
    return str(text)


class DeviceResults(NamedTuple):
    """What a kernel left on the device. sums: the reduced results in float64; rounded: divided, in the program's dtype."""

    sums: DeviceArray
    rounded: DeviceArray
    examples: list[DeviceArray]


class CudaKernel:
    """A program on CUDA; compiled by its first call, for any batch size. device: the GPU's number."""

    def __init__(self, program: Program, device: int = 0):
        self.program, self.device = program, device
        tape, _ = program.rolled
        self.layout = Layout(program)
        self._form: Fused | Tape | WideForm
        wide = wide_form(self.layout)
        plan = None if wide else schedule.for_cuda(tape, program.dtype, lambda: self.layout.sums)
        self._form = wide or (Tape(self.layout) if plan is None else Fused(self.layout, plan))
        self.plan = self._form.plan
        self._held = Held(device)
        self._texts: dict[tuple[Any, ...], str] = {}

    def __call__(self, shared: Array, batched: list[Array], n: int, out: Sequence[Array | None] = ()) -> Results:
        """Run the program over a batch of n examples; raises DeviceError where there is no GPU to run it."""
        with self.running(n):
            found = self._run(shared, [self._held.keep(a) for a in batched], n, 1)
            return Results(memory.download(found.sums), [memory.download(a) for a in found.examples])

    def on_device(self, shared: Array | SharedNumbers, batched: list[DeviceArray], n: int,
                  divisor: int = 1) -> DeviceResults:
        """The same, of arrays on this GPU, contiguous and from a multiple of 16 bytes on; nothing is waited for.

        shared: the vector of shared numbers on the host, or what of it is on the GPU, contiguous.
        """
        with self.running(n):
            return self._run(shared, batched, n, divisor)

    @contextmanager
    def running(self, n: int = 0) -> Iterator[None]:
        """A call's turn on the device, and its errors as jitgrad's; n: examples, where it is about a batch."""
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
                raise (self._no_room(error, n) if n else memory.no_room(error)) from error
            finally:
                self._held.done()

    def _no_room(self, error: memory.OutOfMemory, n: int) -> errors.DeviceError:
        example = self.program.dtype.itemsize * max(1, sum(self.layout.widths))
        fitting = int(0.8 * error.free) // example
        advice = ""
        if self.layout.widths and 0 < fitting < n:
            digits = 10 ** (len(str(fitting)) - 1)
            advice = f"Call it on parts of the batch: about {fitting // digits * digits:,} examples fit."
        return memory.no_room(error, f", for a batch of {n:,} examples of {example:,} bytes", advice)

    def _run(self, shared: Array | SharedNumbers, batched: list[DeviceArray], n: int, divisor: int) -> DeviceResults:
        layout, form, held, dtype = self.layout, self._form, self._held, self.program.dtype
        blocks, columns = self.plan.grid(n), form.columns
        outputs = [memory.allocate((n, w), dtype, self.device) for w in layout.out_widths]
        part = held.scratch("part", blocks * layout.pieces * columns, dtype)
        places = held.table("places", lambda: form.places)
        sums, rounded = (memory.allocate(places.shape, t, self.device) for t in (np.float64, dtype))
        launch(form.kernel, blocks, form.block, *form.arguments(held, part, shared, batched + outputs, blocks, n),
               shared=self.plan.shared)
        launch(sum_kernel(layout.pieces, dtype), -(-places.size // WARP), (WARP, cuda_batch.SLICES), memory.native(part),
               memory.native(sums), address(rounded), memory.native(places), blocks, columns, places.size, float(divisor))
        return DeviceResults(sums, rounded, outputs)

    def ptx(self, capability: tuple[Any, ...] | None = None) -> str:
        """The kernel for a compute capability, as (9, 0, "a"); by default this machine's GPU, else CC."""
        wanted = capability or _capability()
        with _LOCK:
            if wanted not in self._texts:
                self._texts[wanted] = ptx_of(self._form.kernel, self._form.signature, wanted)
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
