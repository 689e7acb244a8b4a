"""Pooling, means, maxima and depthwise convolutions: a channel of the result from that channel alone.

result[n, c, y, x] = combine over taps t of  source[n, c, y*s + t*d - p]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.constants import constant_from
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import CONTRACTIONS, arguments, groups_of, sizes
from qcompile.codegen.kernels.contraction import contraction_of
from qcompile.codegen.kernels.ranges import is_finite
from qcompile.codegen.writer import Point, Writer
from qcompile.ir.ops import FLOAT32_EXACT, hanging_padding

_aten, _dialect = torch.ops.aten, torch.ops.qcompile
_CONVOLUTIONS = frozenset(
    {_dialect.conv.default, _dialect.weight_only_conv.default, _aten.convolution.default}
)


@dataclass(frozen=True)
class Geometry:
    """Which elements a sliding window takes.

    Attributes:
        kernel, stride, dilation: of each spatial dimension.
        padding: `[before, after]` for each.
        inputs: spatial sizes of the source.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    inputs: tuple[int, ...]

    def place(self, at: Sequence[Expr], digits: Sequence[Any]) -> tuple[Expr, ...]:
        """Where a tap of the window at `at` reads; `digits` is the tap's index in each dimension."""
        return tuple(
            o * self.stride[d] + digit * self.dilation[d] - self.padding[2 * d]
            for d, (o, digit) in enumerate(zip(at, digits, strict=True))
        )

    def inside(self, at: Sequence[Expr], first: Sequence[Any], last: Sequence[Any]) -> list[Expr]:
        """What must hold so that two taps, and all between them, lie inside."""
        lowest, highest = self.place(at, first), self.place(at, last)
        found = [low >= 0 for d, low in enumerate(lowest) if self.padding[2 * d] > 0]
        pairs = enumerate(zip(highest, self.inputs, strict=True))
        return found + [high < size for d, (high, size) in pairs if self.padding[2 * d + 1] > 0]

    def wholly_inside(self, at: Sequence[Expr]) -> list[Expr]:
        """What must hold so that all taps lie inside; nothing where they always do."""
        return self.inside(at, [0] * len(self.kernel), [k - 1 for k in self.kernel])


@dataclass(frozen=True)
class Window:
    """A sliding window over each channel; taps beyond the border are skipped.

    Attributes:
        start: the value before the first tap.
        element: dtype of the running value.
        take: (value so far, tap's number, element, its point in the source) to the value after.
        finish: (last value, point in the result) to the result.
        skip: (value so far, tap's number, point) to the value after a tap beyond the border; None: it
            stays as it is.
    """

    source: Node
    geometry: Geometry
    start: float
    element: str
    take: Callable[[Expr, Expr, Expr, Point], Expr]
    finish: Callable[[Expr, Point], Expr]
    skip: Callable[[Expr, Expr, Point], Expr] | None = None


def window_of(w: Writer) -> Window:
    """Read a group's pooling."""
    node = w.group.anchor
    if node.target is _dialect.bit_maxpool.default:
        return _bit_maxpool(w, node)
    if node.target in CONTRACTIONS:
        return _depthwise(w, node)
    return _max_pool(w, node) if "max_pool" in str(node.target) else _avg_pool(w, node)


def _geometry(w: Writer, node: Node, dilation: Any) -> Geometry:
    """The geometry of a torch pooling; what hangs over the border counts as padding."""
    source, kernel, stride, before = arguments(node)[:4]
    inputs, outputs = w.layout(source).spatial, w.layout(node).spatial
    rank = len(inputs)
    kernel = sizes(kernel, rank)
    stride = sizes(stride, rank) if stride else kernel
    both = [p for one in sizes(before, rank) for p in (one, one)]
    wide = sizes(dilation, rank)
    padding = hanging_padding(inputs, outputs, kernel, stride, both, wide)
    return Geometry(kernel, stride, tuple(padding), wide, inputs)


def _max_pool(w: Writer, node: Node) -> Window:
    source, dilation = arguments(node)[0], arguments(node)[4]
    larger = e.larger if is_finite(w, source) else e.maximum

    def take(value: Expr, _: Expr, x: Expr, __: Point) -> Expr:
        return larger(value, x)

    geometry = _geometry(w, node, dilation)
    return Window(source, geometry, -math.inf, "float32", take, lambda value, _: value)


def _avg_pool(w: Writer, node: Node) -> Window:
    source, _, _, before, _, include, *override = arguments(node)
    g = _geometry(w, node, 1)
    divisor = override[0] if override else None  # avg_pool1d has none
    padded = sizes(before, len(g.kernel))

    def take(value: Expr, _: Expr, x: Expr, __: Point) -> Expr:
        return value + x

    def finish(value: Expr, p: Point) -> Expr:
        if divisor:
            return value / e.const(divisor, "float32")
        count: Expr = e.const(1, "int32")
        for d, size in enumerate(g.inputs):
            start = p.spatial[d] * g.stride[d] - padded[d]
            end = tirx.min(start + g.kernel[d], size + padded[d])
            if not include:
                start, end = tirx.max(start, 0), tirx.min(end, size)
            count = count * (end - start)
        return value / e.cast(count, "float32")

    return Window(source, g, 0.0, "float32", take, finish)


def is_depthwise(w: Writer) -> bool:
    """Whether a group's convolution has as many groups as channels in and out."""
    node = w.group.anchor
    if node.target not in _CONVOLUTIONS:
        return False
    channels = w.layout(arguments(node)[0]).channels
    return 1 < channels == w.layout(node).channels == groups_of(node)


def _depthwise(w: Writer, node: Node) -> Window:
    """A convolution of each channel by itself.

    CPUs multiply floats faster than integers of 32 bits; as long as no sum reaches 2^24, float32
    holds each of them exactly.
    """
    integer = node.target is _dialect.conv.default
    # Tables and planes lay weights out for sums over channels, of which there are none here.
    c = contraction_of(w, w.machine, "int8" if integer else None)
    zero, pad = arguments(node)[6:8] if integer else (0, 0)
    largest = (
        512 * c.weight.flatten(1).double().abs().sum(1).amax()
    )  # centred bytes are within 256, as is pad
    exact = largest < FLOAT32_EXACT and not w.machine.multiplies_integers
    element = "float32" if exact or not integer else "int32"
    weight = w.weights(
        constant_from(c.weight).reshape(c.groups, -1).permute(1, 0).cast(element)  # [taps, C]
    )
    _, finished = c.dot.finish(w)

    def weights(number: Expr, p: Point) -> Expr:
        return weight[number * c.groups + p.channels]

    def take(value: Expr, number: Expr, x: Expr, p: Point) -> Expr:
        x = e.cast(x, element)
        centred = x - e.const(zero, element) if zero else x
        return value + centred * weights(number, p)

    def skip(value: Expr, number: Expr, p: Point) -> Expr:
        return value + e.const(pad, element) * weights(number, p)

    def finish(value: Expr, p: Point) -> Expr:
        return e.cast(value, "int32") if integer else finished(value, p)

    geometry = Geometry(c.kernel, c.stride, c.padding, c.dilation, c.inputs)
    return Window(c.source, geometry, 0, element, take, finish, skip if pad else None)


def _bit_maxpool(w: Writer, node: Node) -> Window:
    bits, any_mask, kernel, stride, padding, dilation, _ = arguments(node)
    mask: Tensor = w.tensor(any_mask)
    inputs, outputs = w.layout(bits).spatial, w.layout(node).spatial
    hanging = hanging_padding(inputs, outputs, kernel, stride, padding, dilation)
    geometry = Geometry(tuple(kernel), tuple(stride), tuple(hanging), tuple(dilation), inputs)

    def flipped(value: Expr, p: Point) -> Expr:
        return value ^ w.constant(mask, p.channels)

    def take(value: Expr, _: Expr, x: Expr, p: Point) -> Expr:
        return value & flipped(x, p)

    return Window(bits, geometry, -1, "int32", take, flipped)
