"""A window over each channel, on a GPU: a thread for each element of the result."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.places import each_place
from qcompile.codegen.cuda.writer import CudaKernel, CudaWriter, Part
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import POOLS
from qcompile.codegen.kernels.window import Window, is_depthwise, window_of
from qcompile.codegen.schedules.loops import split
from qcompile.codegen.writer import Point

_UNROLLED = 32  # taps that are written out


def window(w: CudaWriter) -> CudaKernel | None:
    """A pooling or a depthwise convolution, with what follows it."""
    if w.group.anchor.target not in POOLS and not is_depthwise(w):
        return None
    return w.kernel(Part(_schedule))


def _schedule(w: CudaWriter) -> None:
    found = window_of(w)
    rows = not w.layout(found.source).channels_last
    with each_place(w, w.layout(w.group.anchor), along_rows=rows) as (point, valid):
        value = w.registers(1, found.element)
        _set(value, e.const(found.start, found.element))
        _gather(found, value, point)
        w.anchored, w.anchor = w.group.anchor, lambda p: found.finish(value[0], p)
        w.finish(point, valid)


def _gather(found: Window, value: Any, point: Point) -> None:
    """Take all taps of a window. Most windows lie inside: only the others ask at each tap."""
    geometry, kernel = found.geometry, found.geometry.kernel
    count = math.prod(kernel)

    def source(digits: Sequence[Any]) -> Point:
        return replace(point, spatial=geometry.place(point.spatial, digits))

    def take(number: Expr, digits: Sequence[Any]) -> None:
        _set(value, found.take(value[0], number, source(digits)))

    def every() -> None:
        if count <= _UNROLLED:
            for i, digits in enumerate(itertools.product(*(range(k) for k in kernel))):
                take(e.const(i, "int32"), digits)
            return
        with tb.serial(count) as number:
            take(number, split(number, kernel)[1:])

    def each() -> None:
        with tb.serial(count) as number:
            digits = split(number, kernel)[1:]
            with tb.If(tirx.all(*geometry.inside(point.spatial, digits, digits))):
                with tb.Then():
                    take(number, digits)
                if found.skip:
                    with tb.Else():
                        _set(value, found.skip(value[0], number, source(digits)))

    inside = geometry.wholly_inside(point.spatial)
    if not inside:
        every()
        return
    with tb.If(tirx.all(*inside)):
        with tb.Then():
            every()
        with tb.Else():
            each()


def _set(value: Any, to: Expr) -> None:
    tb.buffer_store(value, to, [e.const(0, "int32")])
