"""Let binary convolutions pad with +1, and take back what that added.

    conv(s, w, pad_value=0)  ->  border_correction(conv(s, w, pad_value=+1), table, classes)

Zero has no sign bit. Where a tap lies beyond the border, padding with +1 adds the tap's weight
(summed over the channels) and padding with 0 adds nothing, so that

    conv(pad 0)[o, y, x] = conv(pad +1)[o, y, x] - sum of w[o, :, i, j] over taps (i, j) outside

A tap (i, j) is inside when i is inside in y and j is inside in x. Which i are inside depends on y
alone: positions with the same set form a class, and with v the 0/1 vector of the set,

    table[o, cy, cx] = sum(w[o]) - sum over i, j of w[o, :, i, j] * v[cy, i] * v[cx, j]

That holds for any stride, dilation, kernel and padding, and for every number of dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qcompile.ir.graph import add_constant, spec
from qcompile.ir.ops import output_size
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


def border_table(
    weight: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, list[Tensor]]:
    """The weight that lies outside for each class of positions, and the positions' classes.

    Args:
        weight: integers `[O, C, *kernel]`.
        size: the input's spatial sizes.

    Returns:
        `table`, int32 `[O, *how many classes in each dimension]`, and for each dimension the class
        of each output position, int64.
    """
    kernel = weight.shape[2:]
    out = output_size(size, kernel, stride, padding, dilation)
    taps = weight.to(torch.int64).sum(1)
    total, inside = taps.flatten(1).sum(1), taps
    classes = []
    for d, n in enumerate(size):
        first = torch.arange(out[d])[:, None] * stride[d] - padding[2 * d]
        at = first + torch.arange(kernel[d]) * dilation[d]
        sets, of_position = ((at >= 0) & (at < n)).unique(dim=0, return_inverse=True)
        classes.append(of_position)
        # Contracts the first kernel dimension left, and puts its classes last.
        inside = torch.tensordot(inside, sets.to(torch.int64), dims=([1], [1]))
    table = total.reshape(-1, *[1] * len(size)) - inside
    return table.to(torch.int32), classes
