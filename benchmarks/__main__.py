"""`python -m benchmarks`: run the cases, print the table, write the JSON and the tables of README.md and docs/."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import running
from benchmarks.cases import CASES, ROOT

RESULTS = ROOT / "benchmarks" / "results" / "cpu.json"
PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases, or the beginnings of their names; all if none")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    parser.add_argument("--write", action="store_true",
                        help=f"write them to {RESULTS.relative_to(ROOT)}, and the tables of "
                             f"{' and '.join(str(page.relative_to(ROOT)) for page in PAGES)} from it")
    parser.add_argument("--patience", type=float, default=60.0, metavar="SECONDS",
                        help="how long to wait, before each case, until other programs are idle (default 60; 0: not at all)")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE",
                        help="run nothing: take the results from FILE, for the tables")
    options = parser.parse_args()
    if options.list:
        for case in CASES.values():
            print(f"{case.name:<24} {case.title}")
        return
    names = [name for name in CASES if not options.names or name.startswith(tuple(options.names))]
    if not names:
        parser.error(f"no case is called {' or '.join(options.names)}; --list names them")
    if options.write and len(names) < len(CASES):
        parser.error("--write needs the results of all cases: one run on one machine, or they cannot be compared")
    if options.source is not None:
        report = json.loads(options.source.read_text(encoding="utf-8"))
    else:
        report = running.run(names, options.patience, running.progress)
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    for path in ([options.json] if options.json else []) + ([RESULTS] if options.write else []):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}", file=sys.stderr)
    if options.write:
        for page in PAGES:
            page.write_text(running.fill(page.read_text(encoding="utf-8"), report), encoding="utf-8")
            print(f"wrote {page}", file=sys.stderr)
    print(running.summary_table(report, all_cases=True))


if __name__ == "__main__":
    main()
