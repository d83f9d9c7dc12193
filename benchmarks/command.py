"""`python -m benchmarks` and `jitgrad bench`: run cases, print the tables, write JSON, pictures and pages."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks import pictures, running, tables
from benchmarks.case import ROOT
from benchmarks.cases import CASES

RESULTS = ROOT / "benchmarks" / "results" / "cpu.json"
PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")
PICTURES = ROOT / "docs" / "assets" / "benchmarks"


def chosen(patterns: Sequence[str]) -> list[str]:
    """The cases that names, shell patterns or beginnings of names pick; all for none."""
    def picks(pattern: str, name: str) -> bool:
        return name == pattern if pattern in CASES else fnmatchcase(name, pattern) or name.startswith(pattern)
    return [name for name in CASES if not patterns or any(picks(p, name) for p in patterns)]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="jitgrad bench", description="""
        Time jitgrad beside JAX, PyTorch, Dr.Jit and micrograd on the same work. Each result is checked against float64
        before it is timed; a peer that is not installed is skipped by name. Exit status 1 if anything failed.""")
    made.add_argument("names", nargs="*", metavar="NAME", help="cases: 'mlp-*', or the beginnings of names; all if none")
    made.add_argument("--list", action="store_true", help="name the cases and stop")
    made.add_argument("--quick", action="store_true",
                      help="small sizes, few repeats: shows that it works, and measures nothing")
    made.add_argument("--json", nargs="?", const="-", metavar="FILE",
                      help="write the results as JSON to FILE; without FILE, to stdout and nothing else there")
    made.add_argument("--write", action="store_true",
                      help="write them to the checkout's results, tables and pictures")
    made.add_argument("--patience", type=float, default=60.0, metavar="SECONDS",
                      help="how long to wait, before each case, until other programs are idle (default 60; 0: not at all)")
    made.add_argument("--from", dest="source", type=Path, metavar="FILE",
                      help="run nothing: take the results from FILE")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; answers the exit status."""
    options = parser().parse_args(arguments)
    if options.list:
        for case in CASES.values():
            print(f"{case.name:<24} {case.title}")
        return 0
    names = chosen(options.names)
    if not names:
        parser().error(f"no case is called {' or '.join(options.names)}; --list names them")
    if options.json in CASES:
        parser().error(f"--json takes {options.json} for a file; write it after the names")
    if options.write and (options.names or options.quick) and options.source is None:
        parser().error("--write needs one full run of all cases, or they cannot be compared")
    if options.source is not None:
        report = json.loads(options.source.read_text(encoding="utf-8"))
    else:
        patience = 0.0 if options.quick else options.patience
        report = running.run(names, patience, lambda text: print(text, file=sys.stderr, flush=True), options.quick)
    broken = running.failures(report)
    complete = not (broken or report["quick"]) and [r["name"] for r in report["cases"]] == list(CASES)
    publish(report, options, options.write and complete)
    for line in broken:
        print(f"FAILED {line}", file=sys.stderr)
    if options.write and not complete:
        print("wrote nothing into the checkout: that takes a full run of all cases in which none fails", file=sys.stderr)
    return 1 if broken or (options.write and not complete) else 0


def publish(report: dict[str, Any], options: argparse.Namespace, into_checkout: bool) -> None:
    """Everything that is made of a report."""
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    for path in ([Path(options.json)] if options.json not in (None, "-") else []) + ([RESULTS] if into_checkout else []):
        write(path, text)
    if into_checkout:
        for page in PAGES:
            write(page, tables.fill(page.read_text(encoding="utf-8"), report))
        for name, picture in pictures.draw(report).items():
            write(PICTURES / name, picture)
    if options.json == "-":
        print(json.dumps({"ok": not running.failures(report), **report}, indent=1, ensure_ascii=False))
        return
    if report["quick"]:
        print("A quick run: small sizes, whatever the titles say. The figures mean nothing.\n")
    print(tables.summary_table(report, all_cases=True))
    if not report["quick"]:
        print(f"\n{tables.detail_table(report)}\n\n{tables.goals_table(report)}\n\n{tables.conditions(report)}")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)
