"""Remove what is the identity at inference.

    dropout(x)  ->  x

Dropout scales by 1 / (1 - p) while it trains, so that in eval mode it has nothing to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.fx import GraphModule, Node

from qcompile.ir.graph import module_of
from qcompile.ir.stages import Stage
from qcompile.passes.base import Declined, Pass

DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


@dataclass(frozen=True)
class RemoveDropout(Pass):
    """Equal to the bit in eval mode, and only there."""

    name: ClassVar[str] = "remove-dropout"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.PREPARED,)

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        source = node.args[0] if node.args else None
        dropped = isinstance(module_of(gm, node), DROPOUTS) and isinstance(source, Node)
        return source if dropped else None  # type: ignore[return-value]
