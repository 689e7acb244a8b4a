"""Lower a binary linear layer to packed words and popcount.

    linear(s, w)  ->  xnor_matmul(bitpack(s), bits(w), k)
    linear(a, w)  ->  zero_one(xnor_matmul(bitpack(a), bits(w), k), sum(w))    for levels {0, 1}

The proof is that of lower-binary-conv, with one patch, which is the whole input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from qcompile.ir.graph import add_constant, calls, constant_of, spec
from qcompile.ir.ops import pack_words
from qcompile.ir.stages import Stage, dialect
from qcompile.passes.base import Declined, Pass
from qcompile.passes.one_bit import Stays, argument, is_signs, low_level, never, sign_bits


@dataclass(frozen=True)
class LowerBinaryLinear(Pass):
    """Linear layers of one-bit levels and weights.

    Attributes:
        stays: which of them are left as they are.
    """

    stays: Stays = never

    name: ClassVar[str] = "lower-binary-linear"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.CONVERTED, Stage.LOWERED)
    gives: ClassVar[Stage | None] = Stage.LOWERED

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        if not calls(node, dialect.linear.default):
            return None
        levels, weight = argument(node), constant_of(gm, argument(node, 1))
        low = low_level(levels)
        if low is None or weight is None or node.args[2] != 0 or not is_signs(weight):
            return None
        rank = len(spec(levels).shape)
        if rank != 2:
            return Declined(f"its input has {rank} dimensions, words are packed along the second")
        if reason := self.stays(node):
            return Declined(reason)
        layer = str(node.meta["layer"])
        graph = gm.graph
        bits = graph.call_function(dialect.bitpack.default, (levels,))
        words = add_constant(gm, f"{layer}_bits", pack_words(sign_bits(weight)))
        acc = graph.call_function(dialect.xnor_matmul.default, (bits, words, weight.shape[1], 1))
        if low == -1:
            return acc
        constant = add_constant(gm, f"{layer}_weight_sum", weight.sum(1).to(torch.int32))
        return graph.call_function(dialect.zero_one.default, (acc, constant))
