"""A window over each channel, on a GPU: a thread for one element of the result, or for some columns.

Where windows overlap, neighbouring columns read the same elements and all read the same weights: a
thread that computes several columns loads those once. It takes a batch that is large enough to keep
a GPU busy with fewer threads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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


def window(w: CudaWriter) -> CudaKernel | None:
    """A pooling or a depthwise convolution, with what follows it."""
    if w.group.anchor.target not in POOLS and not is_depthwise(w):
        return None
    found, layout = window_of(w), w.layout(w.group.anchor)
    one, some = partial(_schedule, columns=1), partial(_schedule, columns=_COLUMNS)
    if not w.layout(found.source).channels_last or not _share(found.geometry):
        return w.kernel(Part(one))
    enough = -(-_BUSY * _COLUMNS // layout.size)
    alternatives = (Part(one, most=enough - 1),) if enough > 1 else ()
    return w.kernel(*alternatives, Part(some, least=enough))


def _share(g: Geometry) -> bool:
    """Whether windows of neighbouring columns have elements in common, and are narrow."""
    stride, dilation, width = g.stride[-1], g.dilation[-1], g.kernel[-1]
    return stride % dilation == 0 and stride < dilation * width and width <= _UNROLLED


def _schedule(w: CudaWriter, columns: int) -> None:
    found, layout = window_of(w), w.layout(w.group.anchor)
    *outer, width = layout.spatial
    steps = replace(layout, spatial=(*outer, -(-width // columns)))
    rows = not w.layout(found.source).channels_last
    with each_place(w, steps, along_rows=rows) as (place, valid):
        start = e.bind(place.spatial[-1] * columns)
        values = [_value(w, found) for _ in range(columns)]
        tile = _Tile(w, found, _in_column(place, start), width, values)
        tile.take_all()
        for i, value in enumerate(values):
            w.anchored = w.group.anchor
            w.anchor = lambda p, value=value: found.finish(value[0], p)
            if not width % columns:
                w.finish(_in_column(place, e.bind(start + i)), valid)
                continue
            column = e.bind(tirx.min(start + i, width - 1))
            w.finish(_in_column(place, column), tirx.all(valid, start + i < width))


def _value(w: CudaWriter, found: Window) -> Any:
    """A running value, before the first tap."""
    value = w.registers(1, found.element)
    _set(value, e.const(found.start, found.element))
    return value


def _set(value: Any, to: Expr) -> None:
    tb.buffer_store(value, to, [e.const(0, "int32")])


def _in_column(point: Point, column: Expr) -> Point:
    return replace(point, spatial=(*point.spatial[:-1], column))


@dataclass
class _Tile:
    """Neighbouring columns of one row, while their taps are taken.

    Attributes:
        first: the first column's point in the result.
        width: of the result's rows; the last columns may lie beyond it.
        values: running values of the columns.
    """

    w: CudaWriter
    found: Window
    first: Point
    width: int
    values: Sequence[Any]

    def take_all(self) -> None:
        """Take all taps. Most tiles lie inside: only the others ask for each element."""
        inside = self._wholly_inside()
        if not inside:
            self._each_line(partial(self._line, asks=False))
            return
        with tb.If(tirx.all(*inside)):
            with tb.Then():
                self._each_line(partial(self._line, asks=False))
            with tb.Else():
                self._each_line(partial(self._line, asks=True))

    @property
    def _overhangs(self) -> bool:
        return self.width % len(self.values) > 0

    def _wholly_inside(self) -> list[Expr]:
        """What must hold so that all columns, and all their taps, lie inside."""
        last = self.first.spatial[-1] + (len(self.values) - 1)
        found = self.found.geometry.wholly_inside(self.first.spatial)
        if len(self.values) > 1:
            found += self.found.geometry.wholly_inside((*self.first.spatial[:-1], last))
        return [*found, last < self.width] if self._overhangs else found

    def _each_line(self, line: Callable[[Any, Sequence[Any], int], None]) -> None:
        """Call `line(number of its first tap, that tap's digits, taps)` for taps side by side."""
        *outer, width = self.found.geometry.kernel
        taps = width if width <= _UNROLLED else 1
        lines = [*outer, width // taps]
        if math.prod(lines) * taps <= _UNROLLED:
            for i, digits in enumerate(itertools.product(*map(range, lines))):
                line(i * taps, digits, taps)
            return
        with tb.serial(math.prod(lines)) as number:
            line(number * taps, split(number, lines)[1:], taps)

    def _line(self, number: Any, digits: Sequence[Any], taps: int, *, asks: bool) -> None:
        """Take taps side by side, of all columns; each element is read once."""
        g = self.found.geometry
        elements: dict[int, tuple[Expr, Point, Expr | None]] = {}
        for (i, value), k in itertools.product(enumerate(self.values), range(taps)):
            at = i * g.stride[-1] + k * g.dilation[-1]
            if at not in elements:
                elements[at] = self._element(digits, at, asks)
            x, point, inside = elements[at]
            tap = e.const(number + k, "int32") if isinstance(number, int) else number + k
            taken = self.found.take(value[0], tap, x, point)
            if inside is not None:
                skip = self.found.skip
                taken = e.select(inside, taken, skip(value[0], tap, point) if skip else value[0])
            _set(value, taken)

    def _element(
        self, digits: Sequence[Any], at: int, asks: bool
    ) -> tuple[Expr, Point, Expr | None]:
        """The element `at` places after the first column's first tap, and whether it lies inside."""
        g = self.found.geometry
        *outer, column = g.place(self.first.spatial, digits)
        point = replace(self.first, spatial=(*outer, column + at))
        x = self.w.read(self.found.source, point)
        conditions = self._conditions(point) if asks else []
        if not conditions:
            return e.keep(x), point, None
        inside = e.keep(tirx.all(*conditions))
        zero = e.const(0, e.dtype(x))
        return e.keep(tirx.if_then_else(inside, x, zero)), point, inside

    def _conditions(self, source: Point) -> list[Expr]:
        """What must hold so that a point lies inside of the source."""
        g = self.found.geometry
        found = []
        for d, (at, size) in enumerate(zip(source.spatial, g.inputs, strict=True)):
            beyond = d == len(g.inputs) - 1 and self._overhangs
            found += [at >= 0] if g.padding[2 * d] > 0 else []
            found += [at < size] if g.padding[2 * d + 1] > 0 or beyond else []
        return found
