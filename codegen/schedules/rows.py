"""The activations that one row of a convolution's result reads.

Where nothing is padded or converted they are read in place; else the rows are copied, padded and
converted, to a buffer of this task: `[taps but the last dimension's, columns, channels of the group]`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.kernels.contraction import Contraction
from qcompile.codegen.schedules.loops import CHUNK, each_chunk, split
from qcompile.codegen.writer import Operand, Point, Writer

_INTERLEAVED = 8  # channels that are put between one another in registers


@dataclass(frozen=True)
class Rows:
    """Where the activations of a tap lie.

    Attributes:
        merged: the taps of the last dimension lie one after another and count as one run.
        copied: the rows are copied, not read in place.
        band: how many rows of the result they are for, neighbours in the last dimension but one.
        buffer: where they lie, flat, once that is known; base: where the first one lies.
    """

    c: Contraction
    operand: Operand
    merged: bool
    copied: bool
    w: Writer  # for constants
    band: int = 1
    buffer: Any = None
    base: Any = 0

    @property
    def width(self) -> int:
        """Columns of the source, padding included, that a row needs."""
        c = self.c
        return (c.outputs[-1] - 1) * c.stride[-1] + c.dilation[-1] * (c.kernel[-1] - 1) + 1

    def load(self, tap: Expr, column: Expr, element: Expr) -> Expr:
        """`unit` activations for an outer-and-maybe-inner tap, a column of the result, an offset."""
        c, pitch = self.c, self._pitch
        at = self.base + column * (c.stride[-1] * pitch) + element
        digits = split(tap, c.kernel[:-1] if self.merged else c.kernel)[1:]
        if not self.merged:
            at = at + digits.pop() * (c.dilation[-1] * pitch)
        for digit, stride in zip(digits, self._tap_strides, strict=True):
            at = at + digit * stride
        return self.buffer[e.ramp(at, 1, c.dot.unit)]

    @property
    def _pitch(self) -> int:
        """Elements from one column to the next."""
        return self.c.channels if self.copied else self.operand.layout.channels

    @property
    def _tap_strides(self) -> list[int]:
        c = self.c
        if not self.copied:
            spatial = self.operand.layout.strides[0]
            return [s * d for s, d in zip(spatial[:-1], c.dilation[:-1], strict=True)]
        row, lying = self.width * c.channels, self._lying
        strides = [row * math.prod(lying[d + 1 :]) for d in range(len(lying))]
        return [*strides[:-1], strides[-1] * c.dilation[-2] // self._step] if strides else []

    @property
    def _lying(self) -> tuple[int, ...]:
        """How many rows are copied in each dimension but the last."""
        c = self.c
        if self.band == 1:
            return c.kernel[:-1]
        return (*c.kernel[:-2], rows_read(c, self.band))

    @property
    def _step(self) -> int:
        """Rows of the source from one copied row to the next."""
        return self.c.dilation[-2] if self.band == 1 else 1

    @property
    def size(self) -> int:
        """Elements of the copy."""
        return math.prod(self._lying) * self.width * self.c.channels + self.c.dot.unit - 1

    def at_row(self, row: Expr) -> Rows:
        """The rows for one row of the band."""
        if self.band == 1:
            return self
        c = self.c
        pitch = self.width * c.channels if self.copied else self.operand.layout.strides[0][-2]
        return replace(self, base=e.bind(self.base + row * (c.stride[-2] * pitch)))

    def allocated(self) -> Rows:
        """With memory for a copy, where one is needed."""
        if not self.copied:
            return self
        buffer = tb.alloc_buffer((self.size,), self.c.dot.element, scope="global")
        return replace(self, buffer=buffer)

    def starting(self, n: Expr, outer: tuple[Expr, ...]) -> Rows:
        """The rows for a band that begins at a row of the result."""
        if self.copied:
            return self
        layout = self.operand.layout
        at = n * layout.size
        for o, stride, step in zip(outer, layout.strides[0][:-1], self.c.stride[:-1], strict=False):
            at = at + o * (stride * step)
        return replace(self, buffer=self.operand.flat, base=e.bind(at))

    def fill(self, n: Expr, outer: tuple[Expr, ...], group: Expr) -> None:
        """Copy the rows for a band that begins at a row of the result, where that is needed."""
        if self.copied:
            with tb.serial(math.prod(self._lying)) as tap:
                self._copy(self.buffer, n, outer, group, tap)

    def _copy(self, buffer: Any, n: Expr, outer: tuple[Expr, ...], group: Expr, tap: Expr) -> None:
        """Copy one row, or fill it where it lies beyond the border."""
        c = self.c
        digits = split(tap, self._lying)[1:]
        steps = [*c.dilation[:-2], self._step] if outer else []
        at, inside = [], []
        for d, (o, digit, step) in enumerate(zip(outer, digits, steps, strict=True)):
            index = e.bind(o * c.stride[d] + digit * step - c.padding[2 * d])
            at.append(index)
            if c.padding[2 * d] or c.padding[2 * d + 1]:
                inside += [index >= 0, index < c.inputs[d]]
        before = min(c.padding[-2], self.width)
        count = max(0, min(c.inputs[-1], self.width - before))
        row = e.bind(tap * (self.width * c.channels))
        if not inside:
            self._row(buffer, row, n, at, group, before, count)
            return
        with tb.If(tirx.all(*inside)):
            with tb.Then():
                self._row(buffer, row, n, at, group, before, count)
            with tb.Else():
                self._padding(buffer, row, self.width)

    def _row(
        self,
        buffer: Any,
        row: Expr,
        n: Expr,
        at: list[Expr],
        group: Expr,
        before: int,
        count: int,
    ) -> None:
        c, channels = self.c, self.c.channels
        self._padding(buffer, row, before)
        start = row + before * channels
        layout = self.operand.layout
        together = layout.channels_last and c.groups == 1 and c.dot.made(CHUNK) == CHUNK
        if together and (c.given or channels) == channels:
            self._straight(buffer, start, n, at, count * channels)
        elif c.dot.gathers:
            self._by_pixel(buffer, start, n, at, group, count)
        else:
            self._strided(buffer, start, n, at, group, count)
        self._padding(buffer, start + count * channels, self.width - before - count)

    def _straight(self, buffer: Any, start: Expr, n: Expr, at: list[Expr], count: int) -> None:
        """Pixels and their channels lie in one piece on both sides."""
        layout = self.operand.layout
        origin = Point(n, (*at, 0) if layout.spatial else (), 0)
        source = e.bind(self.operand.index(origin))

        def copy(first: Expr, lanes: int) -> None:
            value = self.c.dot.prepare(self.operand.flat[e.ramp(source + first, 1, lanes)])
            tb.buffer_store(buffer, value, [e.ramp(start + first, 1, lanes)])

        each_chunk(count, copy)

    def _by_pixel(
        self, buffer: Any, start: Expr, n: Expr, at: list[Expr], group: Expr, count: int
    ) -> None:
        """What the dot makes of neighbouring channels, wherever they lie."""
        c, spatial = self.c, bool(self.operand.layout.spatial)
        given, made = c.given or c.channels, c.dot.made(CHUNK)

        with tb.serial(count) as column:

            def copy(first: Expr, lanes: int) -> None:
                # A sample seen as one pixel: its neighbours are the samples that follow.
                sample, place = (n, (*at, column)) if spatial else (n + column, ())
                point = Point(sample, place, group * given + first, lanes)
                value = c.dot.prepare(self.operand.load(point))
                to = start + column * c.channels + tirx.floordiv(first, CHUNK) * made
                tb.buffer_store(buffer, value, [e.ramp(to, 1, e.lanes(value))])

            each_chunk(given, copy)

    def _strided(
        self, buffer: Any, start: Expr, n: Expr, at: list[Expr], group: Expr, count: int
    ) -> None:
        """Vectors along the row: neighbours in torch's order."""
        channels = self.c.channels

        def together(first: Expr, lanes: int) -> None:
            """All channels of some columns, as one run."""
            places = [
                Point(n, (*at, first), group * channels + i, lanes, len(at))
                for i in range(channels)
            ]
            values = [self.c.dot.prepare(self.operand.load(p)) for p in places]
            run = e.ramp(start + first * channels, 1, lanes * channels)
            value = e.interleave([e.splat(v, lanes) for v in values])
            tb.buffer_store(buffer, value, [run])

        def copy(first: Expr, lanes: int) -> None:
            point = Point(n, (*at, first), group * channels + channel, lanes, len(at))
            if not self.operand.layout.spatial:
                point = Point(n, (), group * channels + channel)
            value = self.c.dot.prepare(self.operand.load(point))
            index = e.ramp(start + first * channels + channel, channels, lanes)
            tb.buffer_store(buffer, e.splat(value, lanes), [index])

        if 1 < channels <= _INTERLEAVED and self.operand.layout.spatial:
            each_chunk(count, together)
            return
        with tb.serial(channels) as channel:
            each_chunk(count, copy)

    def _padding(self, buffer: Any, start: Expr, columns: int) -> None:
        c, fill = self.c, self.c.dot.fill

        def store(first: Expr, lanes: int) -> None:
            tb.buffer_store(buffer, c.dot.beyond(lanes), [e.ramp(start + first, 1, lanes)])

        if not isinstance(fill, Tensor):
            each_chunk(columns * c.channels, store)
        elif columns:
            with tb.serial(columns) as column, tb.serial(c.channels) as channel:
                # The fill of a word does not depend on the group, but for which words it has.
                value = self.w.constant(fill, channel)
                tb.buffer_store(buffer, value, [start + column * c.channels + channel])


def rows_read(c: Contraction, band: int) -> int:
    """Rows of the source that so many neighbouring rows of the result read, gaps included."""
    return (band - 1) * c.stride[-2] + c.dilation[-2] * (c.kernel[-2] - 1) + 1


def rows_of(w: Writer, c: Contraction) -> Rows:
    """Decide whether rows are copied."""
    operand = w.operands[c.source]
    if c.whole:
        flat = replace(operand.layout, spatial=(), channels=operand.layout.size)
        operand = replace(operand, layout=flat)
    layout = operand.layout
    merged = c.dilation[-1] == 1
    run = c.kernel[-1] * c.channels if merged else c.channels
    copied = c.dot.prepares or any(c.padding) or c.groups > 1 or not layout.channels_last
    copied = copied or bool(run % c.dot.unit)  # the last step would read beyond the source
    return Rows(c, operand, merged, copied, w)
