"""The phases of a wide program: walks along a row, between which its reductions become plain numbers.

A phase walks along the row once: it computes wide terms and makes its reductions; the next phase's terms may use them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jitgrad.compiler.wide import Wide


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
