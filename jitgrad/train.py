"""`fit`: minibatch training of an objective written for one example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jitgrad import optim
from jitgrad.checkpoint import Path
from jitgrad.cohort import Cohort
from jitgrad.errors import ArgumentError, explain
from jitgrad.history import INTERRUPTED
from jitgrad.history import Epoch as Epoch
from jitgrad.history import FitResult as FitResult
from jitgrad.metrics import Metric
from jitgrad.problem import Data, Draw, Problem
from jitgrad.progress import progress_bar
from jitgrad.resume import TrainingFile
from jitgrad.settings import Settings, positive
from jitgrad.together import together
from jitgrad.trainer import Callback, Training

Tree = Any

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
        models = positive("ensemble", ensemble, "the number of models to train")
        return sweep(objective, params, data, grid={"seed": range(seed, seed + models)}, optimizer=optimizer,
                     epochs=epochs, batch_size=batch_size, l1=l1, l2=l2, clip_norm=clip_norm, patience=patience,
                     progress=progress, **options)
    settings = Settings(optimizer, epochs, batch_size, seed, l1, l2, clip_norm, patience, average_every).checked()
    if callback is not None and not callable(callback):
        raise ArgumentError(explain("callback must be a function (epoch, params).", f"callback={callback!r}",
                                    "Write for example callback=lambda epoch, params: epoch.loss < 0.01."))
    every = positive("every", every, "the number of epochs between checkpoints")
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
    training = Training(problem, params, batches, settings, evaluation, callback, kept, every)
    if kept is not None and resume:
        training.resume(kept)
    return train_one(training, progress, interruptible=True)


def train_one(training: Training, progress: bool | None = False, interruptible: bool = False) -> FitResult:
    """Make all epochs of a training; those of the same `problem` compile once.

    interruptible: Ctrl-C ends the training, and not what called it
    """
    batches = training.batches
    loop = training.loop() if training.left else None
    with progress_bar(progress, training.settings.epochs, training.steps_per_epoch, batches.count, training.resumed) as bar:
        training.progress = bar
        try:
            if loop is None:
                training.one_by_one()
            else:
                together(loop, Cohort.of(training))
        except KeyboardInterrupt:
            if not interruptible or training.trainer.now.steps == 0:
                raise
            training.ended = INTERRUPTED
    return training.result()
