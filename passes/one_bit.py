"""Which operands have one bit: what the binary lowerings ask of a layer before they touch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qcompile.ir.graph import calls, constant_of, spec
from qcompile.ir.ops import WORD
from qcompile.ir.stages import aten, dialect
from qcompile.passes.base import Declined

# Why a layer of one-bit levels and weights, given by its convolution or matrix product, stays integers
# of 8 bits; "" where it does not. Which form is faster, passes cannot know.
Stays = Callable[[Node], str]


def never(node: Node) -> str:
    """All layers of one-bit levels and weights are packed."""
    return ""


def argument(node: Node, index: int = 0) -> Node:
    """A node's argument that is a node."""
    value = node.args[index]
    assert isinstance(value, Node), f"argument {index} of {node.format_node()} is no node"
    return value


def integer(node: Node, index: int) -> int:
    """A node's argument that is an integer."""
    value = node.args[index]
    assert isinstance(value, int), f"argument {index} of {node.format_node()} is no integer"
    return value


def integers(node: Node, index: int) -> list[int]:
    """A node's argument that is a list of integers, as a list of its own."""
    value = node.args[index]
    assert isinstance(value, (list, tuple)), f"argument {index} of {node.format_node()} is no list"
    return [v for v in value if isinstance(v, int)]


def low_level(node: Node) -> int | None:
    """The lower one of a two-level tensor's levels, -1 or 0 (the upper one is 1); None for others."""
    if calls(node, dialect.sign.default):
        return -1
    if calls(node, dialect.quantize_unit.default):
        return 0 if node.args[1] == 1 else None
    if calls(node, dialect.threshold.default):
        return integer(node, 3)
    return low_level(argument(node)) if calls(node, aten.flatten.using_ints) else None


def is_signs(weight: Tensor) -> bool:
    """Whether every element is +1 or -1."""
    return bool((weight.abs() == 1).all())


@dataclass(frozen=True)
class BinaryConv:
    """A convolution whose levels and weights have one bit each.

    Attributes:
        levels: the node of the levels; low: their lower level, -1 or 0.
        weight: ±1, `[O, C / groups, *kernel]`.
        pad_value: what stands beyond the border, in units of the levels.
    """

    levels: Node
    low: int
    weight: Tensor
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    pad_value: int

    @property
    def channels(self) -> int:
        return spec(self.levels).shape[1]

    @property
    def kernel(self) -> list[int]:
        return list(self.weight.shape[2:])


def binary_conv(gm: GraphModule, node: Node) -> BinaryConv | Declined | None:
    """Read a convolution as a binary one; None if it is none, Declined if words do not hold it."""
    if not calls(node, dialect.conv.default):
        return None
    levels, weight = argument(node), constant_of(gm, argument(node, 1))
    stride, padding, dilation = (integers(node, i) for i in (2, 3, 4))
    groups, zero_point, pad_value = (integer(node, i) for i in (5, 6, 7))
    low = low_level(levels)
    if low is None or weight is None or zero_point != 0 or not is_signs(weight):
        return None
    if groups > 1 and weight.shape[1] % WORD:
        count = f"{weight.shape[1]} channel{'s' if weight.shape[1] > 1 else ''}"
        return Declined(f"groups={groups} leaves {count} a group, a word holds {WORD}")
    return BinaryConv(levels, low, weight, stride, padding, dilation, groups, pad_value)


def sign_bits(weight: Tensor) -> Tensor:
    """For each element of ±1 weights `[O, C, *kernel]` whether it is +1, channels last."""
    return torch.movedim(weight, 1, -1) > 0
