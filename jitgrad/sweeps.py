"""`sweep`: many small models at once, one for each combination of settings: on all cores, or on a GPU in one launch."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jitgrad import optim
from jitgrad.backends import threads
from jitgrad.batches import Batches
from jitgrad.errors import ArgumentError, NonFiniteError, explain
from jitgrad.examples import Examples
from jitgrad.history import FitResult
from jitgrad.loop import OnGpu
from jitgrad.metrics import Metric
from jitgrad.problem import Data, Draw, Evaluation, Problem
from jitgrad.progress import Progress, progress_bar
from jitgrad.settings import Settings
from jitgrad.together import together
from jitgrad.trace import collecting_later
from jitgrad.train import train_one
from jitgrad.trainer import Training

Tree = Any

SETTINGS = ("optimizer", "seed", "batch_size", "epochs", "l1", "l2", "clip_norm", "patience", "params", "subset")


class Model(NamedTuple):
    """One model of a sweep: its settings, and its result or the error that ended its training."""

    settings: Mapping[str, Any]
    result: FitResult | None
    error: NonFiniteError | None

    @property
    def loss(self) -> float:
        """Its parameters' `score`: the validation loss, without validation the mean loss, of the last epoch, or with
        patience of the best; infinite where the training diverged.
        """
        return float("inf") if self.result is None else self.result.score


@dataclass(frozen=True)
class SweepResult:
    """All models of a sweep, in the order of the grid, the last setting varying fastest."""

    models: tuple[Model, ...]

    def __len__(self) -> int:
        return len(self.models)

    def __getitem__(self, index: int) -> Model:
        return self.models[index]

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    @property
    def best(self) -> Model:
        """The model of the lowest loss, the first of equals; raises its error where every training diverged."""
        found = min(self.models, key=lambda model: model.loss)
        if found.error is not None:
            raise found.error
        return found

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """The mean loss of every epoch, a row a model; NaN where there was none."""
        histories = [np.zeros(0) if m.result is None else m.result.history.losses for m in self.models]
        table = np.full((len(histories), max(map(len, histories))), np.nan)
        for row, losses in zip(table, histories, strict=True):
            row[:len(losses)] = losses
        return table

    def __repr__(self) -> str:
        failed = sum(model.error is not None for model in self.models)
        diverged = f", {failed} diverged" if failed else ""
        best = min(model.loss for model in self.models)
        return f"SweepResult({len(self)} models{diverged}, best loss {best:.4g})"


def sweep(objective: Callable[..., Any], params: Tree, data: Data, *, grid: Mapping[str, Sequence[Any]],
          optimizer: optim.Optimizer | None = None, epochs: int = 50, batch_size: int | None = None, seed: int = 0,
          reduce: str = "mean", in_axes: Any = None, device: str = "auto", sample_weight: Any = None,
          class_weight: Any = None, l1: float = 0.0, l2: float = 0.0, clip_norm: float | None = None,
          validation: tuple[Tree, ...] | float | None = None, metrics: Mapping[str, Metric] | None = None,
          patience: int | None = None, noise: Draw | None = None, progress: bool | None = None) -> SweepResult:
    """Train a model for each combination of the settings in `grid`, as `fit` would train each alone.

    grid: values for some of "optimizer", "seed", "batch_size", "epochs", "l1", "l2", "clip_norm", "patience", "params" and
        "subset" (indices of examples)
    params: a pytree, or a function of the seed that makes one
    the others: as in `fit`, for what the grid leaves open

    Small models are trained by the compiled loop, each on one core, and get the bits that training alone gives them.
    A model whose training diverges ends with its error; the others go on.
    raises: as `fit`, and ArgumentError for a grid with unknown settings or none
    """
    _check_grid(grid)
    fixed = {"optimizer": optimizer, "seed": seed, "batch_size": batch_size, "epochs": epochs, "l1": l1, "l2": l2,
             "clip_norm": clip_norm, "patience": patience, "params": params, "subset": None}
    chosen = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    problem = Problem(objective, in_axes=in_axes, reduce=reduce, device=device, sample_weight=sample_weight,
                      class_weight=class_weight, validation=validation, metrics=metrics, noise=noise)
    start = _Start(problem, data)

    def training(k: int) -> Training:
        settings = {**fixed, **chosen[k]}
        how = Settings(**{name: value for name, value in settings.items() if name not in ("params", "subset")}).checked()
        own, batches, evaluation = start.of(settings["params"], settings["subset"], how.seed)
        return Training(problem, own, batches, how, evaluation)
    with progress_bar(progress, len(chosen), 1) as bar:
        found = _Found(len(chosen), bar)
        if problem.loops.may_use_gpu():
            with collecting_later():
                trainings = [training(k) for k in range(len(chosen))]
            _side_by_side(trainings, found)
        else:
            _on_all_cores(range(len(chosen)), training, found)
    return SweepResult(tuple(Model(settings, *end) for settings, end in zip(chosen, found.ends, strict=True)))


class _Found:
    """How the trainings of a sweep have ended: (result, error) each; the bar shows the lowest loss."""

    def __init__(self, count: int, bar: Progress):
        self.ends: list[tuple[FitResult | None, NonFiniteError | None]] = [(None, None)] * count
        self._bar, self._lowest, self._untold, self._main = bar, float("inf"), 0, threading.current_thread()

    def enter(self, k: int, result: Callable[[], FitResult]) -> None:
        """Training k has ended; its result is asked for, or its error."""
        try:
            self.ends[k] = result(), None
        except NonFiniteError as error:
            self.ends[k] = None, error
        one, _ = self.ends[k]
        self._lowest = min(self._lowest, float("inf") if one is None else one.score)
        self._untold += 1
        if threading.current_thread() is self._main:
            self._bar.advance(self._lowest, self._untold)
            self._untold = 0


def _on_all_cores(numbers: Iterable[int], training: Callable[[int], Training], found: _Found) -> None:
    """Each training by itself, on as many cores as there are."""
    waiting, stop = iter(numbers), threading.Event()

    def work() -> None:
        for k in waiting:                                   # a range's iterator may be shared by threads
            if stop.is_set():
                return
            try:
                one = training(k)
                found.enter(k, lambda one=one: train_one(one))  # type: ignore[misc]
            except BaseException:
                stop.set()
                raise
    threads.together([work] * min(threads.cores(), len(found.ends)))


def _side_by_side(trainings: Sequence[Training], found: _Found) -> None:
    """Trainings of one kind in one launch of the GPU's; what has no loop there by itself."""
    alone: list[int] = []
    kinds: dict[Any, tuple[OnGpu, list[int]]] = {}
    for k, one in enumerate(trainings):
        loop = one.loop(len(trainings))
        if isinstance(loop, OnGpu) and one.noise is None:
            assert isinstance(one.batches, Batches)
            kind = id(loop), id(one.batches.origin), one.batches.count, one.batch_size, one.settings.epochs, one.watched
            kinds.setdefault(kind, (loop, []))[1].append(k)
        else:
            alone.append(k)
    for loop, members in kinds.values():
        together(loop, [trainings[k] for k in members])
        for k in members:
            found.enter(k, trainings[k].result)
    _on_all_cores(alone, trainings.__getitem__, found)


class _Start:
    """What each model begins with; data are checked once for each subset."""

    def __init__(self, problem: Problem, data: Data):
        self._problem, self._data = problem, data
        self._whole: Examples | None = None
        self._batches: dict[Any, Examples] = {}
        self._splits: dict[Any, tuple[Examples, Evaluation]] = {}
        self._lock = threading.Lock()

    def of(self, params: Tree, subset: Any, seed: int) -> tuple[Tree, Examples, Evaluation]:
        """(parameters, examples, what is measured) of a model."""
        params = params(seed) if callable(params) else params
        with self._lock:
            if self._whole is None:
                self._whole = self._problem.batches(params, self._data)
            if id(subset) not in self._batches:
                whole = self._whole
                self._batches[id(subset)] = whole if subset is None else whole.part(_indices(subset, whole.count))
            batches = self._batches[id(subset)]
            if self._problem.splits:                        # each model its own, and no longer than it is trained
                return params, *self._problem.split(params, batches, seed)
            if id(subset) not in self._splits:
                self._splits[id(subset)] = self._problem.split(params, batches, seed)
            return params, *self._splits[id(subset)]


def _indices(subset: Any, count: int) -> npt.NDArray[np.intp]:
    indices = np.asarray(subset)
    if indices.dtype == bool and indices.shape == (count,):
        indices = np.flatnonzero(indices)
    if indices.ndim != 1 or indices.dtype.kind not in "iu" or not len(indices) or not (
            0 <= indices.min() <= indices.max() < count):
        raise ArgumentError(explain(
            f"A subset must name examples 0 to {count - 1} by index, or be a mask of {count}.",
            f"an array of {indices.dtype}, shape {indices.shape}", "Pass for example np.arange(0, 100)."))
    return indices.astype(np.intp)


def _check_grid(grid: Mapping[str, Sequence[Any]]) -> None:
    unknown = [name for name in grid if name not in SETTINGS]
    if unknown or not grid or not all(hasattr(values, "__len__") and len(values) for values in grid.values()):
        raise ArgumentError(explain(
            "A sweep's grid names settings and lists at least one value for each.", f"grid={dict(grid)!r}",
            f"Choose from {', '.join(SETTINGS)}, for example grid={{'seed': range(10)}}."))
