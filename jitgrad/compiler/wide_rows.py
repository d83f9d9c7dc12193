"""How a wide program runs on the CPU: examples are lanes, and the elements of a term neighbouring rows of a tile.

A phase is one loop along the rows of all its terms; what a later phase wants of an element is written to a row. A row that
has been read for the last time is written anew by the same trip of the loop, so that a tile of cross-entropy is as large as
its logits. Sums are in the tape's order: a value has the bits that other forms give it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitgrad.compiler.graph import OPS
from jitgrad.compiler.phases import Phase, phases_of
from jitgrad.compiler.program import Program
from jitgrad.compiler.wide import Wide, find_wide


@dataclass(frozen=True)
class WideRows:
    """place: the first row of each wide term that has rows; size: how many rows there are, the inputs' first.

    sums: (place of the first sum, term) of what is summed over the batch; out_rows: rows of the per-example results
    """

    wide: Wide
    phases: list[Phase]
    place: dict[int, int]
    size: int
    sums: list[tuple[int, int]]
    out_rows: list[int]

    def blocks(self) -> npt.NDArray[np.int64]:
        """For each row the first one of its term; a number's is itself."""
        found = np.arange(self.size)
        for first in self.place.values():
            found[first:first + self.wide.width] = first
        return found


def for_rows(program: Program) -> WideRows | None:
    """A program as phases over rows; None where it is not wide, or where a sum's order would not be the tape's."""
    wide = find_wide(program)
    if wide is None:
        return None
    lists = [term for term in wide.terms if term.kind == "reduce" and term.op is OPS["sum"]]
    if any(not term.in_order or sum(wide.terms[a].wide for a in term.args) > 1 for term in lists):
        return None
    sums, tape = _sums(program, wide), program.rolled[0]
    if sums is None or (np.diff(tape.inputs) < 0).any():
        return None
    phases, _ = phases_of(wide, resident=True)
    column = np.cumsum(~tape.shared) - 1
    place = {t: int(column[term.row]) for t, term in enumerate(wide.terms)
             if term.wide and term.kind == "input" and not tape.shared[term.row]}
    size = _place_rows(wide, phases, place, int((~tape.shared).sum()))
    out_rows: list[int] = []
    for _, _, t, whole in wide.stored:
        out_rows += range(place[t], place[t] + wide.width) if whole else [size]
        size += not whole
    return WideRows(wide, phases, place, size, sums, out_rows)


def _sums(program: Program, wide: Wide) -> list[tuple[int, int]] | None:
    """(place, term) of what is summed over the batch; None where a row's sums do not lie side by side."""
    terms, columns = dict(wide.reduced), [wide.columns[row] for row in program.reduced_rows.tolist()]
    found, at = [], 0
    while at < len(columns):
        t = terms.get(columns[at])
        count = wide.width if t is not None and wide.terms[t].wide else 1
        if t is None or columns[at:at + count] != list(range(columns[at], columns[at] + count)):
            return None
        found.append((at, t))
        at += count
    return found


def _place_rows(wide: Wide, phases: list[Phase], place: dict[int, int], size: int) -> int:
    """Give rows to the terms that are wanted after their phase; returns how many rows there are then."""
    last = dict.fromkeys(place, 0)
    for k, phase in enumerate(phases):
        read = [*phase.numbers, *phase.terms, *phase.reductions]
        for t in (a for term in read for a in wide.terms[term].args):
            last[t] = k
        last |= dict.fromkeys([t for _, t in phase.sums], k)
    last |= {t: len(phases) for _, _, t, whole in wide.stored if whole}
    for k, phase in enumerate(phases):
        free = sorted({place[t] for t in place if last[t] <= k} - {place[t] for t in place if last[t] > k})
        made = [t for t in phase.terms if wide.terms[t].kind == "apply"]
        for t in dict.fromkeys([*made, *(t for _, _, t in phase.stores)]):
            if last.get(t, k) > k and t not in place:
                if free:
                    place[t] = free.pop(0)
                else:
                    place[t], size = size, size + wide.width
    return size
