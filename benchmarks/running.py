"""Runs cases and reports them: checked first, then timed in interleaved rounds; JSON out, tables from JSON.

A round calls every formulation of every peer for about 50 ms, in an order that rotates from round to round, so that a
slow minute of the machine falls on all alike. A sample is a round's mean time per call; medians and quartiles are over
samples. Of a peer's formulations the one with the lowest median represents it.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.cases import CASES, ROOT, Case, Contestant, Setup

PEERS = {"jitgrad": "jitgrad", "JAX": "jax", "PyTorch": "torch", "micrograd": "micrograd"}
ROUND_SECONDS = 0.05
ROUNDS = 15
CASE_SECONDS = 30.0                     # no further round is begun after this
QUIET = 0.05                            # the share of the machine that others may have while a case runs
ATTEMPTS = 4
Record = dict[str, Any]


# Running.

def run_case(case: Case, say: Callable[[str], None]) -> Record:
    """Check and time one case."""
    setup = case.setup()
    runs: list[tuple[Contestant, Callable[[], Any], float, float]] = []
    missing = sorted({c.peer for c in setup.contestants if importlib.util.find_spec(PEERS[c.peer]) is None})
    for c in setup.contestants:
        if c.peer not in missing:
            run = c.make()
            error = check(case, setup, c, run())
            runs.append((c, run, error, once(run)))
    with quiet_collector():
        samples = rounds([(run, seconds) for _, run, _, seconds in runs])
    entries = [{"peer": c.peer, "how": c.how, "error": digits(error, 2), **summary(times)}
               for (c, _, error, _), times in zip(runs, samples, strict=True)]
    for e in entries:
        say(f"    {e['peer']:<10} {e['how']:<28} {seconds_text(e['median']):>8}   "
            f"[{seconds_text(e['low'])}, {seconds_text(e['high'])}]   error {e['error']:.0e}")
    for peer in missing:
        say(f"    {peer:<10} skipped: not installed")
    return {"name": case.name, "title": case.title, "n": case.n, "headline": case.headline, "flops": setup.flops,
            "bytes": setup.bytes, "tolerance": setup.tolerance, "entries": entries, "skipped": missing}


def check(case: Case, setup: Setup, contestant: Contestant, result: Any) -> float:
    """The largest error of a result against float64, relative to the largest element of its array; raises beyond."""
    found = contestant.numbers(result)
    if [np.shape(a) for a in found] != [np.shape(b) for b in setup.expected]:
        raise SystemExit(f"{case.name}: {contestant.peer} answers shapes {[np.shape(a) for a in found]}, expected "
                         f"{[np.shape(b) for b in setup.expected]}")
    worst = max(float(np.max(np.abs(a - b))) / (float(np.max(np.abs(b))) or 1.0)
                for a, b in zip(found, setup.expected, strict=True))
    if not worst <= setup.tolerance:
        raise SystemExit(f"{case.name}: {contestant.peer} ({contestant.how}) is off by {worst:.1e} of the largest "
                         f"element, allowed {setup.tolerance:.0e}")
    return worst


def once(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rounds(runs: Sequence[tuple[Callable[[], Any], float]]) -> list[list[float]]:
    """Mean seconds a call, for each run a list over rounds; what takes seconds gets fewer rounds."""
    samples: list[list[float]] = [[] for _ in runs]
    spent = [0.0] * len(runs)
    calls = [max(1, min(10_000, round(ROUND_SECONDS / seconds))) for _, seconds in runs]
    began = time.perf_counter()
    for number in range(ROUNDS):
        if number >= 3 and time.perf_counter() - began > CASE_SECONDS:
            break
        for at in range(len(runs)):
            k = (at + number) % len(runs)
            run, _ = runs[k]
            if len(samples[k]) >= 3 and spent[k] > CASE_SECONDS / 5:
                continue
            gc.collect()
            if calls[k] > 1:
                run()                                     # the peer before it has had the caches and the cores
            start = time.perf_counter()
            for _ in range(calls[k]):
                run()
            taken = time.perf_counter() - start
            spent[k] += taken
            samples[k].append(taken / calls[k])
    return samples


@contextlib.contextmanager
def quiet_collector() -> Iterator[None]:
    """Python's garbage collector stays on, as in use, but need not walk everything that set-up left behind."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def summary(times: list[float]) -> Record:
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"median": digits(middle), "low": digits(low), "high": digits(high), "rounds": len(times)}


def digits(number: float, count: int = 4) -> float:
    return float(f"{number:.{count}g}")


# The machine.

class Others:
    """The share of the machine's cores that other programs have had since this was made; None where nobody says."""

    def __init__(self) -> None:
        self._began = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """(wall clock, seconds all cores were busy, seconds this process and its children were)."""
        try:
            with open("/proc/stat", encoding="utf-8") as lines:
                ticks = [int(t) for t in lines.readline().split()[1:9]]
        except (OSError, ValueError):
            return None
        idle, waiting = ticks[3], ticks[4]
        own = os.times()
        return (time.perf_counter(), (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK"), sum(own[:4]))

    def share(self) -> float | None:
        now = self._now()
        if self._began is None or now is None:
            return None
        wall, busy, own = (b - a for a, b in zip(self._began, now, strict=True))
        return max(0.0, digits((busy - own) / (wall * (os.cpu_count() or 1)), 2))


def wait_for_quiet(patience: float, say: Callable[[str], None]) -> None:
    """Until other programs are idle, or patience (in seconds) ends."""
    stop, told = time.perf_counter() + patience, False
    while time.perf_counter() < stop:
        others = Others()
        time.sleep(2.0)
        share = others.share()
        if share is None or share <= QUIET:
            return
        if not told:
            say(f"    waiting up to {patience:.0f} s: other programs use {share:.0%} of the machine")
            told = True


def run_quietly(case: Case, patience: float, say: Callable[[str], None]) -> Record:
    """Run a case while others are idle; of several attempts the one they disturbed least."""
    best_record: Record | None = None
    for _ in range(ATTEMPTS if patience else 1):
        wait_for_quiet(patience, say)
        others = Others()
        record = run_case(case, say)
        record["others"] = others.share()
        if best_record is None or (record["others"] or 0) < (best_record["others"] or 0):
            best_record = record
        if (record["others"] or 0) <= QUIET:
            break
        say(f"    other programs used {record['others']:.0%} of the machine meanwhile")
    assert best_record is not None
    return best_record


def limits() -> Record:
    """Copy bandwidth, read plus written, and float32 matrix products, both on all cores."""
    cores = core_count()
    source = np.ones((cores, 32 << 20), np.float32)       # 128 MiB a core, beyond any cache that a core has to itself
    target = np.empty_like(source)
    with ThreadPoolExecutor(cores) as pool:
        copies = [once(lambda: list(pool.map(np.copyto, target, source))) for _ in range(8)][1:]
    a = np.random.default_rng(0).random((2048, 2048), np.float32)
    products = [once(lambda: a @ a) for _ in range(8)][1:]
    return {"copy_bytes_per_second": digits(2 * source.nbytes / statistics.median(copies), 3),
            "sgemm_flops_per_second": digits(2 * 2048**3 / statistics.median(products), 3)}


def core_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> Record:
    """The processor's name, its cores and the system; nothing that names this computer."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    simd = ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        flags = next((line.split() for line in lines if line.startswith("flags")), [])
        simd = next((s for s in ("avx512f", "avx2", "avx") if s in flags), "")
    return {"device": name, "simd": simd, "cores": core_count(), "system": f"{platform.system()} {platform.machine()}"}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("jitgrad", "numpy", "numba", "llvmlite", "jax", "torch", "micrograd"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def commit() -> str:
    """The commit measured, with "+changes" where library code differed from it."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if git("status", "--porcelain", "--", "jitgrad", "kernels") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def run(names: Sequence[str], patience: float = 0.0, say: Callable[[str], None] = print) -> Record:
    """Run cases; everything the tables need. patience: how many seconds to wait for a quiet machine, each time."""
    wait_for_quiet(patience, say)
    report: Record = {"machine": machine(), "versions": versions(), "commit": commit(),
                      "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                      "limits": limits(), "cases": []}
    most, fastest = (report["limits"][k] / 1e9 for k in ("copy_bytes_per_second", "sgemm_flops_per_second"))
    say(f"{report['machine']['device']}, {report['machine']['cores']} cores: copies {most:.0f} GB/s (read plus written), "
        f"sgemm {fastest:.0f} GFLOP/s")
    for number, name in enumerate(names, 1):
        say(f"[{number}/{len(names)}] {name}: {CASES[name].title}")
        report["cases"].append(run_quietly(CASES[name], patience, say))
    return report


# Reporting.

def seconds_text(seconds: float) -> str:
    """Three digits and a unit: 71.2 µs."""
    units = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
    unit, size = next((u for u in units if seconds >= u[1] * 0.9995), units[-1])
    number = seconds / size
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f} {unit}"


def best(record: Record, peer: str) -> Record | None:
    """A peer's fastest formulation in a case."""
    mine = [e for e in record["entries"] if e["peer"] == peer]
    return min(mine, key=lambda e: e["median"]) if mine else None


def ratio(record: Record) -> tuple[float, str] | None:
    """How many times faster than the fastest of the others jitgrad is, and that peer's name."""
    ours = best(record, "jitgrad")
    others = [e for peer in PEERS if peer != "jitgrad" for e in [best(record, peer)] if e is not None]
    if ours is None or not others:
        return None
    other = min(others, key=lambda e: e["median"])
    return other["median"] / ours["median"], other["peer"]


def factor_text(factor: float) -> str:
    return f"{factor:.2f}×" if factor < 0.995 else f"{factor:.1f}×" if factor < 9.95 else f"{digits(factor, 2):,.0f}×"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first row the head, numbers to the right."""
    head, *body = rows
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary_table(report: Record, all_cases: bool = False) -> str:
    """A line a case: the time of one call by each peer, and jitgrad against the fastest of them."""
    rows = [["work", *PEERS, "jitgrad is"]]
    for record in report["cases"]:
        if not (all_cases or record["headline"]):
            continue
        found = [best(record, peer) for peer in PEERS]
        against = ratio(record)
        verdict = "" if against is None else f"{factor_text(against[0])} {against[1]}"
        rows.append([record["title"], *("" if e is None else seconds_text(e["median"]) for e in found), verdict])
    return table(rows)


def detail_table(report: Record) -> str:
    """A line a formulation: median, quartiles, time an example, error against float64, fraction of the machine."""
    rows = [["case", "peer and formulation", "median", "quartiles", "per example", "error", "of the machine"]]
    bandwidth, flops = (report["limits"][k] for k in ("copy_bytes_per_second", "sgemm_flops_per_second"))
    for record in report["cases"]:
        for number, e in enumerate(record["entries"]):
            share = (f"{record['flops'] / e['median'] / flops:.0%} of sgemm" if record["flops"]
                     else f"{record['bytes'] / e['median'] / bandwidth:.0%} of copy" if record["bytes"] else "")
            rows.append([f"`{record['name']}`" if number == 0 else "", f"{e['peer']}, {e['how']}",
                         seconds_text(e["median"]), f"{seconds_text(e['low'])} to {seconds_text(e['high'])}",
                         seconds_text(e["median"] / record["n"]) if record["n"] >= 10_000 else "",
                         f"{e['error']:.0e}" if e["error"] else "0", share])
    return table(rows)


def losing_table(report: Record) -> str:
    """The cases in which some peer is faster than jitgrad."""
    rows = [["case", "jitgrad", "fastest", "jitgrad takes"]]
    for record in report["cases"]:
        against, ours = ratio(record), best(record, "jitgrad")
        if against is not None and ours is not None and against[0] < 1:
            other = best(record, against[1])
            assert other is not None
            rows.append([f"`{record['name']}`", seconds_text(ours["median"]),
                         f"{against[1]}, {seconds_text(other['median'])}", factor_text(1 / against[0])])
    return table(rows) if len(rows) > 1 else "In this run, in none of the cases."


def conditions(report: Record) -> str:
    """One sentence on the machine, the versions and what else was running."""
    m, v = report["machine"], dict(report["versions"])
    mine, python = v.pop("jitgrad"), v.pop("python")
    packages = ", ".join(f"{name} {number}" for name, number in v.items() if name != "llvmlite")
    shares = [record.get("others") for record in report["cases"]]
    others = ("how busy other programs kept the machine is not known" if None in shares
              else f"other programs had at most {max(shares):.0%} of the machine during a case")
    return (f"{m['device']}, {m['cores']} cores{', ' + m['simd'] if m['simd'] else ''}, {m['system']}; "
            f"copies {report['limits']['copy_bytes_per_second'] / 1e9:.0f} GB/s, sgemm "
            f"{report['limits']['sgemm_flops_per_second'] / 1e9:.0f} GFLOP/s; jitgrad {mine} at {report['commit']}, "
            f"Python {python}, {packages}; {report['date']}; {others}.")


TABLES: dict[str, Callable[[Record], str]] = {
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


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
