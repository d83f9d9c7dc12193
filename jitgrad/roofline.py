"""Where a program stands under the machine's two limits: bytes a second and arithmetic a second (Williams et al. 2009)."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.api import jit
from jitgrad.errors import ArgumentError, explain
from jitgrad.lowered import Lowered

_REPEATS, _COPIED_BYTES, _SIDE = 5, 128 << 20, 1024
# A timed call takes this long, unless it comes to so many examples or bytes first.
_LONG_ENOUGH, _MOST_EXAMPLES, _MOST_BYTES = 0.03, 1 << 23, 128 << 20


@dataclass(frozen=True)
class Limits:
    """What a machine can do at most, per second, and where the two numbers come from."""

    bytes_per_second: float
    flops_per_second: float
    origin: str

    @property
    def ridge(self) -> float:
        """The flops a byte at which both limits are reached together."""
        return self.flops_per_second / self.bytes_per_second


@dataclass(frozen=True)
class Position:
    """A program under the roof: its work for one example, the limits, and what a call took.

    flops, bytes: of one example; seconds: for one example, None where nothing was timed; examples: how many were timed
    """

    flops: int
    bytes: int
    limits: Limits
    seconds: float | None = None
    examples: int = 0

    @property
    def intensity(self) -> float:
        """Flops a byte; infinite for a program without batched arguments."""
        return self.flops / self.bytes if self.bytes else math.inf

    @property
    def bound(self) -> str:
        """"memory" or "arithmetic", whichever takes longer at the machine's limit."""
        return "memory" if self.intensity < self.limits.ridge else "arithmetic"

    @property
    def floor(self) -> float:
        """The seconds that one example takes at the limits."""
        return max(self.flops / self.limits.flops_per_second, self.bytes / self.limits.bytes_per_second)

    @property
    def share(self) -> float | None:
        """Of the roof, how much was reached: floor over seconds."""
        return None if self.seconds is None else self.floor / self.seconds


def stated(text: str) -> Limits:
    """The limits of "BYTES,FLOPS", both a second, such as 4.8e12,67e12; raises ArgumentError for anything else."""
    try:
        bandwidth, arithmetic = (float(part) for part in text.split(","))
        if not (0 < bandwidth < math.inf and 0 < arithmetic < math.inf):
            raise ValueError
    except ValueError:
        raise ArgumentError(explain("The machine's limits are two numbers, bytes and flops a second.", repr(text),
                                    "Write for example 4.8e12,67e12.")) from None
    return Limits(bandwidth, arithmetic, "as stated")


def measured(dtype: npt.DTypeLike) -> Limits:
    """The limits of this machine's cores together: the fastest way to read or copy 128 MiB, and matrix products.

    Takes a second. The best of five counts: what else the machine does can only slow it down.
    """
    kind = np.dtype(dtype)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    source = np.ones((cores, _COPIED_BYTES // 8 // cores))
    target = np.empty_like(source)
    with ThreadPoolExecutor(cores) as pool:
        copy = _best(lambda: list(pool.map(np.copyto, target, source)))
        read = _best(lambda: list(pool.map(np.dot, source, source)))
    # A kernel's stores pass the caches, where NumPy's first read what they overwrite.
    negated, out = jit(lambda x: -x, in_axes=0, reduce=None, device="cpu"), target.reshape(-1)
    negated(source.reshape(-1), out=out)                            # which compiles
    streamed = _best(lambda: negated(source.reshape(-1), out=out))
    a = np.random.default_rng(0).random((_SIDE, _SIDE)).astype(kind)
    product = _best(lambda: a @ a)
    return Limits(max(2 * source.nbytes / min(copy, streamed), source.nbytes / read), 2 * _SIDE**3 / product,
                  f"measured here, {kind}, {cores} core{'s' * (cores > 1)}")


def position(lowered: Lowered, limits: Limits, timed: bool = True) -> Position:
    """Where a lowered program stands; `timed` runs it, over random numbers, for about a third of a second."""
    cost = lowered.cost_analysis()
    seconds, examples = _time(lowered) if timed else (None, 0)
    return Position(cost["flops"], cost["bytes"], limits, seconds, examples)


def _time(lowered: Lowered) -> tuple[float, int]:
    """(seconds an example, examples a call) at a batch that is large enough for what a call costs not to matter."""
    program = lowered.program
    widths = [leaf.width for leaf in program.batched]
    random = np.random.default_rng(0)
    shared = random.uniform(0.1, 1.0, program.shared_size).astype(program.dtype)
    a_row = max(1, program.dtype.itemsize * (sum(widths) + sum(map(len, program.example_outputs))))
    most = min(_MOST_EXAMPLES, max(1024, _MOST_BYTES // a_row)) if widths else 1
    n = min(1024, most)
    while True:
        # Integers index, and labels are checked: 0 is within any table, and a failed check costs what a passed one does.
        batch = [(random.uniform(0.1, 1.0, (n, leaf.width)) if leaf.kind == "real" else np.zeros((n, leaf.width))
                  ).astype(program.dtype) for leaf in program.batched]

        def call(n: int = n, batch: list[Any] = batch) -> Any:
            return lowered.kernel(shared, batch, n)

        call()                                                      # which compiles
        once = _best(call, 1)
        if once >= _LONG_ENOUGH or n == most:
            return _best(call, max(_REPEATS, min(1000, int(0.1 / max(once, 1e-6))))) / n, n
        n = min(most, n * max(2, min(16, int(_LONG_ENOUGH / max(once, 1e-6)))))


def _best(run: Callable[[], Any], repeats: int = _REPEATS) -> float:
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def chart(found: Position, width: int = 64, height: int = 12) -> str:
    """The roof on logarithmic axes, as text: `o` where the program would reach it, `x` where it stands."""
    limits = found.limits
    intensity = min(max(found.intensity, limits.ridge / 2**8), limits.ridge * 2**8)     # off the chart is at its edge
    low, high = min(intensity, limits.ridge) / 4, max(intensity, limits.ridge) * 4
    roof = min(limits.flops_per_second, intensity * limits.bytes_per_second)
    reached = None if found.share is None else roof * found.share
    top = limits.flops_per_second * 1.5
    bottom = min(low * limits.bytes_per_second, reached or math.inf) / 1.5
    rows = [[" "] * width for _ in range(height)]

    def column(x: float) -> int:
        return round((width - 1) * math.log(x / low) / math.log(high / low))

    def row(y: float) -> int:
        return min(height - 1, max(0, round((height - 1) * math.log(top / y) / math.log(top / bottom))))

    for k in range(width):
        x = low * (high / low) ** (k / (width - 1))
        y = min(limits.flops_per_second, x * limits.bytes_per_second)
        rows[row(y)][k] = "─" if x >= limits.ridge else "╱"
    rows[row(roof)][column(intensity)] = "o"
    if reached is not None:
        rows[row(reached)][column(intensity)] = "x"
    lines = ["│" + "".join(line).rstrip() for line in rows]
    axis = "└" + "─" * width
    names = f" {low:.3g}{f'{high:.3g} flops a byte':>{width - len(f'{low:.3g}')}}"
    return "\n".join([f"{_rate(top, 'FLOP/s')}", *lines, axis, names])


def _rate(number: float, unit: str) -> str:
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}"


def explained(found: Position) -> list[str]:
    """The position in words, a sentence a line."""
    limits = found.limits
    lines = [f"Memory moves {_rate(limits.bytes_per_second, 'B/s')}, matrix products make "
             f"{_rate(limits.flops_per_second, 'FLOP/s')} ({limits.origin}); "
             f"the roof bends at {limits.ridge:.3g} flops a byte."]
    work = (f"{found.intensity:.3g} flops a byte ({found.flops:,} over {found.bytes:,})" if found.bytes
            else f"{found.flops:,} flops and moves no bytes of a batch")
    lines.append(f"This program does {work}: {found.bound} bounds it, at {_duration(found.floor)} an example.")
    if found.seconds is not None and found.share is not None:
        examples = "one example" if found.examples == 1 else f"{found.examples:,} examples"
        lines.append(f"It took {_duration(found.seconds)} an example, timed over {examples}: {found.share:.0%} of the roof.")
        if found.share > 1.0:
            lines.append("More than the roof: the machine was busier when its limits were measured, or the batch lay in a "
                         "cache.")
    return lines


def _duration(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-12:.3g} ps"
