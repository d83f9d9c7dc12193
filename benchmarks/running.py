"""Runs cases: every result checked against float64 first, then timed in interleaved rounds.

A round calls every formulation of every peer for about 50 ms, in an order drawn anew for each round, so that a slow minute
of the machine, or a peer that leaves it busy, falls on all alike. A sample is a round's mean time per call; medians and
quartiles are over samples. What goes wrong with one contestant is reported, and the others go on.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.case import Case, Contestant, Setup, Unavailable
from benchmarks.cases import CASES
from benchmarks.machine import digits, seconds
from benchmarks.peers import absent, environment
from benchmarks.tables import figure_text

Record = dict[str, Any]
Say = Callable[[str], None]


class WrongResult(Exception):
    """A contestant's numbers are not those of float64."""


@dataclass(frozen=True)
class Pace:
    """How long to measure. At least three samples, of what takes long too."""

    rounds: int = 15
    round_seconds: float = 0.05
    case_seconds: float = 12.0                     # no further round is begun after this
    least: int = 3
    quick: bool = False


THOROUGH = Pace()
QUICK = Pace(rounds=2, round_seconds=0.002, case_seconds=0.0, least=1, quick=True)
ATTEMPTS = 3
SETTLING_SECONDS = 0.005                           # the threads of the peer before have stopped spinning by then


@dataclass
class Entrant:
    """A contestant that answered rightly, and its samples so far."""

    contestant: Contestant
    run: Callable[[], Any]
    error: float
    calls: int                                     # in a round
    samples: list[float] = field(default_factory=list)
    spent: float = 0.0

    def sample(self) -> None:
        gc.collect()
        time.sleep(SETTLING_SECONDS)
        if self.calls > 1:
            self.run()                             # the peer before it has had the caches and the cores
        reading = self.contestant.reading
        start = time.perf_counter()
        for _ in range(1 if reading else self.calls):
            result = self.run()
        taken = time.perf_counter() - start
        self.spent += taken
        self.samples.append(reading(result) if reading else taken / self.calls)


def check(setup: Setup, contestant: Contestant, result: Any) -> float:
    """The largest error of a result against float64, relative to the largest element of its array; raises beyond."""
    found = contestant.numbers(result)
    if [np.shape(a) for a in found] != [np.shape(b) for b in setup.expected]:
        raise WrongResult(f"answers shapes {[np.shape(a) for a in found]}, expected {[np.shape(b) for b in setup.expected]}")
    # NumPy's maximum keeps a NaN wherever it stands; Python's does not.
    worst = float(np.max([np.max(np.abs(a - b)) / (np.max(np.abs(b)) or 1.0)
                          for a, b in zip(found, setup.expected, strict=True)]))
    if not worst <= setup.tolerance:
        raise WrongResult(f"is off by {worst:.1e} of the largest element, allowed {setup.tolerance:.0e}")
    return worst


def enter(setup: Setup, contestant: Contestant, pace: Pace) -> Entrant:
    """Prepare a contestant, check its first result, and find out how often to call it in a round."""
    run = contestant.make()
    start = time.perf_counter()
    result = run()
    taken = time.perf_counter() - start
    error = check(setup, contestant, result)
    if contestant.fresh:
        first = taken if contestant.reading is None else contestant.reading(result)
        return Entrant(contestant, run, error, 1, [first], taken)
    stop = time.perf_counter() + pace.round_seconds
    # Checked again: from now on the peer answers from what it has compiled, recorded or been given.
    start = time.perf_counter()
    result = run()
    taken = time.perf_counter() - start
    error = max(error, check(setup, contestant, result))
    while time.perf_counter() < stop:
        taken = min(taken, seconds(run))
    return Entrant(contestant, run, error, max(1, min(10_000, round(pace.round_seconds / taken))))


def run_case(case: Case, say: Say, pace: Pace = THOROUGH) -> Record:
    """Check and time one case, on the CPU."""
    with environment(JITGRAD_DEVICE="cpu", JAX_PLATFORMS="cpu"):
        return _run_case(case, say, pace)


def _run_case(case: Case, say: Say, pace: Pace) -> Record:
    record: Record = {"name": case.name, "title": case.title, "headline": case.headline, "unit": case.unit, "items": None,
                      "flops": None, "bytes": None, "tolerance": None, "entries": [], "skipped": {}, "failures": []}
    try:
        setup = case.setup(case.quick if pace.quick and case.quick is not None else case.size)
    except Exception as error:
        return _failed(record, "", "preparing the case", error, say)
    record |= {"items": setup.items, "flops": setup.flops, "bytes": setup.bytes, "tolerance": setup.tolerance}
    entrants: list[Entrant] = []
    for c in setup.contestants:
        reason = absent(c.peer)
        try:
            if reason is None:
                entrants.append(enter(setup, c, pace))
        except Unavailable as error:
            reason = str(error)
        except Exception as error:
            _failed(record, c.peer, c.how, error, say)
        if reason is not None:
            record["skipped"][c.peer] = reason
    with quiet_collector():
        for broken, why in rounds(entrants, pace):
            _failed(record, broken.contestant.peer, broken.contestant.how, why, say)
            entrants.remove(broken)
    for e in entrants:
        record["entries"].append({"peer": e.contestant.peer, "how": e.contestant.how, "error": digits(e.error, 2),
                                  **summary(e.samples)})
    for entry in record["entries"]:
        low, middle, high = (figure_text(entry[k], case.unit) for k in ("low", "median", "high"))
        say(f"    {entry['peer']:<10} {entry['how']:<36} {middle:>8}   [{low}, {high}]   error {entry['error']:.0e}")
    for peer, reason in record["skipped"].items():
        say(f"    {peer:<10} skipped: {reason}")
    return record


def _failed(record: Record, peer: str, how: str, error: Exception, say: Say) -> Record:
    why = str(error) if isinstance(error, WrongResult) else f"{type(error).__name__}: {error}"
    record["failures"].append({"peer": peer, "how": how, "why": why[:2000]})
    say(f"    {peer:<10} {how:<36} FAILED: {why}")
    return record


def rounds(entrants: Sequence[Entrant], pace: Pace) -> list[tuple[Entrant, Exception]]:
    """Sample them all, round after round; what takes seconds gets fewer rounds. Answers those that broke down."""
    began = time.perf_counter()
    broken: list[tuple[Entrant, Exception]] = []
    going = list(entrants)
    for number in range(pace.rounds):
        for e in random.Random(number).sample(going, len(going)):
            enough = len(e.samples) >= pace.least
            if enough and (e.spent > pace.case_seconds / 4 or time.perf_counter() - began > pace.case_seconds):
                continue
            try:
                e.sample()
            except Exception as error:
                broken.append((e, error))
                going.remove(e)
    return broken


@contextlib.contextmanager
def quiet_collector() -> Iterator[None]:
    """Python's garbage collector stays on, as in use, but need not walk everything that set-up left behind."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def summary(samples: list[float]) -> Record:
    spread = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
    low, middle, high = map(digits, spread)
    return {"median": middle, "low": low, "high": high, "rounds": len(samples)}


def run_quietly(case: Case, patience: float, say: Say, pace: Pace) -> Record:
    """Run a case while others are idle; of several attempts the one they disturbed least."""
    attempts: list[Record] = []
    for _ in range(ATTEMPTS if patience else 1):
        if patience:
            machine.wait_for_quiet(patience, say)
        others, began = machine.Others(), time.perf_counter()
        record = run_case(case, say, pace)
        record |= {"others": others.share(), "seconds": digits(time.perf_counter() - began, 2)}
        attempts.append(record)
        if (record["others"] or 0) <= machine.QUIET or record["failures"]:
            break
        say(f"    other programs used {record['others']:.0%} of the machine meanwhile")
    return attempts[-1] if attempts[-1]["failures"] else min(attempts, key=lambda r: r["others"] or 0)


def run(names: Sequence[str], patience: float = 0.0, say: Say = print, quick: bool = False) -> Record:
    """Run cases; everything the tables need. patience: how many seconds to wait for a quiet machine, each time."""
    began = time.perf_counter()
    machine.wait_for_quiet(patience, say)
    report: Record = {"machine": machine.description(), "versions": machine.versions(), "commit": machine.commit(),
                      "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "quick": quick,
                      "limits": machine.limits(quick), "cases": []}
    most, fastest = (report["limits"][k] / 1e9 for k in ("copy_bytes_per_second", "sgemm_flops_per_second"))
    say(f"{report['machine']['device']}, {report['machine']['cores']} cores: copies {most:.0f} GB/s (read plus written), "
        f"sgemm {fastest:.0f} GFLOP/s")
    for number, name in enumerate(names, 1):
        say(f"[{number}/{len(names)}] {name}: {CASES[name].title}")
        report["cases"].append(run_quietly(CASES[name], patience, say, QUICK if quick else THOROUGH))
    report["seconds"] = round(time.perf_counter() - began)
    return report


def failures(report: Record) -> list[str]:
    """A line for each contestant that failed."""
    return [": ".join(filter(None, [record["name"], f["peer"], f["how"], f["why"]]))
            for record in report["cases"] for f in record["failures"]]
