"""Pooling, means, maxima and depthwise convolutions: a channel of the result from that channel alone.

result[n, c, y, x] = combine over taps t of  source[n, c, y*s + t*d - p]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.writer import Point, Writer
from qcompile.ir.ops import hanging_padding

_aten, _dialect = torch.ops.aten, torch.ops.qcompile


@dataclass(frozen=True)
class Window:
    """A sliding window over each channel.

    Attributes:
        kernel, stride, dilation: of each spatial dimension.
        padding: `[before, after]` for each; taps there are skipped.
        inputs: spatial sizes of the source.
        start: the value before the first tap.
        element: dtype of the running value.
        take: (value so far, tap's number, point in the source) to the value after.
        finish: (last value, point in the result) to the result.
    """

    source: Node
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    inputs: tuple[int, ...]
    start: float
    element: str
    take: Callable[[Expr, Expr, Point], Expr]
    finish: Callable[[Expr, Point], Expr]


def window_of(w: Writer) -> Window:
    """Read a group's pooling."""
    node = w.group.anchor
    if node.target is _dialect.bit_maxpool.default:
        return _bit_maxpool(w, node)
    name = str(node.target)
    return _max_pool(w, node) if "max_pool" in name else _avg_pool(w, node)


def _numbers(value: Any, rank: int) -> tuple[int, ...]:
    value = [value] if isinstance(value, int) else list(value)
    return tuple(int(v) for v in (value * rank if len(value) == 1 else value))


def _argument(node: Node, index: int, name: str, default: Any) -> Any:
    if len(node.args) > index:
        return node.args[index]
    return node.kwargs.get(name, default)


def _geometry(w: Writer, node: Node, dilation: Any) -> tuple[Any, ...]:
    """(kernel, stride, padding with what hangs over the border, dilation, input sizes)."""
    inputs, outputs = w.layout(_source(node)).spatial, w.layout(node).spatial
    rank = len(inputs)
    kernel = _numbers(_argument(node, 1, "kernel_size", None), rank)
    stride = _numbers(_argument(node, 2, "stride", None) or kernel, rank)
    before = _numbers(_argument(node, 3, "padding", 0), rank)
    wide = _numbers(dilation, rank)
    both = [p for one in before for p in (one, one)]
    padding = hanging_padding(inputs, outputs, kernel, stride, both, wide)
    return kernel, stride, tuple(padding), wide, inputs


def _source(node: Node) -> Node:
    source = node.args[0]
    assert isinstance(source, Node)
    return source


def _max_pool(w: Writer, node: Node) -> Window:
    source = _source(node)

    def take(value: Expr, _: Expr, p: Point) -> Expr:
        x = w.read(source, p)
        # The tap wins where it is larger, and where it is NaN, as in torch.
        return e.select(
            tirx.any(x > value, tirx.NE(x, x)) if p.lanes == 1 else _wins(x, value), x, value
        )

    geometry = _geometry(w, node, _argument(node, 4, "dilation", 1))
    return Window(source, *geometry, -math.inf, "float32", take, lambda value, _: value)


def _wins(x: Expr, value: Expr) -> Expr:
    return tirx.Or(x > value, tirx.NE(x, x))


def _avg_pool(w: Writer, node: Node) -> Window:
    source = _source(node)
    geometry = _geometry(w, node, 1)
    kernel, stride, _, _, inputs = geometry
    include = _argument(node, 5, "count_include_pad", True)
    divisor = _argument(node, 6, "divisor_override", None)
    padded = _numbers(_argument(node, 3, "padding", 0), len(kernel))

    def take(value: Expr, _: Expr, p: Point) -> Expr:
        return value + w.read(source, p)

    def finish(value: Expr, p: Point) -> Expr:
        if divisor:
            return value / e.const(divisor, "float32")
        count: Expr = e.const(1, "int32")
        for d, size in enumerate(inputs):
            start = p.spatial[d] * stride[d] - padded[d]
            end = tirx.min(start + kernel[d], size + padded[d])
            if not include:
                start, end = tirx.max(start, 0), tirx.min(end, size)
            count = count * (end - start)
        return value / e.cast(count, "float32")

    return Window(source, *geometry, 0.0, "float32", take, finish)


def _bit_maxpool(w: Writer, node: Node) -> Window:
    bits, any_mask, kernel, stride, padding, dilation, _ = node.args
    assert isinstance(bits, Node)
    mask: Tensor = w.tensor(any_mask)
    inputs, outputs = w.layout(bits).spatial, w.layout(node).spatial
    geometry: list[Any] = [_numbers(v, len(inputs)) for v in (kernel, stride, padding, dilation)]
    geometry[2] = tuple(hanging_padding(inputs, outputs, *geometry))

    def flipped(value: Expr, p: Point) -> Expr:
        return value ^ w.constant(mask, p.channels)

    def take(value: Expr, _: Expr, p: Point) -> Expr:
        return value & flipped(w.read(bits, p), p)

    return Window(bits, *geometry, inputs, -1, "int32", take, flipped)
