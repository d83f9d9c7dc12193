"""The machine: its limits, what else it is doing, its name, and the versions and commit that were measured on it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import ROOT
from benchmarks.peers import cores

QUIET = 0.05                            # the share of the machine that others may have while a case runs
PACKAGES = ("jitgrad", "numpy", "numba", "llvmlite", "jax", "torch", "drjit", "micrograd")


def digits(number: float, count: int = 4) -> float:
    """Rounded to so many digits."""
    return float(f"{number:.{count}g}")


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
        time.sleep(1.0)
        share = others.share()
        if share is None or share <= QUIET:
            return
        if not told:
            say(f"    waiting up to {patience:.0f} s: other programs use {share:.0%} of the machine")
            told = True


def limits(quick: bool = False) -> dict[str, float]:
    """Copy bandwidth, read plus written, and float32 matrix products, both on all cores.

    Copies are of 128 MiB a core, beyond any cache that a core has to itself.
    """
    repeats, elements, side = (2, 1 << 20, 256) if quick else (8, 32 << 20, 2048)
    source = np.ones((cores(), elements), np.float32)
    target = np.empty_like(source)
    with ThreadPoolExecutor(cores()) as pool:
        copies = [seconds(lambda: list(pool.map(np.copyto, target, source))) for _ in range(repeats)][1:]
    a = np.random.default_rng(0).random((side, side), np.float32)
    products = [seconds(lambda: a @ a) for _ in range(repeats)][1:]
    return {"copy_bytes_per_second": digits(2 * source.nbytes / statistics.median(copies), 3),
            "sgemm_flops_per_second": digits(2 * side**3 / statistics.median(products), 3)}


def seconds(run: Callable[[], Any]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def description() -> dict[str, Any]:
    """The processor's name, its cores, the system and how busy it was; nothing that names this computer."""
    name, simd = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        entries = [line.partition(":") for line in lines]
        name = next((value.strip() for key, _, value in entries if key.startswith("model name")), name)
        flags = next((value.split() for key, _, value in entries if key.startswith("flags")), [])
        simd = next((s for s in ("avx512f", "avx2", "avx") if s in flags), "")
    load = [round(number, 2) for number in os.getloadavg()] if hasattr(os, "getloadavg") else None
    return {"device": name, "simd": simd, "cores": cores(), "system": f"{platform.system()} {platform.machine()}",
            "load": load}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def commit() -> str:
    """The commit measured, with "+changes" where library code differed from it; unknown for an installed jitgrad."""
    import jitgrad
    if Path(jitgrad.__file__).resolve().parent.parent != ROOT:
        return "unknown"

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if git("status", "--porcelain", "--", "jitgrad", "kernels", "benchmarks/*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
