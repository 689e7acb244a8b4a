"""A window over each channel, on a CPU: vectors of channels, pixel by pixel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.dots.floats import Register
from qcompile.codegen.expr import Expr
from qcompile.codegen.kernels.window import Window
from qcompile.codegen.schedules.loops import each_chunk, each_task, split
from qcompile.codegen.writer import Point, Writer

_UNROLLED = 32  # taps that are written out


def schedule(w: Writer, window: Window) -> None:
    """Write a pooling with what follows it."""
    layout = w.layout(w.group.anchor)
    outer = layout.spatial[:-1]
    work = layout.size * (math.prod(window.geometry.kernel) + len(w.group.nodes))

    def line(index: Expr) -> None:
        n, *at = split(index, outer)
        row(w, window, n, tuple(at))

    each_task(w, math.prod(outer), work, line)


def row(w: Writer, window: Window, n: Expr, outer: tuple[Expr, ...]) -> None:
    """One row of the result."""
    layout = w.layout(w.group.anchor)
    with tb.serial(layout.spatial[-1]) as column:
        place = (*outer, column)
        each_chunk(layout.channels, lambda first, lanes: _pixel(w, window, n, place, first, lanes))


def _pixel(
    w: Writer, window: Window, n: Expr, at: tuple[Expr, ...], first: Expr, lanes: int
) -> None:
    """Most windows lie inside: only the others ask at each tap."""
    geometry, kernel = window.geometry, window.geometry.kernel
    value = Register(window.element, lanes, e.const(window.start, window.element))

    def take(number: Expr, digits: Sequence[Any]) -> None:
        point = Point(n, geometry.place(at, digits), first, lanes)
        value.set(window.take(value.value, number, w.read(window.source, point), point))

    def every() -> None:
        if math.prod(kernel) <= _UNROLLED:
            for i, digits in enumerate(itertools.product(*(range(k) for k in kernel))):
                take(e.const(i, "int32"), digits)
            return
        with tb.serial(math.prod(kernel)) as number:
            take(number, split(number, kernel)[1:])

    def each() -> None:
        with tb.serial(math.prod(kernel)) as number:
            digits = split(number, kernel)[1:]
            with tb.If(tirx.all(*geometry.inside(at, digits, digits))):
                with tb.Then():
                    take(number, digits)
                if window.skip:
                    with tb.Else():
                        point = Point(n, geometry.place(at, digits), first, lanes)
                        value.set(window.skip(value.value, number, point))

    inside = geometry.wholly_inside(at)
    if not inside:
        every()
    else:
        with tb.If(tirx.all(*inside)):
            with tb.Then():
                every()
            with tb.Else():
                each()
    w.anchored, w.anchor = w.group.anchor, lambda p: window.finish(value.value, p)
    w.finish(Point(n, at, first, lanes))
