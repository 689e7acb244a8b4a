"""Values gathered along whole dimensions, on a CPU.

Where the channels stay, a vector holds neighbouring channels; where they are gathered, it holds
partial results that are joined at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.kernels.reduction import Reduction, add, softmax_of
from qcompile.codegen.layout import Layout
from qcompile.codegen.math import exp, log
from qcompile.codegen.schedules.loops import CHUNK, each_chunk, each_task, split
from qcompile.codegen.writer import Point, Writer

Take = Callable[[Expr, Expr], Expr]


class Running:
    """A running value in a vector; `whole` joins its lanes."""

    def __init__(self, lanes: int, start: float, take: Take) -> None:
        self._lanes, self._take = lanes, take
        self._buffer = tb.alloc_buffer((lanes,), "float32", scope="global")
        value = e.splat(e.const(start, "float32"), lanes)
        tb.buffer_store(self._buffer, value, [e.ramp(e.const(0, "int32"), 1, lanes)])

    def add(self, x: Expr) -> None:
        index = e.ramp(e.const(0, "int32"), 1, e.lanes(x))
        tb.buffer_store(self._buffer, self._take(self._buffer[index], x), [index])

    def lanes(self) -> Expr:
        return self._buffer[e.ramp(e.const(0, "int32"), 1, self._lanes)]

    def whole(self) -> Expr:
        """All lanes in one scalar, by halves."""
        width = self._lanes
        while width > 1:
            half = -(-width // 2)
            low = e.ramp(e.const(0, "int32"), 1, width - half)
            high = e.ramp(e.const(half, "int32"), 1, width - half)
            tb.buffer_store(self._buffer, self._take(self._buffer[low], self._buffer[high]), [low])
            width = half
        return self._buffer[0]


def gather(w: Writer, r: Reduction) -> None:
    """Write a mean or amax with what follows it."""
    layout = w.layout(w.group.anchor)
    lines = layout.spatial[:-1]
    own = [d for d in range(1, len(r.sizes) + 1) if r.keeps or d not in r.dims]
    vector = 1 not in r.dims

    def finish(n: Expr, place: list[Expr], lanes: int) -> None:
        at: list[Any] = [0] * len(r.sizes)
        for d, index in zip(own, place, strict=False):
            at[d - 1] = index
        value = _gathered(w, r, n, at, lanes)
        w.anchor = lambda _: r.finish(value)
        w.finish(Point(n, tuple(place[1:]), place[0], lanes))

    def channels(n: Expr, spatial: tuple[Expr, ...]) -> None:
        if vector:
            each_chunk(layout.channels, lambda c, lanes: finish(n, [c, *spatial], lanes))
            return
        with tb.serial(layout.channels) as channel:
            finish(n, [channel, *spatial], 1)

    def line(index: Expr) -> None:
        n, *at = split(index, lines)
        if not layout.spatial:
            channels(n, ())
            return
        with tb.serial(layout.spatial[-1]) as column:
            channels(n, (*at, column))

    each_task(w, math.prod(lines), math.prod(r.sizes), line)


def _gathered(w: Writer, r: Reduction, n: Expr, at: list[Any], lanes: int) -> Expr:
    """The value of all places that differ from `at` in the gathered dimensions."""
    across = 1 in r.dims
    running = Running(min(CHUNK, r.sizes[0]) if across else lanes, r.start, r.take)
    spatial = [d for d in r.dims if d > 1]

    def place(digits: list[Expr]) -> None:
        here = list(at)
        for d, digit in zip(spatial, digits, strict=True):
            here[d - 1] = digit
        point = Point(n, tuple(here[1:]), here[0], lanes)
        if not across:
            running.add(w.read(r.source, point))
            return

        def chunk(first: Expr, some: int) -> None:
            running.add(w.read(r.source, replace(point, channel=first, lanes=some)))

        each_chunk(r.sizes[0], chunk)

    if spatial:
        sizes = [r.sizes[d - 1] for d in spatial]
        with tb.serial(math.prod(sizes)) as number:
            place(split(number, sizes)[1:])
    else:
        place([])
    return running.whole() if across else running.lanes()


def softmax(w: Writer) -> None:
    """softmax and log_softmax: the maximum, then the sum of exponentials, then the result."""
    s, layout = softmax_of(w), w.layout(w.group.anchor)
    source, dim, logarithm = s.source, s.dim, s.logarithm
    free = [s for d, s in enumerate(layout.spatial) if d != dim - 2]

    def one(point: Point, each: Callable[[Callable[[Point], None]], None], joined: bool) -> None:
        lanes = min(CHUNK, layout.channels) if joined else point.lanes
        largest, total = Running(lanes, -math.inf, e.maximum), Running(lanes, 0.0, add)
        each(lambda p: largest.add(w.read(source, p)))
        top = largest.whole() if joined else largest.lanes()

        def exponential(p: Point) -> None:
            value = e.keep(exp(w.read(source, p) - top))
            total.add(value)
            if not logarithm:
                w.out.store(p, value)

        each(exponential)
        divisor = total.whole() if joined else total.lanes()
        offset = e.keep(log(divisor)) if logarithm else divisor

        def result(p: Point) -> None:
            if logarithm:
                w.out.store(p, (w.read(source, p) - top) - offset)
            else:
                w.out.store(p, w.out.load(p) / offset)

        each(result)

    def task(index: Expr) -> None:
        n, *at = split(index, free)
        if dim == 1:
            one(Point(n, tuple(at), 0), _along_channels(layout, n, tuple(at)), True)
            return

        def chunk(first: Expr, lanes: int) -> None:
            place = [*at[: dim - 2], e.const(0, "int32"), *at[dim - 2 :]]
            point = Point(n, tuple(place), first, lanes)
            one(point, _along_dimension(layout, point, dim - 2), False)

        each_chunk(layout.channels, chunk)

    each_task(w, math.prod(free), 16 * layout.size, task)


def _along_channels(layout: Layout, n: Expr, at: tuple[Expr, ...]) -> Any:
    def each(body: Callable[[Point], None]) -> None:
        each_chunk(layout.channels, lambda first, lanes: body(Point(n, at, first, lanes)))

    return each


def _along_dimension(layout: Layout, point: Point, d: int) -> Any:
    def each(body: Callable[[Point], None]) -> None:
        with tb.serial(layout.spatial[d]) as index:
            spatial = (*point.spatial[:d], index, *point.spatial[d + 1 :])
            body(replace(point, spatial=spatial))

    return each
