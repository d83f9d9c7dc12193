"""`fit`: minibatch training of an objective written for one example."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from jitgrad import optim
from jitgrad.api import Transformed, value_and_grad
from jitgrad.arguments import flatten
from jitgrad.batches import Batches, check_finite
from jitgrad.errors import ArgumentError, LabelError, NonFiniteError, explain
from jitgrad.loop import Compiled, Loops, Pace, slices
from jitgrad.ravel import Raveled, Vector

Tree = Any


class Epoch(NamedTuple):
    """What one pass over the data did.

    epoch: 1 for the first
    loss: the objective's mean over the examples, each taken under the parameters its batch met
    seconds: wall-clock time; the first epoch includes compilation
    examples_per_second: examples divided by seconds
    """

    epoch: int
    loss: float
    seconds: float
    examples_per_second: float


@dataclass(frozen=True)
class FitResult:
    """A finished training.

    params: new parameters in the structure, shapes and dtypes of those passed to `fit`
    history: one `Epoch` per epoch
    steps: optimizer updates made
    """

    params: Tree
    history: tuple[Epoch, ...]
    steps: int

    @property
    def losses(self) -> list[float]:
        """The mean loss of every epoch."""
        return [epoch.loss for epoch in self.history]

    @property
    def seconds(self) -> float:
        """The training's wall-clock time, compilation included."""
        return sum(epoch.seconds for epoch in self.history)

    @property
    def examples_per_second(self) -> float:
        """Throughput after the first epoch, which also compiles; of that one when it is the only one."""
        steady = self.history[1:] or self.history
        examples = sum(epoch.examples_per_second * epoch.seconds for epoch in steady)
        return examples / max(sum(epoch.seconds for epoch in steady), 1e-12)

    def __repr__(self) -> str:
        first, last = self.history[0], self.history[-1]
        return (
            f"FitResult({last.epoch} epochs, {self.steps} steps, loss {first.loss:.4g} -> {last.loss:.4g}, "
            f"{self.examples_per_second:,.0f} examples/s)"
        )


def fit(
    objective: Callable[..., Any],
    params: Tree,
    data: tuple[Tree, ...],
    *,
    optimizer: optim.Optimizer | None = None,
    epochs: int = 50,
    batch_size: int | None = None,
    seed: int = 0,
    reduce: str = "mean",
    in_axes: Any = None,
    device: str = "auto",
    progress: bool | None = None,
    callback: Callable[[Epoch, Tree], bool | None] | None = None,
    ensemble: int | None = None,
) -> Any:
    """Minimise the mean (or sum) of `objective(params, *example)` over the examples of `data`.

    objective: returns a scalar for ONE example
    params: pytree of floats and float32/float64 arrays; never written to
    data: tuple of arrays (or pytrees of arrays) of real numbers, batched along axis 0
    optimizer: `optim.adam(1e-2)` when None
    batch_size: examples per step, drawn without replacement in an order that `seed` decides; the last batch of an
        epoch takes what is left. None: all examples in every step, in their own order
    seed: a non-negative int; the same seed, data and device give the same bits
    reduce: "mean" or "sum" over the examples of a step
    in_axes: as in `value_and_grad`, one entry for params and one per argument of data; None shares an argument
    progress: None shows a bar on a terminal only; True always; False never
    callback: called after each epoch with its `Epoch` and a copy of the parameters; returning True ends the training
    ensemble: how many models to train side by side, the first with `seed`, the next with seed + 1, …; `params` may then
        be a function of the seed. Each gets the numbers it would get alone
    returns: `FitResult`; of an ensemble a `SweepResult`
    raises: ArgumentError, ShapeError, DtypeError, DataError before anything runs; NonFiniteError when the loss or a
        gradient becomes NaN or infinite, naming epoch and step; whatever value_and_grad raises for the objective
    """
    if ensemble is not None:
        if callback is not None:
            raise ArgumentError(explain("An ensemble has no callback: its models are trained side by side.", None,
                                        "Leave callback out, or train the models one by one."))
        from jitgrad.sweeps import sweep
        models = _positive("ensemble", ensemble, "the number of models to train")
        return sweep(objective, params, data, grid={"seed": range(seed, seed + models)}, optimizer=optimizer,
                     epochs=epochs, batch_size=batch_size, reduce=reduce, in_axes=in_axes, device=device,
                     progress=progress)
    check_reduce(reduce)
    batches = Batches(params, data, in_axes)
    loops = Loops(value_and_grad(objective, argnums=0, in_axes=in_axes, reduce=reduce, device=device), reduce == "mean")
    return train_one(loops, params, batches, optimizer=optimizer, epochs=epochs, batch_size=batch_size, seed=seed,
                     progress=progress, callback=callback)


def check_reduce(reduce: str) -> None:
    """Raise ArgumentError unless `reduce` makes one number of a batch."""
    if reduce not in ("mean", "sum"):
        raise ArgumentError(
            explain("fit minimises one number, so reduce must be 'mean' or 'sum'.", f"reduce={reduce!r}",
                    "For one parameter set per example, batch params through in_axes and use reduce='sum'.")
        )


def train_one(loops: Loops, params: Tree, batches: Batches, *, optimizer: optim.Optimizer | None, epochs: int,
              batch_size: int | None, seed: int, progress: bool | None = False,
              callback: Callable[[Epoch, Tree], bool | None] | None = None) -> FitResult:
    """What `fit` does once its data have been checked; trainings with the same `loops` compile once."""
    epochs = _positive("epochs", epochs, "the number of passes over the data")
    if batch_size is not None:
        batch_size = _positive("batch_size", batch_size, "the number of examples per step, or None for all")
    generator = _generator(seed)
    optimizer = optim.adam(1e-2) if optimizer is None else optimizer
    if not isinstance(optimizer, optim.Optimizer):
        raise ArgumentError(
            explain("optimizer must be an optim.Optimizer.", f"optimizer={optimizer!r}",
                    "Write for example optim.adam(1e-2), or build one with optim.Optimizer(init, update).")
        )
    if batch_size is not None and batch_size >= batches.count:
        batch_size = None
    if batches.batched_params and batch_size is not None:
        raise ArgumentError(
            explain("Parameters with a batch axis cannot be trained in minibatches.",
                    f"batch_size={batch_size}", "Leave batch_size out.")
        )
    trainer = _Trainer(optimizer, params)
    run = _Run(loops, trainer, batches, batch_size, generator)
    compiled = loops.of(optimizer, params, batches, batch_size)
    history: list[Epoch] = []
    with progress_bar(progress, epochs, run.steps_per_epoch) as advance:
        made = (run.one_by_one(epochs, advance) if compiled is None
                else run.compiled(compiled, epochs, callback is not None, advance))
        for total, seconds in made:
            history.append(Epoch(len(history) + 1, total / batches.count, seconds, batches.count / max(seconds, 1e-12)))
            if callback is not None and callback(history[-1], trainer.copy()):
                break
    return FitResult(trainer.copy(), tuple(history), trainer.steps)


class _Run:
    """One training. Its epochs come as (sum of the losses over the examples, seconds)."""

    def __init__(self, loops: Loops, trainer: _Trainer, batches: Batches, batch_size: int | None,
                 generator: np.random.Generator) -> None:
        self._loops, self._trainer, self._batches, self._batch_size = loops, trainer, batches, batch_size
        self._generator, self._mean = generator, loops.mean
        self.steps_per_epoch = 1 if batch_size is None else -(-batches.count // batch_size)

    def one_by_one(self, epochs: int, advance: Callable[[float, int], None]) -> Iterator[tuple[float, float]]:
        """Each step is a call from Python."""
        for _ in range(epochs):
            started, total = time.perf_counter(), 0.0
            for size, batch in _epoch(self._batches, self._batch_size, self._generator):
                loss = self._make(batch)
                total += loss * size if self._mean else loss
                advance(loss, 1)
            yield total, time.perf_counter() - started

    def _make(self, batch: tuple[Tree, ...]) -> float:
        trainer = self._trainer
        value, grads = _run(self._loops.step, trainer.params, batch, self._batches)
        epoch, index = divmod(trainer.steps, self.steps_per_epoch)
        trainer.update(float(value), grads, f"epoch {epoch + 1}, step {index + 1} of {self.steps_per_epoch}")
        return float(value)

    def compiled(self, loop: Compiled, epochs: int, by_epoch: bool,
                 advance: Callable[[float, int], None]) -> Iterator[tuple[float, float]]:
        """Many steps a call; with `by_epoch`, none across the end of an epoch."""
        trainer, batches, pace = self._trainer, self._batches, Pace()
        model = loop.model(trainer.params, batches, *trainer.numbers())
        rows, ends = self._loops.rows(loop, trainer.params, batches), self.steps_per_epoch
        rule = trainer.rule
        assert rule is not None                             # or there would be no loop
        total, spent = 0.0, 0.0
        for part in slices(batches.count, self._batch_size, epochs, self._generator, pace.most, by_epoch):
            before = trainer.steps
            made, why, losses = loop.run(model, rule, rows, part, before + 1)
            trainer.load(model.numbers, before + made, losses[made - 1] if made else None)
            if why:
                # The same step again from Python: it fails again, and then explains what happened.
                start, size = part.steps[made]
                self._make(batches.chosen(None if part.order is None else part.order[start:start + size]))
                raise AssertionError("a step that failed in the compiled loop succeeded from Python")
            seconds = pace.lap(made) / made
            advance(float(losses[-1]), made)
            for number, ((_, size), loss) in enumerate(zip(part.steps, losses.tolist(), strict=True), before + 1):
                total += loss * size if self._mean else loss
                spent += seconds
                if number % ends == 0:
                    yield total, spent
                    total, spent = 0.0, 0.0


class _Trainer:
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
        self._vectors = self._layout.ravel(params)
        self.params = self._layout.unravel(self._vectors)
        self._state = optimizer.init(self._vectors if optimizer.rule else self.params)
        self._last_loss: float | None = None
        self.steps = 0

    def copy(self) -> Tree:
        """The parameters, sharing no memory with later updates or with the caller's tree."""
        return self._layout.unravel([vector.copy() for vector in self._vectors])

    def numbers(self) -> tuple[Vector, list[Vector]]:
        """Parameters that lie in one vector, and the averages that the optimizer keeps of them."""
        return self._vectors[0], [average for (average,) in self._state.averages]

    def load(self, numbers: list[Vector], steps: int, loss: float | None) -> None:
        """Take over parameters and averages that were trained elsewhere."""
        self._vectors = (numbers[0].copy(),)
        self._state = optim.State(steps, tuple((average.copy(),) for average in numbers[1:]))
        self.params, self.steps = self._layout.unravel(self._vectors), steps
        self._last_loss = self._last_loss if loss is None else loss

    def update(self, loss: float, grads: Tree, when: str) -> None:
        if not np.isfinite(loss):
            raise self._diverged(f"The loss became {loss} at {when}")
        # A NaN or infinite gradient, and an overflowing step, both end as non-finite parameters: one check for both.
        with np.errstate(all="ignore"):
            if self._optimizer.rule:
                vectors, state = self._optimizer.update(self._layout.ravel(grads), self._state, self._vectors)
                params = self._layout.unravel(vectors)
            else:
                params, state = self._optimizer.update(grads, self._state, self.params)
                vectors = self._layout.ravel(params)
        for vector in vectors:
            if not np.isfinite(vector).all():
                raise self._diverged(f"{_first_non_finite(grads, params)} became NaN or infinite at {when}")
        self._vectors, self._state, self.params = vectors, state, params
        self._last_loss = loss
        self.steps += 1

    def _diverged(self, happened: str) -> NonFiniteError:
        before = "on the very first step" if self._last_loss is None else f"after a loss of {self._last_loss:.6g}"
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


def _run(step: Transformed, params: Tree, batch: tuple[Tree, ...], batches: Batches) -> Any:
    try:
        return step(params, *batch)
    except (LabelError, NonFiniteError):
        # The error counts examples from the start of a shuffled batch; over all of them it names the caller's index.
        step(params, *batches.whole())
        raise


def _positive(name: str, number: SupportsIndex, meaning: str) -> int:
    try:
        found = 0 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        found = 0
    if found < 1:
        raise ArgumentError(explain(f"{name} must be a positive int.", f"{name}={number!r}", f"It is {meaning}."))
    return found


def _generator(seed: int) -> np.random.Generator:
    try:
        return np.random.default_rng(operator.index(seed))
    except (TypeError, ValueError):
        raise ArgumentError(
            explain("seed must be a non-negative int.", f"seed={seed!r}", "Any such number will do, for example 0.")
        ) from None


@contextmanager
def progress_bar(progress: bool | None, epochs: int, steps_per_epoch: int) -> Iterator[Callable[[float, int], None]]:
    """A function to call after each step; it moves a progress bar on stderr, or does nothing."""
    if progress is False:
        yield lambda loss, steps: None
        return
    from rich.console import Console  # costs more than a short training without a bar

    console = Console(stderr=True, force_terminal=True if progress else None)
    if not console.is_terminal:
        yield lambda loss, steps: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("epoch"),
        TextColumn("{task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4g}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, auto_refresh=False, transient=True)
    done = 0
    drawn = 0.0
    with bar:
        task = bar.add_task("fit", total=epochs * steps_per_epoch, epoch=f"0/{epochs}", loss=float("nan"))

        def advance(loss: float, steps: int) -> None:
            nonlocal done, drawn
            done += steps
            # A step can take 50 microseconds; drawing takes longer, so it happens ten times a second at most.
            now = time.perf_counter()
            if now - drawn > 0.1 or done == epochs * steps_per_epoch:
                drawn = now
                epoch = f"{-(-done // steps_per_epoch)}/{epochs}"
                bar.update(task, completed=done, epoch=epoch, loss=loss, refresh=True)

        yield advance
