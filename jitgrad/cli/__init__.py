"""The command line: `jitgrad train`, `predict`, `sweep`, `demo`, `check`, `show`, `devices`, `bench` and `cache`."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from jitgrad.cli import inspecting, machine, predicting, sweeping, training

app = typer.Typer(
    name="jitgrad",
    help="Train small models with fused kernels, predict with them, and check gradients, from the shell.\n\n"
    "Exit status: 0 success, 1 a failed check or unusable input, 2 a wrong command line, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)
for command in (training.train, predicting.predict, sweeping.sweep, training.demo, inspecting.check, inspecting.show,
                machine.devices):
    app.command()(command)
# `bench` hands its options on, --help too.
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})(
    machine.bench)
app.add_typer(machine.cached, name="cache")


def _print_version(wanted: bool) -> None:
    if wanted:
        import jitgrad

        typer.echo(f"jitgrad {jitgrad.__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Only the options that stand before a command."""


def main() -> None:
    """The `jitgrad` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")            # not every terminal has a letter for all that is said
    app()
