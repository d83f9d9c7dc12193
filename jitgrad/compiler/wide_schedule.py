"""How a wide program runs on CUDA: lanes an example, what is kept in registers, and in which phases it is computed.

An example belongs to a group of lanes; each holds some vectors of neighbouring elements. A phase walks along the row once:
it computes wide terms, adds up its reductions lane by lane, then across the lanes; the next phase's terms may use them.
A row that fits the lanes' registers is read once, and wide terms stay until their last use. A longer one is read again in
each phase, by then from the second-level cache, and its terms are computed again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jitgrad.compiler.schedule import MULTIPROCESSORS
from jitgrad.compiler.wide import Wide

BLOCK = 256                        # threads, where an example does not take more
LINE = 128                         # bytes of memory that neighbouring lanes should read together
VECTOR_BYTES = 16
# Blocks of that size that a multiprocessor is to hold -> 32-bit registers of a thread for elements, half of what it has.
# Many threads hide what there is to wait for; few have more room together, since each needs some for computing.
ROOM = {4: 32, 2: 64, 1: 120}
LONGEST = 32                       # such registers for the elements of one term
UNROLLED = 6_000                   # operations of a body, a lane's elements counted one by one
CHUNK = 4                          # vectors a lane has in flight of a row that does not fit


@dataclass
class Phase:
    """numbers: plain terms computed before the walk; loads, terms: wide inputs read and terms computed along it, in order;
    reductions: terms that it makes; sums, stores: (column, term) and (array, column, term) of whole rows summed and written.
    """

    numbers: list[int] = field(default_factory=list)
    loads: list[int] = field(default_factory=list)
    terms: list[int] = field(default_factory=list)
    reductions: list[int] = field(default_factory=list)
    sums: list[tuple[int, int]] = field(default_factory=list)
    stores: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class WidePlan:
    """count: elements of a vector; lanes: of an example; vectors: that a lane has at once; chunks: walks of so many vectors.

    block: threads, several examples' or one's; residents: blocks that a multiprocessor is to hold; blocks: at most.
    """

    count: int
    lanes: int
    vectors: int
    chunks: int
    block: int
    residents: int
    phases: list[Phase]
    shared: int = 0                    # bytes of shared memory that a block is given at the launch

    @property
    def blocks(self) -> int:
        """How many blocks a batch of any size has at most: as many as an H200 holds at once."""
        return MULTIPROCESSORS * self.residents

    @property
    def examples(self) -> int:
        """Examples a block has at once."""
        return self.block // self.lanes

    @property
    def elements(self) -> int:
        """Elements a lane has at once."""
        return self.vectors * self.count

    def grid(self, n: int) -> int:
        """How many blocks run a batch of n."""
        return min(self.blocks, -(-n // self.examples))

    def whole(self, vector: int, width: int) -> bool:
        """Whether every lane's vector of this number lies within the row."""
        return self.chunks == 1 and (vector + 1) * self.lanes * self.count <= width


def for_wide(wide: Wide, dtype: np.dtype[Any], pieces: int) -> WidePlan | None:
    """The schedule of a wide program; None where what is kept of each element does not fit the registers."""
    size = dtype.itemsize
    count = math.gcd(wide.width, VECTOR_BYTES // size)
    phases, alive = phases_of(wide, resident=True)
    words = size // 4 * (alive + pieces * sum(len(p.sums) for p in phases))
    held = next((blocks for blocks in ROOM if count * words <= ROOM[blocks] and (words == 1 or blocks < max(ROOM))), 0)
    if held == 0:
        return None
    threads, lanes = held * BLOCK, LINE // (count * size)
    most = min(ROOM[held] // words, LONGEST * 4 // size, UNROLLED // sum(t.wide for t in wide.terms))
    most = max(1, most // count)
    while lanes < threads and lanes * count * most < wide.width:
        lanes *= 2
    vectors, chunks = -(-wide.width // (count * lanes)), 1
    if vectors > most:
        if any(p.sums for p in phases):
            return None
        # A block for each multiprocessor: the rows that are being walked must fit the second-level cache together.
        phases, _ = phases_of(wide, resident=False)
        lanes = threads
        vectors, chunks = CHUNK, -(-wide.width // (count * lanes * CHUNK))
    block = max(BLOCK, lanes)
    return WidePlan(count, lanes, vectors, chunks, block, threads // block, phases)


def phases_of(wide: Wide, resident: bool) -> tuple[list[Phase], int]:
    """The phases, and how many numbers of each element are alive at once at most."""
    terms = wide.terms
    level = _levels(wide)
    phases = [Phase() for _ in range(max(level, default=0) + 1)]
    first = [len(phases)] * len(terms)                      # the phase in which a wide term is first wanted
    last = [-1] * len(terms)
    wanted: list[set[int]] = [set() for _ in phases]

    def want(t: int, phase: int) -> None:
        first[t], last[t] = min(first[t], phase), max(last[t], phase)
        wanted[phase].add(t)
    for array, column, t, whole in wide.stored:
        if whole:
            phases[level[t]].stores.append((array, column, t))
            want(t, level[t])
    for column, t in wide.reduced:
        if terms[t].wide:
            phases[level[t]].sums.append((column, t))
            want(t, level[t])
    for t in reversed(range(len(terms))):
        if is_made_along(wide, t):
            phase = level[t] - 1
            phases[phase].reductions.append(t)
            for a in terms[t].args:
                want(a, phase)
        elif terms[t].wide:
            # Kept from its first use on; or computed again wherever it is wanted.
            uses = [first[t]] if resident else [k for k, of in enumerate(wanted) if t in of]
            for a in terms[t].args:
                for phase in uses:
                    want(a, phase)
    for t, term in enumerate(terms):
        if not term.wide:
            if not is_made_along(wide, t):
                phases[level[t]].numbers.append(t)
            continue
        for k in [first[t]] if resident else [k for k, of in enumerate(wanted) if t in of]:
            if k < len(phases):
                (phases[k].loads if term.kind == "input" else phases[k].terms).append(t)
    for p in phases:
        p.reductions.reverse()
    held = [sum(term.wide and term.kind != "place" and first[t] <= k < last[t] for t, term in enumerate(terms))
            for k in range(len(phases))]
    return phases, max(before + len(p.loads) for before, p in zip([0, *held], phases, strict=False)) or 1


def is_made_along(wide: Wide, t: int) -> bool:
    """Whether a term is made of a wide one by walking along it. (The element of an input at an index is just read.)"""
    term = wide.terms[t]
    return term.kind == "reduce" or (term.kind == "take" and wide.terms[term.args[1]].kind != "input")


def _levels(wide: Wide) -> list[int]:
    """The phase in which each term can be computed."""
    level: list[int] = []
    for t, term in enumerate(wide.terms):
        level.append(max((level[a] for a in term.args), default=0) + is_made_along(wide, t))
    return level
