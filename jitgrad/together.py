"""Trainings of one kind side by side: each call of a compiled loop makes the same number of steps for all of them.

`fit` is one such training. On a GPU thousands are trained in one launch; what becomes of an epoch's loss (history, patience,
the best parameters) is each training's own business, the same for any number beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.backends import threads
from jitgrad.backends.work import Line, Work
from jitgrad.batches import Batches
from jitgrad.errors import NonFiniteError
from jitgrad.examples import Update
from jitgrad.loop import Loop, Pace, Slice, slices
from jitgrad.trainer import Training

Floats = npt.NDArray[np.float64]


def together(loop: Loop, trainings: Sequence[Training]) -> None:
    """Train all of them to their ends; one that diverges ends with its `error`, and the others go on.

    trainings: of one kind of optimizer, with as many epochs, examples and examples a step; on the same examples or, where
    the loop is for many models, on parts of the same ones; one with noise comes alone
    """
    _Group(loop, trainings).run()


class _Group:
    def __init__(self, loop: Loop, trainings: Sequence[Training]):
        first = trainings[0]
        self._loop, self._trainings, self._pace, params = loop, trainings, Pace(), first.trainer.now.params
        self._examples = self._examples_now()
        self._rows = first.loops.rows(loop, params, self._examples)
        self._models = loop.models(params, self._examples.between(0, 1), [one.trainer.numbers() for one in trainings])
        self._made, self._left, self._live = first.trainer.now.steps, first.left, list(range(len(trainings)))
        by_epoch = any(training.watched for training in trainings)
        # One model is brought up to date after every slice, for Ctrl-C; many that nobody watches, at their end.
        self._at_the_end = len(trainings) > 1 and not by_epoch
        self._entries: list[tuple[list[int], Floats, Floats]] = []
        self._orders = _Orders(self._examples, trainings, self._pace.most, by_epoch, loop.slice_examples)
        self._totals = _Totals(len(trainings), first.steps_per_epoch, first.loops.mean)

    def run(self) -> None:
        self._pace.begin()
        while self._live and self._left:
            threads.still_wanted()
            self._make_a_slice()
            self._live = [k for k in self._live if self._trainings[k].left]
            self._pace.begin()                              # what was done meanwhile is no part of a step
        if self._at_the_end:
            self._enter_all()

    def _examples_now(self) -> Batches:
        """What all are trained on, or parts of it; with noise, that of an epoch."""
        first, trainings = self._trainings[0], self._trainings
        assert first.noise is None or len(trainings) == 1
        found = first.examples()
        assert isinstance(found, Batches)
        return found if all(training.batches is first.batches for training in trainings) else found.origin

    def _make_a_slice(self) -> None:
        first = self._trainings[0]
        if first.noise is not None and self._made % first.steps_per_epoch == 0:
            self._examples = self._examples_now()
            self._rows = first.loops.rows(self._loop, first.trainer.now.params, self._examples)
        live, (steps, order, rows) = self._live, self._orders.draw(self._live)
        rules = {id(self._trainings[k].trainer.rule): self._trainings[k].trainer.rule for k in live}
        number = {key: row for row, key in enumerate(rules)}
        scalars = np.stack([rule.rows(self._made + 1, len(steps)) for rule in rules.values() if rule is not None])
        norms = np.array([rule.norm for rule in rules.values() if rule is not None])
        lines = [Line(k, row, number[id(self._trainings[k].trainer.rule)]) for k, row in zip(live, rows, strict=True)]
        outcome = self._loop.run(self._models, self._rows, Work(lines, steps, order, scalars, norms))
        most = int(outcome.made.max())
        sums, spent = self._totals.add(live, steps, outcome.losses, self._pace.lap(most) / max(1, most))
        for line in range(len(live)) if not self._at_the_end else np.flatnonzero(outcome.why).tolist():
            k, done, why = live[line], int(outcome.made[line]), int(outcome.why[line])
            try:
                self._take(k, done, why, outcome.losses[line], sums[line], spent)
            except NonFiniteError as error:
                self._trainings[k].error, self._trainings[k].left = error, 0
        self._made += len(steps)
        self._left -= len(spent)
        if self._at_the_end and len(spent):
            self._entries.append((live, sums, spent))

    def _take(self, k: int, done: int, why: int, losses: Floats, sums: Floats, spent: Floats) -> None:
        """A slice's steps of one model; raises what its next step fails with, or what is measured."""
        training = self._trainings[k]
        if why:
            part = self._orders.parts[self._orders.keys[k]]
            self._bring_up_to_date(k, self._made + done, float(losses[done - 1]) if done else None)
            start, size = part.steps[done]
            chosen = None if part.order is None else part.order[start:start + size]
            of = self._examples if training.noise is not None else training.batches
            assert isinstance(of, Batches)
            training.explain(Update(training.loops.step, of.chosen(chosen), size, chosen), float(losses[done]))
        self._bring_up_to_date(k, self._made + done, float(losses[-1]))
        training.progress.advance(float(losses[-1]), done)
        if len(spent):
            training.enter(sums, spent)

    def _bring_up_to_date(self, k: int, steps: int, loss: float | None) -> None:
        self._trainings[k].trainer.load(self._loop.numbers(self._models, k), steps, loss)

    def _enter_all(self) -> None:
        losses = np.zeros((len(self._trainings), sum(len(spent) for *_, spent in self._entries)))
        seconds, at = np.concatenate([spent for *_, spent in self._entries]), 0
        for live, sums, spent in self._entries:
            losses[live, at:at + len(spent)] = sums
            at += len(spent)
        for k in self._live:
            self._bring_up_to_date(k, self._made, None)
            self._trainings[k].enter(losses[k], seconds)


class _Orders:
    """Which examples the steps have. Trainings with one seed and one part of the examples share a row.

    keys: of each training, what decides its order; parts: by key, the slice that was drawn last
    """

    def __init__(self, examples: Batches, trainings: Sequence[Training], most: list[int], by_epoch: bool, room: int):
        self._examples, self._same = examples, all(t.batches is trainings[0].batches for t in trainings)
        self.keys = [(None if t.batch_size is None else t.settings.seed, id(t.batches)) for t in trainings]
        self._first = dict(zip(reversed(self.keys), reversed(trainings), strict=True))
        room = max(1, room // len(self._first))
        self._slices = {key: slices(t.batches.count, t.batch_size, t.left, t.generator, most, by_epoch, room)
                        for key, t in self._first.items()}
        self.parts: dict[Any, Slice] = {}

    def draw(self, live: Sequence[int]) -> tuple[list[tuple[int, int]], npt.NDArray[Any] | None, list[int]]:
        """(the next steps, their order, which row of it each of the live trainings has)."""
        keys = dict.fromkeys(self.keys[k] for k in live)
        self.parts = {key: next(self._slices[key]) for key in keys}
        number = {key: row for row, key in enumerate(keys)}
        orders = [self._of_all(key) for key in keys]
        steps = next(iter(self.parts.values())).steps
        if all(order is None for order in orders):
            return steps, None, [0] * len(live)
        everything = np.arange(self._examples.count)
        table = np.stack([everything if order is None else order for order in orders])
        return steps, table, [number[self.keys[k]] for k in live]

    def _of_all(self, key: Any) -> npt.NDArray[np.intp] | None:
        """A slice's order, as numbers of all examples; None for all as they lie."""
        order, batches = self.parts[key].order, self._first[key].batches
        if self._same:
            return order
        assert isinstance(batches, Batches)
        return batches.examples if order is None else batches.examples[order]


class _Totals:
    """The sums of an epoch's losses over its examples, and its seconds, of several models whose epochs end together."""

    def __init__(self, models: int, steps_per_epoch: int, mean: bool):
        self._length, self._mean = steps_per_epoch, mean
        self._carried, self._spent, self._into = np.zeros(models), 0.0, 0

    def add(self, live: Sequence[int], steps: Sequence[tuple[int, int]], losses: Floats, seconds: float) -> tuple[
            Floats, Floats]:
        """Steps were made, of so many seconds each: sums (models, epochs) and seconds of the epochs that ended."""
        length, into, count = self._length, self._into, len(steps)
        with np.errstate(all="ignore"):                     # of a model that failed
            terms = losses * [size for _, size in steps] if self._mean else losses
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
