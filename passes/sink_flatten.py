"""Let elementwise ops work before a flatten that moves nothing.

    f(flatten(y))  ->  flatten(f(y))

for y of shape [N, C, 1, ...] and f that gives each element, or each channel, its own value: dimension
1 is the channel on both sides. What was an accumulator's epilogue stands next to it again, and
becomes part of its kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.fx import GraphModule, Node

from qcompile.ir.graph import calls
from qcompile.ir.stages import Stage, aten
from qcompile.passes.base import Declined, Pass
from qcompile.passes.flattens import PASS_A_FLATTEN, is_squeeze
from qcompile.passes.monotone import replay
from qcompile.passes.one_bit import argument


@dataclass(frozen=True)
class SinkFlatten(Pass):
    """Flattens of maps with one position, behind what `unflatten-linear` made convolutions of."""

    name: ClassVar[str] = "sink-flatten"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.CONVERTED, Stage.LOWERED)
    gives: ClassVar[Stage | None] = Stage.LOWERED

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        if not calls(node, *PASS_A_FLATTEN):
            return None
        flatten = argument(node)
        if not calls(flatten, aten.flatten.using_ints) or not is_squeeze(flatten):
            return None
        moved = replay(gm, [node], argument(flatten))
        return gm.graph.call_function(aten.flatten.using_ints, (moved, 1))
