"""Optimizer steps: the parameters and the optimizer's state, and the two ways in which a training makes its epochs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jitgrad import optim
from jitgrad.api import Transformed
from jitgrad.arguments import flatten
from jitgrad.batches import Batches, Noise, check_finite
from jitgrad.errors import LabelError, NonFiniteError, explain
from jitgrad.loop import Compiled, Loops, Pace, slices
from jitgrad.progress import Progress
from jitgrad.ravel import Raveled, Vector

Tree = Any


class Moment(NamedTuple):
    """Where a training stands; its arrays are never written to, so that a moment can be kept.

    vectors: the parameters, one vector per dtype; state: the optimizer's; params: the parameters as views into vectors
    steps: updates made; loss: of the last one, None before it
    """

    vectors: tuple[Vector, ...]
    state: Any
    params: Tree
    steps: int
    loss: float | None


class Run:
    """One training. Its epochs come as (sum of the losses over the examples, seconds)."""

    def __init__(self, loops: Loops, trainer: Trainer, batches: Batches, batch_size: int | None,
                 generator: np.random.Generator, noise: Noise | None) -> None:
        self._loops, self._trainer, self._batches, self._batch_size = loops, trainer, batches, batch_size
        self._generator, self._mean, self._noise = generator, loops.mean, noise
        self.steps_per_epoch = 1 if batch_size is None else -(-batches.count // batch_size)
        self._noisy: tuple[int, Batches] = -1, batches

    def examples(self) -> Batches:
        """The examples, with the noise of the next step's epoch."""
        epoch = self._trainer.now.steps // self.steps_per_epoch
        if self._noise is not None and self._noisy[0] != epoch:
            self._noisy = epoch, self._noise.joined(self._batches, epoch)
        return self._noisy[1]

    def one_by_one(self, epochs: int, progress: Progress) -> Iterator[tuple[float, float]]:
        """Each step is a call from Python."""
        for _ in range(epochs):
            started, total = time.perf_counter(), 0.0
            for size, batch in _epoch(self.examples(), self._batch_size, self._generator):
                loss = self._make(batch)
                total += loss * size if self._mean else loss
                progress.advance(loss, 1)
            yield total, time.perf_counter() - started

    def _make(self, batch: tuple[Tree, ...]) -> float:
        trainer = self._trainer
        value, grads = _step(self._loops.step, trainer.now.params, batch, self.examples())
        epoch, index = divmod(trainer.now.steps, self.steps_per_epoch)
        trainer.update(float(value), grads, f"epoch {epoch + 1}, step {index + 1} of {self.steps_per_epoch}")
        return float(value)

    def compiled(self, loop: Compiled, epochs: int, by_epoch: bool,
                 progress: Progress) -> Iterator[tuple[float, float]]:
        """Many steps a call; with `by_epoch` or noise, none across the end of an epoch."""
        trainer, batches, pace = self._trainer, self.examples(), Pace()
        model = loop.model(trainer.now.params, batches, *trainer.numbers())
        by_epoch, ends = by_epoch or self._noise is not None, self.steps_per_epoch
        rule = trainer.rule
        assert rule is not None                             # or there would be no loop
        total, spent = 0.0, 0.0
        for part in slices(batches.count, self._batch_size, epochs, self._generator, pace.most, by_epoch):
            before, batches = trainer.now.steps, self.examples()
            rows = self._loops.rows(loop, trainer.now.params, batches)
            made, why, losses = loop.run(model, rule, rows, part, before + 1)
            trainer.load(model.numbers, before + made, losses[made - 1] if made else None)
            if why:
                # The same step again from Python: it fails again, and then explains what happened.
                start, size = part.steps[made]
                self._make(batches.chosen(None if part.order is None else part.order[start:start + size]))
                raise AssertionError("a step that failed in the compiled loop succeeded from Python")
            seconds = pace.lap(made) / made
            progress.advance(float(losses[-1]), made)
            for number, ((_, size), loss) in enumerate(zip(part.steps, losses.tolist(), strict=True), before + 1):
                total += loss * size if self._mean else loss
                spent += seconds
                if number % ends == 0:
                    yield total, spent
                    total, spent = 0.0, 0.0
            pace.begin()                                    # what the caller did meanwhile is no part of a step


class Trainer:
    """The parameters and the optimizer's state; an update that fails leaves both as they were."""

    def __init__(self, optimizer: optim.Optimizer, params: Tree) -> None:
        optim.adam().init(params)  # the check that every leaf is a floating-point number
        leaves, spec = flatten(params)
        for position, leaf in enumerate(leaves):
            path = optim.leaf_path("params", spec, position)
            check_finite(np.asarray(leaf), path, "Start from finite parameters.")
        self._optimizer, self.rule = optimizer, optimizer.rule
        self._layout = Raveled(params)
        # One vector per dtype instead of the tree: an update then costs the same few NumPy calls for any model.
        vectors = self._layout.ravel(params)
        unraveled = self._layout.unravel(vectors)
        state = optimizer.init(vectors if optimizer.any_layout else unraveled)
        # Replaced as a whole: whoever is interrupted finds all of one moment.
        self.now = Moment(vectors, state, unraveled, 0, None)

    def copy(self, moment: Moment | None = None) -> Tree:
        """The parameters, now or then, sharing no memory with later updates or with the caller's tree."""
        return self._layout.unravel([vector.copy() for vector in (moment or self.now).vectors])

    def begin(self, params: Tree, state: Any, steps: int, loss: float | None) -> None:
        """Go on from here."""
        self.now = self.moment(params, state, steps, loss)

    def moment(self, params: Tree, state: Any, steps: int, loss: float | None) -> Moment:
        """These parameters as a moment."""
        vectors = self._layout.ravel(params)
        return Moment(vectors, state, self._layout.unravel(vectors), steps, loss)

    def numbers(self) -> tuple[Vector, list[Vector]]:
        """Parameters that lie in one vector, and the averages that the optimizer keeps of them."""
        return self.now.vectors[0], [average for (average,) in self.now.state.averages]

    def load(self, numbers: list[Vector], steps: int, loss: float | None) -> None:
        """Take over parameters and averages that were trained elsewhere."""
        vectors = (numbers[0].copy(),)
        state = optim.State(steps, tuple((average.copy(),) for average in numbers[1:]))
        self.now = Moment(vectors, state, self._layout.unravel(vectors), steps, self.now.loss if loss is None else loss)

    def update(self, loss: float, grads: Tree, when: str) -> None:
        """Make a step."""
        if not np.isfinite(loss):
            raise self._diverged(f"The loss became {loss} at {when}")
        # A NaN or infinite gradient, and an overflowing step, both end as non-finite parameters: one check for both.
        with np.errstate(all="ignore"):
            if self._optimizer.any_layout:
                vectors, state = self._optimizer.update(self._layout.ravel(grads), self.now.state, self.now.vectors)
                params = self._layout.unravel(vectors)
            else:
                params, state = self._optimizer.update(grads, self.now.state, self.now.params)
                vectors = self._layout.ravel(params)
        for vector in vectors:
            if not np.isfinite(vector).all():
                raise self._diverged(f"{_first_non_finite(grads, params)} became NaN or infinite at {when}")
        self.now = Moment(vectors, state, params, self.now.steps + 1, loss)

    def _diverged(self, happened: str) -> NonFiniteError:
        before = "on the very first step" if self.now.loss is None else f"after a loss of {self.now.loss:.6g}"
        return NonFiniteError(
            explain(
                f"{happened}, {before}.",
                f"optimizer={self._optimizer.description}",
                "Try a smaller learning rate, standardised inputs, or smaller initial parameters; "
                "`with jg.debug_nans():` names the operation that made the first NaN.",
            )
        )


def _first_non_finite(grads: Tree, params: Tree) -> str:
    for what, tree in (("The gradient of ", grads), ("", params)):
        leaves, spec = flatten(tree)
        for position, leaf in enumerate(leaves):
            if not np.isfinite(leaf).all():
                return what + optim.leaf_path("params", spec, position)
    return "A parameter"


def _epoch(
    batches: Batches, batch_size: int | None, generator: np.random.Generator
) -> Iterator[tuple[int, tuple[Tree, ...]]]:
    if batch_size is None:
        yield batches.count, batches.whole()
    else:
        yield from batches.shuffled(batch_size, generator)


def _step(step: Transformed, params: Tree, batch: tuple[Tree, ...], batches: Batches) -> Any:
    try:
        return step(params, *batch)
    except (LabelError, NonFiniteError):
        # The error counts examples from the start of a shuffled batch; over all of them it names the caller's index.
        step(params, *batches.whole())
        raise
