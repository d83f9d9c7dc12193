"""The progress bar of a training: on stderr, on a terminal only unless asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """No bar; what a training tells it is dropped."""

    def advance(self, loss: float, steps: int) -> None:
        """So many more steps were made, the last with this loss."""

    def measured(self, validation_loss: float | None) -> None:
        """An epoch's validation loss is known."""


@contextmanager
def progress_bar(progress: bool | None, epochs: int, steps_per_epoch: int, examples: int | None = None,
                 done: int = 0) -> Iterator[Progress]:
    """The bar of a training of so many epochs, of which `done` were made before.

    progress: None shows it on a terminal only; True always; False never
    examples: of an epoch, for examples per second; None shows none
    """
    if progress is False:
        yield Progress()
        return
    from rich.console import Console  # costs more than a short training without a bar

    console = Console(stderr=True, force_terminal=True if progress else None)
    if not console.is_terminal:
        yield Progress()
        return
    from rich import progress as rich

    columns = [
        rich.TextColumn("epoch"),
        rich.TextColumn("{task.fields[epoch]}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[losses]}"),
        *([] if examples is None else [rich.TextColumn("{task.fields[throughput]}")]),
        rich.TimeRemainingColumn(),
    ]
    with rich.Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        yield _Bar(bar, epochs, steps_per_epoch, examples or 0, done)


class _Bar(Progress):
    def __init__(self, bar: object, epochs: int, steps_per_epoch: int, examples: int, done: int) -> None:
        from rich.progress import Progress as Rich

        assert isinstance(bar, Rich)
        self._bar, self._epochs, self._steps_per_epoch = bar, epochs, steps_per_epoch
        self._total, self._examples = epochs * steps_per_epoch, examples
        self._before = self._done = done * steps_per_epoch
        self._started = time.perf_counter()
        self._drawn, self._validation = 0.0, ""
        self._task = bar.add_task("fit", total=self._total, completed=self._done, epoch=f"{done}/{epochs}", losses="",
                                  throughput="")

    def advance(self, loss: float, steps: int) -> None:
        self._done += steps
        # A step can take 50 microseconds; drawing takes longer, so it happens ten times a second at most.
        now = time.perf_counter()
        if now - self._drawn > 0.1 or self._done == self._total:
            self._drawn = now
            epochs = (self._done - self._before) / self._steps_per_epoch
            self._bar.update(self._task, completed=self._done, refresh=True,
                             epoch=f"{-(-self._done // self._steps_per_epoch)}/{self._epochs}",
                             losses=f"loss {loss:.4g}{self._validation}",
                             throughput=f"{self._examples * epochs / max(now - self._started, 1e-9):,.0f} examples/s")

    def measured(self, validation_loss: float | None) -> None:
        if validation_loss is not None:
            self._validation = f", validation {validation_loss:.4g}"
