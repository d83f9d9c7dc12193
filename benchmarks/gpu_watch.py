"""A report made by processes that may be lost: a kernel's fault ends all that a process can do on a GPU; one may hang."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Sequence

from benchmarks.gpu_report import Report

LOST = 3                           # exit status of a process whose GPU was lost: a new one is to go on
PATIENCE = 100.0                   # seconds without anything new in the report, after which a process is ended
GRACE = 50.0                       # seconds that what is under way has when the report's time is up


def watch(command: Callable[[float], Sequence[str]], report: Report, budget: float) -> None:
    """Have processes go on with a report until all is done; `report` then has what they found.

    command: for so many seconds, how to start one that takes the report from its file, and leaves it there as it goes. It
    ends with 0 when all is done, and with LOST when another is to do the rest. What a process was at when it was ended, or
    ended by itself, is a failure, and not tried again.
    """
    assert report.path is not None
    stop = time.monotonic() + budget
    while True:
        before = report.record["done"], report.record["under way"]
        process = subprocess.Popen(command(max(0.0, stop - time.monotonic())))
        why = _wait(process, report, stop + GRACE)
        report.load()
        record = report.record
        if why is None and process.returncode == 0:
            return
        if why is None and process.returncode != LOST:
            why = f"the process ended with status {process.returncode}"
        if why is not None:
            record["failures"].append({"name": record["under way"], "why": why, "at": "a process of its own"})
            report.say(f"  {record['under way']}: FAILED: {why}")
            if before == (record["done"], record["under way"]):
                return                              # it did not even begin, and nor would the next
            record["done"] += 1
            report.save()
        if time.monotonic() > stop + GRACE:
            return
        report.say("a new process goes on")


def _wait(process: subprocess.Popen[bytes], report: Report, latest: float) -> str | None:
    """Until a process ends; why it was ended, if it was."""
    assert report.path is not None
    seen, since = report.path.stat().st_mtime_ns, time.monotonic()
    while process.poll() is None:
        now, changed = time.monotonic(), report.path.stat().st_mtime_ns
        if changed != seen:
            seen, since = changed, now
        if now - since > PATIENCE or now > latest:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            return f"it had not ended after {now - since:.0f} s, and was stopped"
        time.sleep(0.1)
    return None
