"""Where the boxes and edges of a drawn graph lie: rows from top to bottom, as by Sugiyama, Tagawa and Toda (1981).

    rank        the longest path that leads to a node; one that nothing leads to stands above its first reader
    bends       an edge over several rows passes each through a bend; the edges of a node share theirs, as a bus
    order       barycentres, up and down, then neighbours that swap; the order with the fewest crossings stays
    columns     links that do not cross hold two vertices in one column, as by Brandes and Köpf (2001): bends
                before chains before the rest; columns move left as far as they can, then towards what they link

Everything follows from the order of the nodes: the same graph gives the same drawing.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from qcompile.bench.html.layout_rows import Rows, ordered, places_of
from qcompile.errors import QCompileError

_PULLS = 4
_ROW_GAP, _BOX_GAP, _BEND_GAP = 36.0, 26.0, 16.0
_FAN, _FAN_MOST = 3.0, 40.0  # more room below a row whose links are many
_CUT = 6.0  # below a row: above the labels of edges

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A node's place: of its top left corner, and its size."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Drawing:
    """Where everything lies; y grows downward.

    Attributes:
        boxes: by node.
        routes: by edge, the points that it passes, from the source's lower side to the target's upper
            one; where two follow each other at different x, no box lies between their heights.
        cuts: heights that no box crosses, from 0 to `height`.
    """

    boxes: dict[str, Box]
    routes: dict[tuple[str, str], tuple[Point, ...]]
    width: float
    height: float
    cuts: tuple[float, ...]


def layout(sizes: Mapping[str, tuple[float, float]], edges: Iterable[tuple[str, str]]) -> Drawing:
    """Place the nodes of a graph without cycles.

    Args:
        sizes: width and height of each node's box, in an order in which they can run.
        edges: source and target; those that are there twice are drawn once.

    Raises:
        QCompileError: an edge from or to a node that is not there, or against the order of the nodes.
    """
    names = list(sizes)
    number = {name: i for i, name in enumerate(names)}
    pairs = list(dict.fromkeys(edges))
    for source, target in pairs:
        _check(number, source, target)
    rows = Rows([(number[s], number[t]) for s, t in pairs], [sizes[name] for name in names])
    order = ordered(rows)
    x = _columns(rows, order)
    return _drawing(rows, order, x, names, pairs)


def _check(number: Mapping[str, int], source: str, target: str) -> None:
    for name in (source, target):
        if name not in number:
            raise QCompileError(
                f"the graph has an edge {source!r} to {target!r}, and no node {name!r}"
            )
    if number[source] >= number[target]:
        raise QCompileError(
            f"the graph's edge {source!r} to {target!r} goes against the order of its nodes",
            hint="a node stands after those that it reads from",
        )


# --- columns --------------------------------------------------------------------------------------


def _columns(rows: Rows, order: Sequence[Sequence[int]]) -> list[float]:
    """The middle of each vertex."""
    column = _aligned(rows, order)
    after: dict[int, dict[int, float]] = {c: {} for c in column}
    before: dict[int, dict[int, float]] = {c: {} for c in column}
    for row in order:
        for a, b in pairwise(row):
            apart = _apart(rows, a, b)
            a, b = column[a], column[b]
            after[a][b] = before[b][a] = max(apart, after[a].get(b, 0.0))
    sequence = _topological(after, before)
    x: dict[int, float] = {}
    for c in sequence:
        x[c] = max((x[b] + gap for b, gap in before[c].items()), default=0.0)
    linked: dict[int, list[int]] = {c: [] for c in column}
    for u, v in rows.links:
        if column[u] != column[v]:
            linked[column[u]].append(column[v])
            linked[column[v]].append(column[u])
    for pull in range(_PULLS):
        for c in sequence if pull % 2 else reversed(sequence):
            if linked[c]:
                wanted = sum(x[other] for other in linked[c]) / len(linked[c])
                high = min((x[b] - gap for b, gap in after[c].items()), default=math.inf)
                low = max((x[b] + gap for b, gap in before[c].items()), default=-math.inf)
                x[c] = max(low, min(high, wanted))
    return [x[c] for c in column]


def _aligned(rows: Rows, order: Sequence[Sequence[int]]) -> list[int]:
    """For each vertex, the topmost of its column."""
    column = list(range(len(rows.rank)))
    for upper, lower in pairwise(order):
        places, taken = (places_of(upper), places_of(lower)), list[tuple[int, int]]()
        links = [(u, v) for u in upper for v in sorted(rows.below[u], key=places[1].__getitem__)]
        links.sort(key=lambda link: _rank_of(rows, *link))  # of equal ones, the leftmost first
        ends: set[int] = set()
        for u, v in links:
            at = (places[0][u], places[1][v])
            i = bisect(taken, at)
            crosses = (i and taken[i - 1][1] > at[1]) or (i < len(taken) and taken[i][1] < at[1])
            if u in ends or v in ends or crosses:
                continue
            taken.insert(i, at)
            ends |= {u, v}
            column[v] = column[u]
    return column


def _rank_of(rows: Rows, u: int, v: int) -> tuple[int, int]:
    """Which links are straight before others: within a bus, then along the longest paths."""
    bends = rows.is_bend(u) + rows.is_bend(v)
    return (0 if bends == 2 else 1 + bends, -rows.depth[v])


def _apart(rows: Rows, a: int, b: int) -> float:
    bend = rows.is_bend(a) or rows.is_bend(b)
    return (rows.width[a] + rows.width[b]) / 2 + (_BEND_GAP if bend else _BOX_GAP)


def _topological(
    after: Mapping[int, Mapping[int, float]], before: Mapping[int, Mapping[int, float]]
) -> list[int]:
    """Columns so that each comes after those on its left; there is no cycle, since none of them cross."""
    left = {c: len(others) for c, others in before.items()}
    ready = [c for c, n in left.items() if not n]
    for c in ready:
        for b in after[c]:
            left[b] -= 1
            if not left[b]:
                ready.append(b)
    return ready


# --- the drawing ----------------------------------------------------------------------------------


def _drawing(
    rows: Rows,
    order: Sequence[Sequence[int]],
    x: Sequence[float],
    names: Sequence[str],
    edges: Sequence[tuple[str, str]],
) -> Drawing:
    tops, cuts = _tops(rows, order, x)
    shift = -min((x[v] - w / 2 for v, w in enumerate(rows.width)), default=0.0)
    x = [value + shift for value in x]
    boxes = {}
    for v, name in enumerate(names):
        width, height = rows.width[v], rows.height[v]
        boxes[name] = Box(x[v] - width / 2, tops[rows.rank[v]], width, height)
    bottoms = [
        top + max((rows.height[v] for v in row), default=0.0)
        for top, row in zip(tops, order, strict=True)
    ]
    routes = {}
    for edge, route in zip(edges, rows.routes, strict=True):
        first, last = route[0], route[-1]
        points = [(x[first], tops[rows.rank[first]] + rows.height[first])]
        points.append((x[first], bottoms[rows.rank[first]]))
        for v in route[1:-1]:
            points += [(x[v], tops[rows.rank[v]]), (x[v], bottoms[rows.rank[v]])]
        points.append((x[last], tops[rows.rank[last]]))
        routes[edge] = tuple(dict.fromkeys(points))
    right = max((x[v] + w / 2 for v, w in enumerate(rows.width)), default=0.0)
    return Drawing(boxes, routes, right, bottoms[-1] if bottoms else 0.0, cuts)


def _tops(
    rows: Rows, order: Sequence[Sequence[int]], x: Sequence[float]
) -> tuple[list[float], tuple[float, ...]]:
    """The upper side of each row; and the heights between rows, 0 and the lowest side."""
    y, tops, cuts = 0.0, [], [0.0]
    for row in order:
        tops.append(y)
        y += max(rows.height[v] for v in row)
        slanted = sum(x[v] != x[t] for v in row for t in rows.below[v])
        gap = _ROW_GAP + min(_FAN * max(0, slanted - 2), _FAN_MOST)
        cuts.append(y + _CUT)
        y += gap
    return tops, (*cuts[:-1], max(0.0, y - gap)) if order else (0.0,)
