"""Documentation build only (an mkdocs hook): in cli.md the line COMMANDS is replaced by what each command's --help prints.

`python docs/gen_cli.py` prints the page.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import typer
import typer.rich_utils  # reads the environment once, when it is imported: not while `help_of` changes it
from typer.testing import CliRunner

from jitgrad.cli import app

COMMANDS = "<!-- commands of jitgrad.cli -->"
_WIDTH = 96


def names() -> list[str]:
    """Every command, a group's such as `cache clear` after it."""
    found = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        found += [name, *(f"{name} {inner}" for inner in getattr(command, "commands", {}))]
    return found


def help_of(name: str) -> str:
    """What `jitgrad NAME --help` prints, on a terminal without colours."""
    plain = {"COLUMNS": str(_WIDTH), "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, plain), mock.patch.object(typer.rich_utils, "MAX_WIDTH", _WIDTH):
        text = CliRunner().invoke(app, [*name.split(), "--help"], prog_name="jitgrad").output
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()).strip("\n")


def cli_page(text: str) -> str:
    """cli.md with its commands."""
    if COMMANDS not in text:
        raise ValueError(f"cli.md has lost its line {COMMANDS}")
    return text.replace(COMMANDS, "\n\n".join(
        f"{'###' if ' ' in name else '##'} jitgrad {name}\n\n```console\n{help_of(name)}\n```" for name in names()))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Complete cli.md."""
    return cli_page(markdown) if page.file.src_uri == "cli.md" else markdown


if __name__ == "__main__":
    sys.stdout.write(cli_page((Path(__file__).parent / "cli.md").read_text(encoding="utf-8")))
