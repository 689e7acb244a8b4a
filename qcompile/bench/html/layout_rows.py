"""The rows of a layered drawing, and the order of what stands in each, with few crossings."""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Mapping, Sequence
from itertools import pairwise

_SWEEPS, _PATIENCE = 16, 4


class Rows:
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
        pairs = (pairwise(route) for route in self.routes)
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


def ordered(rows: Rows) -> list[list[int]]:
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


def _first(rows: Rows) -> list[list[int]]:
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


def places_of(row: Sequence[int]) -> dict[int, int]:
    return {v: i for i, v in enumerate(row)}


def _crossings(rows: Rows, order: Sequence[Sequence[int]]) -> int:
    """How often links cross, in all rows."""
    total = 0
    for upper, lower in pairwise(order):
        places, right = places_of(lower), list[int]()
        for v in upper:
            ends = sorted(places[t] for t in rows.below[v])
            total += sum(len(right) - bisect(right, end) for end in ends)
            for end in ends:
                insort(right, end)
    return total


def _sweep(rows: Rows, order: list[list[int]], *, down: bool) -> None:
    """Sort each row by the mean place of what its vertices are linked to in the row before."""
    linked = rows.above if down else rows.below
    numbers = range(1, len(order)) if down else range(len(order) - 2, -1, -1)
    for i in numbers:
        places = places_of(order[i - 1 if down else i + 1])
        key = {
            v: sum(places[u] for u in linked[v]) / len(linked[v]) if linked[v] else float(place)
            for place, v in enumerate(order[i])
        }
        order[i].sort(key=key.__getitem__)


def _swap(rows: Rows, order: list[list[int]]) -> None:
    """Swap neighbours while that takes crossings away."""
    for _ in range(_PATIENCE):
        swapped = False
        for i, row in enumerate(order):
            up = places_of(order[i - 1]) if i else {}
            down = places_of(order[i + 1]) if i + 1 < len(order) else {}
            for j in range(len(row) - 1):
                if _gain(rows, row[j], row[j + 1], up, down) > 0:
                    row[j], row[j + 1] = row[j + 1], row[j]
                    swapped = True
        if not swapped:
            return


def _gain(rows: Rows, a: int, b: int, up: Mapping[int, int], down: Mapping[int, int]) -> int:
    """How many crossings fewer there are with b left of a."""
    gain = 0
    for linked, places in ((rows.above, up), (rows.below, down)):
        for p in (places[u] for u in linked[a]):
            for q in (places[u] for u in linked[b]):
                gain += (p > q) - (p < q)
    return gain
