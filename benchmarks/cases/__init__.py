"""All cases, in the order in which the tables show them."""

from __future__ import annotations

from benchmarks.case import Case
from benchmarks.cases import compiling, formulas, losses, networks, processes, recorded, rows


def _all() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for module in (recorded, networks, losses, rows, formulas, compiling, processes):
        for case in module.cases():
            if case.name in found:
                raise ValueError(f"two cases are called {case.name}")
            found[case.name] = case
    return found


CASES = _all()
