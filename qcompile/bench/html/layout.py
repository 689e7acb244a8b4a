"""Where the boxes and edges of a drawn graph lie: rows from top to bottom, as by Sugiyama, Tagawa and Toda (1981).

    rank        the longest path that leads to a node; one that nothing leads to stands above its first reader
    bends       an edge over several rows passes each through a bend; the edges of a node share theirs, as a bus
    order       barycentres, up and down, then neighbours that swap; the order with the fewest crossings stays
    columns     links that do not cross hold two vertices in one column, as by Brandes and Köpf (2001): bends
                before chains before the rest; columns move left as far as they can, then towards what they link

Everything follows from the order of the nodes: the same graph gives the same drawing.
"""

from __future__ import annotations

import itertools
from bisect import bisect, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qcompile.errors import QCompileError

_SWEEPS, _PATIENCE = 16, 4
_PULLS = 4
_ROW_GAP, _BOX_GAP, _BEND_GAP = 36.0, 26.0, 16.0
_FAN, _FAN_MOST = 3.0, 40.0  # more room below a row whose links are many

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
    rows = _Rows([(number[s], number[t]) for s, t in pairs], [sizes[name] for name in names])
    order = _ordered(rows)
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


class _Rows:
    """Vertices by their row: nodes, numbered in their order, then bends; links join neighbouring rows.

    Attributes:
        nodes: how many vertices are nodes.
        rank: of each vertex.
        width, height: of each; 0 of bends.
        links: upper and lower vertex.
        above, below: the vertices that each is linked to.
        depth: how many nodes the longest path from it passes.
        routes: of each edge, the vertices that it passes.
    """

    def __init__(self, edges: Sequence[tuple[int, int]], sizes: Sequence[tuple[float, float]]):
        self.nodes = len(sizes)
        self.width = [width for width, _ in sizes]
        self.height = [height for _, height in sizes]
        outs: list[list[int]] = [[] for _ in sizes]
        fed = [False] * self.nodes
        for source, target in edges:
            outs[source].append(target)
            fed[target] = True
        self.rank = _ranks(outs, fed)
        self.depth = [1] * self.nodes
        for v in reversed(range(self.nodes)):
            self.depth[v] = 1 + max((self.depth[t] for t in outs[v]), default=0)
        buses = [self._bus(v, targets) for v, targets in enumerate(outs)]
        self.routes = [self._route(buses[s], s, t) for s, t in edges]
        pairs = (itertools.pairwise(route) for route in self.routes)
        self.links = list(dict.fromkeys(link for route in pairs for link in route))
        self.above: list[list[int]] = [[] for _ in self.rank]
        self.below: list[list[int]] = [[] for _ in self.rank]
        for upper, lower in self.links:
            self.above[lower].append(upper)
            self.below[upper].append(lower)

    @property
    def count(self) -> int:
        """Of rows."""
        return max(self.rank, default=-1) + 1

    def is_bend(self, v: int) -> bool:
        """Whether it is no node."""
        return v >= self.nodes

    def _bus(self, v: int, targets: Sequence[int]) -> list[int]:
        """Bends below a node, one a row, down to the row above its last reader."""
        last = max((self.rank[t] for t in targets), default=0)
        bus = [v]
        for rank in range(self.rank[v] + 1, last):
            bus.append(len(self.rank))
            self.rank.append(rank)
            self.width.append(0.0)
            self.height.append(0.0)
            self.depth.append(0)
        return bus

    def _route(self, bus: Sequence[int], source: int, target: int) -> tuple[int, ...]:
        return (*bus[: self.rank[target] - self.rank[source]], target)


def _ranks(outs: Sequence[Sequence[int]], fed: Sequence[bool]) -> list[int]:
    rank = [0] * len(outs)
    for v, targets in enumerate(outs):
        for t in targets:
            rank[t] = max(rank[t], rank[v] + 1)
    for v, targets in enumerate(outs):
        if targets and not fed[v]:
            rank[v] = min(rank[t] for t in targets) - 1
    return rank


# --- the order in each row ------------------------------------------------------------------------


def _ordered(rows: _Rows) -> list[list[int]]:
    """The vertices of each row, from left to right."""
    order = _first(rows)
    best, fewest, since = _copy(order), _crossings(rows, order), 0
    for sweep in range(_SWEEPS):
        if not fewest or since == _PATIENCE:
            break
        _sweep(rows, order, down=sweep % 2 == 0)
        found = _crossings(rows, order)
        since += 1
        if found < fewest:
            best, fewest, since = _copy(order), found, 0
    if fewest:
        _swap(rows, best)
    return best


def _first(rows: _Rows) -> list[list[int]]:
    """As a walk in depth meets them: the longest path on the left, what goes around it on the right."""
    order: list[list[int]] = [[] for _ in range(rows.count)]
    seen = [False] * len(rows.rank)
    roots = [v for v in range(rows.nodes) if not rows.above[v]]
    waiting = sorted(roots, key=lambda v: (rows.depth[v], -v))
    while waiting:
        v = waiting.pop()
        if seen[v]:
            continue
        seen[v] = True
        order[rows.rank[v]].append(v)
        waiting += sorted(rows.below[v], key=lambda t: (rows.depth[t], -t))
    return order


def _copy(order: list[list[int]]) -> list[list[int]]:
    return [list(row) for row in order]


def _places(row: Sequence[int]) -> dict[int, int]:
    return {v: i for i, v in enumerate(row)}


def _crossings(rows: _Rows, order: Sequence[Sequence[int]]) -> int:
    """How often links cross, in all rows."""
    total = 0
    for upper, lower in itertools.pairwise(order):
        places, right = _places(lower), list[int]()
        for v in upper:
            ends = sorted(places[t] for t in rows.below[v])
            total += sum(len(right) - bisect(right, end) for end in ends)
            for end in ends:
                insort(right, end)
    return total


def _sweep(rows: _Rows, order: list[list[int]], *, down: bool) -> None:
    """Sort each row by the mean place of what its vertices are linked to in the row before."""
    linked = rows.above if down else rows.below
    numbers = range(1, len(order)) if down else range(len(order) - 2, -1, -1)
    for i in numbers:
        places = _places(order[i - 1 if down else i + 1])
        key = {
            v: sum(places[u] for u in linked[v]) / len(linked[v]) if linked[v] else float(place)
            for place, v in enumerate(order[i])
        }
        order[i].sort(key=key.__getitem__)


def _swap(rows: _Rows, order: list[list[int]]) -> None:
    """Swap neighbours while that takes crossings away."""
    for _ in range(_PATIENCE):
        swapped = False
        for i, row in enumerate(order):
            up = _places(order[i - 1]) if i else {}
            down = _places(order[i + 1]) if i + 1 < len(order) else {}
            for j in range(len(row) - 1):
                if _gain(rows, row[j], row[j + 1], up, down) > 0:
                    row[j], row[j + 1] = row[j + 1], row[j]
                    swapped = True
        if not swapped:
            return


def _gain(rows: _Rows, a: int, b: int, up: Mapping[int, int], down: Mapping[int, int]) -> int:
    """How many crossings fewer there are with b left of a."""
    gain = 0
    for linked, places in ((rows.above, up), (rows.below, down)):
        for p in (places[u] for u in linked[a]):
            for q in (places[u] for u in linked[b]):
                gain += (p > q) - (p < q)
    return gain


# --- columns --------------------------------------------------------------------------------------


def _columns(rows: _Rows, order: Sequence[Sequence[int]]) -> list[float]:
    """The middle of each vertex."""
    column = _aligned(rows, order)
    after: dict[int, dict[int, float]] = {c: {} for c in column}
    before: dict[int, dict[int, float]] = {c: {} for c in column}
    for row in order:
        for a, b in itertools.pairwise(row):
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
                high = min((x[b] - gap for b, gap in after[c].items()), default=wanted)
                low = max((x[b] + gap for b, gap in before[c].items()), default=wanted)
                x[c] = max(low, min(high, wanted))
    return [x[c] for c in column]


def _aligned(rows: _Rows, order: Sequence[Sequence[int]]) -> list[int]:
    """For each vertex, the topmost of its column."""
    column = list(range(len(rows.rank)))
    for upper, lower in itertools.pairwise(order):
        places, taken = (_places(upper), _places(lower)), list[tuple[int, int]]()
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


def _rank_of(rows: _Rows, u: int, v: int) -> tuple[int, int]:
    """Which links are straight before others: within a bus, then along the longest paths."""
    bends = rows.is_bend(u) + rows.is_bend(v)
    return (0 if bends == 2 else 1 + bends, -rows.depth[v])


def _apart(rows: _Rows, a: int, b: int) -> float:
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
    rows: _Rows,
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
    rows: _Rows, order: Sequence[Sequence[int]], x: Sequence[float]
) -> tuple[list[float], tuple[float, ...]]:
    """The upper side of each row; and the heights between rows, 0 and the lowest side."""
    y, tops, cuts = 0.0, [], [0.0]
    for row in order:
        tops.append(y)
        y += max(rows.height[v] for v in row)
        slanted = sum(x[v] != x[t] for v in row for t in rows.below[v])
        gap = _ROW_GAP + min(_FAN * max(0, slanted - 2), _FAN_MOST)
        cuts.append(y + gap / 2)
        y += gap
    return tops, (*cuts[:-1], max(0.0, y - gap)) if order else (0.0,)
