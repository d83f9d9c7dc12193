"""`fit`: minibatch training of an objective written for one example."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import numpy as np

from jitgrad import optim
from jitgrad.batches import Noise
from jitgrad.checkpoint import Path
from jitgrad.errors import ArgumentError, explain
from jitgrad.examples import Examples
from jitgrad.history import ALL_EPOCHS, CALLBACK, INTERRUPTED, PATIENCE
from jitgrad.history import Epoch as Epoch
from jitgrad.history import FitResult as FitResult
from jitgrad.metrics import Metric
from jitgrad.problem import Data, Draw, Evaluation, Problem
from jitgrad.progress import progress_bar
from jitgrad.resume import TrainingFile
from jitgrad.trainer import Run, Trainer

Tree = Any
Callback = Callable[[Epoch, Tree], bool | None]


def fit(
    objective: Callable[..., Any],
    params: Tree,
    data: Data,
    *,
    optimizer: optim.Optimizer | None = None,
    epochs: int = 50,
    batch_size: int | None = None,
    seed: int = 0,
    reduce: str = "mean",
    in_axes: Any = None,
    device: str = "auto",
    sample_weight: Any = None,
    class_weight: Any = None,
    l1: float = 0.0,
    l2: float = 0.0,
    clip_norm: float | None = None,
    validation: tuple[Tree, ...] | float | None = None,
    metrics: Mapping[str, Metric] | None = None,
    patience: int | None = None,
    noise: Draw | None = None,
    callback: Callback | None = None,
    checkpoint: Path | None = None,
    metadata: Mapping[str, Any] | None = None,
    every: int = 1,
    resume: bool = False,
    progress: bool | None = None,
    ensemble: int | None = None,
    client: Any = None,
    average_every: int | None = None,
) -> Any:
    """Minimise the mean (or sum) of `objective(params, *example)` over the examples of `data`.

    objective: returns a scalar for ONE example
    params: pytree of floats and float32/float64 arrays; never written to
    data: tuple of arrays (or pytrees of arrays) of real numbers, batched along axis 0; memory maps and Dask arrays are
        computed piece by piece where they lie, and so is a table that `jg.data.open_table` returns
    optimizer: `optim.adam(1e-2)` when None
    batch_size: examples per step, drawn without replacement in an order that `seed` decides; the last batch of an
        epoch takes what is left. None: all examples in every step, in their own order
    seed: a non-negative int; the same seed, data and device give the same bits
    reduce: "mean" or "sum" over the examples of a step
    in_axes: as in `value_and_grad`, one entry for params and one per argument of data; None shares an argument
    sample_weight: (examples,), each >= 0, by which an example's loss is multiplied; the mean still divides by the number
        of examples
    class_weight: the same by label, {label: weight}, or "balanced": examples / (classes * examples of the label). Labels
        are the last argument of data
    l1, l2: penalties l1 * sum |p| and l2 * sum p**2 over all parameters, added to the mean (or sum) that a step minimises
        but not to the losses reported; see `optim.penalised`
    clip_norm: the greatest length of a step's gradient over all parameters; see `optim.clipped`
    validation: other data as a tuple, or the fraction of `data` to hold out, drawn from `seed`; after each epoch the mean
        of the objective over them, without weights, is the epoch's `validation_loss`
    metrics: by name, functions (params, *data) -> number of whole arrays, computed after each epoch on the validation
        data, or on data where there are none; see `jg.metrics`
    patience: end after so many epochs in a row without a new lowest validation loss (without validation: loss), and
        return the parameters of the best epoch
    noise: a function (generator, examples) -> pytree of arrays (examples, ...), such as the masks of dropout, drawn anew for
        each epoch from `seed` and given to the objective as one more argument, the last; validation gives None in its place
    callback: called after each epoch with its `Epoch` and a copy of the parameters; returning True ends the training
    checkpoint: a file to write the training to after every `every` epochs and at its end; see `jg.load`
    metadata: what JSON can hold, kept in the checkpoint as its "metadata"
    resume: go on from `checkpoint` if there is such a file, to the same bits as a training that was never stopped
    progress: None shows a bar on a terminal only; True always; False never
    ensemble: how many models to train side by side, the first with `seed`, the next with seed + 1, …; `params` may then
        be a function of the seed. Each gets the numbers it would get alone
    client: the distributed.Client whose workers compute, for Dask arrays; None: the current one, else a cluster inside this
        process. A minibatch takes from every partition its share, in an order that the seed decides (`jitgrad.partitions`)
    average_every: for Dask arrays in minibatches: so many steps are made by each partition apart, with its share of each
        batch, and then parameters and optimizer state are averaged, weighted by examples; also at an epoch's end. None:
        every step has the gradient of the whole batch
    returns: `FitResult`; of an ensemble a `SweepResult`. Ctrl-C ends the training and returns what it has reached, once a
        step has been made
    raises: ArgumentError, ShapeError, DtypeError, DataError, CheckpointError before anything runs; NonFiniteError when the
        loss or a gradient becomes NaN or infinite, naming epoch and step; whatever value_and_grad raises for the objective
    """
    options: dict[str, Any] = {
        "in_axes": in_axes, "reduce": reduce, "device": device, "sample_weight": sample_weight,
        "class_weight": class_weight, "validation": validation, "metrics": metrics, "noise": noise}
    if metadata is not None and checkpoint is None:
        raise ArgumentError(explain("metadata are kept in a checkpoint, and there is none.", None,
                                    "Pass checkpoint, a path, or leave metadata out."))
    if ensemble is not None:
        if client is not None or average_every is not None:
            raise ArgumentError(explain("An ensemble is trained in this process.", "client, average_every",
                                        "Leave them out, or train the models one by one."))
        if callback is not None or checkpoint is not None:
            raise ArgumentError(explain("An ensemble has no callback and no checkpoint: its models train side by side.",
                                        None, "Leave them out, or train the models one by one."))
        from jitgrad.sweeps import sweep
        models = _positive("ensemble", ensemble, "the number of models to train")
        return sweep(objective, params, data, grid={"seed": range(seed, seed + models)}, optimizer=optimizer,
                     epochs=epochs, batch_size=batch_size, l1=l1, l2=l2, clip_norm=clip_norm, patience=patience,
                     progress=progress, **options)
    settings = Settings(optimizer, epochs, batch_size, seed, l1, l2, clip_norm, patience, average_every).checked()
    every = _positive("every", every, "the number of epochs between checkpoints")
    if resume and checkpoint is None:
        raise ArgumentError(explain("resume=True needs to know what to go on from.", None, "Pass checkpoint, a path."))
    problem = Problem(objective, client=client, **options)
    batches, evaluation = problem.split(params, problem.batches(params, data), settings.seed)
    kept = None
    if checkpoint is not None:
        kept = TrainingFile(checkpoint, {
            "optimizer": str(settings.stepper()), "batch_size": settings.steps_of(batches), "seed": settings.seed,
            "reduce": reduce, "average_every": settings.average_every, "patience": patience is not None,
            "data": [list(kind) for kind in batches.kinds()], "validation": validation is not None,
            "noise": noise is not None}, metadata)
    return train_one(problem, params, batches, settings, evaluation, progress=progress, callback=callback,
                     interruptible=True, file=kept, every=every, resume=resume)


@dataclass(frozen=True)
class Settings:
    """How one training goes, besides its objective, parameters and examples; see `fit`."""

    optimizer: optim.Optimizer | None = None
    epochs: int = 50
    batch_size: int | None = None
    seed: int = 0
    l1: float = 0.0
    l2: float = 0.0
    clip_norm: float | None = None
    patience: int | None = None
    average_every: int | None = None

    def checked(self) -> Settings:
        """The same in plain types. Raises ArgumentError for what makes no sense."""
        optimizer = optim.adam(1e-2) if self.optimizer is None else self.optimizer
        if not isinstance(optimizer, optim.Optimizer):
            raise ArgumentError(
                explain("optimizer must be an optim.Optimizer.", f"optimizer={optimizer!r}",
                        "Write for example optim.adam(1e-2), or build one with optim.Optimizer(init, update).")
            )
        epochs = _positive("epochs", self.epochs, "the number of passes over the data")
        size, patience = self.batch_size, self.patience
        if size is not None:
            size = _positive("batch_size", size, "the number of examples per step, or None for all")
        if patience is not None:
            patience = _positive("patience", patience, "the number of epochs to wait for a better one")
        apart = self.average_every
        if apart is not None:
            apart = _positive("average_every", apart, "the number of steps that partitions make between two averages")
            if size is None:
                raise ArgumentError(explain("average_every counts minibatches.", f"average_every={apart}",
                                            "Pass batch_size."))
        made = replace(self, optimizer=optimizer, epochs=epochs, batch_size=size, seed=_seed(self.seed), patience=patience,
                       average_every=apart)
        made.stepper()
        return made

    def stepper(self) -> optim.Optimizer:
        """The optimizer with penalties and clipping."""
        assert self.optimizer is not None
        found = optim.penalised(self.optimizer, self.l1, self.l2)
        return found if self.clip_norm is None else optim.clipped(found, self.clip_norm)

    def steps_of(self, batches: Examples) -> int | None:
        """The examples of a step; None for all of them."""
        size = None if self.batch_size is None or self.batch_size >= batches.count else self.batch_size
        if batches.batched_params and size is not None:
            raise ArgumentError(
                explain("Parameters with a batch axis cannot be trained in minibatches.",
                        f"batch_size={size}", "Leave batch_size out.")
            )
        return size


def train_one(problem: Problem, params: Tree, batches: Examples, settings: Settings, evaluation: Evaluation, *,
              progress: bool | None = False, callback: Callback | None = None, interruptible: bool = False,
              file: TrainingFile | None = None, every: int = 1, resume: bool = False) -> FitResult:
    """What `fit` does once everything has been checked; trainings of the same `problem` compile once.

    interruptible: Ctrl-C ends the training, and not what called it
    file, every, resume: the checkpoint, how many epochs apart it is written, whether to begin with what it holds
    """
    optimizer, batch_size, patience = settings.stepper(), settings.steps_of(batches), settings.patience
    generator = np.random.default_rng(settings.seed)
    trainer, history, best = Trainer(optimizer, params), list[Epoch](), None
    if file is not None and resume:
        history, best = file.read(trainer, generator)
    resumed = len(history)
    best_epoch = min(range(1, resumed + 1), key=lambda number: history[number - 1].score, default=0)
    ended = PATIENCE if patience is not None and resumed - best_epoch >= patience else ALL_EPOCHS
    left = max(0, settings.epochs - resumed) if ended == ALL_EPOCHS else 0
    noise = None if problem.noise is None else Noise(problem.noise, settings.seed)
    run = Run(problem.loops, trainer, batches, batch_size, generator, noise, settings.average_every)
    compiled = problem.loops.of(optimizer, params, run.examples(), batch_size) if left else None
    watched = callback is not None or file is not None or patience is not None or bool(evaluation)
    with progress_bar(progress, settings.epochs, run.steps_per_epoch, batches.count, resumed) as bar:
        try:
            for total, seconds in (run.one_by_one(left, bar) if compiled is None
                                   else run.compiled(compiled, left, watched, bar)):
                number = len(history) + 1
                loss, metrics = evaluation.of(trainer.copy(), number) if evaluation else (None, {})
                history.append(Epoch(number, total / batches.count, seconds, batches.count / max(seconds, 1e-12), loss,
                                     metrics))
                bar.measured(loss)
                if number == 1 or history[-1].score < history[best_epoch - 1].score:
                    best_epoch, best = number, None if patience is None else trainer.now
                if callback is not None and callback(history[-1], trainer.copy()):
                    ended = CALLBACK
                elif patience is not None and number - best_epoch >= patience:
                    ended = PATIENCE
                last = ended != ALL_EPOCHS or number == settings.epochs
                if file is not None and (last or number % every == 0):
                    file.write(trainer, best, generator, history)
                if last:
                    break
        except KeyboardInterrupt:
            if not interruptible or trainer.now.steps == 0:
                raise
            ended = INTERRUPTED
    return FitResult(trainer.copy(best), tuple(history), trainer.now.steps, len(history) if best is None else best_epoch,
                     ended, resumed)


def _positive(name: str, number: SupportsIndex, meaning: str) -> int:
    try:
        found = 0 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        found = 0
    if found < 1:
        raise ArgumentError(explain(f"{name} must be a positive int.", f"{name}={number!r}", f"It is {meaning}."))
    return found


def _seed(seed: int) -> int:
    try:
        found = operator.index(seed)
    except TypeError:
        found = -1
    if found < 0:
        raise ArgumentError(explain("seed must be a non-negative int.", f"seed={seed!r}",
                                    "Any such number will do, for example 0."))
    return found
