"""The batch axes of a tape whose loops were unrolled: summands that are the same expression of different leaves.

A sum of a hundred losses is a loop over examples. Its summands are alike when their expressions are, operation for
operation, whatever the leaves: told by a hash of each row's expression, bottom up. What only one summand reads belongs to
it, and has its place along the axis; what several read is shared by all: told by handing each summand's name down to its
operands. Linear in the tape, and no more than advice: it decides where rows lie, never what they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jitgrad.compiler.graph import OPS
from jitgrad.compiler.tape import Instruction, Rows, Tape

Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

# An axis with fewer members would not fill a vector.
SHORTEST = 8

_ODD = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)
_EVERY = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Axes:
    """member: the summand each row belongs to, 0 for none; group: of each member, which summands are like it."""

    member: Rows
    group: Rows


def find_axes(tape: Tape, roots: Rows, absorbed: Mask) -> Axes:
    """The axes of the sums outermost above `roots`; `absorbed` rows are products that only exist within a sum."""
    forward = tape.instructions[:tape.derivatives]
    sums = [i.segments.start for i in forward if i.op is OPS["sum"] and i.segments is not None]
    if not any((np.diff(start) >= SHORTEST).any() for start in sums):
        return Axes(np.zeros(tape.size, np.int32), np.zeros(1, np.int32))
    member, group = _hand_down(tape, forward, roots, _expressions(tape, forward))
    leaves = np.zeros(tape.size, np.int32)
    leaves[:len(tape.inputs)] = member[:len(tape.inputs)]
    if not leaves.any():
        return Axes(leaves, group)
    leaves[~_useful(tape, forward, _hand_up(tape, leaves), absorbed)] = 0
    return Axes(_hand_up(tape, leaves), group)


def _mixed(hashes: Hashes) -> Hashes:
    """Hashes whose every bit depends on every bit of these."""
    hashes = (hashes ^ (hashes >> _SHIFT)) * _ODD
    return (hashes ^ (hashes >> _SHIFT)) * _ODD


def _classes(hashes: Hashes) -> Rows:
    """A small number for each hash, the same for the same hash."""
    order = np.argsort(hashes)
    found = np.zeros(len(hashes), np.int32)
    found[order[1:]] = np.cumsum(np.diff(hashes[order]) != 0)
    return found


def _expressions(tape: Tape, instructions: list[Instruction]) -> Hashes:
    """A hash of each row's expression, in which one leaf is as good as another."""
    hashes = np.ones(tape.size, np.uint64)
    constants = np.array([*tape.constants.values()], np.float64)
    hashes[[*tape.constants]] = _mixed(constants.view(np.uint64) + _ODD)
    number = {op: k for k, op in enumerate(OPS.values(), 2)}
    for i in instructions:
        mine = np.full(i.hi - i.lo, number[i.op], np.uint64)
        for rows in i.args:
            mine = _mixed(mine) + hashes[rows]
        if i.segments is not None:
            places = _mixed(i.segments.positions().astype(np.uint64) + _ODD)
            mine = _mixed(mine) + np.add.reduceat(_mixed(hashes[i.segments.elements] + places), i.segments.start[:-1])
        hashes[i.lo:i.hi] = _mixed(mine)
    return hashes


def _hand_down(tape: Tape, instructions: list[Instruction], roots: Rows, hashes: Hashes) -> tuple[Rows, Rows]:
    """Each row's member, being reached from that alone; and each member's group. Outermost sums make members."""
    least, most = np.full(tape.size, _EVERY, np.int32), np.full(tape.size, -1, np.int32)
    least[roots], most[roots] = 0, 0
    groups, made = [np.zeros(1, np.uint64)], 1
    for i in reversed(instructions):
        mine = np.where(least[i.lo:i.hi] == most[i.lo:i.hi], least[i.lo:i.hi], 0)
        reads = [(rows, mine) for rows in i.args]
        if i.segments is not None:
            counts = np.diff(i.segments.start)
            handed = np.repeat(mine, counts)
            if i.op is OPS["sum"]:
                outer = np.flatnonzero(np.repeat((mine == 0) & (most[i.lo:i.hi] >= 0) & (counts >= SHORTEST), counts))
                sums = np.repeat(np.arange(i.lo, i.hi, dtype=np.uint64), counts)[outer]
                kind = hashes[i.segments.elements[outer]] ^ _mixed(sums)
                which = _classes(kind)
                alike = np.bincount(which)[which] >= SHORTEST
                handed[outer[alike]] = np.arange(made, made + alike.sum())
                made += int(alike.sum())
                groups.append(kind[alike])
            reads.append((i.segments.elements, handed))
        for rows, names in reads:
            np.minimum.at(least, rows.astype(np.intp), names)
            np.maximum.at(most, rows.astype(np.intp), names)
    return np.where(least == most, least, 0).astype(np.int32), _classes(np.concatenate(groups))


def _hand_up(tape: Tape, leaves: Rows) -> Rows:
    """Each row's member: the one that all its operands belong to, as far as they belong to any."""
    member = leaves.copy()
    least = np.where(member > 0, member, _EVERY).astype(np.int32)
    for i in tape.instructions:
        low, high = np.full(i.hi - i.lo, _EVERY, np.int32), np.zeros(i.hi - i.lo, np.int32)
        for rows in i.args:
            low, high = np.minimum(low, least[rows]), np.maximum(high, member[rows])
        if i.segments is not None:
            first, elements = i.segments.start[:-1], i.segments.elements
            low = np.minimum(low, np.minimum.reduceat(least[elements], first))
            high = np.maximum(high, np.maximum.reduceat(member[elements], first))
        member[i.lo:i.hi] = np.where(low == high, high, 0)
        least[i.lo:i.hi] = np.where(low == high, low, _EVERY)
    return member


def _useful(tape: Tape, instructions: list[Instruction], member: Rows, absorbed: Mask) -> Mask:
    """Rows that some row of a member is computed from; products absorbed by a sum of no member are not of that kind.

    Otherwise each product of a lone dot product would be a member of an axis that no instruction could run along.
    """
    useful = np.zeros(tape.size, bool)
    for i in reversed(instructions):
        mine = (member[i.lo:i.hi] > 0) & (useful[i.lo:i.hi] | ~absorbed[i.lo:i.hi])
        for rows in i.args:
            useful[rows[mine]] = True
        if i.segments is not None:
            useful[i.segments.elements[np.repeat(mine, np.diff(i.segments.start))]] = True
    return useful
