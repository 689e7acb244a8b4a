"""Lower a binary convolution to packed words and popcount.

    conv(s, w)  ->  xnor_matmul(im2col(bitpack(s)), bits(w), k)

A convolution is the dot product of each patch with each filter. Two ±1 vectors of length k that
differ in p places have the dot product (k - p) - p = k - 2p, and p = popcount(bits(s) ^ bits(w)).
The bits past the last channel are 0 on both sides, so that they never differ.

Levels {0, 1} are a = (s + 1) / 2 for signs s with the same bits, therefore

    conv(a, w)  ->  zero_one(xnor_matmul(...), sum(w))

Padding with a = 0 is padding with s = -1: it needs no correction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from qcompile.ir.graph import add_constant
from qcompile.ir.ops import pack_words
from qcompile.ir.stages import Stage, dialect
from qcompile.passes.base import Declined, Pass
from qcompile.passes.one_bit import BinaryConv, Stays, binary_conv, never, sign_bits


@dataclass(frozen=True)
class LowerBinaryConv(Pass):
    """Convolutions of one-bit levels and weights, of 1 to 3 dimensions.

    Attributes:
        stays: which of them are left as they are.
    """

    stays: Stays = never

    name: ClassVar[str] = "lower-binary-conv"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.CONVERTED, Stage.LOWERED)
    gives: ClassVar[Stage | None] = Stage.LOWERED

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        conv = binary_conv(gm, node)
        if not isinstance(conv, BinaryConv):
            return conv
        if reason := self.stays(node):
            return Declined(reason)
        pad_sign = _pad_sign(conv)
        if pad_sign is None:
            return Declined(
                f"pads with {conv.pad_value}, which is none of its levels {conv.low} and 1"
            )
        layer, weight = str(node.meta["layer"]), conv.weight
        words = pack_words(sign_bits(weight)).flatten(1)
        graph = gm.graph
        bits = graph.call_function(dialect.bitpack.default, (conv.levels,))
        patches = graph.call_function(
            dialect.im2col.default,
            (
                bits,
                conv.channels,
                conv.groups,
                conv.kernel,
                conv.stride,
                conv.padding,
                conv.dilation,
                pad_sign,
            ),
        )
        k = math.prod(weight.shape[1:])
        acc = graph.call_function(
            dialect.xnor_matmul.default,
            (patches, add_constant(gm, f"{layer}_bits", words), k, conv.groups),
        )
        if conv.low == -1:
            return acc
        weight_sum = weight.flatten(1).sum(1).to(torch.int32)
        constant = add_constant(gm, f"{layer}_weight_sum", weight_sum)
        return graph.call_function(dialect.zero_one.default, (acc, constant))


def _pad_sign(conv: BinaryConv) -> int | None:
    """The sign whose bit is that of the padding, or None where no bit stands for it."""
    if not any(conv.padding):
        return 1
    return {conv.low: -1, 1: 1}.get(conv.pad_value)
