"""Models of one kind side by side, in columns: nothing is made for a single one until somebody looks at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jitgrad.errors import NonFiniteError
from jitgrad.history import ALL_EPOCHS, FitResult, History
from jitgrad.ravel import Raveled
from jitgrad.trainer import Training

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Chosen:
    """A column of values of which there may be few: model k has values[which[k]]."""

    values: Sequence[Any]
    which: Numbers

    def __getitem__(self, k: int) -> Any:
        return self.values[self.which[k]]

    def at(self, models: Numbers | slice) -> Chosen:
        """The column of these models."""
        return Chosen(self.values, self.which[models])

    def each(self, function: Callable[..., Any]) -> Chosen:
        """The column of what a function makes of the values, once of each."""
        return Chosen([function(value) for value in self.values], self.which)


def combined(columns: Sequence[Chosen], function: Callable[..., Any] = lambda *values: values) -> Chosen:
    """The column of what a function makes of several columns' values, once of each combination that a model has."""
    shape = [len(column.values) for column in columns]
    used, which = np.unique(np.ravel_multi_index([column.which for column in columns], shape), return_inverse=True)
    values = [map(column.values.__getitem__, index.tolist())
              for column, index in zip(columns, np.unravel_index(used, shape), strict=True)]
    return Chosen(list(map(function, *values)), which)


class Cohort:
    """Trainings of one kind: of as many epochs, examples and examples a step, and of one formula of an update.

    like: one of them, for what they have in common
    vectors: the parameters, (models, parameters); averages: those that the optimizer keeps of them, (models, n, parameters)
    rules, batches, seeds: of each model, the batches being all of one origin
    training: makes the training of model k, as it begins
    known: the trainings that are looked at, by number; whoever makes the steps keeps them up to date
    """

    def __init__(self, like: Training, vectors: Array, averages: Array, rules: Chosen, batches: Chosen, seeds: Chosen,
                 training: Callable[[int], Training]):
        self.like, self.vectors, self.averages, self.rules, self.batches, self.seeds = (
            like, vectors, averages, rules, batches, seeds)
        self._training = training
        self.known: dict[int, Training] = {}

    @staticmethod
    def of(training: Training) -> Cohort:
        """One training, from where it stands."""
        first, (vector, averages) = np.zeros(1, np.intp), training.trainer.numbers()
        made = Cohort(training, vector[None], averages[None], Chosen([training.trainer.rule], first),
                      Chosen([training.batches], first), Chosen([training.settings.seed], first), lambda _: training)
        made.look_at_all()
        return made

    def __len__(self) -> int:
        return len(self.vectors)

    def between(self, lo: int, hi: int) -> Cohort:
        """Models lo to hi, not yet looked at."""
        models = slice(lo, hi)
        return Cohort(self.like, self.vectors[models], self.averages[models], self.rules.at(models), self.batches.at(models),
                      self.seeds.at(models), lambda k: self._training(lo + k))

    def look(self, k: int) -> Training:
        """The training of model k."""
        if k not in self.known:
            self.known[k] = self._training(k)
        return self.known[k]

    def look_at_all(self) -> None:
        """The training of every model, with what it holds out of the examples for itself."""
        found = [self.look(k).batches for k in range(len(self))]
        number = {id(batches): k for k, batches in enumerate(found)}
        self.batches = Chosen(found, np.array([number[id(batches)] for batches in found], np.intp))

    def generator(self, k: int) -> np.random.Generator:
        """What the order of model k's examples is drawn from."""
        if k in self.known:
            return self.known[k].generator
        return np.random.default_rng(self.seeds[k])

    def ended(self, vectors: Array, losses: Floats, seconds: Floats) -> Ended:
        """All have ended: with these parameters and the mean loss of each epoch where nobody has looked at them."""
        results = {k: training.end() for k, training in self.known.items()}
        if len(results) == len(self):
            return Ended(len(self), results)
        like = self.like
        return Ended(len(self), results, Rows(like.trainer.layout, vectors.copy(), losses, seconds, like.batches.count,
                                              len(seconds) * like.steps_per_epoch))


class Rows(NamedTuple):
    """What trainings of one kind leave behind when nothing but their losses was looked at.

    vectors: (models, parameters); losses: (models, epochs); seconds: of the epochs; examples: of an epoch; steps: in all
    """

    layout: Raveled
    vectors: Array
    losses: Floats
    seconds: Floats
    examples: int
    steps: int

    def result(self, k: int) -> FitResult:
        """That of model k, which shares no memory with the others."""
        history = History(self.examples)
        history.extend(self.losses[k].copy(), self.seconds)
        return FitResult(self.layout.unravel([self.vectors[k].copy()]), history, self.steps, len(history), ALL_EPOCHS, 0)


class Ended:
    """The ends of some trainings: results and errors that there are, the others in rows until somebody asks for them."""

    def __init__(self, models: int, known: Mapping[int, FitResult | NonFiniteError], rows: Rows | None = None):
        self._known, self._rows = known, rows
        self.scores = np.full(models, np.inf) if rows is None else rows.losses[:, -1].copy()
        for k, end in known.items():
            self.scores[k] = np.inf if isinstance(end, NonFiniteError) else end.score

    def __getitem__(self, k: int) -> FitResult | NonFiniteError:
        """The result of model k, or the error that ended its training."""
        if k in self._known:
            return self._known[k]
        assert self._rows is not None
        return self._rows.result(k)

    def losses(self) -> list[Floats]:
        """The mean loss of every epoch, of each model; none of one that ended with an error."""
        found = [np.zeros(0)] * len(self.scores) if self._rows is None else list(self._rows.losses)
        for k, end in self._known.items():
            found[k] = np.zeros(0) if isinstance(end, NonFiniteError) else end.history.losses
        return found
