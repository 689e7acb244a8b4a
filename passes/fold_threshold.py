"""Fold everything between an integer accumulator and a one-bit quantizer into integer thresholds.

    sign(scale_shift(acc, m, b))  ->  threshold(acc, tau, direction, -1)

and so for any chain of monotone ops between them (see monotone.py; zero_one is one among integers),
and for quantize_unit of one bit, whose lower level is 0. Per channel the chain f takes the integers lo..hi that acc can hold to
two levels, low < 1, and flips at most once:

    f(lo) = f(hi)   constant:    tau = INT32_MIN or INT32_MAX
    f(lo) < f(hi)   it rises:    f(a) = 1  <=>   a >=  t         with t the first a where f(a) = f(hi)
    f(lo) > f(hi)   it falls:    f(a) = 1  <=>   a <   t  <=>  -a >= 1 - t

t is found by bisection, evaluating the very ops that the threshold replaces, so that no rounding of
theirs is missed: with a formula in real numbers the threshold would be off by one sooner or later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qcompile.ir.graph import add_constant, calls, spec
from qcompile.ir.ops import INT32_MAX, INT32_MIN
from qcompile.ir.stages import Stage, aten, dialect
from qcompile.passes.accumulators import accumulator_range
from qcompile.passes.base import Declined, Pass
from qcompile.passes.flattens import is_squeeze
from qcompile.passes.monotone import chain_above, is_monotone, values_along
from qcompile.passes.one_bit import argument, low_level


@dataclass(frozen=True)
class FoldThreshold(Pass):
    """BatchNorm, bias, scale and activation in front of a one-bit quantizer cost nothing."""

    name: ClassVar[str] = "fold-threshold"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.CONVERTED, Stage.LOWERED)
    gives: ClassVar[Stage | None] = Stage.LOWERED

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        if not calls(node, dialect.sign.default, dialect.quantize_unit.default):
            return None
        low = low_level(node)
        if low is None:
            return None
        chain = chain_above(node, lambda n: _passes(gm, n))
        acc = argument(chain[0])
        bounds = accumulator_range(gm, acc)
        if bounds is None:
            return _why_not(acc)
        ends = torch.stack(bounds).to(torch.int32)
        if any(v.isnan().any() for v in values_along(gm, chain, ends)):
            return Declined("stays on floats: what stands in front of it overflows to NaN")
        tau, direction = thresholds(lambda a: values_along(gm, chain, a)[-1], *bounds)
        layer = str(node.meta["layer"])
        constants = [
            add_constant(gm, f"{layer}_tau", tau),
            add_constant(gm, f"{layer}_direction", direction),
        ]
        graph = gm.graph
        new = graph.call_function(dialect.threshold.default, (acc, *constants, low))
        if len(spec(acc).shape) == len(spec(node).shape):
            return new
        return graph.call_function(aten.flatten.using_ints, (new, 1))


def _passes(gm: GraphModule, node: Node) -> bool:
    if calls(node, aten.flatten.using_ints):
        return spec(node).dtype == torch.float32 and is_squeeze(node)
    return calls(node, dialect.zero_one.default) or is_monotone(gm, node)


def _why_not(node: Node) -> Declined | None:
    """A reason, where the chain broke at an op that is monotone with other constants."""
    if calls(node, aten.leaky_relu.default, aten.prelu.default):
        return Declined("stays on floats: a negative slope in front of it is not monotone")
    if calls(node, dialect.scale_shift.default):
        return Declined("stays on floats: a scale or shift in front of it is not finite")
    return None


def thresholds(f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The threshold op's `tau` and `direction`, int32 `[C]`, of a monotone two-level function.

    Args:
        f: int32 `[M, C]` to levels; monotone in each channel between its bounds.
        low, high: the bounds, int64 `[C]`, within int32.
    """

    def at(a: Tensor) -> Tensor:
        return f(a.to(torch.int32)[None])[0]

    first, last = at(low), at(high)
    below, above = low, high  # f(above) = f(high); and f(below) != f(high), where f is not constant
    while bool((above - below > 1).any()):
        middle = (below + above) >> 1
        same = at(middle) == last
        below, above = torch.where(same, below, middle), torch.where(same, middle, above)
    direction = torch.where(first > last, -1, 1)
    tau = torch.where(first > last, 1 - above, above)
    constant = torch.where(last > 0, INT32_MIN, INT32_MAX)
    tau = torch.where(first == last, constant, tau)
    return tau.to(torch.int32), direction.to(torch.int32)
