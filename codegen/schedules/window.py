"""A window over each channel, on a CPU: vectors of channels, pixel by pixel."""

from __future__ import annotations

import itertools
import math
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.kernels.window import Window
from qcompile.codegen.schedules.loops import each_chunk, each_task, split
from qcompile.codegen.writer import Point, Writer

_UNROLLED = 16  # taps that are written out


def schedule(w: Writer, window: Window) -> None:
    """Write a pooling with what follows it."""
    layout = w.layout(w.group.anchor)
    outer = layout.spatial[:-1]
    work = layout.size * (math.prod(window.geometry.kernel) + len(w.group.nodes))

    def line(index: Expr) -> None:
        n, *at = split(index, outer)
        with tb.serial(layout.spatial[-1]) as column:
            place = (*at, column)
            each_chunk(
                layout.channels, lambda first, lanes: _pixel(w, window, n, place, first, lanes)
            )

    each_task(w, math.prod(outer), work, line)


def _pixel(
    w: Writer, window: Window, n: Expr, at: tuple[Expr, ...], first: Expr, lanes: int
) -> None:
    value = tb.alloc_buffer((lanes,), window.element, scope="global")
    index = e.ramp(e.const(0, "int32"), 1, lanes)
    start = e.splat(e.const(window.start, window.element), lanes)
    tb.buffer_store(value, start, [index])

    def tap(number: Expr, digits: list[Any]) -> None:
        place, inside = _source_place(window, at, digits)
        point = Point(n, place, first, lanes)
        if not inside:
            tb.buffer_store(value, window.take(value[index], number, point), [index])
            return
        with tb.If(tirx.all(*inside)):
            with tb.Then():
                tb.buffer_store(value, window.take(value[index], number, point), [index])
            if window.skip:
                with tb.Else():
                    tb.buffer_store(value, window.skip(value[index], number, point), [index])

    if math.prod(window.geometry.kernel) <= _UNROLLED:
        for i, digits in enumerate(itertools.product(*(range(k) for k in window.geometry.kernel))):
            tap(e.const(i, "int32"), list(digits))
    else:
        with tb.serial(math.prod(window.geometry.kernel)) as number:
            tap(number, split(number, window.geometry.kernel)[1:])
    w.anchor = lambda p: window.finish(value[index], p)
    w.finish(Point(n, at, first, lanes))


def _source_place(
    window: Window, at: tuple[Expr, ...], digits: list[Any]
) -> tuple[tuple[Expr, ...], list[Expr]]:
    """Where a tap reads, and what must hold so that it lies inside."""
    g = window.geometry
    place, inside = [], []
    for d, (o, digit) in enumerate(zip(at, digits, strict=True)):
        index = o * g.stride[d] + digit * g.dilation[d] - g.padding[2 * d]
        place.append(index)
        if g.padding[2 * d]:
            inside.append(index >= 0)
        if g.padding[2 * d + 1] > 0:
            inside.append(index < g.inputs[d])
    return tuple(place), inside
