"""Training on CUDA: models whose parameters stay on the device, and the kernels that make their steps there.

`Resident`: a block makes all steps of a model, however many models there are. `Queued`: each step of a model is a few
launches, put in line without waiting for any. Which of the two a training gets depends on its program and on the size of
its batches alone, so that a model gets the same bits whether it is trained alone or beside others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import from_dtype, types

from jitgrad import errors
from jitgrad.backends import cuda_copies
from jitgrad.backends import cuda_memory as memory
from jitgrad.backends.cuda import CudaKernel, ptx_of
from jitgrad.backends.cuda_compiled import identity, once
from jitgrad.backends.cuda_copies import launch
from jitgrad.backends.cuda_forms import INT, SharedNumbers, address, hole
from jitgrad.backends.device_arrays import DeviceArray
from jitgrad.backends.work import Outcome, Work
from jitgrad.compiler import schedule
from jitgrad.compiler.emit_cuda import FusedCode, Layout
from jitgrad.compiler.emit_training import UpdateCode
from jitgrad.compiler.program import Program
from jitgrad.kernels import cuda_batch, cuda_training
from jitgrad.kernels.cuda_batch import SIMULATED

Array = npt.NDArray[Any]

STEP_BLOCK = 256                   # threads that make a queued step's update
ALIGNED = 4                        # a queued step's first example is a multiple of it, so that its numbers are aligned


def _update_hole(update: UpdateCode) -> Any:
    if SIMULATED:
        from jitgrad.backends.cuda_simulator import update_hole
        return update_hole(update)
    return hole(5, update.update)


class Resident:
    """The steps of a loss and an optimizer as one kernel; see `cuda_training.training_shell`."""

    def __init__(self, layout: Layout, update: UpdateCode, plan: schedule.CudaSchedule, stride: int, mean: bool):
        self.layout, self._update, self._plan, self._stride, self._mean = layout, update, plan, stride, mean
        self._code = FusedCode(layout, plan)
        real = from_dtype(update.dtype)
        numbers = {axes: types.Array(real, axes, "C") for axes in (2, 3)}
        words = {axes: types.Array(types.int32, axes, "C") for axes in (1, 2)}
        self.signature = types.void(numbers[2], words[2], words[2], words[2], INT, numbers[3], words[1], numbers[2],
                                    words[2], words[1], types.UniTuple(INT, len(layout.in_widths)), INT)

    @cached_property
    def shell(self) -> Any:
        """The kernel."""
        return once(self._shell, "training", identity(self.layout), self._update.identity, self._plan, self._stride,
                    self._mean, cuda_batch.FOLD)

    def _shell(self) -> Any:
        code, plan, update = self._code, self._plan, self._update
        if SIMULATED:
            from jitgrad.backends.cuda_simulator import fused_holes
            clear, body, fold = fused_holes(code, cuda_training)
        else:
            clear, body, fold = hole(1, code.clear), hole(6, code.body), hole(3, code.fold)
        return cuda_training.training_shell(
            clear, body, fold, _update_hole(update), from_dtype(update.dtype), code.slots, code.columns, code.boards,
            code.room, update.count, self._stride, update.width, plan.block, self.layout.pieces, self._mean)

    @cached_property
    def _read(self) -> Array:
        """Which of a copy's numbers the body reads, in its order."""
        numbers = once(lambda: self._code.numbers, "numbers", identity(self.layout), self._plan)
        return numbers.astype(np.int32) if len(numbers) else np.zeros(1, np.int32)

    def ptx(self, capability: tuple[Any, ...]) -> str:
        """The kernel for a compute capability, as (9, 0, "a")."""
        return ptx_of(self.shell, self.signature, capability)

    def run(self, numbers: DeviceArray, batched: Sequence[DeviceArray], work: Work) -> Outcome:
        """All lines' steps, in one launch."""
        device, shape = numbers.device, (len(work.lines), len(work.steps))
        losses = memory.allocate(shape, self._update.dtype, device)
        status = memory.allocate((len(work.lines), 2), np.int32, device)
        order = np.zeros((1, 1), np.int32) if work.order is None else work.order.astype(np.int32)
        tables = [memory.upload(table, device) for table in (
            work.lines.astype(np.int32), work.steps.astype(np.int32), order,
            work.scalars.astype(self._update.dtype), self._code.places.astype(np.int32), self._read)]
        live, lines, order_, scalars, places, read = map(memory.native, tables)
        launch(self.shell, len(work.lines), self._plan.block, memory.native(numbers), live, lines, order_,
               int(work.order is not None), scalars, places, memory.native(losses), memory.native(status), read,
               tuple(map(address, batched)), batched[0].shape[0])
        made, why = memory.download(status).T
        return Outcome(made, why, memory.download(losses).astype(np.float64))


class Queued:
    """The steps of a model one after the other: the program's own kernels, then `cuda_training.step_shell`."""

    def __init__(self, kernel: CudaKernel, update: UpdateCode, stride: int, mean: bool):
        self._kernel, self._update, self._stride, self._mean = kernel, update, stride, mean

    @cached_property
    def shell(self) -> Any:
        """The kernel that ends a step."""
        return once(self._shell, "step", self._update.identity, self._stride, self._mean)

    def _shell(self) -> Any:
        update = self._update
        return cuda_training.step_shell(_update_hole(update), from_dtype(update.dtype), update.count, self._stride,
                                        STEP_BLOCK, self._mean)

    @property
    def signature(self) -> Any:
        real = from_dtype(self._update.dtype)
        vector = types.Array(real, 1, "C")
        return types.void(vector, vector, types.Array(types.float64, 1, "C"), types.Array(real, 2, "C"), vector,
                          types.Array(types.int32, 1, "C"), INT)

    def ptx(self, capability: tuple[Any, ...]) -> str:
        """The kernel that ends a step, for a compute capability."""
        return ptx_of(self.shell, self.signature, capability)

    def run(self, numbers: DeviceArray, batched: Sequence[DeviceArray], work: Work) -> Outcome:
        """The lines' steps, one line after the other; waited for once a line."""
        found = [self._line(numbers.part(model * self._stride, (self._stride,)), batched, work, order, scalars)
                 for model, order, scalars in work.lines.tolist()]
        made, why, losses = zip(*found, strict=True)
        return Outcome(np.array(made, np.int32), np.array(why, np.int32), np.stack(losses).astype(np.float64))

    def _line(self, numbers: DeviceArray, batched: Sequence[DeviceArray], work: Work, order: int, row: int) -> tuple[
            int, int, Array]:
        device, kernel, dtype = numbers.device, self._kernel, self._update.dtype
        fresh = memory.allocate((self._stride,), dtype, device)
        cuda_copies.copy(fresh, numbers)
        losses = memory.upload(np.zeros(len(work.steps), dtype), device)
        status = memory.upload(np.zeros(2, np.int32), device)
        scalars = memory.upload(work.scalars[row].astype(dtype), device)
        starts = work.steps[:, 0].tolist()
        shared = SharedNumbers({}, numbers.part(0, (kernel.program.shared_size,)))
        if work.order is not None:
            places, starts = aligned(work.order[order], work.steps)
            batched = [cuda_copies.rows(source, memory.upload(places, device)) for source in batched]
        for start, size in zip(starts, work.steps[:, 1].tolist(), strict=True):
            rows = [array.reshaped((array.size,)).part(start * array.shape[1], (size, array.shape[1])) for array in batched]
            sums = kernel.on_device(shared, rows, size)
            launch(self.shell, 1, STEP_BLOCK, memory.native(numbers), memory.native(fresh), memory.native(sums.sums),
                   memory.native(scalars), memory.native(losses), memory.native(status), size)
        made, why = memory.download(status).tolist()
        return made, why, memory.download(losses)


def aligned(order: Array, steps: Array) -> tuple[Array, list[int]]:
    """(which example lies where, where each step's begin), each step at a multiple of ALIGNED."""
    ends = np.cumsum(-(-steps[:, 1] // ALIGNED) * ALIGNED)
    starts = np.concatenate([[0], ends[:-1]])
    places = np.zeros(ends[-1], np.int32)
    for start, (first, size) in zip(starts.tolist(), steps.tolist(), strict=True):
        places[start:start + size] = order[first:first + size]
    return places, starts.tolist()


class Steps:
    """Steps of `size` examples of one loss and one optimizer's formula, on the GPU of a kernel.

    update: the formula's program; count: parameters, the first of what the examples share; mean: or the sum over a batch
    """

    def __init__(self, kernel: CudaKernel, update: Program, count: int, size: int, mean: bool):
        program = kernel.program
        self.kernel, self.dtype, self._count, self._shared = kernel, program.dtype, count, program.shared_size
        self._room = -(-max(1, program.shared_size) // ALIGNED) * ALIGNED          # whole vectors of 16 bytes
        code = UpdateCode(update, count, self._room)
        self._starts, stride = code.starts, -(-(self._room + (code.kept - 1) * count) // ALIGNED) * ALIGNED
        layout, self._stride = kernel.layout, stride
        plan = schedule.for_training(program.rolled[0], program.dtype, lambda: layout.sums, 2 * stride + code.width, size)
        self.form = (Queued(kernel, code, stride, mean) if plan is None else
                      Resident(layout, code, plan, stride, mean))

    def models(self, vectors: Array, averages: Array, others: Array) -> DeviceArray:
        """Models on the device, (models, stride): parameters, (models, count), averages, (models, n, count), and what else
        examples share.
        """
        copies = np.zeros((len(vectors), self._stride), self.dtype)
        copies[:, self._count:self._shared] = others
        for found, given in zip(self._parts(copies), (vectors, *averages.swapaxes(0, 1)), strict=True):
            found[:] = given
        with self.kernel.running():
            return memory.upload(copies, self.kernel.device)

    def numbers(self, models: DeviceArray) -> list[Array]:
        """Copies of their parameters, and of each of the averages, (models, count)."""
        return self._parts(memory.download(models))

    def _parts(self, copies: Array) -> list[Array]:
        return [copies[..., start:start + self._count] for start in self._starts]

    def rows(self, batched: Callable[[], Sequence[Array | DeviceArray]]) -> list[DeviceArray]:
        """All examples on the device; those on the host are copied. Raises ShapeError for more than 32 bits can count."""
        with self.kernel.running():
            arrays = batched()
            count = arrays[0].shape[0]
            if count > cuda_copies.INT32:
                raise errors.ShapeError(errors.explain(
                    f"a GPU trains on at most {cuda_copies.INT32:,} examples at once; there are {count:,}.", None,
                    "Train on parts of them, one fit after the other, or with device='cpu'."))
            return [array if isinstance(array, DeviceArray) else memory.upload(array, self.kernel.device)
                    for array in arrays]

    def run(self, models: DeviceArray, batched: Sequence[DeviceArray], work: Work) -> Outcome:
        """Make the steps; what a line's failing step would have changed is as before it."""
        if not work.scalars.shape[2]:                       # arrays on the device have elements
            work = work._replace(scalars=np.zeros((*work.scalars.shape[:2], 1)))
        with self.kernel.running(int(work.steps[:, 1].max())):
            return self.form.run(models, batched, work)
