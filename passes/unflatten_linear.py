"""Turn a linear layer over a flattened feature map into a convolution with one position.

    linear(q(flatten(y)), w)  ->  flatten(conv(q(y), w.view(O, C, *S)))

for y of shape [N, C, *S]. Flattening numbers the elements row-major, and so does viewing each row
of w; a convolution whose kernel is the whole map has one position, where it sums the same products.
q stands for any ops that work on each element by itself: they may as well work before flattening.

Flattening a map whose channels lie packed, or innermost, would unpack or transpose it. A map of one
position has nothing to transpose; there the layer is left as it is, unless its levels have one bit:
then commute-maxpool finds a pooling before the flatten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.fx import GraphModule, Node

from qcompile.ir.graph import add_constant, calls, constant_of, spec
from qcompile.ir.stages import Stage, aten, dialect
from qcompile.passes.base import Declined, Pass
from qcompile.passes.flattens import PASS_A_FLATTEN, is_of_map
from qcompile.passes.monotone import replay
from qcompile.passes.one_bit import argument, low_level


@dataclass(frozen=True)
class UnflattenLinear(Pass):
    """Quantized linear layers behind a flatten."""

    name: ClassVar[str] = "unflatten-linear"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.CONVERTED, Stage.LOWERED)
    gives: ClassVar[Stage | None] = Stage.LOWERED

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        if not calls(node, dialect.linear.default):
            return None
        between: list[Node] = []
        top = argument(node)
        while calls(top, *PASS_A_FLATTEN):
            between.insert(0, top)
            top = argument(top)
        if not calls(top, aten.flatten.using_ints) or not is_of_map(top):
            return None
        y = argument(top)
        channels, *size = spec(y).shape[1:]
        if math.prod(size) == 1 and low_level(argument(node)) is None:
            return None
        weight = constant_of(gm, argument(node, 1))
        if weight is None:
            return None
        vectors = {v: _by_channel(gm, v, channels) for step in between for v in _vectors(gm, step)}
        for vector, value in vectors.items():
            if value is None:
                what = f"{math.prod(size)} values of {vector.meta['layer']} for each channel"
                return Declined(f"{what} stand between the feature map and the layer")
        levels = replay(gm, between, y, lambda step: _constants(gm, step, vectors))
        acc = self._conv(gm, node, levels, weight.reshape(-1, channels, *size))
        return gm.graph.call_function(aten.flatten.using_ints, (acc, 1))

    def _conv(self, gm: GraphModule, linear: Node, levels: Node, weight: Tensor) -> Node:
        constant = add_constant(gm, f"{linear.meta['layer']}_weight", weight)
        rank = weight.dim() - 2
        window = ([1] * rank, [0, 0] * rank, [1] * rank)
        return gm.graph.call_function(
            dialect.conv.default, (levels, constant, *window, 1, linear.args[2], 0)
        )


def _vectors(gm: GraphModule, step: Node) -> list[Node]:
    """The arguments of an op that give each channel, or each feature, a value of its own."""
    nodes = [a for a in step.args[1:] if isinstance(a, Node)]
    constants = [(n, constant_of(gm, n)) for n in nodes]
    return [n for n, c in constants if c is None or c.numel() > 1]


def _by_channel(gm: GraphModule, vector: Node, channels: int) -> Tensor | None:
    """`[C]` for `[C * S]`, where each channel's values are the same."""
    value = constant_of(gm, vector)
    if value is None:
        return None
    table = value.reshape(channels, -1)
    return table[:, 0].contiguous() if bool((table == table[:, :1]).all()) else None


def _constants(gm: GraphModule, step: Node, vectors: Mapping[Node, Tensor | None]) -> list[Any]:
    """An op's arguments after the first, those of `vectors` by channel."""
    result: list[Any] = []
    for a in step.args[1:]:
        value = vectors.get(a) if isinstance(a, Node) else None
        result.append(a if value is None else add_constant(gm, str(a), value))
    return result
