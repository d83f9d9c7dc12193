"""Tables → the same tables in fewer rows: a row whose last reader has run is written anew by a later line.

A tile's rows should fit a core's cache, and most are read soon after they are written and never again. Lines run in order,
and each writes neighbouring rows, so this is register allocation by linear scan (Poletto & Sarkar 1999) with ranges for
registers: first fit among the free ranges, a line's results placed before its operands are given up.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from jitgrad.compiler.tape import Rows


class Ranges:
    """Free ranges of rows, in order, none touching the next; beyond `size` everything is free."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._starts: list[int] = []
        self._stops: list[int] = []

    def take(self, width: int) -> int:
        """The first of `width` neighbouring rows, which are free no more."""
        for k, start in enumerate(self._starts):
            if self._stops[k] - start >= width:
                if self._stops[k] - start == width:
                    del self._starts[k], self._stops[k]
                else:
                    self._starts[k] = start + width
                return start
        if self._stops and self._stops[-1] == self.size:        # the last range, and what is missing behind it
            self._stops.pop()
            start = self._starts.pop()
        else:
            start = self.size
        self.size = start + width
        return start

    def give(self, start: int, stop: int) -> None:
        """Rows that are free from now on."""
        k = bisect_left(self._starts, start)
        if k < len(self._starts) and self._starts[k] == stop:
            stop = self._stops.pop(k)
            del self._starts[k]
        if k and self._stops[k - 1] == start:
            self._stops[k - 1] = stop
        else:
            self._starts.insert(k, start)
            self._stops.insert(k, stop)


def allocate(size: int, pinned: int, writes: list[tuple[int, int]], reads: list[Rows], kept: Rows) -> tuple[Rows, int]:
    """A new number for each of `size` rows, and how many there are then.

    Line k reads the rows `reads[k]` and writes the rows lo to hi of `writes[k]`, each row being written by one line,
    before it is read; rows `kept` are read when all lines have run. The first `pinned` rows, and rows that no line writes,
    have a place of their own.
    """
    end = len(writes)
    written = np.zeros(size, bool)
    last = np.full(size, -1)
    for k, ((lo, hi), rows) in enumerate(zip(writes, reads, strict=True)):
        written[lo:hi] = True
        last[lo:hi] = k                                         # if nobody reads it
        last[rows] = k
    last[kept] = end
    written[:pinned] = False
    place = np.full(size, -1, np.int32)
    fixed = np.flatnonzero(~written)
    place[fixed] = np.arange(len(fixed))
    free = Ranges(len(fixed))
    dying = np.flatnonzero(written)
    dying = dying[np.argsort(last[dying], kind="stable")]
    bounds = np.searchsorted(last[dying], np.arange(end + 1)).tolist()
    for k, (lo, hi) in enumerate(writes):
        start = free.take(hi - lo)
        place[lo:hi] = np.arange(start, start + hi - lo)
        if bounds[k] < bounds[k + 1]:
            dead = np.sort(place[dying[bounds[k]:bounds[k + 1]]])
            ends = np.append(np.flatnonzero(np.diff(dead) != 1), len(dead) - 1)
            for first, stop in zip(dead[np.append(0, ends[:-1] + 1)].tolist(), (dead[ends] + 1).tolist(), strict=True):
                free.give(first, stop)
    return place, free.size
