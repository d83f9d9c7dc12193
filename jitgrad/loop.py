"""Training steps made by the CPU's compiled loop, thousands in a call, instead of one by one from Python.

A step of a small model takes a few microseconds, Python's share of it ten times as long. The compiled loop is taken
where that matters and where nothing in a step needs Python; it makes the steps that `fit` would make, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jitgrad import backends, debug
from jitgrad.api import Transformed, jit
from jitgrad.arguments import flatten
from jitgrad.batches import Batches
from jitgrad.calls import Call
from jitgrad.optim import Optimizer, Rule

if TYPE_CHECKING:
    from jitgrad.backends.cpu import CpuKernel

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
    """The steps of all epochs, in the order and with the shuffling of `Batches.shuffled`, at most most[0] in a slice."""
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


def update_kernel(rule: Rule, dtype: np.dtype[Any]) -> CpuKernel:
    """An optimizer's formula, compiled with the parameters as its examples."""
    arrays = [np.zeros(1, dtype)] * (2 + rule.averages)
    scalars = [dtype.type(s) for s in rule.scalars(1)]
    formula = jit(rule.formula, in_axes=(*[0] * len(arrays), *[None] * len(scalars)), reduce=None, device="cpu")
    kernel: Any = formula.prepare(*arrays, *scalars).kernel
    return kernel  # type: ignore[no-any-return]


class Compiled:
    """A compiled training loop for one objective, optimizer and data; `Compiled.of` says whether there is one."""

    def __init__(self, call: Call, update: CpuKernel, rule: Rule, mean: bool):
        self.call, self.rule, self.mean, self._update = call, rule, mean, update
        self.kernel: CpuKernel = call.kernel  # type: ignore[assignment]

    @classmethod
    def of(cls, step: Transformed, optimizer: Optimizer, params: Tree, batches: Batches, batch_size: int | None,
           mean: bool) -> Compiled | None:
        """The loop for these steps, or None where they are better made, or can only be made, one by one."""
        if optimizer.rule is None or debug.nans_are_errors() or batches.batched_params:
            return None
        size = batches.count if batch_size is None else batch_size
        call = step.prepare(params, *batches.first(size))
        program, (leaves, _) = call.program, flatten(params)
        if backends.resolve(step.device, size * len(program.graph.nodes)) != "cpu" or not program.batched:
            return None
        tape, _ = program.rolled
        if tape.operations() * size > STEP_WORK:
            return None
        if any(type(leaf) is float or leaf.dtype != program.dtype for leaf in leaves) or len(program.values) != 1:
            return None
        return cls(call, update_kernel(optimizer.rule, program.dtype), optimizer.rule, mean)

    def model(self, params: Tree, batches: Batches, vector: Array, averages: Sequence[Array]) -> Any:
        """A model to train, from its parameters and averages as vectors."""
        from jitgrad.backends.training import Model
        leaves, _ = flatten((params, *batches.first(self.call.n)))
        shared, _ = self.call.pack(leaves)
        return Model(self.kernel, self._update, vector, averages, shared[len(vector):])

    def rows(self, params: Tree, batches: Batches) -> list[Array]:
        """All examples, as the kernel reads them."""
        leaves, _ = flatten((params, *batches.whole()))
        return self.call.rows([np.asarray(leaf) for leaf in leaves])

    def run(self, model: Any, rows: Sequence[Array], part: Slice, first: int) -> tuple[int, int, Array]:
        """Make a slice's steps, the first of which is number `first` counted from 1: (made, why no more, losses)."""
        from jitgrad.backends.training import plan
        batched = rows if part.order is None else [array.take(part.order, axis=0) for array in rows]
        scalars = np.array([self.rule.scalars(first + s) for s in range(len(part.steps))], np.float64)
        return model.run(batched, plan(self.kernel, part.steps, self.mean), scalars.reshape(len(part.steps), -1))  # type: ignore[no-any-return]


class Pace:
    """How many steps a slice may have, from how long steps take."""

    def __init__(self) -> None:
        self.most = [FIRST_STEPS]
        self._started = time.perf_counter()

    def lap(self, steps: int) -> float:
        """Seconds since the last lap, in which so many steps were made."""
        now = time.perf_counter()
        seconds, self._started = now - self._started, now
        if steps:
            self.most[0] = max(1, min(1 << 16, int(SLICE_SECONDS * steps / max(seconds, 1e-9)), 4 * self.most[0]))
        return seconds
