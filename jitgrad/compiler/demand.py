"""The order in which a straight line works rows out, each when it is first wanted, and how many are alive at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from jitgrad.compiler.tape import Tape


def operands_of(tape: Tape, row: int) -> list[int]:
    """The rows that a computed row reads, in order."""
    i = tape.instructions[tape.owner[row]]
    lane = row - i.lo
    read = [int(a[lane]) for a in i.args]
    if i.segments is not None:
        read += i.segments.elements[i.segments.start[lane]:i.segments.start[lane + 1]].tolist()
    return read


def most_alive(tape: Tape, wanted: Sequence[int]) -> int:
    """The most numbers held at once, of rows that differ from example to example, if `wanted` are worked out in order."""
    born: dict[int, int] = {}
    last: dict[int, int] = {}
    owner, uniform = tape.owner.tolist(), tape.uniform.tolist()

    def walk(row: int) -> Iterator[int]:
        if owner[row] >= 0:
            read = [r for r in operands_of(tape, row) if not uniform[r]]
            yield from read
            for r in read:
                last[r] = len(born)
        born[row] = len(born)

    for row in wanted:
        stack = [] if uniform[row] or row in born else [walk(row)]
        while stack:
            needed = next(stack[-1], None)
            if needed is None:
                stack.pop()
            elif needed not in born:
                stack.append(walk(needed))
        last[row] = len(born)
    change = np.zeros(len(born) + 2, np.int64)
    for row, at in born.items():
        change[at] += 1
        change[max(last.get(row, at), at) + 1] -= 1
    return int(np.cumsum(change).max(initial=0))
