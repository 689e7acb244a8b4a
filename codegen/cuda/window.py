"""A window over each channel, on a GPU: a thread for one element of the result, or for some columns.

Where windows overlap, neighbouring columns read the same elements, and all read the same weights: a
thread that computes several columns loads those once, as the compiler sees. It takes a batch that is
large enough to keep a GPU busy with fewer threads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.places import each_place
from qcompile.codegen.cuda.writer import CudaKernel, CudaWriter, Part
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import POOLS
from qcompile.codegen.kernels.window import Geometry, Window, is_depthwise, window_of
from qcompile.codegen.schedules.loops import split
from qcompile.codegen.writer import Point

_UNROLLED = 32  # taps that are written out
_COLUMNS = 4  # of a thread, in large batches
_BUSY = 1 << 17  # threads that keep any GPU busy
Tap = Callable[[Expr, Sequence[Any]], None]  # of its number, and its index in each dimension


def window(w: CudaWriter) -> CudaKernel | None:
    """A pooling or a depthwise convolution, with what follows it."""
    if w.group.anchor.target not in POOLS and not is_depthwise(w):
        return None
    found, layout = window_of(w), w.layout(w.group.anchor)
    one, some = partial(_schedule, columns=1), partial(_schedule, columns=_COLUMNS)
    if not w.layout(found.source).channels_last or not _overlap(found.geometry):
        return w.kernel(Part(one))
    enough = -(-_BUSY * _COLUMNS // layout.size)
    alternatives = (Part(one, most=enough - 1),) if enough > 1 else ()
    return w.kernel(*alternatives, Part(some, least=enough))


def _overlap(g: Geometry) -> bool:
    """Whether windows of neighbouring columns have elements in common."""
    stride, dilation = g.stride[-1], g.dilation[-1]
    return stride % dilation == 0 and stride < dilation * g.kernel[-1]


def _schedule(w: CudaWriter, columns: int) -> None:
    found, layout = window_of(w), w.layout(w.group.anchor)
    *outer, width = layout.spatial
    steps = replace(layout, spatial=(*outer, -(-width // columns)))
    rows = not w.layout(found.source).channels_last
    with each_place(w, steps, along_rows=rows) as (first, valid):
        starts = [e.bind(first.spatial[-1] * columns + i) for i in range(columns)]
        values = [_value(w, found) for _ in starts]
        points = _take_all(found, first, starts, values, width)
        for start, point, value in zip(starts, points, values, strict=True):
            w.anchored = w.group.anchor
            w.anchor = lambda p, value=value: found.finish(value[0], p)
            w.finish(point, tirx.all(valid, start < width) if width % columns else valid)


def _value(w: CudaWriter, found: Window) -> Any:
    """A running value, before the first tap."""
    value = w.registers(1, found.element)
    _set(value, e.const(found.start, found.element))
    return value


def _take_all(
    found: Window, first: Point, starts: Sequence[Expr], values: Sequence[Any], width: int
) -> list[Point]:
    """Take all taps of neighbouring columns. Most windows lie inside: only others ask at each tap.

    Returns:
        the columns' points; of those beyond the last column, that one's.
    """
    geometry = found.geometry
    points = [_in_column(first, start) for start in starts]
    inside = geometry.wholly_inside(points[0].spatial)
    if len(points) > 1:
        inside += geometry.wholly_inside(points[-1].spatial)

    def together() -> None:
        def take(number: Expr, digits: Sequence[Any]) -> None:
            for point, value in zip(points, values, strict=True):
                _take(found, value, number, _source(geometry, point, digits))

        _each_tap(geometry.kernel, take)

    held = points
    if width % len(points):
        inside.append(starts[-1] < width)
        held = [_in_column(first, e.bind(tirx.min(start, width - 1))) for start in starts]
    if not inside:
        together()
        return held
    with tb.If(tirx.all(*inside)):
        with tb.Then():
            together()
        with tb.Else():
            for point, value in zip(held, values, strict=True):
                _take_inside(found, point, value)
    return held


def _in_column(point: Point, column: Expr) -> Point:
    return replace(point, spatial=(*point.spatial[:-1], column))


def _take_inside(found: Window, point: Point, value: Any) -> None:
    """Take those taps of one window that lie inside."""
    geometry = found.geometry
    with tb.serial(math.prod(geometry.kernel)) as number:
        digits = split(number, geometry.kernel)[1:]
        source = _source(geometry, point, digits)
        inside = geometry.inside(point.spatial, digits, digits)
        with tb.If(tirx.all(*inside) if inside else e.const(True, "bool")):
            with tb.Then():
                _take(found, value, number, source)
            if found.skip:
                with tb.Else():
                    _set(value, found.skip(value[0], number, source))


def _each_tap(kernel: Sequence[int], tap: Tap) -> None:
    if math.prod(kernel) <= _UNROLLED:
        for i, digits in enumerate(itertools.product(*(range(k) for k in kernel))):
            tap(e.const(i, "int32"), digits)
        return
    with tb.serial(math.prod(kernel)) as number:
        tap(number, split(number, kernel)[1:])


def _source(geometry: Geometry, point: Point, digits: Sequence[Any]) -> Point:
    return replace(point, spatial=geometry.place(point.spatial, digits))


def _take(found: Window, value: Any, number: Expr, source: Point) -> None:
    _set(value, found.take(value[0], number, source))


def _set(value: Any, to: Expr) -> None:
    tb.buffer_store(value, to, [e.const(0, "int32")])
