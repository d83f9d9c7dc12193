"""`jitgrad devices`, `bench` and `cache`: what the machine can do, how fast it is, and what is kept on it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import typer
from rich.table import Table

from jitgrad import terminal
from jitgrad.cli.options import JsonOption
from jitgrad.errors import ArgumentError, explain


def devices(as_json: JsonOption = False) -> None:
    """List the backends, why each can or cannot be used here, and the rule by which `auto` chooses."""
    with terminal.reporting(as_json):
        from jitgrad import backends

        found = backends.devices()
        if as_json:
            rows = [{"name": d.name, "available": d.available, "detail": d.detail} for d in found]
            terminal.print_json({"ok": True, "devices": rows, "auto": _auto_rule(backends.GPU_WORK)})
            return
        table = Table("device", "usable", "detail", box=None, pad_edge=False)
        for device in found:
            table.add_row(device.name, "yes" if device.available else "no", device.detail)
        console = terminal.console()
        console.print(table, markup=False)
        console.print(f"\nauto: {_auto_rule(backends.GPU_WORK)}", markup=False, highlight=False)


def bench(context: typer.Context) -> None:
    """Time jitgrad beside JAX, PyTorch, Dr.Jit and micrograd: `jitgrad bench 'mlp-*' --json`; `--list`, `--quick`, `--help`.

    The cases are in `benchmarks/` of a checkout, which an installed jitgrad does not carry. They are found beside the
    library, or in the folder the command is given in, and then measure the jitgrad that is installed.
    """
    with terminal.reporting("--json" in context.args):
        status = _benchmarks()(context.args)
    raise typer.Exit(status)


def _benchmarks() -> Callable[[list[str]], int]:
    """The command of the benchmarks of a checkout."""
    for folder in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (folder / "benchmarks" / "command.py").is_file() and (folder / "jitgrad" / "cli").is_dir():
            # The jitgrad that runs is imported already, and is the one that is measured.
            sys.path.insert(0, str(folder))
            command: Callable[[list[str]], int] = importlib.import_module("benchmarks.command").main
            return command
    raise ArgumentError(explain(
        "the benchmarks are not installed with jitgrad.", None,
        "Get a checkout of jitgrad's source (git clone, or unpack the source archive), and give the command in its folder; "
        "they measure the jitgrad that is installed."))


cached = typer.Typer(help="The machine code kept on disk between processes.", no_args_is_help=True)


@cached.command()
def info(as_json: JsonOption = False) -> None:
    """Where it is, how many programs it holds, and how large it may grow."""
    with terminal.reporting(as_json):
        from jitgrad.compiler import cache

        files = cache.files()
        size = cache.size(files)
        if as_json:
            terminal.print_json({"ok": True, "folder": str(cache.folder()), "files": len(files), "bytes": size,
                         "limit_bytes": cache.LIMIT_BYTES})
            return
        typer.echo(f"{cache.folder()}: {len(files)} files, {size / 2**20:.1f} of at most "
                   f"{cache.LIMIT_BYTES / 2**20:.0f} MiB (JITGRAD_CACHE_DIR puts it elsewhere)")


@cached.command()
def clear(as_json: JsonOption = False) -> None:
    """Remove it; programs are compiled anew when they are next run."""
    with terminal.reporting(as_json):
        from jitgrad.compiler import cache

        gone = cache.clear()
        if as_json:
            terminal.print_json({"ok": True, "removed": gone})
            return
        typer.echo(f"removed {gone} files from {cache.folder()}")


def _auto_rule(gpu_work: int) -> str:
    return (
        "JITGRAD_DEVICE if it is set; else cuda if it is usable and one call does at least "
        f"{gpu_work:,} scalar operations (examples times operations an example); else cpu"
    )
