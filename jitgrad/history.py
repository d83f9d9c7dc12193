"""What a training leaves behind: an `Epoch` for each pass over the data, a `FitResult` at the end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

Tree = Any

ALL_EPOCHS, PATIENCE, CALLBACK, INTERRUPTED = "all epochs", "patience", "callback", "interrupted"


class Epoch(NamedTuple):
    """What one pass over the data did.

    epoch: 1 for the first
    loss: the objective's mean over the examples, each taken under the parameters its batch met
    seconds: wall-clock time of the pass, without what is measured after it; the first epoch includes compilation
    examples_per_second: examples divided by seconds
    validation_loss: the objective's mean over the validation examples under the parameters at the epoch's end; None
        without validation
    metrics: by name, of the validation examples if there are any, else of the training's
    """

    epoch: int
    loss: float
    seconds: float
    examples_per_second: float
    validation_loss: float | None = None
    metrics: Mapping[str, float] = {}

    @property
    def score(self) -> float:
        """What decides which epoch is best: the validation loss; without one the loss."""
        return self.loss if self.validation_loss is None else self.validation_loss


class History(Sequence[Epoch]):
    """Epochs of `examples` each in their order; those that came many at a time are made when somebody looks at them."""

    def __init__(self, examples: int):
        self._examples = examples
        self._epochs: list[Epoch] = []
        self._waiting: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []

    def made(self, loss: float, seconds: float) -> Epoch:
        """The next epoch."""
        return Epoch(len(self) + 1, loss, seconds, self._examples / max(seconds, 1e-12))

    def append(self, epoch: Epoch) -> None:
        """Enter one epoch."""
        self._all().append(epoch)

    def extend(self, losses: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64]) -> None:
        """Enter the next epochs of a training of which nothing else is measured."""
        self._waiting.append((losses, seconds))

    def _all(self) -> list[Epoch]:
        waiting, self._waiting = self._waiting, []
        for losses, seconds in waiting:
            speeds = self._examples / np.maximum(seconds, 1e-12)
            numbers = itertools.count(len(self._epochs) + 1)
            self._epochs += map(Epoch, numbers, losses.tolist(), seconds.tolist(), speeds.tolist())
        return self._epochs

    def score(self, number: int) -> float:
        """That of epoch `number`, counted from 1."""
        known = len(self._epochs)
        return self._epochs[number - 1].score if number <= known else float(self.losses[number - 1])

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """The mean loss of every epoch."""
        return np.concatenate([np.array([epoch.loss for epoch in self._epochs]), *(losses for losses, _ in self._waiting)])

    def __len__(self) -> int:
        return len(self._epochs) + sum(len(losses) for losses, _ in self._waiting)

    @overload
    def __getitem__(self, index: int) -> Epoch: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Epoch]: ...
    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]

    def __iter__(self) -> Iterator[Epoch]:
        return iter(self._all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._all())


@dataclass(frozen=True)
class FitResult:
    """A finished training.

    params: new parameters in the structure, shapes and dtypes of those passed to `fit`
    history: one `Epoch` per epoch
    steps: optimizer updates made
    epoch: the epoch that `params` are of: the best one with `patience`, else the last
    ended: "all epochs", "patience", "callback" or "interrupted" (by Ctrl-C; `params` are then the best so far with
        `patience`, else those of the last step)
    resumed: the epoch of the checkpoint that the training went on from; 0 from the start
    """

    params: Tree
    history: History
    steps: int
    epoch: int
    ended: str = ALL_EPOCHS
    resumed: int = 0

    @property
    def losses(self) -> list[float]:
        """The mean loss of every epoch."""
        found: list[float] = self.history.losses.tolist()
        return found

    @property
    def validation_losses(self) -> list[float]:
        """The validation loss of every epoch; empty without validation."""
        return [epoch.validation_loss for epoch in self.history if epoch.validation_loss is not None]

    @property
    def score(self) -> float:
        """The validation loss of the parameters' epoch, without validation its loss; infinite before the first epoch."""
        return self.history.score(self.epoch) if self.epoch else float("inf")

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
        ended = {ALL_EPOCHS: "", PATIENCE: f", best epoch {self.epoch}", CALLBACK: ", ended by the callback",
                 INTERRUPTED: ", interrupted"}[self.ended]
        if not self.history:
            return f"FitResult(0 epochs, {self.steps} steps{ended})"
        first, last = self.history[0], self.history[-1]
        validation = ("" if last.validation_loss is None
                      else f", validation loss {first.validation_loss:.4g} -> {last.validation_loss:.4g}")
        return (
            f"FitResult({last.epoch} epochs, {self.steps} steps{ended}, loss {first.loss:.4g} -> {last.loss:.4g}"
            f"{validation}, {self.examples_per_second:,.0f} examples/s)"
        )
