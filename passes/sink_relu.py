"""Pool once where a network pools a value and what its ReLU leaves of it.

    max_pool(relu(x)), max_pool(x)  ->  relu(p), p    with p = max_pool(x)

A ReLU never turns the order of two floats, so that the largest of a window is the same before and
after it. Padding, minus infinity, is never the largest, unless a window has nothing else, as only
dilation makes one: those stay. Results compare equal; where they are zeros, their signs may differ,
which no quantizer, sum or product of numbers sees. Such pairs come of a binarized layer behind a
pooling whose shortcut reads the ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.fx import GraphModule, Node

from qcompile.ir.graph import calls
from qcompile.ir.stages import Stage, aten
from qcompile.passes.base import Declined, Pass
from qcompile.passes.commute_maxpool import Window
from qcompile.passes.monotone import POOLS, replay
from qcompile.passes.one_bit import argument


@dataclass(frozen=True)
class SinkRelu(Pass):
    """Leaves two equal poolings, which merge-duplicates makes one."""

    name: ClassVar[str] = "sink-relu"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.CONVERTED, Stage.LOWERED)
    gives: ClassVar[Stage | None] = Stage.LOWERED

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        if not calls(node, *POOLS) or not calls(argument(node), aten.relu.default):
            return None
        relu = argument(node)
        if not any(_pools_alike(user, node) for user in argument(relu).users):
            return None
        if Window.of(node).misses_the_map(node):
            return Declined("its input is pooled twice: a window lies wholly in the padding")
        pooled = replay(gm, [node], argument(relu))
        return gm.graph.call_function(aten.relu.default, (pooled,))


def _pools_alike(a: Node, b: Node) -> bool:
    return a.target is b.target and (a.args[1:], a.kwargs) == (b.args[1:], b.kwargs)
