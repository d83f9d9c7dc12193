"""Trainings of one kind side by side: each call of a compiled loop makes the same number of steps for all of them.

`fit` is one such training. On a GPU thousands are trained in one launch; what becomes of an epoch's loss (history, patience,
the best parameters) is each training's own business, the same for any number beside it. Of one that nobody looks at there is
a row in the tables of all, and no more.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import numpy.typing as npt

from jitgrad.backends import threads
from jitgrad.backends.work import Work
from jitgrad.batches import Batches
from jitgrad.cohort import Cohort, Ended, Numbers
from jitgrad.errors import NonFiniteError
from jitgrad.examples import Update
from jitgrad.loop import Loop, Pace, Shuffled, Steps, slices
from jitgrad.trainer import Training

Floats = npt.NDArray[np.float64]
Order = npt.NDArray[np.intp] | None


def together(loop: Loop, cohort: Cohort) -> Ended:
    """Train all of them to their ends; one that diverges ends with its error, and the others go on.

    All are looked at where something is done at the end of every epoch; one with noise comes alone.
    """
    return _Group(loop, cohort).run()


class _Group:
    def __init__(self, loop: Loop, cohort: Cohort):
        like = cohort.like
        self._loop, self._cohort, self._like = loop, cohort, like
        self._made, self._left, self._live = like.trainer.now.steps, like.left, np.arange(len(cohort))
        if like.watched:
            cohort.look_at_all()
        self._examples = self._examples_now()
        self._rows = like.loops.rows(loop, like.trainer.now.params, self._examples)
        self._models = loop.models(like.trainer.now.params, self._examples.between(0, 1), cohort.vectors, cohort.averages)
        self._orders, self._pace = _Orders(cohort), Pace.of_steps()
        self._slices = slices(like.batches.count, like.batch_size, like.left, self._pace.most, like.watched,
                              loop.room(self._orders.count))
        self._totals = _Totals(len(cohort), like.steps_per_epoch, like.loops.mean)
        self._sums, self._seconds = np.zeros((len(cohort), like.left)), list[float]()

    def run(self) -> Ended:
        while self._left and len(self._live):
            threads.still_wanted()
            self._make_a_slice(next(self._slices))
        losses = self._sums[:, :len(self._seconds)]
        losses /= self._like.batches.count
        return self._cohort.ended(self._loop.vectors(self._models), losses, np.array(self._seconds))

    def _examples_now(self) -> Batches:
        """What all are trained on, or parts of it; with noise, that of an epoch."""
        like, batches = self._like, self._cohort.batches
        assert like.noise is None or len(self._cohort) == 1
        found = batches[0] if like.noise is None else like.examples()
        assert isinstance(found, Batches)
        return found if (batches.which == batches.which[0]).all() else found.origin

    def _make_a_slice(self, steps: Steps) -> None:
        started, live, like, rules = time.perf_counter(), self._live, self._like, self._cohort.rules
        if like.noise is not None and self._made % like.steps_per_epoch == 0:
            self._examples = self._examples_now()
            self._rows = like.loops.rows(self._loop, like.trainer.now.params, self._examples)
        order, order_rows = self._orders.draw(live, steps)
        used, rule_rows = np.unique(rules.which[live], return_inverse=True)
        scalars = np.stack([rules.values[rule].rows(self._made + 1, len(steps)) for rule in used])
        norms = np.array([rules.values[rule].norm for rule in used])
        lines = np.stack([live, order_rows, rule_rows], axis=1)
        outcome = self._loop.run(self._models, self._rows, Work(lines, steps, order, scalars, norms))
        most, turns = int(outcome.made.max()), 1 if self._loop.at_once else len(live)
        seconds = (time.perf_counter() - started) / turns
        self._pace.learn(most, seconds)
        sums, spent = self._totals.add(live, steps, outcome.losses, seconds / max(1, most))
        ended = len(self._seconds)
        self._sums[live, ended:ended + len(spent)] = sums
        self._seconds += spent.tolist()
        for line in np.flatnonzero((outcome.why != 0) | np.isin(live, list(self._cohort.known))).tolist():
            done, why = int(outcome.made[line]), int(outcome.why[line])
            training = self._cohort.look(k := int(live[line]))
            try:
                self._take(k, training, steps, done, why, outcome.losses[line], sums[line], spent)
            except NonFiniteError as error:
                training.error, training.left = error, 0
        self._made += len(steps)
        self._left -= len(spent)
        self._live = live[~np.isin(live, [k for k, training in self._cohort.known.items() if not training.left])]

    def _take(self, k: int, training: Training, steps: Steps, done: int, why: int, losses: Floats, sums: Floats,
              spent: Floats) -> None:
        """A slice's steps of one model; raises what its next step fails with, or what is measured."""
        numbers, loss = self._loop.numbers(self._models, k), float(losses[done - 1]) if done else None
        training.trainer.load(numbers, self._made + done, loss)
        if why:
            first, size = steps[done].tolist()
            order = self._orders.last(k)
            chosen = None if order is None else order[first:first + size]
            of = self._examples if training.noise is not None else training.batches
            assert isinstance(of, Batches)
            training.explain(Update(training.loops.step, of.chosen(chosen), size, chosen), float(losses[done]))
        training.progress.advance(float(losses[-1]), done)
        if len(spent):
            training.enter(sums, spent)


class _Orders:
    """Which examples the steps have. Trainings with one seed and one part of the examples share an order; `count` orders."""

    def __init__(self, cohort: Cohort):
        like, part, shuffled = cohort.like, cohort.batches.which, cohort.like.batch_size is not None
        # Of each model the number of its order; of each order the first model that has it.
        _, first, self._number = np.unique(shuffled * cohort.seeds.which * len(cohort.batches.values) + part,
                                           return_index=True, return_inverse=True)
        self.count, self._one_part = len(first), bool((part == part[0]).all())
        self._batches: list[Batches] = [cohort.batches[k] for k in first]
        self._shuffled = [Shuffled(like.batches.count, cohort.generator(k)) for k in first.tolist()] if shuffled else []
        self._drawn: dict[int, Order] = {}

    def draw(self, live: Numbers, steps: Steps) -> tuple[Order, Numbers]:
        """(the order of the next steps, which row of it each of the live trainings has)."""
        numbers, rows = np.unique(self._number[live], return_inverse=True)
        self._drawn = dict.fromkeys(numbers.tolist())
        if self._shuffled:
            examples, cores = int(steps[:, 1].sum()), min(threads.cores(), len(numbers))
            # Each core some of them: NumPy's generators leave Python's lock alone.
            threads.together([partial(self._take, part.tolist(), examples) for part in np.array_split(numbers, cores)])
        orders = list(self._drawn.values())
        if not self._one_part:
            orders = [self._batches[k].examples if own is None else self._batches[k].examples[own]
                      for k, own in self._drawn.items()]
        return None if orders[0] is None else np.stack(orders), rows  # type: ignore[arg-type]

    def _take(self, numbers: list[int], examples: int) -> None:
        for k in numbers:
            self._drawn[k] = self._shuffled[k].take(examples)

    def last(self, k: int) -> Order:
        """What was drawn for model k, as numbers of its own examples; None: all of them in every step."""
        return self._drawn[int(self._number[k])]


class _Totals:
    """The sums of an epoch's losses over its examples, and its seconds, of several models whose epochs end together."""

    def __init__(self, models: int, steps_per_epoch: int, mean: bool):
        self._length, self._mean = steps_per_epoch, mean
        self._carried, self._spent, self._into = np.zeros(models), 0.0, 0

    def add(self, live: Numbers, steps: Steps, losses: Floats, seconds: float) -> tuple[Floats, Floats]:
        """Steps were made, of so many seconds each: sums (models, epochs) and seconds of the epochs that ended."""
        length, into, count = self._length, self._into, len(steps)
        with np.errstate(all="ignore"):                     # of a model that failed
            terms = losses * steps[:, 1] if self._mean else losses
            if length == 1:
                return terms, np.full(count, seconds)       # an epoch is a step
            ended, left = divmod(into + count, length)
            laps = np.zeros((len(live), ended + (left > 0), length))
            flat = laps.reshape(len(live), -1)
            flat[:, into:into + count] = terms
            if into:
                flat[:, into - 1] = self._carried[live]
            sums = np.cumsum(laps, axis=2)[:, :, -1]        # one after the other, as Python adds
        spent = np.full(ended, length * seconds)
        spent[:1] += self._spent - into * seconds
        self._spent = left * seconds + (0.0 if ended else self._spent - into * seconds)
        self._into = left
        if left:
            self._carried[live] = sums[:, -1]
        return sums[:, :ended], spent
