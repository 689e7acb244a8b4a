"""Drop a clip in front of a sign.

    sign(hardtanh(x, low, high))  ->  sign(x)    where low < 0 <= high

Where x < 0, the clipped value is at least low and still below 0; where x >= 0, it is at most high and
at least 0. NaN passes through the clip. Networks are trained with such clips in front of their signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.fx import GraphModule, Node

from qcompile.ir.graph import calls
from qcompile.ir.stages import Stage, aten, dialect
from qcompile.passes.base import Declined, Pass
from qcompile.passes.one_bit import argument

_BOUNDS = (-1.0, 1.0)  # of hardtanh, where it is not given others


@dataclass(frozen=True)
class DropClip(Pass):
    """The sign of a clipped value is that of the value."""

    name: ClassVar[str] = "drop-clip"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.CONVERTED, Stage.LOWERED)
    gives: ClassVar[Stage | None] = Stage.LOWERED

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        if not calls(node, dialect.sign.default) or not calls(
            argument(node), aten.hardtanh.default
        ):
            return None
        clip = argument(node)
        given = clip.args[1:3]
        low, high = (float(str(bound)) for bound in (*given, *_BOUNDS[len(given) :]))
        if not low < 0 <= high:
            return Declined(f"the clip to {low:g} .. {high:g} gives other signs")
        return gm.graph.call_function(dialect.sign.default, (argument(clip),))
