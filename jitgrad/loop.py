"""Training steps made by a compiled loop, thousands in a call, instead of one by one from Python.

A step of a small model takes a few microseconds, Python's share of it ten times as long. The compiled loop is taken
where that matters and where nothing in a step needs Python. The CPU's makes the steps that `fit` would make, bit for bit;
the GPU's rounds in its own way, the same for one model as for many.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from jitgrad import backends, debug
from jitgrad.api import Transformed, jit
from jitgrad.arguments import flatten
from jitgrad.backends.device_arrays import DeviceArray, on_host
from jitgrad.backends.work import Outcome, Work
from jitgrad.batches import Batches
from jitgrad.calls import Call
from jitgrad.device_calls import DeviceCall
from jitgrad.examples import Examples
from jitgrad.optim import Rule

if TYPE_CHECKING:
    from jitgrad.backends.cpu import CpuKernel
    from jitgrad.backends.cuda_training import Steps
    from jitgrad.backends.training import Model
    from jitgrad.trainer import Trainer

Tree = Any
Array = npt.NDArray[Any]
Numbers = tuple[Array, Sequence[Array]]                     # parameters as a vector, and the averages of them

# Scalar operations in a step from where on two threads for one step are worth more than no Python between steps.
STEP_WORK = 5_000_000
SLICE_EXAMPLES = 1 << 16            # gathered at a time on the CPU: what a core's cache holds
GPU_SLICE_EXAMPLES = 1 << 24        # named at a time on a GPU, of all models together: 64 MiB
SLICE_SECONDS = 0.1                 # how long Python, and with it the progress bar and Ctrl-C, may wait
FIRST_STEPS = 64                    # made before it is known how long a step takes


class Slice(NamedTuple):
    """Steps to be made in one call: examples in their order (None: all, as they lie), and (start, size) of each step."""

    order: npt.NDArray[np.intp] | None
    steps: list[tuple[int, int]]


def slices(count: int, batch_size: int | None, epochs: int, generator: np.random.Generator, most: list[int],
           by_epoch: bool, room: int) -> Iterator[Slice]:
    """The steps of all epochs, in the order and with the shuffling of `Batches.steps`.

    A slice has at most most[0] steps and, within a step's, `room` examples; with `by_epoch` none crosses an epoch's end.
    """
    size = count if batch_size is None else batch_size
    starts = [(first, min(size, count - first)) for first in range(0, count, size)]
    order: list[npt.NDArray[np.intp]] = []
    steps: list[tuple[int, int]] = []
    gathered = 0
    for _ in range(epochs):
        whole = None if batch_size is None else generator.permutation(count)
        ahead, taken = 0, 0                                 # steps of the epoch that are in a slice, and their examples
        while ahead < len(starts):
            free = min(most[0] - len(steps), len(starts) if whole is None else -(-(room - gathered) // size))
            part = starts[ahead:ahead + max(1, free)]
            ahead += len(part)
            if whole is None:
                steps += part
            else:
                steps += [(gathered + first - taken, number) for first, number in part]
                order.append(whole[taken:part[-1][0] + part[-1][1]])
                gathered += len(order[-1])
                taken += len(order[-1])
            if gathered >= room or len(steps) >= most[0] or (by_epoch and ahead == len(starts)):
                yield Slice(np.concatenate(order) if order else None, steps)
                order, steps, gathered = [], [], 0
    if steps:
        yield Slice(np.concatenate(order) if order else None, steps)


class Loop(Protocol):
    """Steps of one size, of one objective and one kind of optimizer, on one device.

    call: a call of the objective's value and gradient; slice_examples: how many examples a call of the loop may name
    """

    call: Call
    slice_examples: int

    def rows(self, leaves: Sequence[Any]) -> Any:
        """All examples as the loop reads them, from the leaves of the objective's arguments."""

    def models(self, params: Tree, example: tuple[Tree, ...], numbers: Sequence[Numbers]) -> Any:
        """Models that begin with these numbers."""

    def numbers(self, models: Any, k: int) -> list[Array]:
        """Parameters and averages of model k, as vectors."""

    def run(self, models: Any, rows: Any, work: Work) -> Outcome:
        """Make these steps."""


class Compiled:
    """The CPU's loop, for one model at a time."""

    slice_examples = SLICE_EXAMPLES

    def __init__(self, call: Call, update: CpuKernel, mean: bool):
        self.call, self.mean, self._update = call, mean, update
        self.kernel: CpuKernel = call.kernel  # type: ignore[assignment]
        self._local = threading.local()

    def rows(self, leaves: Sequence[Any]) -> list[Array]:
        """Views where they can be."""
        return self.call.rows([np.asarray(leaf) for leaf in leaves])

    def models(self, params: Tree, example: tuple[Tree, ...], numbers: Sequence[Numbers]) -> Model:
        """This thread's model; it is the same object at each call."""
        from jitgrad.backends.training import Model
        ((vector, averages),) = numbers
        others = _others(self.call, params, example, len(vector))
        found: Model | None = getattr(self._local, "model", None)
        if found is None:
            found = self._local.model = Model(self.kernel, self._update, len(vector), len(averages), len(others))
        found.load(vector, averages, others)
        return found

    def numbers(self, models: Model, k: int) -> list[Array]:
        """The model's own, which its steps change."""
        return models.numbers

    def run(self, models: Model, rows: Sequence[Array], work: Work) -> Outcome:
        """The steps of the one line there is."""
        from jitgrad.backends.training import plan
        batched = rows if work.order is None else [array.take(work.order[0], axis=0) for array in rows]
        steps = plan(self.kernel, work.steps, self.mean)
        made, why, found = models.run(batched, steps, work.scalars[0], float(work.norms[0]))
        losses = np.full((1, len(work.steps)), np.nan)
        losses[0, :len(found)] = found
        return Outcome(np.array([made]), np.array([why]), losses)


class GpuModels:
    """Models on a GPU, and what is known of their numbers on the host."""

    def __init__(self, there: DeviceArray):
        self.there = there
        self.here: Array | None = None


class OnGpu:
    """A GPU's loop, for any number of models at once."""

    slice_examples = GPU_SLICE_EXAMPLES

    def __init__(self, call: Call, steps: Steps):
        self.call, self._steps = call, steps

    def rows(self, leaves: Sequence[Any]) -> list[DeviceArray]:
        """Copies on the device; what lies there already is read where it is."""
        call = self.call
        return self._steps.rows(lambda: call.rows_on_device(leaves) if isinstance(call, DeviceCall) else
                                call.rows([np.asarray(leaf) for leaf in leaves]))

    def models(self, params: Tree, example: tuple[Tree, ...], numbers: Sequence[Numbers]) -> GpuModels:
        """All on the device."""
        stacked = np.stack([[vector, *averages] for vector, averages in numbers])
        return GpuModels(self._steps.models(stacked, _others(self.call, params, example, stacked.shape[2])))

    def numbers(self, models: GpuModels, k: int) -> list[Array]:
        """Of one model; those of all are copied at once."""
        if models.here is None:
            models.here = self._steps.numbers(models.there)
        return list(models.here[k])

    def run(self, models: GpuModels, rows: Sequence[DeviceArray], work: Work) -> Outcome:
        """All lines' steps."""
        models.here = None
        return self._steps.run(models.there, rows, work)


def _others(call: Call, params: Tree, example: tuple[Tree, ...], parameters: int) -> Array:
    """What all examples share besides the parameters, which come first."""
    leaves, _ = flatten((params, *example))
    return call.shared([on_host(leaf) for leaf in leaves])[parameters:]


_updates: dict[Any, Call] = {}


def update_call(rule: Rule, dtype: np.dtype[Any], device: str) -> Call:
    """An optimizer's formula with the parameters as its examples; made once for each kind of rule."""
    kind = rule.kind, dtype, device
    if rule.kind is not None and kind in _updates:
        return _updates[kind]
    arrays, scalars = [np.zeros(1, dtype)] * (2 + rule.averages), list(np.array(rule.scalars(1), dtype))
    formula = jit(rule.formula, in_axes=(*[0] * len(arrays), *[None] * len(scalars)), reduce=None, device=device)
    made = formula.prepare(*arrays, *scalars)
    if rule.kind is not None:
        _updates[kind] = made
    return made


class Loops:
    """The compiled loops of one objective: trainings that differ in numbers alone share them."""

    def __init__(self, step: Transformed, mean: bool):
        self.step, self.mean = step, mean
        self._known: weakref.WeakKeyDictionary[Batches, dict[Any, Loop | None]] = weakref.WeakKeyDictionary()
        self._found: dict[Any, Loop | None] = {}
        self._rows: weakref.WeakKeyDictionary[Batches, dict[Any, Any]] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()

    def may_use_gpu(self) -> bool:
        """Whether trainings may be made on a GPU: it was asked for, or there is one."""
        asked = backends.check_name(self.step.device)
        return asked.startswith("cuda") or (asked == "auto" and backends.has_gpu())

    def of(self, trainer: Trainer, batches: Examples, batch_size: int | None, models: int = 1) -> Loop | None:
        """The loop for such steps, or None where they are better made, or can only be made, one by one from Python.

        models: how many are trained beside this one, itself included; "auto" then looks at the work of all
        """
        rule, size = trainer.rule, batches.count if batch_size is None else batch_size
        if not isinstance(batches, Batches):
            return None
        if rule is None or debug.nans_are_errors() or batches.batched_params:
            return None
        kind, origin = rule if rule.kind is None else rule.kind, batches.origin
        asked = kind, rule.clips, size, models, trainer.layout
        with self._lock:
            known = self._known.setdefault(origin, {})
            if asked not in known:
                params = trainer.now.params
                call = self.step.prepare(params, *batches.between(0, size))
                on = call.gpu if isinstance(call, DeviceCall) else None
                name = backends.resolve(self.step.device, models * size * len(call.program.graph.nodes), on)
                found = kind, rule.clips, id(call.kernel), size, name
                if found not in self._found:
                    self._found[found] = self._compile(rule, call, params, size, name)
                known[asked] = self._found[found]
            return known[asked]

    def _compile(self, rule: Rule, call: Call, params: Tree, size: int, name: str) -> Loop | None:
        program, (leaves, _) = call.program, flatten(params)
        on_gpu = name.startswith("cuda")
        if (not program.batched or len(program.values) != 1
                or any(type(leaf) is float or leaf.dtype != program.dtype for leaf in leaves)
                or not (on_gpu or (name == "cpu" and program.rolled[0].operations() * size <= STEP_WORK))):
            return None
        if on_gpu:
            if rule.clips:                                  # its kernels have no sum over the parameters
                return None
            return self._on_gpu(rule, call, sum(int(np.size(leaf)) for leaf in leaves), size, name)
        return Compiled(call, update_call(rule, program.dtype, "cpu").kernel, self.mean)  # type: ignore[arg-type]

    def _on_gpu(self, rule: Rule, call: Call, count: int, size: int, name: str) -> Loop:
        from jitgrad.backends.cuda import CudaKernel
        from jitgrad.backends.cuda_training import Steps
        kernel = call.recorded.kernels.setdefault(name, backends.kernel(call.program, name))
        assert isinstance(kernel, CudaKernel)
        update = update_call(rule, call.program.dtype, "interpret").program
        return OnGpu(call, Steps(kernel, update, count, size, self.mean))

    def rows(self, loop: Loop, params: Tree, batches: Batches) -> Any:
        """All examples, as the loop reads them."""
        with self._lock:
            known = self._rows.setdefault(batches, {})
            kind = type(loop), loop.call.program            # another program may read them in another precision
            if kind not in known:
                leaves, _ = flatten((params, *batches.whole()))
                known[kind] = loop.rows(leaves)
            return known[kind]


class Pace:
    """How many steps a slice may have, from how long steps take."""

    def __init__(self) -> None:
        self.most = [FIRST_STEPS]
        self.begin()

    def begin(self) -> None:
        """A lap begins."""
        self._started = time.perf_counter()

    def lap(self, steps: int) -> float:
        """Seconds since the lap began, in which so many steps were made."""
        seconds = time.perf_counter() - self._started
        if steps:
            self.most[0] = max(1, min(1 << 16, int(SLICE_SECONDS * steps / max(seconds, 1e-9)), 4 * self.most[0]))
        return seconds
