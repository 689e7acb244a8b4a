"""Which integers a node can hold: the exact-arithmetic end of what lies between two binary layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qcompile.ir.graph import calls, constant_of, spec
from qcompile.ir.ops import INT32_MAX
from qcompile.ir.stages import aten, dialect
from qcompile.passes.flattens import is_squeeze
from qcompile.passes.one_bit import argument, integer, integers

Range = tuple[Tensor, Tensor]  # least and greatest value, int64 [C]


def accumulator_range(gm: GraphModule, node: Node) -> Range | None:
    """Bounds for each channel of an integer accumulator, or None if the node is none.

    The bounds are safe, not always sharp. None too where they leave int32, in which sums would wrap.
    """
    bounds = _range(gm, node)
    if bounds is None or bounds[0].min() < -INT32_MAX or bounds[1].max() > INT32_MAX:
        return None
    return bounds


def _range(gm: GraphModule, node: Node) -> Range | None:
    if calls(node, dialect.conv.default):
        beyond = [integer(node, 7)] if any(integers(node, 3)) else []
        return _dot_range(gm, node, integer(node, 6), beyond)
    if calls(node, dialect.linear.default):
        return _dot_range(gm, node, integer(node, 2), [])
    if calls(node, dialect.xnor_matmul.default):
        k = torch.full((spec(node).shape[1],), integer(node, 2))
        return -k, k
    if calls(node, aten.flatten.using_ints):
        return _range(gm, argument(node)) if is_squeeze(node) else None
    if calls(node, dialect.zero_one.default, dialect.border_correction.default):
        bounds, constant = _range(gm, argument(node)), constant_of(gm, argument(node, 1))
        if bounds is None or constant is None:
            return None
        low, high = bounds
        if calls(node, dialect.zero_one.default):
            return (low + constant) >> 1, (high + constant) >> 1
        table = constant.to(torch.int64).flatten(1)
        return low - table.amax(1), high - table.amin(1)
    return None


def _dot_range(gm: GraphModule, node: Node, zero_point: int, beyond: list[int]) -> Range | None:
    """Bounds of a sum of levels times weights; `beyond` the border stand these levels."""
    weight = constant_of(gm, argument(node, 1))
    if weight is None:
        return None
    values = [level - zero_point for level in level_range(argument(node))] + beyond
    taps = weight.to(torch.int64).flatten(1)
    positive, negative = taps.clamp(min=0).sum(1), taps.clamp(max=0).sum(1)
    least, most = min(values), max(values)
    return least * positive + most * negative, most * positive + least * negative


def level_range(node: Node) -> tuple[int, int]:
    """Least and greatest level that a node can give."""
    if calls(node, dialect.sign.default):
        return -1, 1
    if calls(node, dialect.threshold.default):
        return integer(node, 3), 1
    if calls(node, dialect.quantize_unit.default):
        return 0, 2 ** integer(node, 1) - 1
    if calls(node, dialect.quantize.default):
        return integer(node, 3), integer(node, 4)
    if calls(node, dialect.dynamic_quantize.default):
        return 0, 2 ** integer(node, 2) - 1
    info = torch.iinfo(spec(node).dtype)
    return info.min, info.max
