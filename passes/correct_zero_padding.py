"""Let binary convolutions pad with +1, and take back what that added.

    conv(s, w, pad_value=0)  ->  border_correction(conv(s, w, pad_value=+1), table, classes)

Zero has no sign bit. Where a tap lies beyond the border, padding with +1 adds the tap's weight
(summed over the channels) and padding with 0 adds nothing, so that

    conv(pad 0)[o, y, x] = conv(pad +1)[o, y, x] - sum of w[o, :, i, j] over taps (i, j) outside

What lies outside where: `ir/borders.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.fx import GraphModule, Node

from qcompile.ir.borders import border_table
from qcompile.ir.graph import add_constant, spec
from qcompile.ir.stages import Stage, dialect
from qcompile.passes.base import Declined, Pass
from qcompile.passes.one_bit import BinaryConv, Stays, binary_conv, never


@dataclass(frozen=True)
class CorrectZeroPadding(Pass):
    """Pad ±1 levels with +1 instead of 0, exactly.

    Attributes:
        stays: which layers lower-binary-conv leaves as they are: 8 bits have a zero.
    """

    stays: Stays = never

    name: ClassVar[str] = "correct-zero-padding"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.CONVERTED, Stage.LOWERED)
    gives: ClassVar[Stage | None] = Stage.LOWERED

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        conv = binary_conv(gm, node)
        if not isinstance(conv, BinaryConv):  # lower-binary-conv says why
            return None
        if conv.low != -1 or conv.pad_value != 0 or not any(conv.padding) or self.stays(node):
            return None
        size = spec(conv.levels).shape[2:]
        table, classes = border_table(conv.weight, size, conv.stride, conv.padding, conv.dilation)
        layer = str(node.meta["layer"])
        padded = gm.graph.call_function(dialect.conv.default, (*node.args[:7], 1))
        nodes = [add_constant(gm, f"{layer}_border_class", c) for c in classes]
        return gm.graph.call_function(
            dialect.border_correction.default,
            (padded, add_constant(gm, f"{layer}_border_table", table), nodes),
        )
