"""Tables from the JSON of a run, in Markdown, and their places in the README and the documentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.goals import GOALS, Goal
from benchmarks.machine import digits
from benchmarks.peers import PEERS

Record = dict[str, Any]
SCALAR = ["micrograd", "Python"]                   # one column: both are Python, a scalar at a time


def figure_text(figure: float, unit: str) -> str:
    """Three digits and a unit: 71.2 µs."""
    if unit == "instructions":
        return f"{figure:,.0f}"
    if unit == "bytes":
        return f"{figure / 2**20:.1f} MiB"
    units = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
    name, size = next((u for u in units if figure >= u[1] * 0.9995), units[-1])
    number = figure / size
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f} {name}"


def factor_text(factor: float) -> str:
    return f"{factor:.2f}×" if factor < 0.995 else f"{factor:.1f}×" if factor < 9.95 else f"{digits(factor, 2):,.0f}×"


# What the records say.

def best(record: Record, peer: str) -> Record | None:
    """A peer's best formulation in a case."""
    mine = [e for e in record["entries"] if e["peer"] == peer]
    return min(mine, key=lambda e: e["median"]) if mine else None


def rival(record: Record) -> Record | None:
    """The best entry that is not jitgrad's."""
    others = [e for e in record["entries"] if e["peer"] != "jitgrad"]
    return min(others, key=lambda e: e["median"]) if others else None


def ratio(record: Record, against: Record | None = None) -> float | None:
    """How many times faster than the fastest of the others, or than a given entry, jitgrad is."""
    ours, other = best(record, "jitgrad"), against or rival(record)
    return None if ours is None or other is None or record["unit"] != "s" else other["median"] / ours["median"]


def share(report: Record, record: Record, entry: Record) -> tuple[float, str] | None:
    """The fraction of the machine's limit that binds, and that limit's name: the one that would take longer."""
    if record["unit"] != "s":
        return None
    limits = report["limits"]
    floors = [(amount / limits[key], name) for amount, key, name in
              ((record["bytes"], "copy_bytes_per_second", "copy"), (record["flops"], "sgemm_flops_per_second", "sgemm"))
              if amount]
    if not floors:
        return None
    floor, name = max(floors)
    return floor / entry["median"], name


# The goals.

def goal_row(report: Record, goal: Goal) -> list[str]:
    record = next((r for r in report["cases"] if r["name"] == goal.case), None)
    row = [goal.work, goal.against or "", goal.least.text, goal.aim.text]
    ours = None if record is None else best(record, "jitgrad")
    if record is None or ours is None:
        return [*row, "not measured", ""]
    texts, reached = [], []
    for wanted in (goal.least, goal.aim):
        text, holds = _measure(report, record, ours, goal, wanted)
        reached.append(holds)
        if text not in texts:
            texts.append(text)
    verdict = "" if None in reached else "aim" if all(reached) else "at least" if reached[0] else "no"
    return [*row, ", ".join(texts), verdict]


def _measure(report: Record, record: Record, ours: Record, goal: Goal, wanted: Any) -> tuple[str, bool | None]:
    """What was measured in the terms of a wish, and whether it holds; None where a peer is missing."""
    if wanted.kind == "times":
        other = best(record, goal.against or "")
        factor = None if other is None else ratio(record, other)
        return (f"no {goal.against} here", None) if factor is None else (factor_text(factor), factor >= wanted.number)
    if wanted.kind == "share":
        found = share(report, record, ours)
        assert found is not None, f"{record['name']} counts neither bytes nor operations"
        return f"{found[0]:.0%} of {found[1]}", found[0] >= wanted.number
    figure = ours["median"] / (record["items"] if wanted.kind == "under an item" else 1)
    return figure_text(figure, record["unit"]), figure <= wanted.number


def goals_table(report: Record) -> str:
    """The project's goals and what this run measured."""
    rows = [["work", "against", "at least", "aim", "measured", "reached"]]
    return table([*rows, *(goal_row(report, goal) for goal in GOALS)], left=2)


# The other tables.

def table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table, its first row the head; the first `left` columns to the left, the others to the right."""
    head, *body = rows
    lines = [head, ["---"] * left + ["---:"] * (len(head) - left), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary_table(report: Record, all_cases: bool = False) -> str:
    """A line a case: the figure of each peer, and jitgrad against the best of them."""
    records = [r for r in report["cases"] if all_cases or r["headline"]]
    columns = {peer: [peer] for peer in PEERS if peer not in SCALAR} | {" or ".join(SCALAR): SCALAR}
    present = {head: peers for head, peers in columns.items() if any(best(r, peer) for r in records for peer in peers)}
    rows = [["work", *present, "jitgrad is"]]
    for record in records:
        other, factor = rival(record), ratio(record)
        cells = [next((figure_text(e["median"], record["unit"]) for peer in peers for e in [best(record, peer)] if e), "")
                 for peers in present.values()]
        rows.append([record["title"], *cells,
                     "" if factor is None or other is None else f"{factor_text(factor)} {other['peer']}"])
    return table(rows)


def detail_table(report: Record) -> str:
    """A line a formulation: median, quartiles, time an item, error against float64, fraction of the machine."""
    rows = [["case", "peer and formulation", "median", "quartiles", "an example", "error", "of the machine"]]
    for record in report["cases"]:
        unit, items = record["unit"], record["items"] or 0
        for number, e in enumerate(record["entries"]):
            found = share(report, record, e)
            median, low, high = (figure_text(e[k], unit) for k in ("median", "low", "high"))
            rows.append([f"`{record['name']}`" if number == 0 else "", f"{e['peer']}, {e['how']}",
                         median, f"{low} to {high}",
                         figure_text(e["median"] / items, unit) if items >= 10_000 else "",
                         f"{e['error']:.0e}" if e["error"] else "0",
                         "" if found is None else f"{found[0]:.0%} of {found[1]}"])
    return table(rows, left=2)


def losing_table(report: Record) -> str:
    """The cases in which some peer is better than jitgrad."""
    rows = [["case", "jitgrad", "the best", "jitgrad takes"]]
    for record in report["cases"]:
        factor, ours, other = ratio(record), best(record, "jitgrad"), rival(record)
        if factor is not None and factor < 1 and ours is not None and other is not None:
            rows.append([f"`{record['name']}`", figure_text(ours["median"], record["unit"]),
                         f"{other['peer']}, {figure_text(other['median'], record['unit'])}", factor_text(1 / factor)])
    return table(rows) if len(rows) > 1 else "In this run, in none of the cases."


def conditions(report: Record) -> str:
    """One sentence on the machine, the versions and what else was running."""
    m, v, limits = report["machine"], dict(report["versions"]), report["limits"]
    mine, python = v.pop("jitgrad", "unknown"), v.pop("python")
    packages = ", ".join(f"{name} {number}" for name, number in v.items() if name != "llvmlite")
    shares = [record.get("others") for record in report["cases"]]
    others = ("how busy other programs kept the machine is not known" if None in shares or not shares
              else f"other programs had at most {max(shares):.0%} of the machine during a case")
    skipped = sorted({f"{peer} ({why})" for record in report["cases"] for peer, why in record["skipped"].items()})
    return (f"{m['device']}, {m['cores']} cores{', ' + m['simd'] if m['simd'] else ''}, {m['system']}; "
            f"copies {limits['copy_bytes_per_second'] / 1e9:.0f} GB/s, sgemm {limits['sgemm_flops_per_second'] / 1e9:.0f} "
            f"GFLOP/s; jitgrad {mine} at {report['commit']}, Python {python}, {packages}; {report['date']}; {others}"
            + (f"; skipped: {', '.join(skipped)}" if skipped else "") + ".")


TABLES: dict[str, Callable[[Record], str]] = {
    "goals": goals_table,
    "summary": summary_table,
    "all": lambda report: summary_table(report, all_cases=True),
    "detail": detail_table,
    "losing": losing_table,
    "conditions": conditions,
}


def fill(text: str, report: Record) -> str:
    """A page with what stands between `<!-- benchmarks: NAME -->` and `<!-- benchmarks end -->` made anew."""
    parts = text.split("<!-- benchmarks: ")
    for at, part in enumerate(parts[1:], 1):
        name, arrow, rest = part.partition(" -->")
        _, end, after = rest.partition("<!-- benchmarks end -->")
        if not arrow or not end or name not in TABLES:
            raise SystemExit(f"a benchmark marker is wrong near {part[:60]!r}; known: {', '.join(TABLES)}")
        parts[at] = f"{name} -->\n\n{TABLES[name](report)}\n\n{end}{after}"
    return "<!-- benchmarks: ".join(parts)
