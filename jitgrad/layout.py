"""Where the boxes of a graph go: layers from left to right, few crossings, smooth edges. Deterministic, and no dependency.

The layered drawing of Sugiyama, Tagawa and Toda (1981). A box lies in the layer just before its first reader's. What an
edge passes on its way is a place in every layer between, which all edges of one tail share, so that a leaf with many readers
is one line that branches. Orders within layers come from barycentres, heights from least squares under the order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]

_BETWEEN_LAYERS, _BETWEEN_BOXES, _BETWEEN_LINES = 36.0, 14.0, 10.0
_BETWEEN_ARROWS = 9.0
_ORDERINGS, _ALIGNMENTS = 24, 16


@dataclass(frozen=True)
class Layout:
    """A finished layout, in the units of the sizes that were given; (0, 0) is the upper left corner.

    centres: of each box; routes: of each edge, from the tail's right side to the head's left, by way of these points
    """

    width: float
    height: float
    centres: list[Point]
    routes: list[list[Point]]


def layered(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> Layout:
    """Lay out boxes of these (width, height) and edges (tail, head), each tail coming before its head."""
    if not sizes:
        return Layout(0.0, 0.0, [], [])
    layer = _layers(len(sizes), edges)
    places = [(k, layer[k]) for k in range(len(sizes))]             # a box and its layer, or a tail and a layer it passes
    passing: dict[tuple[int, int], int] = {}
    links: dict[tuple[int, int], None] = {}
    chains = []
    for tail, head in edges:
        chain = [tail]
        for between in range(layer[tail] + 1, layer[head]):
            place = passing.setdefault((tail, between), len(places))
            if place == len(places):
                places.append((tail, between))
            chain.append(place)
        chain.append(head)
        chains.append(chain)
        links.update(dict.fromkeys(pairwise(chain)))
    before: list[list[int]] = [[] for _ in places]
    after: list[list[int]] = [[] for _ in places]
    for a, b in links:
        before[b].append(a)
        after[a].append(b)
    order = _ordered(_first_order(places, before, after), before, after)
    heights = [sizes[k][1] if k < len(sizes) else 0.0 for k in range(len(places))]
    y = _aligned(order, heights, before, after)
    widths = [max(sizes[k][0] for k in column if k < len(sizes)) for column in order]
    left = [sum(widths[:k]) + _BETWEEN_LAYERS * k for k in range(len(widths))]

    def sides(place: int) -> tuple[float, float]:
        column = places[place][1]
        return left[column], left[column] + widths[column]

    centres = [(sum(sides(k)) / 2, y[k]) for k in range(len(sizes))]
    arrival = _arrivals([(y[chain[-2]], chain[-1]) for chain in chains], y, heights)
    routes = []
    for chain, end in zip(chains, arrival, strict=True):
        tail, head = chain[0], chain[-1]
        route = [(centres[tail][0] + sizes[tail][0] / 2, y[tail]), (sides(tail)[1], y[tail])]
        for place in chain[1:-1]:
            route += [(side, y[place]) for side in sides(place)]
        route += [(sides(head)[0], end), (centres[head][0] - sizes[head][0] / 2, end)]
        routes.append(route)
    return Layout(left[-1] + widths[-1], max(y[k] + heights[k] / 2 for k in range(len(places))), centres, routes)


def _arrivals(edges: Sequence[tuple[float, int]], y: Sequence[float], heights: Sequence[float]) -> list[float]:
    """How high each edge (the height it comes from, its head) arrives: a head's edges in order and a little apart."""
    arriving: dict[int, list[int]] = {}
    for edge, (_, head) in enumerate(edges):
        arriving.setdefault(head, []).append(edge)
    heights_of = [0.0] * len(edges)
    for head, ends in arriving.items():
        apart = min(_BETWEEN_ARROWS, 0.7 * heights[head] / len(ends))
        for place, edge in enumerate(sorted(ends, key=lambda edge: edges[edge][0])):
            heights_of[edge] = y[head] + apart * (place - (len(ends) - 1) / 2)
    return heights_of


def _layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Each box as far to the right as its readers allow."""
    readers: list[list[int]] = [[] for _ in range(count)]
    for tail, head in edges:
        readers[tail].append(head)
    to_the_end = [0] * count
    for k in reversed(range(count)):
        to_the_end[k] = max((to_the_end[head] + 1 for head in readers[k]), default=0)
    return [max(to_the_end) - distance for distance in to_the_end]


def _first_order(places: Sequence[tuple[int, int]], before: Sequence[Sequence[int]],
                 after: Sequence[Sequence[int]]) -> list[list[int]]:
    """The layers in the order of a walk from the results, which draws a tree without a crossing."""
    columns: list[list[int]] = [[] for _ in range(max(layer for _, layer in places) + 1)]
    seen = [False] * len(places)
    stack = [k for k in reversed(range(len(places))) if not after[k]]
    while stack:
        k = stack.pop()
        if not seen[k]:
            seen[k] = True
            columns[places[k][1]].append(k)
            stack.extend(reversed(before[k]))
    return columns


def _ordered(columns: list[list[int]], before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> list[list[int]]:
    """Sweeps to the right and to the left, each place at the mean of its neighbours' places; the best sweep is kept."""
    best, fewest = [list(column) for column in columns], _crossings(columns, after)
    for sweep in range(_ORDERINGS):
        if fewest == 0:
            break
        neighbours = before if sweep % 2 == 0 else after
        at = {k: place for column in columns for place, k in enumerate(column)}
        for column in columns if sweep % 2 == 0 else reversed(columns):
            def mean(k: int) -> float:
                return sum(at[j] for j in neighbours[k]) / len(neighbours[k]) if neighbours[k] else at[k]  # noqa: B023
            column.sort(key=mean)
            at.update((k, place) for place, k in enumerate(column))
        crossings = _crossings(columns, after)
        if crossings < fewest:
            best, fewest = [list(column) for column in columns], crossings
    return best


def _crossings(columns: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> int:
    at = {k: place for column in columns for place, k in enumerate(column)}
    count = 0
    for column in columns:
        ends: list[int] = []
        for k in column:
            heads = sorted(at[j] for j in after[k])
            count += sum(len(ends) - bisect_right(ends, head) for head in heads)
            for head in heads:
                ends.insert(bisect_right(ends, head), head)
    return count


def _aligned(columns: Sequence[Sequence[int]], heights: Sequence[float], before: Sequence[Sequence[int]],
             after: Sequence[Sequence[int]]) -> list[float]:
    """A height for each place: near the mean of its neighbours, in order and apart; the topmost box begins at 0."""
    def distance(a: int, b: int) -> float:
        gap = _BETWEEN_BOXES if heights[a] and heights[b] else _BETWEEN_LINES
        return (heights[a] + heights[b]) / 2 + gap

    apart = []
    for column in columns:
        offsets = [0.0]
        for a, b in pairwise(column):
            offsets.append(offsets[-1] + distance(a, b))
        apart.append(offsets)
    y = [0.0] * len(heights)
    for column, offsets in zip(columns, apart, strict=True):
        for k, offset in zip(column, offsets, strict=True):
            y[k] = offset - offsets[-1] / 2
    both = [[*a, *b] for a, b in zip(before, after, strict=True)]
    for sweep in range(_ALIGNMENTS):
        near = (before, after)[sweep % 2] if sweep < _ALIGNMENTS - 2 else both
        numbers = range(len(columns)) if sweep % 2 == 0 else reversed(range(len(columns)))
        for number in numbers:
            column, offsets = columns[number], apart[number]
            wanted = [sum(y[j] for j in near[k]) / len(near[k]) if near[k] else y[k] for k in column]
            settled = _rising([w - offset for w, offset in zip(wanted, offsets, strict=True)])
            for k, s, offset in zip(column, settled, offsets, strict=True):
                y[k] = s + offset
    top = min(at - height / 2 for at, height in zip(y, heights, strict=True))
    return [at - top for at in y]


def _rising(wanted: Sequence[float]) -> list[float]:
    """The non-decreasing sequence nearest to `wanted` in least squares: pool adjacent violators (Ayer et al. 1955)."""
    pools: list[tuple[float, int]] = []
    for w in wanted:
        total, count = w, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            total, count = total + pools[-1][0], count + pools[-1][1]
            pools.pop()
        pools.append((total, count))
    return [total / count for total, count in pools for _ in range(count)]
