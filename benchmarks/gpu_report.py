"""A report of one visit to a GPU: what it has found, how times are taken, and the chip's own limits."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.case import Array
from benchmarks.machine import digits

PACKAGES = ("numba-cuda", "cupy-cuda13x", "cuda-bindings", "nvidia-nvvm", "nvidia-cuda-nvrtc")
QUEUE_SECONDS = 0.02                               # of other work, behind which calls are queued
ROUND_SECONDS = 0.3                                # of calls in a row, about
Record = dict[str, Any]
Run = Callable[[], Any]


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    elements: int = 100_000_000
    tile: int = 10_000_000                         # distinct examples among them
    softmax: tuple[tuple[int, int], ...] = ((65_536, 1_024), (2_048, 32_000))       # rows and classes
    batch: int = 1_000_000
    families: tuple[int, ...] = (1, 31, 130, 10_007)
    points: int = 4_096
    copied: int = 1 << 31                          # bytes
    steps: int = 1_000
    moons: int = 100
    models: int = 4_096
    batch_steps: int = 100
    rounds: int = 5
    calls: int = 10
    precisions: tuple[type, ...] = (np.float32, np.float64)         # in which each kind of kernel is checked


# In float64 tests/test_ptx.py runs the same kinds of kernels.
TINY = Sizes(40, 20, ((3, 5), (2, 40)), 5, (5,), 16, 1 << 12, 1, 4, 2, 1, 1, 1, (np.float32,))


class Report:
    """What has been found so far, in the file `path` too. `simulated`: in numba's simulator, at tiny sizes."""

    def __init__(self, simulated: bool, budget: float, say: Callable[[str], None], path: Path | None = None):
        self.simulated, self.say, self.path = simulated, say, path
        self.sizes = TINY if simulated else Sizes()
        self._stop = time.perf_counter() + budget
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        self.record: Record = {"simulated": simulated, "seed": 0, "date": today, "limits": {}, "right": [], "kernels": [],
                               "training": [], "costs": {}, "failures": [], "skipped": [], "done": 0, "under way": ""}

    def save(self) -> None:
        """Into the file, at once: a process that is stopped leaves what it has found."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            made = self.path.with_name(self.path.name + ".new")
            made.write_text(json.dumps(self.record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            made.replace(self.path)

    def load(self) -> None:
        """What another process has found."""
        assert self.path is not None
        self.record = json.loads(self.path.read_text(encoding="utf-8"))

    def attempt(self, name: str, work: Callable[[], Any]) -> Any:
        """Do it, unless time is up; what goes wrong is reported and answered as None."""
        if time.perf_counter() > self._stop:
            self.record["skipped"].append({"name": name, "why": "out of time"})
            return None
        began = time.perf_counter()
        try:
            found = work()
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            why = f"{type(error).__name__}: {error}"[:1000]
            self.record["failures"].append({"name": name, "why": why, "at": f"{Path(where.filename).name}:{where.lineno}"})
            self.say(f"  {name}: FAILED: {why}")
            self.save()
            return None
        self.say(f"  {name}: {time.perf_counter() - began:.1f} s" + (f"  {found}" if isinstance(found, str) else ""))
        self.save()
        return found

    def random(self, name: str) -> np.random.Generator:
        """Fresh numbers for every report, the same for the same seed."""
        return np.random.default_rng([self.record["seed"], *name.encode()])


# Times.

def wait() -> None:
    from jitgrad.backends import cuda_memory
    cuda_memory.wait()


def is_lost() -> bool:
    """Whether this process cannot use the GPU any more."""
    from jitgrad.errors import DeviceError
    try:
        wait()
    except DeviceError:
        return True
    return False


def wall_seconds(report: Report, run: Run, finish: Callable[[], Any]) -> float:
    """Of a call, of several in a row until the last has ended; the median of rounds."""
    run()
    finish()
    calls = how_many(report, run, finish)
    samples = []
    for _ in range(report.sizes.rounds):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        finish()
        samples.append((time.perf_counter() - start) / calls)
    return statistics.median(samples)


def how_many(report: Report, run: Run, finish: Callable[[], Any]) -> int:
    """Calls of a round: fewer of what takes long."""
    if report.sizes.calls == 1:
        return 1
    start = time.perf_counter()
    run()
    finish()
    return max(1, min(report.sizes.calls, int(ROUND_SECONDS / (time.perf_counter() - start))))


def device_seconds(report: Report, run: Run) -> float | None:
    """Of a call's kernels, by the device's clock; None in the simulator, which has none."""
    if report.simulated:
        run()
        return None
    from numba import cuda
    size = report.sizes.copied
    bandwidth = report.record["limits"].get("copy_bytes_per_second", 2e12)
    a, b = (cuda.device_array(size // 4, np.uint8) for _ in range(2))
    copies = int(QUEUE_SECONDS / (2 * (size // 4) / bandwidth)) + 1
    calls, samples = how_many(report, run, wait), []
    for _ in range(report.sizes.rounds):
        first, last = cuda.event(), cuda.event()
        for _ in range(copies):
            b.copy_to_device(a)
        first.record()
        for _ in range(calls):
            run()
        last.record()
        last.synchronize()
        samples.append(cuda.event_elapsed_time(first, last) / 1000 / calls)
    return statistics.median(samples)


def upload(array: Array) -> Any:
    from jitgrad.backends import cuda_memory
    return cuda_memory.upload(array)


def host(result: Any) -> Any:
    """A result, however nested, on the host."""
    if isinstance(result, dict):
        return {k: host(v) for k, v in result.items()}
    if isinstance(result, (tuple, list)):
        return [host(v) for v in result]
    return result.copy_to_host() if hasattr(result, "copy_to_host") else np.asarray(result)


def flat(result: Any) -> list[Array]:
    """The arrays in a result, in float64."""
    if isinstance(result, dict):
        return [a for v in result.values() for a in flat(v)]
    if isinstance(result, (tuple, list)):
        return [a for v in result for a in flat(v)]
    return [np.asarray(result, np.float64)]


def distance(found: Any, expected: Any) -> float:
    """‖found - expected‖ / ‖expected‖, the worst of all arrays; NaN and infinity must be the same."""
    worst = 0.0
    for a, b in zip(flat(found), flat(expected), strict=True):
        if a.shape != b.shape:
            raise AssertionError(f"shape {a.shape}, expected {b.shape}")
        odd = ~np.isfinite(b)
        if not np.array_equal(a[odd], b[odd], equal_nan=True) or not np.isfinite(a[~odd]).all():
            return float("inf")
        scale = float(np.linalg.norm(b[~odd])) or 1.0
        worst = max(worst, float(np.linalg.norm(a[~odd] - b[~odd])) / scale)
    return worst


# The machine.

def describe(report: Report) -> None:
    found = machine.versions()
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    report.record |= {"versions": found, "commit": machine.commit(), "host": machine.description()}
    if report.simulated:
        report.record["device"] = "numba's simulator"
        return
    from cuda.bindings import driver
    from numba import cuda

    from jitgrad.backends.cuda import describe as gpu
    free, total = cuda.current_context().get_memory_info()
    report.record |= {"device": gpu(), "memory": int(total), "free": int(free),
                      "driver": int(driver.cuDriverGetVersion()[1])}


def copy_bandwidth(report: Report) -> str:
    """Bytes a second read plus written, of a large copy within the device."""
    size = report.sizes.copied
    if report.simulated:
        a, b = np.ones(size, np.uint8), np.empty(size, np.uint8)
        seconds = wall_seconds(report, lambda: np.copyto(b, a), wait)
    else:
        from numba import cuda
        source, target = cuda.device_array(size, np.uint8), cuda.device_array(size, np.uint8)
        seconds = wall_seconds(report, lambda: target.copy_to_device(source), wait)
    report.record["limits"]["copy_bytes_per_second"] = digits(2 * size / seconds)
    return f"{2 * size / seconds / 1e12:.2f} TB/s"


def _chains(out: Any, scale: Any, trips: int) -> None:
    a = b = c = d = e = f = g = h = scale
    for _ in range(trips):
        a, b, c, d = a * scale + a, b * scale + b, c * scale + c, d * scale + d
        e, f, g, h = e * scale + e, f * scale + f, g * scale + g, h * scale + h
    out[cuda.grid(1)] = a + b + c + d + e + f + g + h  # noqa: F821 (numba's; it is imported where a kernel is made)


def float32_rate(report: Report) -> str:
    """Floating-point operations a second of fused multiply-adds in registers: eight chains a thread."""
    from numba import cuda

    from jitgrad.backends import cuda_copies, cuda_memory
    globals()["cuda"] = cuda
    blocks, threads, trips = (1, 32, 2) if report.simulated else (132 * 16, 256, 4_096)
    kernel = cuda.jit(_chains) if report.simulated else cuda.jit(fastmath=True)(_chains)
    out = cuda_memory.native(cuda_memory.allocate((blocks * threads,), np.float32))
    scale = np.float32(1e-7)
    seconds = wall_seconds(report, lambda: cuda_copies.launch(kernel, blocks, threads, out, scale, trips), wait)
    rate = 2 * 8 * blocks * threads * trips / seconds
    report.record["limits"]["float32_flops_per_second"] = digits(rate)
    return f"{rate / 1e12:.1f} TFLOP/s"


def transfers(report: Report) -> str:
    """Bytes a second from pageable memory to the device, through the pinned buffers, and back."""
    from jitgrad.backends import cuda_memory
    data = np.ones(report.sizes.copied // 8, np.uint8)
    target = cuda_memory.upload(data)
    up = wall_seconds(report, lambda: cuda_memory.fill(target, data), wait)
    down = wall_seconds(report, lambda: cuda_memory.download(target), wait)
    report.record["limits"] |= {"upload_bytes_per_second": digits(len(data) / up),
                                "download_bytes_per_second": digits(len(data) / down)}
    return f"up {len(data) / up / 1e9:.1f}, down {len(data) / down / 1e9:.1f} GB/s"
