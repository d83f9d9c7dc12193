"""Optimizer steps: the parameters and the optimizer's state, and the two ways in which a training makes its epochs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jitgrad import optim
from jitgrad.arguments import flatten, unflatten
from jitgrad.batches import Batches, Noise
from jitgrad.errors import NonFiniteError, explain
from jitgrad.examples import Examples, Update, check_finite
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
    """One training. Its epochs come as (sum of the losses over the examples, seconds).

    average_every: None, or how many updates replicas make apart; see `fit`
    """

    def __init__(self, loops: Loops, trainer: Trainer, examples: Examples, batch_size: int | None,
                 generator: np.random.Generator, noise: Noise | None, average_every: int | None = None) -> None:
        self._loops, self._trainer, self._examples, self._batch_size = loops, trainer, examples, batch_size
        self._generator, self._mean, self._noise, self._average_every = generator, loops.mean, noise, average_every
        self.steps_per_epoch = 1 if batch_size is None else -(-examples.count // batch_size)
        self._noisy: tuple[int, Examples] = -1, examples

    def examples(self) -> Examples:
        """The examples, with the noise of the next step's epoch."""
        epoch = self._trainer.now.steps // self.steps_per_epoch
        if self._noise is not None and self._noisy[0] != epoch:
            assert isinstance(self._examples, Batches)      # or noise has been refused
            self._noisy = epoch, self._noise.joined(self._examples, epoch)
        return self._noisy[1]

    def one_by_one(self, epochs: int, progress: Progress) -> Iterator[tuple[float, float]]:
        """Each step is made from Python."""
        options = (self._loops.step, self._batch_size, self._generator)
        for _ in range(epochs):
            started, total = time.perf_counter(), 0.0
            examples = self.examples()
            for step in (examples.steps(*options) if self._average_every is None
                         else examples.rounds(*options, self._average_every)):
                for size, loss in step.make(self._trainer, self._when):
                    total += loss * size if self._mean else loss
                    progress.advance(loss, 1)
            yield total, time.perf_counter() - started

    def _when(self, later: int) -> str:
        epoch, index = divmod(self._trainer.now.steps + later, self.steps_per_epoch)
        return f"epoch {epoch + 1}, step {index + 1} of {self.steps_per_epoch}"

    def compiled(self, loop: Compiled, epochs: int, by_epoch: bool,
                 progress: Progress) -> Iterator[tuple[float, float]]:
        """Many steps a call; with `by_epoch` or noise, none across the end of an epoch."""
        trainer, batches, pace = self._trainer, self.examples(), Pace()
        assert isinstance(batches, Batches)
        model = loop.model(trainer.now.params, batches, *trainer.numbers())
        by_epoch, ends = by_epoch or self._noise is not None, self.steps_per_epoch
        rule = trainer.rule
        assert rule is not None                             # or there would be no loop
        total, spent = 0.0, 0.0
        for part in slices(batches.count, self._batch_size, epochs, self._generator, pace.most, by_epoch):
            before, batches = trainer.now.steps, self.examples()
            assert isinstance(batches, Batches)
            rows = self._loops.rows(loop, trainer.now.params, batches)
            made, why, losses = loop.run(model, rule, rows, part, before + 1)
            trainer.load(model.numbers, before + made, losses[made - 1] if made else None)
            if why:
                # The same step again from Python: it fails again, and then explains what happened.
                start, size = part.steps[made]
                chosen = None if part.order is None else part.order[start:start + size]
                Update(self._loops.step, batches.chosen(chosen), size, chosen).make(trainer, self._when)
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
        self.optimizer, self.rule = optimizer, optimizer.rule
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

    def flat(self) -> npt.NDArray[np.float64]:
        """All that updates change, parameters and optimizer state, in one vector."""
        return np.concatenate([np.asarray(leaf, np.float64).reshape(-1)
                               for leaf in (*self.now.vectors, *flatten(self.now.state)[0])])

    def settle(self, numbers: npt.NDArray[np.float64], steps: int, loss: float) -> None:
        """Take over what `flat` lists, after so many steps; whole numbers, such as a count of steps, are rounded."""
        leaves, spec = flatten(self.now.state)
        found, at = [], 0
        for leaf in (*self.now.vectors, *leaves):
            array = np.asarray(leaf)
            part = numbers[at:at + array.size].reshape(array.shape)
            part = (part if array.dtype.kind == "f" else np.rint(part)).astype(array.dtype)
            found.append(part if isinstance(leaf, np.ndarray) else part[()] if isinstance(leaf, np.generic)
                         else type(leaf)(part.item()))
            at += array.size
        vectors = tuple(found[:len(self.now.vectors)])
        self.now = Moment(vectors, unflatten(spec, found[len(vectors):]), self._layout.unravel(vectors), steps, loss)

    def update(self, loss: float, grads: Tree, when: str) -> None:
        """Make a step."""
        if not np.isfinite(loss):
            raise self._diverged(f"The loss became {loss} at {when}")
        # A NaN or infinite gradient, and an overflowing step, both end as non-finite parameters: one check for both.
        with np.errstate(all="ignore"):
            if self.optimizer.any_layout:
                vectors, state = self.optimizer.update(self._layout.ravel(grads), self.now.state, self.now.vectors)
                params = self._layout.unravel(vectors)
            else:
                params, state = self.optimizer.update(grads, self.now.state, self.now.params)
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
                f"optimizer={self.optimizer.description}",
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
