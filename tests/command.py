"""The command line run in this process."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from jitgrad.cli import app

QUICK = ("--device", "interpret", "--epochs", "2")


def run(*args: str, status: int = 0) -> Any:
    """Run a command; the exit status must be `status`, and an exception is only ever typer's own exit."""
    result = CliRunner().invoke(app, list(args))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result
