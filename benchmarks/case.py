"""What a case is: named work, contestants that do it, and the float64 numbers that all of them must reproduce.

To add a case, write a function in `benchmarks/cases/` that returns a `Setup` for a size, and yield a `Case` of it from
that module's `cases()`; the runner, the tables, the pictures and the JSON take it from there. A contestant prepares
everything that a user would prepare once (arrays on the peer's own device and in its own type, compiled functions), so that
what is timed is one call to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
Array = Any
Run = Callable[[], Any]


class Unavailable(Exception):
    """A contestant cannot run here; the text says why. It is reported as skipped, not as failed."""


@dataclass(frozen=True)
class Contestant:
    """One way to do a case's work.

    peer: one of `peers.PEERS`; how: the formulation, since a peer may enter with several
    make: prepares, and answers a function that does the work once, to the end
    numbers: the work's result as arrays in the order of `Setup.expected`
    reading: the figure to report, from the result, where that is not the time of a run
    fresh: every run begins anew (compiles, starts a process), so that the first is like any other
    """

    peer: str
    how: str
    make: Callable[[], Run]
    numbers: Callable[[Any], list[Array]]
    reading: Callable[[Any], float] | None = None
    fresh: bool = False


@dataclass(frozen=True)
class Setup:
    """A case made concrete.

    expected: float64 arrays, computed without jitgrad; tolerance: of each array, relative to its largest element
    items: examples (or nodes) of a run, for the time of one; None where that says nothing
    flops, bytes: of a run at the least, for the fraction of the machine's limits; None where that says nothing
    """

    contestants: tuple[Contestant, ...]
    expected: tuple[Array, ...]
    tolerance: float
    items: int | None = None
    flops: float | None = None
    bytes: float | None = None


@dataclass(frozen=True)
class Case:
    """Work of one size.

    name: for the command line; title: for the tables; headline: shown in the README
    setup: makes the case for a size; size: the one that is measured
    quick: the size that only shows that it works, where that is another
    unit: of the figures: "s", "bytes" or "instructions"
    """

    name: str
    title: str
    setup: Callable[[int], Setup]
    size: int = 1
    quick: int | None = None
    headline: bool = False
    unit: str = "s"


def arrays(*results: Any) -> list[Array]:
    """Results of any peer, a number or an array each, in float64."""
    return [np.asarray(r, np.float64) for r in results]
