"""`sweep`: many small models at once, one for each combination of settings: on all cores, or on a GPU in one launch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from jitgrad import optim
from jitgrad.backends import threads
from jitgrad.batches import Batches
from jitgrad.cohort import Chosen, Cohort, Ended, Numbers, combined
from jitgrad.errors import ArgumentError, NonFiniteError, explain
from jitgrad.history import FitResult
from jitgrad.loop import Loop, Pace
from jitgrad.metrics import Metric
from jitgrad.problem import Data, Draw, Problem
from jitgrad.progress import Progress, progress_bar
from jitgrad.settings import Settings, seed_number
from jitgrad.together import together
from jitgrad.train import train_one
from jitgrad.trainer import Training, starts

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


class SweepResult(Sequence[Model]):
    """All models of a sweep, in the order of the grid, the last setting varying fastest; each made when it is asked for."""

    def __init__(self, grid: Grid, ends: Ends):
        self._grid, self._ends = grid, ends
        self._made: dict[int, Model] = {}

    @property
    def models(self) -> tuple[Model, ...]:
        """All of them."""
        return tuple(self)

    def __len__(self) -> int:
        return len(self._grid)

    @overload
    def __getitem__(self, index: int) -> Model: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Model, ...]: ...
    def __getitem__(self, index: int | slice) -> Model | tuple[Model, ...]:
        if isinstance(index, slice):
            return tuple(self[k] for k in range(len(self))[index])
        k = range(len(self))[index]
        if k not in self._made:
            end = self._ends[k]
            result, error = (None, end) if isinstance(end, NonFiniteError) else (end, None)
            self._made[k] = Model(self._grid[k], result, error)
        return self._made[k]

    @property
    def best(self) -> Model:
        """The model of the lowest loss, the first of equals; raises its error where every training diverged."""
        found = self[int(np.argmin(self._ends.scores))]
        if found.error is not None:
            raise found.error
        return found

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """The mean loss of every epoch, a row a model; NaN where there was none."""
        return self._ends.losses()

    def __repr__(self) -> str:
        failed = int(np.isinf(self._ends.scores).sum())
        diverged = f", {failed} diverged" if failed else ""
        return f"SweepResult({len(self)} models{diverged}, best loss {self._ends.scores.min():.4g})"


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
    fixed = {"optimizer": optimizer, "seed": seed, "batch_size": batch_size, "epochs": epochs, "l1": l1, "l2": l2,
             "clip_norm": clip_norm, "patience": patience, "params": params, "subset": None}
    combinations = Grid(grid)
    problem = Problem(objective, in_axes=in_axes, reduce=reduce, device=device, sample_weight=sample_weight,
                      class_weight=class_weight, validation=validation, metrics=metrics, noise=noise)
    with progress_bar(progress, len(combinations), 1) as bar:
        found, plan = _Found(len(combinations), bar), _Plan(problem, data, combinations, fixed)
        alone: list[int] = []
        for numbers in plan.kinds():
            like = plan.training(int(numbers[0]))
            loop = None if problem.noise is not None else like.loop(len(combinations))
            if loop is None:
                alone += numbers.tolist()
            elif loop.at_once:
                found.enter(numbers, together(loop, plan.cohort(like, numbers)))
            else:
                _on_all_cores(numbers, partial(_part, loop, plan.cohort(like, numbers)), found)
        alone.sort()
        _on_all_cores(np.array(alone, np.intp), lambda lo, hi: _one_by_one(map(plan.training, alone[lo:hi])), found)
    return SweepResult(combinations, found.ends)


class Grid:
    """The combinations of a grid, in columns."""

    def __init__(self, grid: Mapping[str, Sequence[Any]]):
        unknown = [name for name in grid if name not in SETTINGS]
        if unknown or not grid or not all(hasattr(values, "__len__") and len(values) for values in grid.values()):
            raise ArgumentError(explain(
                "A sweep's grid names settings and lists at least one value for each.", f"grid={dict(grid)!r}",
                f"Choose from {', '.join(SETTINGS)}, for example grid={{'seed': range(10)}}."))
        shape = [len(values) for values in grid.values()]
        which = np.indices(shape).reshape(len(shape), -1)
        self._columns = {name: Chosen(values, of) for (name, values), of in zip(grid.items(), which, strict=True)}
        self._count = which.shape[1]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, k: int) -> dict[str, Any]:
        """The settings of combination k."""
        return {name: column[k] for name, column in self._columns.items()}

    def column(self, name: str, default: Any) -> Chosen:
        """A setting of all combinations; the default where the grid leaves it open."""
        return self._columns.get(name, Chosen([default], np.zeros(self._count, np.intp)))


class _Plan:
    """What the models of a sweep begin with; each setting is checked once, data once for each subset."""

    def __init__(self, problem: Problem, data: Data, grid: Grid, fixed: Mapping[str, Any]):
        columns = {name: grid.column(name, value) for name, value in fixed.items()}
        params, subsets, seeds = columns.pop("params"), columns.pop("subset"), columns.pop("seed").each(seed_number)
        self._problem, self._seeds = problem, seeds
        self._hows = combined(list(columns.values()),
                              lambda *values: Settings(**dict(zip(columns, values, strict=True))).checked())
        self._rules = self._hows.each(lambda how: how.stepper().rule)
        by_seed = any(callable(given) for given in params.values)
        self._trees = combined([params, seeds], lambda given, seed: given(seed) if callable(given) else given) if (
            by_seed) else params
        self._starts, places = starts(self._trees.values)
        self._places = np.array(places, np.intp)[self._trees.which]
        self._first = self._trees.values[0]
        whole = problem.batches(self._first, data)
        self._parts = subsets.each(lambda subset: whole if subset is None else whole.part(_indices(subset, whole.count)))
        self._splits = self._parts.each(lambda part: problem.split(self._first, part, seeds.values[0]))

    def kinds(self) -> list[Numbers]:
        """The combinations whose models can be trained side by side."""
        found: dict[Any, list[int]] = {}
        layouts = Chosen(self._starts, self._places[:, 0])
        distinct = combined([self._hows, self._rules, self._splits, layouts])
        for number, (how, rule, (batches, _), (layout, _)) in enumerate(distinct.values):
            formula = rule if rule is None or rule.kind is None else (rule.kind, rule.clips)
            origin = batches.origin if isinstance(batches, Batches) else batches
            kind = formula, how.epochs, how.steps_of(batches), how.patience is None, id(origin), batches.count, layout
            found.setdefault(kind, []).append(number)
        return [np.flatnonzero(np.isin(distinct.which, members)) for members in found.values()]

    def training(self, k: int) -> Training:
        """That of combination k, as it begins."""
        seed, split = self._seeds[k], self._splits[k]
        if self._problem.splits:                            # each model its own, and no longer than it is trained
            split = self._problem.split(self._first, self._parts[k], seed)
        return Training(self._problem, self._trees[k], split[0], replace(self._hows[k], seed=seed), split[1])

    def cohort(self, like: Training, numbers: Numbers) -> Cohort:
        """The trainings of one kind, of which `like` is one and for which there is a loop."""
        places, rule = self._places[numbers], like.trainer.rule
        assert rule is not None
        (vectors,) = self._starts[places[0, 0]].tables
        averages = np.broadcast_to(np.zeros((), vectors.dtype), (len(numbers), rule.averages, vectors.shape[1]))
        batches = self._splits.each(lambda split: split[0])
        return Cohort(like, vectors[places[:, 1]], averages, self._rules.at(numbers), batches.at(numbers),
                      self._seeds.at(numbers), lambda k: self.training(int(numbers[k])))


class _Piece(NamedTuple):
    numbers: Numbers
    ended: Ended


class Ends:
    """How the trainings of a sweep have ended. scores: of each model, infinite where it diverged."""

    def __init__(self, count: int):
        self.scores = np.full(count, np.inf)
        self._pieces: list[_Piece] = []
        self._places = np.zeros((count, 2), np.intp)        # of each model: which piece, and where in it

    def enter(self, numbers: Numbers, ended: Ended) -> None:
        """These have."""
        self._places[numbers, 0], self._places[numbers, 1] = len(self._pieces), np.arange(len(numbers))
        self._pieces.append(_Piece(numbers, ended))
        self.scores[numbers] = ended.scores

    def __getitem__(self, k: int) -> FitResult | NonFiniteError:
        piece, row = self._places[k].tolist()
        found: FitResult | NonFiniteError = self._pieces[piece].ended[row]
        return found

    def losses(self) -> npt.NDArray[np.float64]:
        """The mean loss of every epoch, a row a model; NaN where there was none."""
        found = [pair for piece in self._pieces for pair in zip(piece.numbers.tolist(), piece.ended.losses(), strict=True)]
        table = np.full((len(self.scores), max(len(losses) for _, losses in found)), np.nan)
        for k, losses in found:
            table[k, :len(losses)] = losses
        return table


class _Found:
    """The ends that are known so far; the bar shows the lowest loss."""

    def __init__(self, count: int, bar: Progress):
        self.ends, self._bar, self._untold = Ends(count), bar, 0
        self._main, self._lock = threading.current_thread(), threading.Lock()

    def enter(self, numbers: Numbers, ended: Ended) -> None:
        """These trainings have ended."""
        with self._lock:
            self.ends.enter(numbers, ended)
            self._untold += len(numbers)
            if threading.current_thread() is self._main:
                self._bar.advance(float(self.ends.scores.min()), self._untold)
                self._untold = 0


def _on_all_cores(numbers: Numbers, train: Callable[[int, int], Ended], found: _Found) -> None:
    """Some trainings at a time on each of as many cores as there are; `train(lo, hi)` trains numbers[lo:hi]."""
    count, pace, lock, stop, at = len(numbers), Pace(1, max(1, len(numbers))), threading.Lock(), threading.Event(), 0
    cores = min(threads.cores(), count)

    def work() -> None:
        nonlocal at
        while not stop.is_set():
            with lock:
                lo = at
                hi = at = min(count, lo + min(pace.most[0], -(-(count - lo) // cores)))
            if lo == hi:
                return
            started = time.perf_counter()
            try:
                ended = train(lo, hi)
            except BaseException:
                stop.set()
                raise
            pace.learn(hi - lo, time.perf_counter() - started)
            found.enter(numbers[lo:hi], ended)
    threads.together([work] * cores)


def _part(loop: Loop, cohort: Cohort, lo: int, hi: int) -> Ended:
    return together(loop, cohort.between(lo, hi))


def _one_by_one(trainings: Iterable[Training]) -> Ended:
    """Trainings that have no loop for many."""
    found: list[FitResult | NonFiniteError] = []
    for one in trainings:
        try:
            found.append(train_one(one))
        except NonFiniteError as error:
            found.append(error)
    return Ended(len(found), dict(enumerate(found)))


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
