"""What the commands say: results, errors as their own text, and JSON."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from jitgrad.errors import ArgumentError, JitgradError, MissingPackageError, explain, require

if TYPE_CHECKING:
    from jitgrad.data import Dataset
    from jitgrad.recipes import Training


def print_columns(dataset: Dataset) -> None:
    """What the columns of a table were taken for; nothing for a data set that is no table."""
    if not dataset.columns:
        return
    kind = f"{len(dataset.classes)} classes: {_some(dataset.classes)}" if dataset.classes else "a number to predict"
    rows = [("column", "taken as"), (dataset.target, kind), *((column.name, str(column)) for column in dataset.columns)]
    width = max(len(name) for name, _ in rows)
    typer.echo("".join(f"{name:{width}}  {what}\n" for name, what in rows))


def _some(names: tuple[str, ...], most: int = 8) -> str:
    return ", ".join(names[:most]) + ", …" * (len(names) > most)


def make_folder(path: str) -> None:
    """Make a folder if need be. Raises OSError where nothing can be written in it: before the work that is to go there."""
    os.makedirs(path, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def can_draw() -> bool:
    """Whether matplotlib is there; says on stderr if there will be no pictures."""
    try:
        require("matplotlib", "No pictures: they are drawn by matplotlib", "matplotlib")
    except MissingPackageError as missing:
        typer.echo(str(missing), err=True)
        return False
    return True


def metric(name: str, value: float) -> str:
    """An accuracy in percent, a large number whole, any other with four digits."""
    return f"{value:.1%}" if name.endswith("accuracy") else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def print_training(training: Training, files: list[str]) -> None:
    """A finished training: what it was, how it went, what it reached."""
    dataset, result = training.dataset, training.result
    out = console()
    out.print(
        f"[bold]{dataset.name}[/bold]: {len(dataset.train[1])} training and {len(dataset.test[1])} held-out examples, "
        f"{'-'.join(map(str, training.layers))} network, {training.loss}, {training.recipe.dtype}"
    )
    measured = [] if not result.validation_losses else ["validation", *result.history[0].metrics]
    table = Table("epoch", "loss", *measured, "examples/s", box=None, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    last = len(result.history)
    shown = sorted({1, last, result.epoch} | {round(last * part / 10) for part in range(1, 10)} - {0}) if last else []
    for number in shown:
        epoch = result.history[number - 1]
        after = [] if epoch.validation_loss is None else [f"{epoch.validation_loss:.5f}",
                                                          *(f"{value:.4f}" for value in epoch.metrics.values())]
        table.add_row(str(number), f"{epoch.loss:.5f}", *after, f"{epoch.examples_per_second:,.0f}")
    out.print(table)
    if result.resumed:
        out.print(f"went on from epoch {result.resumed} of the checkpoint")
    if result.ended == "patience":
        out.print(f"ended after {training.recipe.patience} epochs without a better one than epoch {result.epoch}, whose "
                      f"parameters are kept")
    for name, value in training.metrics.items():
        out.print(f"{name.replace('test_', 'held-out ').replace('train_', 'training ')}: {metric(name, value)}")
    out.print(
        f"{result.steps} steps in {result.seconds:.2f} s, compilation included; "
        f"{result.examples_per_second:,.0f} examples/s after the first epoch"
    )
    for file in files:
        typer.echo(f"wrote {file}")
    typer.echo()


def end_if_interrupted(training: Training) -> None:
    """Ctrl-C gave what the training had reached, which has been reported; it ends the command all the same."""
    if training.result.ended == "interrupted":
        _interrupted()


def _interrupted() -> NoReturn:
    typer.echo("Interrupted.", err=True)
    raise typer.Exit(130)


def print_json(record: dict[str, Any]) -> None:
    """One JSON object."""
    typer.echo(json.dumps(record, indent=2, allow_nan=False))


def _print_error(error: BaseException, message: str) -> None:
    print_json({"ok": False, "error": {"type": type(error).__name__, "message": message}})


def print_table(text: str) -> None:
    """A table for other programs, whole or not at all. Raises ArgumentError where the terminal cannot write a letter."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError as error:
        raise ArgumentError(explain(f"The table has {text[error.start]!r}, which standard output cannot write.",
                                    f"its encoding is {encoding}",
                                    "Write the table to a file with --out, or set PYTHONUTF8=1.")) from None
    typer.echo(text, nl=False)


def console() -> Console:
    """Standard output."""
    # Made anew each time: sys.stdout may have been replaced since import. A pipe gets lines as long as they are.
    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False)


@contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """Turn errors that the user can mend into their own text and exit status 1, without a traceback."""
    try:
        yield
    except (BrokenPipeError, typer.Exit, typer.BadParameter):   # `jitgrad … | head`, and ends that typer knows
        raise
    except KeyboardInterrupt as error:
        if as_json:
            _print_error(error, "Interrupted.")
        _interrupted()
    except Exception as error:
        if as_json:
            _print_error(error, str(error))
        if not isinstance(error, JitgradError | OSError):
            raise                                           # an error of jitgrad's own: its traceback is wanted
        if not as_json:
            typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(1) from None
