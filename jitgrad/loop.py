"""Training steps made by the CPU's compiled loop, thousands in a call, instead of one by one from Python.

A step of a small model takes a few microseconds, Python's share of it ten times as long. The compiled loop is taken
where that matters and where nothing in a step needs Python; it makes the steps that `fit` would make, bit for bit.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jitgrad import backends, debug
from jitgrad.api import Transformed, jit
from jitgrad.arguments import flatten
from jitgrad.batches import Batches
from jitgrad.calls import Call
from jitgrad.examples import Examples
from jitgrad.optim import Optimizer, Rule

if TYPE_CHECKING:
    from jitgrad.backends.cpu import CpuKernel
    from jitgrad.backends.training import Model

Tree = Any
Array = npt.NDArray[Any]

# Scalar operations in a step from where on two threads for one step are worth more than no Python between steps.
STEP_WORK = 5_000_000
SLICE_EXAMPLES = 1 << 16            # gathered at a time
SLICE_SECONDS = 0.1                 # how long Python, and with it the progress bar and Ctrl-C, may wait
FIRST_STEPS = 64                    # made before it is known how long a step takes


class Slice(NamedTuple):
    """Steps to be made in one call: examples in their order (None: all, as they lie), and (start, size) of each step."""

    order: npt.NDArray[np.intp] | None
    steps: list[tuple[int, int]]


def slices(count: int, batch_size: int | None, epochs: int, generator: np.random.Generator, most: list[int],
           by_epoch: bool) -> Iterator[Slice]:
    """The steps of all epochs, in the order and with the shuffling of `Batches.steps`, at most most[0] in a slice."""
    order: list[npt.NDArray[np.intp]] = []
    steps: list[tuple[int, int]] = []
    gathered = 0
    for _ in range(epochs):
        whole = None if batch_size is None else generator.permutation(count)
        size = count if batch_size is None else batch_size
        for first in range(0, count, size):
            chosen = None if whole is None else whole[first:first + size]
            steps.append((0, count) if chosen is None else (gathered, len(chosen)))
            if chosen is not None:
                order.append(chosen)
                gathered += len(chosen)
            if gathered >= SLICE_EXAMPLES or len(steps) >= most[0] or (by_epoch and first + size >= count):
                yield Slice(np.concatenate(order) if order else None, steps)
                order, steps, gathered = [], [], 0
    if steps:
        yield Slice(np.concatenate(order) if order else None, steps)


class Compiled:
    """A compiled loop for steps of one size, of one objective and one kind of optimizer."""

    def __init__(self, call: Call, update: CpuKernel, mean: bool):
        self.call, self.mean, self._update = call, mean, update
        self.kernel: CpuKernel = call.kernel  # type: ignore[assignment]
        self._local = threading.local()

    def model(self, params: Tree, batches: Batches, vector: Array, averages: Sequence[Array]) -> Model:
        """This thread's model, given its parameters and averages as vectors; it is the same object at each call."""
        from jitgrad.backends.training import Model
        leaves, _ = flatten((params, *batches.between(0, self.call.n)))
        others = self.call.pack(leaves)[0][len(vector):]
        found: Model | None = getattr(self._local, "model", None)
        if found is None:
            found = self._local.model = Model(self.kernel, self._update, len(vector), len(averages), len(others))
        found.load(vector, averages, others)
        return found

    def run(self, model: Model, rule: Rule, rows: Sequence[Array], part: Slice, first: int) -> tuple[int, int, Array]:
        """Make a slice's steps, the first of which is number `first` counted from 1: (made, why no more, losses)."""
        from jitgrad.backends.training import plan
        batched = rows if part.order is None else [array.take(part.order, axis=0) for array in rows]
        scalars = np.array([rule.scalars(first + s) for s in range(len(part.steps))], np.float64)
        return model.run(batched, plan(self.kernel, part.steps, self.mean), scalars.reshape(len(part.steps), -1))


class Loops:
    """The compiled loops of one objective: trainings that differ in numbers alone share them."""

    def __init__(self, step: Transformed, mean: bool):
        self.step, self.mean = step, mean
        self._found: dict[Any, Compiled | None] = {}
        self._updates: dict[Any, CpuKernel] = {}
        self._rows: weakref.WeakKeyDictionary[Batches, list[Array]] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()

    def of(self, optimizer: Optimizer, params: Tree, batches: Examples, batch_size: int | None) -> Compiled | None:
        """The loop for such steps, or None where they are better made, or can only be made, one by one from Python."""
        if not isinstance(batches, Batches):
            return None
        rule, size = optimizer.rule, batches.count if batch_size is None else batch_size
        if rule is None or debug.nans_are_errors() or batches.batched_params:
            return None
        with self._lock:
            call = self.step.prepare(params, *batches.between(0, size))
            kind = (rule if rule.kind is None else rule.kind, id(call.kernel), size)
            if kind not in self._found:
                self._found[kind] = self._compile(rule, call, params, size)
            return self._found[kind]

    def _compile(self, rule: Rule, call: Call, params: Tree, size: int) -> Compiled | None:
        program, (leaves, _) = call.program, flatten(params)
        if (backends.resolve(self.step.device, size * len(program.graph.nodes)) != "cpu" or not program.batched
                or program.rolled[0].operations() * size > STEP_WORK or len(program.values) != 1
                or any(type(leaf) is float or leaf.dtype != program.dtype for leaf in leaves)):
            return None
        dtype = program.dtype
        kind = (rule if rule.kind is None else rule.kind, dtype)
        if kind not in self._updates:
            # The optimizer's formula, compiled with the parameters as its examples.
            arrays, scalars = [np.zeros(1, dtype)] * (2 + rule.averages), list(np.array(rule.scalars(1), dtype))
            formula = jit(rule.formula, in_axes=(*[0] * len(arrays), *[None] * len(scalars)), reduce=None, device="cpu")
            self._updates[kind] = formula.prepare(*arrays, *scalars).kernel  # type: ignore[assignment]
        return Compiled(call, self._updates[kind], self.mean)

    def rows(self, loop: Compiled, params: Tree, batches: Batches) -> list[Array]:
        """All examples, as the kernel reads them."""
        with self._lock:
            if batches not in self._rows:
                leaves, _ = flatten((params, *batches.whole()))
                self._rows[batches] = loop.call.rows([np.asarray(leaf) for leaf in leaves])
            return self._rows[batches]


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
