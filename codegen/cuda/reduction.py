"""Means and maxima on a GPU: values gathered along whole dimensions by teams of warps.

Where the channels stay, each lane has a channel of its own, and the warps of a team share the
places; where they are gathered, or lie apart in memory, all threads of a team gather one result.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.cuda import teams
from qcompile.codegen.cuda.teams import Running, Team, warps_for
from qcompile.codegen.cuda.writer import WARP, CudaKernel, CudaWriter, Part
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import REDUCTIONS
from qcompile.codegen.kernels.reduction import Reduction, reduction_of
from qcompile.codegen.schedules.loops import split
from qcompile.codegen.writer import Point


def reduction(w: CudaWriter) -> CudaKernel | None:
    """A mean or amax, with what follows it."""
    if w.group.anchor.target not in REDUCTIONS:
        return None
    r = reduction_of(w)
    together = w.group.packs or w.layout(r.source).channels_last
    side_by_side = 1 not in r.dims and together
    return w.kernel(Part(partial(_columns if side_by_side else _rows, r=r)))


def _columns(w: CudaWriter, r: Reduction) -> None:
    """A lane for each channel: `[places of the result, 32 channels]` are the rows of a team."""
    layout = w.layout(w.group.anchor)
    chunks = -(-layout.channels // WARP)
    rows, warps = math.prod(layout.spatial) * chunks, warps_for(_count(r))
    with w.launch(teams.grid(rows, warps)) as t:
        team = Team(w, t, rows, warps, abreast=True)
        n, *at, chunk = split(team.row, [*layout.spatial, chunks])
        channel = e.bind(chunk * WARP + team.lane)
        inside = tirx.all(team.leads, channel < layout.channels)
        channel = e.bind(tirx.min(channel, layout.channels - 1))
        _gather(w, r, team, Point(n, tuple(at), channel), inside)


def _rows(w: CudaWriter, r: Reduction) -> None:
    layout = w.layout(w.group.anchor)
    rows, warps = layout.size, warps_for(-(-_count(r) // WARP))
    with w.launch(teams.grid(rows, warps)) as t:
        team = Team(w, t, rows, warps)
        n, *at, channel = split(team.row, [*layout.spatial, layout.channels])
        _gather(w, r, team, Point(n, tuple(at), channel), team.leads)


def _count(r: Reduction) -> int:
    """How many values give one."""
    return math.prod(r.sizes[d - 1] for d in r.dims)


def _gather(w: CudaWriter, r: Reduction, team: Team, result: Point, valid: Expr) -> None:
    """Gather the value at a point of the result, and store what follows from it."""
    running = Running(w, r.start, r.take)
    dims = _in_memory(w, r)
    start = _first_place(r, result)

    def add(number: Expr) -> None:
        at = list(start)
        for d, digit in zip(dims, split(number, [r.sizes[d - 1] for d in dims])[1:], strict=True):
            at[d - 1] = digit
        running.add(w.read(r.source, Point(result.n, tuple(at[1:]), at[0])))

    team.each(_count(r), add)
    value = team.joined(running.value, r.take)
    w.anchor = lambda _: r.finish(value)
    w.finish(result, valid)


def _first_place(r: Reduction, result: Point) -> list[Any]:
    """Where the gathered dimensions are 0, and the others as in the result."""
    own = [d for d in range(1, len(r.sizes) + 1) if r.keeps or d not in r.dims]
    at: list[Any] = [e.const(0, "int32")] * len(r.sizes)
    for d, index in zip(own, (result.channel, *result.spatial), strict=False):
        at[d - 1] = index
    return at


def _in_memory(w: CudaWriter, r: Reduction) -> list[int]:
    """The gathered dimensions, that of the nearest neighbours last."""
    spatial, channel = w.layout(r.source).strides
    return sorted(r.dims, key=lambda d: -(channel, *spatial)[d - 1])
