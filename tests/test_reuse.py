"""Rows of a table that are written anew once nobody reads them: every line still reads what it read before."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from referees import assert_trees_close, forced

import jitgrad as jg
from jitgrad.compiler.products import tabulate
from jitgrad.compiler.reuse import Ranges, allocate
from jitgrad.compiler.tape import Rows

Lines = tuple[list[tuple[int, int]], list[Rows]]


def random_lines(draw: random.Random, inputs: int) -> Lines:
    """Lines of one to twelve rows that read any rows before them, mostly late ones."""
    writes: list[tuple[int, int]] = []
    reads: list[Rows] = []
    at = inputs
    for _ in range(60):
        width = draw.choice([1, 1, 2, 4, 4, 7, 12])
        recent = range(max(0, at - 30), at)
        reads.append(np.array([draw.choice(recent if draw.random() < 0.8 else range(at)) for _ in range(draw.randrange(6))],
                              np.int32))
        writes.append((at, at + width))
        at += width
    return writes, reads


def run(writes: list[tuple[int, int]], reads: list[Rows], inputs: Rows, size: int, place: Rows) -> list[tuple[int, ...]]:
    """What each line reads, every line writing numbers nobody else writes."""
    rows = np.full(size, -1)
    rows[place[inputs]] = inputs
    seen = []
    for (lo, hi), read in zip(writes, reads, strict=True):
        rows[place[lo:hi]] = np.arange(lo, hi)               # first, as if it did not read its operands before it wrote
        seen.append(tuple(rows[place[read]].tolist()))
    return [*seen, tuple(rows[place].tolist())]


@pytest.mark.parametrize("seed", range(40))
def test_every_line_reads_what_was_written_for_it(seed: int) -> None:
    draw = random.Random(seed)
    inputs, spread = draw.randrange(1, 6), 2
    writes, reads = random_lines(draw, inputs)
    total = writes[-1][1] + spread                           # the last rows are written by no line
    reads.append(np.arange(total - spread, total, dtype=np.int32))
    writes.append((total, total + 1))
    total += 1
    kept = np.array(draw.sample(range(total), 10), np.int32)
    place, size = allocate(total, inputs, writes, reads, kept)
    given = np.array([*range(inputs), *range(total - spread - 1, total - 1)], np.int32)
    plain = run(writes, reads, given, total, np.arange(total, dtype=np.int32))
    reused = run(writes, reads, given, size, place)
    assert reused[:-1] == plain[:-1]
    assert [reused[-1][k] for k in kept] == kept.tolist()
    assert all((np.diff(place[lo:hi]) == 1).all() for lo, hi in writes), "a line's rows are neighbours"
    assert len(set(place[given].tolist())) == len(given)
    assert not np.isin(place[inputs:total - spread - 1], place[given]).any(), "what is given is not written over"
    assert size < total


def test_a_long_chain_needs_two_lines_of_rows() -> None:
    writes = [(7 * k, 7 * k + 7) for k in range(1, 500)]
    reads = [np.arange(7 * k - 7, 7 * k, dtype=np.int32) for k in range(1, 500)]
    _, size = allocate(3500, 7, writes, reads, np.arange(3493, 3500, dtype=np.int32))
    assert size == 3 * 7


def test_free_ranges_join() -> None:
    free = Ranges(0)
    assert [free.take(w) for w in (3, 2, 4)] == [0, 3, 5]
    free.give(0, 3)
    free.give(5, 9)
    assert free.take(4) == 5, "the first that is wide enough"
    free.give(5, 9)
    free.give(3, 5)
    assert free.take(9) == 0
    free.give(7, 9)
    assert free.take(5) == 7, "the last range grows by what is missing"
    assert free.size == 12


def test_a_deep_network_in_few_rows() -> None:
    """Forty layers of eight, forward only: nothing but the last two layers lives."""
    def network(params: Any, x: Any) -> Any:
        for k in range(40):
            x = jg.tanh(params["W"] @ x + params["b"][k])
        return x @ x

    draw = np.random.default_rng(0)
    params, x = {"W": draw.normal(size=(8, 8)), "b": draw.normal(size=(40, 8))}, draw.normal(size=(131, 8))
    with forced("cpu-tape") as device:
        found = jg.jit(network, device=device)(params, x)
    program = jg.jit(network, device="interpret").lower(params, x).program
    tables = tabulate(program.rolled[0], program.reduced_rows, np.zeros(0, np.int32))
    assert tables.v_size <= 8 + 40 * 8 + 4 * 8, "the inputs, forty biases for every example, and two layers"
    assert_trees_close(found, jg.jit(network, device="interpret")(params, x), 1e-12)
