"""What the commands say: results, errors as their own text, and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from jitgrad.errors import JitgradError

if TYPE_CHECKING:
    from jitgrad.recipes import Training


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
                                                          *(f"{metric:.4f}" for metric in epoch.metrics.values())]
        table.add_row(str(number), f"{epoch.loss:.5f}", *after, f"{epoch.examples_per_second:,.0f}")
    out.print(table)
    if result.resumed:
        out.print(f"went on from epoch {result.resumed} of the checkpoint")
    if result.ended == "patience":
        out.print(f"ended after {training.recipe.patience} epochs without a better one than epoch {result.epoch}, whose "
                      f"parameters are kept")
    for name, metric in training.metrics.items():
        text = f"{metric:.1%}" if name.endswith("accuracy") else f"{metric:.4g}"
        out.print(f"{name.replace('test_', 'held-out ').replace('train_', 'training ')}: {text}")
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
        raise KeyboardInterrupt


def print_json(record: dict[str, Any]) -> None:
    """One JSON object."""
    typer.echo(json.dumps(record, indent=2, allow_nan=False))


def console() -> Console:
    """Standard output."""
    # Made anew each time: sys.stdout may have been replaced since import. A pipe gets lines as long as they are.
    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False)


@contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """Turn errors that the user can mend into their own text and exit status 1, without a traceback."""
    try:
        yield
    except (JitgradError, OSError) as error:
        if as_json:
            print_json({"ok": False, "error": {"type": type(error).__name__, "message": str(error)}})
        else:
            typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        raise typer.Exit(130) from None
