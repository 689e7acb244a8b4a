"""softmax and log_softmax on a GPU: the maximum, then the sum of exponentials, then the results.

Along the channels, a team of warps has a row, each thread some of its elements; along a spatial
dimension, each thread has a row, and neighbouring threads have neighbouring channels. Exponentials
are computed twice: that is cheaper than to keep them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda import teams
from qcompile.codegen.cuda.places import each_place
from qcompile.codegen.cuda.teams import Running, Take, Team, warps_for
from qcompile.codegen.cuda.writer import WARP, CudaKernel, CudaWriter, Part
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import SOFTMAXES
from qcompile.codegen.kernels.reduction import Softmax, add, softmax_of
from qcompile.codegen.math import exp, log
from qcompile.codegen.schedules.loops import split
from qcompile.codegen.writer import Point

Each = Callable[[Callable[[Point], None]], None]
Join = Callable[[Expr, Take], Expr]


def softmax(w: CudaWriter) -> CudaKernel | None:
    """A softmax along the channels, or along a spatial dimension."""
    if w.group.anchor.target not in SOFTMAXES:
        return None
    s = softmax_of(w)
    return w.kernel(Part(partial(_along_channels if s.dim == 1 else _along_dimension, s=s)))


def _along_channels(w: CudaWriter, s: Softmax) -> None:
    layout = w.layout(w.group.anchor)
    rows, warps = math.prod(layout.spatial), warps_for(-(-layout.channels // WARP))
    with w.launch(teams.grid(rows, warps)) as t:
        team = Team(w, t, rows, warps)
        n, *at = split(team.row, layout.spatial)

        def each(body: Callable[[Point], None]) -> None:
            team.each(layout.channels, lambda channel: body(Point(n, tuple(at), channel)))

        _row(w, s, each, team.joined, team.valid)


def _along_dimension(w: CudaWriter, s: Softmax) -> None:
    layout, d = w.layout(w.group.anchor), s.dim - 2
    first = replace(layout, spatial=(*layout.spatial[:d], 1, *layout.spatial[d + 1 :]))
    rows = not layout.channels_last and d != len(layout.spatial) - 1
    with each_place(w, first, along_rows=rows) as (point, valid):

        def each(body: Callable[[Point], None]) -> None:
            with tb.serial(layout.spatial[d]) as index:
                spatial = (*point.spatial[:d], index, *point.spatial[d + 1 :])
                body(replace(point, spatial=spatial))

        _row(w, s, each, lambda value, _: e.keep(value), valid)


def _row(w: CudaWriter, s: Softmax, each: Each, join: Join, valid: Expr) -> None:
    """One row: `each` calls for this thread's elements, `join` joins what all threads have found."""
    largest, total = Running(w, -math.inf, e.maximum), Running(w, 0.0, add)
    each(lambda p: largest.add(w.read(s.source, p)))
    top = join(largest.value, e.maximum)
    each(lambda p: total.add(exp(w.read(s.source, p) - top)))
    divisor = join(total.value, add)
    offset = e.keep(log(divisor)) if s.logarithm else divisor

    def result(p: Point) -> None:
        x = w.read(s.source, p) - top
        w.out.store(p, x - offset if s.logarithm else exp(x) / offset)

    with tb.If(valid), tb.Then():
        each(result)
