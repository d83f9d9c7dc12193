"""Training steps made by a compiled loop, thousands in a call, instead of one by one from Python.

A step of a small model takes a few microseconds, Python's share of it ten times as long. The compiled loop is taken
where that matters and where nothing in a step needs Python. The CPU's makes the steps that `fit` would make, bit for bit;
the GPU's rounds in its own way, the same for one model as for many.
"""

from __future__ import annotations

import threading
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
    from jitgrad.backends.cuda_training import Steps as DeviceSteps
    from jitgrad.backends.training import Engine
    from jitgrad.trainer import Trainer

Tree = Any
Array = npt.NDArray[Any]
Steps = npt.NDArray[np.intp]

# Scalar operations in a step from where on two threads for one step are worth more than no Python between steps.
STEP_WORK = 5_000_000
SLICE_EXAMPLES = 1 << 16            # gathered at a time on the CPU: what a core's cache holds
GPU_SLICE_EXAMPLES = 1 << 24        # named at a time on a GPU, of all models together: 64 MiB
SLICE_SECONDS = 0.1                 # how long Python, and with it the progress bar and Ctrl-C, may wait
FIRST_STEPS = 64                    # made before it is known how long a step takes
MOST_STEPS = 1 << 16


def slices(count: int, batch_size: int | None, epochs: int, most: list[int], by_epoch: bool, room: int) -> Iterator[Steps]:
    """The (first, size) of each step of all epochs, a table for each call; firsts count a call's examples from 0.

    A call has at most most[0] steps and, in minibatches, those that `room` examples begin; with `by_epoch` none crosses an
    epoch's end. Without batch_size every step has all examples.
    """
    size = count if batch_size is None else batch_size
    length = -(-count // size)                              # of an epoch
    made, end = 0, epochs * length
    while made < end:
        free = min(most[0], end - made)
        if batch_size is not None:
            free = min(free, max(1, -(-room // size)))
        if by_epoch:
            free = min(free, length - made % length)
        last = np.arange(made, made + free) % length == length - 1
        sizes = np.where(last, count - (length - 1) * size, size)
        yield np.stack([np.zeros_like(sizes) if batch_size is None else np.cumsum(sizes) - sizes, sizes], axis=1)
        made += free


class Shuffled:
    """The examples of one epoch after the other, each epoch in an order drawn anew; the orders of `Batches.steps`."""

    def __init__(self, count: int, generator: np.random.Generator):
        self._all, self._generator = np.arange(count), generator
        self._left = self._all[:0]

    def take(self, count: int) -> npt.NDArray[np.intp]:
        """The next ones; no epoch's order is drawn before it is needed, for the generator may go into a checkpoint."""
        epochs = -(-(count - len(self._left)) // len(self._all))
        if epochs:
            drawn = self._all[None].repeat(epochs, axis=0)
            # The numbers of one permutation after the other, in half the time.
            self._generator.permuted(drawn, axis=1, out=drawn)
            self._left = np.concatenate([self._left, drawn.reshape(-1)]) if len(self._left) else drawn.reshape(-1)
        found, self._left = self._left[:count], self._left[count:]
        return found


class Loop(Protocol):
    """Steps of one size, of one objective and one kind of optimizer, on one device.

    call: a call of the objective's value and gradient; at_once: whether the models of a call are trained at once, or one
    after the other
    """

    call: Call
    at_once: bool

    def room(self, orders: int) -> int:
        """How many examples each of so many orders may name in a call."""

    def rows(self, leaves: Sequence[Any]) -> Any:
        """All examples as the loop reads them, from the leaves of the objective's arguments."""

    def models(self, params: Tree, example: tuple[Tree, ...], vectors: Array, averages: Array) -> Any:
        """Models that begin with these parameters, (models, parameters), and averages of them, (models, n, parameters)."""

    def vectors(self, models: Any) -> Array:
        """Their parameters now; they may change at the next run."""

    def numbers(self, models: Any, k: int) -> Array:
        """Parameters of model k and below them their averages, (1 + n, parameters); as `vectors`."""

    def run(self, models: Any, rows: Any, work: Work) -> Outcome:
        """Make these steps."""


class HostModels(NamedTuple):
    """Models' numbers, (models, 1 + averages, parameters), and what their examples share besides the parameters."""

    numbers: Array
    others: Array


class Compiled:
    """The CPU's loop, on one core."""

    at_once = False

    def __init__(self, call: Call, update: CpuKernel, mean: bool):
        self.call, self.mean, self._update = call, mean, update
        self.kernel: CpuKernel = call.kernel  # type: ignore[assignment]
        self._local = threading.local()

    def room(self, orders: int) -> int:
        """A model's examples are gathered when it has its turn."""
        return SLICE_EXAMPLES

    def rows(self, leaves: Sequence[Any]) -> list[Array]:
        """Views where they can be."""
        return self.call.rows([np.asarray(leaf) for leaf in leaves])

    def models(self, params: Tree, example: tuple[Tree, ...], vectors: Array, averages: Array) -> HostModels:
        """Copies."""
        numbers = np.concatenate([vectors[:, None], averages], axis=1)
        return HostModels(numbers, _others(self.call, params, example, vectors.shape[1]))

    def vectors(self, models: HostModels) -> Array:
        """The models' own."""
        vectors: Array = models.numbers[:, 0]
        return vectors

    def numbers(self, models: HostModels, k: int) -> Array:
        """The model's own."""
        found: Array = models.numbers[k]
        return found

    def run(self, models: HostModels, rows: Sequence[Array], work: Work) -> Outcome:
        """The steps of one line after the other."""
        from jitgrad.backends.training import plan
        engine = self._engine(models)
        engine.begin(models.others, plan(self.kernel, work.steps, self.mean))
        scalars = np.ascontiguousarray(work.scalars, self.kernel.program.dtype)
        losses = np.full((len(work.lines), len(work.steps)), np.nan)
        if work.order is None:
            engine.read(rows)
        ends = []
        for own, (model, order, row) in zip(losses, work.lines.tolist(), strict=True):
            if work.order is not None:
                engine.read([array.take(work.order[order], axis=0) for array in rows])
            ends.append(engine.run(models.numbers[model], scalars[row], float(work.norms[row]), own))
        made, why = np.array(ends).T
        return Outcome(made, why, losses)

    def _engine(self, models: HostModels) -> Engine:
        """This thread's; it is the same object at each call."""
        from jitgrad.backends.training import Engine
        found: Engine | None = getattr(self._local, "engine", None)
        if found is None:
            _, kept, count = models.numbers.shape
            found = self._local.engine = Engine(self.kernel, self._update, count, kept - 1, len(models.others))
        return found


class GpuModels:
    """Models on a GPU, and what is known on the host of their parameters and each average of them."""

    def __init__(self, there: DeviceArray):
        self.there = there
        self.here: list[Array] | None = None


class OnGpu:
    """A GPU's loop, for any number of models at once."""

    at_once = True

    def __init__(self, call: Call, steps: DeviceSteps):
        self.call, self._steps = call, steps

    def room(self, orders: int) -> int:
        """All orders go there before the first step."""
        return max(1, GPU_SLICE_EXAMPLES // orders)

    def rows(self, leaves: Sequence[Any]) -> list[DeviceArray]:
        """Copies on the device; what lies there already is read where it is."""
        call = self.call
        return self._steps.rows(lambda: call.rows_on_device(leaves) if isinstance(call, DeviceCall) else
                                call.rows([np.asarray(leaf) for leaf in leaves]))

    def models(self, params: Tree, example: tuple[Tree, ...], vectors: Array, averages: Array) -> GpuModels:
        """All on the device."""
        return GpuModels(self._steps.models(vectors, averages, _others(self.call, params, example, vectors.shape[1])))

    def vectors(self, models: GpuModels) -> Array:
        """Copied from the device once after a run."""
        return self._here(models)[0]

    def numbers(self, models: GpuModels, k: int) -> Array:
        """Copied with all others'."""
        return np.stack([part[k] for part in self._here(models)])

    def _here(self, models: GpuModels) -> list[Array]:
        if models.here is None:
            models.here = self._steps.numbers(models.there)
        return models.here

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
        kernels = call.recorded.kernels
        kernel = kernels[name] if name in kernels else kernels.setdefault(name, backends.kernel(call.program, name))
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
    """How many steps, or whatever is counted, a call may have, from how long they take."""

    def __init__(self, first: int, most: int):
        self.most, self._limit = [first], most

    @staticmethod
    def of_steps() -> Pace:
        """Where nothing is known of the steps."""
        return Pace(FIRST_STEPS, MOST_STEPS)

    def learn(self, made: int, seconds: float) -> None:
        """So many took so long."""
        if made:
            self.most[0] = max(1, min(self._limit, int(SLICE_SECONDS * made / max(seconds, 1e-9)), 4 * self.most[0]))
