"""How a training goes: what `fit` and `sweep` are told, checked."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import SupportsIndex

from jitgrad import optim
from jitgrad.errors import ArgumentError, explain
from jitgrad.examples import Examples


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
        epochs = positive("epochs", self.epochs, "the number of passes over the data")
        size, patience = self.batch_size, self.patience
        if size is not None:
            size = positive("batch_size", size, "the number of examples per step, or None for all")
        if patience is not None:
            patience = positive("patience", patience, "the number of epochs to wait for a better one")
        apart = self.average_every
        if apart is not None:
            apart = positive("average_every", apart, "the number of steps that partitions make between two averages")
            if size is None:
                raise ArgumentError(explain("average_every counts minibatches.", f"average_every={apart}",
                                            "Pass batch_size."))
        made = replace(self, optimizer=optimizer, epochs=epochs, batch_size=size, seed=seed_number(self.seed),
                       patience=patience, average_every=apart)
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


def positive(name: str, number: SupportsIndex, meaning: str) -> int:
    """The number as an int; raises ArgumentError unless it is a whole one above 0."""
    try:
        found = 0 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        found = 0
    if found < 1:
        raise ArgumentError(explain(f"{name} must be a positive int.", f"{name}={number!r}", f"It is {meaning}."))
    return found


def seed_number(seed: SupportsIndex) -> int:
    """The seed as an int; raises ArgumentError unless it is a whole number and not negative."""
    try:
        found = operator.index(seed)
    except TypeError:
        found = -1
    if found < 0:
        raise ArgumentError(explain("seed must be a non-negative int.", f"seed={seed!r}",
                                    "Any such number will do, for example 0."))
    return found
