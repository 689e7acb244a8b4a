"""What one kernel computes: a group of nodes, and the kinds of ops that decide how it is scheduled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from qcompile.ir.graph import calls, spec

_aten, _dialect = torch.ops.aten, torch.ops.qcompile

INTEGER_CONTRACTIONS = frozenset({_dialect.conv.default, _dialect.linear.default})
FLOAT_CONTRACTIONS = frozenset({_aten.convolution.default, _aten.linear.default})
# Floats times integer levels.
WEIGHT_ONLY = frozenset({_dialect.weight_only_conv.default, _dialect.weight_only_linear.default})
CONTRACTIONS = (
    INTEGER_CONTRACTIONS | FLOAT_CONTRACTIONS | WEIGHT_ONLY | {_dialect.xnor_matmul.default}
)
POOLS = frozenset(
    {
        _aten.max_pool1d.default,
        _aten.max_pool2d.default,
        _aten.max_pool3d.default,
        _aten.avg_pool1d.default,
        _aten.avg_pool2d.default,
        _aten.avg_pool3d.default,
        _dialect.bit_maxpool.default,
    }
)
REDUCTIONS = frozenset({_aten.mean.dim, _aten.amax.default})
SAMPLE_RANGE = _dialect.dynamic_qparams.default
SOFTMAXES = frozenset({_aten.softmax.int, _aten.log_softmax.int})
CAT = _aten.cat.default
MOVES = frozenset({_aten.pad.default, CAT, _dialect.im2col.default})
FLATTEN = _aten.flatten.using_ints
BITPACK = _dialect.bitpack.default
TO_INTEGERS = frozenset(
    {
        _dialect.sign.default,
        _dialect.quantize.default,
        _dialect.quantize_unit.default,
        _dialect.dynamic_quantize.default,
    }
)
# They read constants by channel or place, or a sample's parameters.
BY_PLACE = frozenset(
    {
        _dialect.scale_shift.default,
        _dialect.dynamic_quantize.default,
        _dialect.dynamic_scale_shift.default,
        _dialect.threshold.default,
        _dialect.zero_one.default,
        _dialect.border_correction.default,
        _aten.prelu.default,
    }
)
_APPROXIMATED = frozenset(
    {
        _aten.sigmoid.default,
        _aten.tanh.default,
        _aten.silu.default,
        _aten.gelu.default,
    }
)
ELEMENTWISE = (
    TO_INTEGERS
    | BY_PLACE
    | _APPROXIMATED
    | {
        _aten.relu.default,
        _aten.hardtanh.default,
        _aten.leaky_relu.default,
        _aten.hardsigmoid.default,
        _aten.hardswish.default,
        _aten.abs.default,
        _aten.neg.default,
        _aten.add.Tensor,
        _aten.sub.Tensor,
        _aten.mul.Tensor,
        _aten.div.Tensor,
        _aten.add.Scalar,
        _aten.mul.Scalar,
    }
)
# Equal to torch's result within a tolerance, not to the bit: the order of additions, or a polynomial.
# Where signs and levels are taken from such a value, it is stored, so that it can be seen.
INEXACT = (
    FLOAT_CONTRACTIONS
    | WEIGHT_ONLY
    | SOFTMAXES
    | _APPROXIMATED
    | {
        _aten.mean.dim,
        _aten.avg_pool1d.default,
        _aten.avg_pool2d.default,
        _aten.avg_pool3d.default,
    }
)
FOLLOWED = CONTRACTIONS | POOLS | REDUCTIONS | ELEMENTWISE | {_aten.pad.default}


@dataclass(frozen=True)
class Group:
    """The nodes of one kernel: an anchor, and a tree of elementwise nodes that follow it.

    Attributes:
        nodes: what is computed, in an order in which it can be.
        anchor: what decides how the kernel is scheduled, and whose layer it stands for.
        results: the nodes whose values are stored, in the order of `nodes`.
    """

    nodes: tuple[Node, ...]
    anchor: Node
    results: tuple[Node, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The activations that the group reads, in order of first use."""
        found: dict[Node, None] = {}
        for node in self.nodes:
            for value in activations(node):
                if value not in self.nodes:
                    found[value] = None
        return tuple(found)

    @property
    def pool(self) -> Node | None:
        """The pooling of a contraction's result, where one kernel computes both."""
        after = self.nodes[self.nodes.index(self.anchor) + 1 :]
        return next((n for n in after if n.target in POOLS), None)

    @property
    def packs(self) -> bool:
        """Whether a result is words of signs, packed here."""
        return any(calls(node, BITPACK) for node in self.results)

    @property
    def kind(self) -> str:
        """What the arithmetic is, in a word for reports."""
        target = self.anchor.target
        if target is _dialect.xnor_matmul.default:
            return "xnor-popcount"
        if target in INTEGER_CONTRACTIONS:
            return "int8"
        if target in FLOAT_CONTRACTIONS:
            return "float32"
        if target in WEIGHT_ONLY:
            return "weight-only"
        if target in POOLS | REDUCTIONS:
            return "pool"
        if target is SAMPLE_RANGE:
            return "range"
        if target in SOFTMAXES:
            return "softmax"
        if target in MOVES:
            return "copy"
        return "pack" if self.packs and len(self.results) == 1 else "elementwise"


def activations(node: Node) -> list[Node]:
    """The values that a node reads, constants left out."""
    return [value for value in node.all_input_nodes if value.op != "get_attr"]


def whole(node: Node) -> Node:
    """The value that a node is a view of, itself if it is none."""
    while node.target is FLATTEN:
        node = node.args[0]  # type: ignore[assignment]
    return node


def arguments(node: Node) -> list[Any]:
    """The arguments of a call in the order of the op's schema, defaults filled in."""
    found = []
    for i, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if i < len(node.args):
            found.append(node.args[i])
        elif argument.name in node.kwargs:
            found.append(node.kwargs[argument.name])
        else:
            found.append(argument.default_value if argument.has_default_value() else None)
    return found


def sizes(value: Any, rank: int) -> tuple[int, ...]:
    """A number for each dimension, where the schema also takes one for all."""
    values = (value,) if isinstance(value, int) else tuple(int(v) for v in value)
    return values * rank if len(values) == 1 else values


def groups_of(node: Node) -> int:
    """The groups of a convolution or of a product of packed signs; 1 for other ops."""
    at = {
        _dialect.conv.default: 5,
        _dialect.weight_only_conv.default: 5,
        _aten.convolution.default: 8,
        _dialect.xnor_matmul.default: 3,
    }
    return int(arguments(node)[at[node.target]]) if node.target in at else 1


def macs_of(node: Node) -> int:
    """Multiply-accumulates of a sample, of a convolution or matrix product; 0 for other ops."""
    if node.target not in CONTRACTIONS:
        return 0
    outputs = math.prod(spec(node).shape[1:])
    if node.target is _dialect.xnor_matmul.default:
        return outputs * int(arguments(node)[2])
    return outputs * math.prod(spec(arguments(node)[1]).shape[1:])


def pads_channels(node: Node) -> bool:
    """Whether a pad moves dimension 1, so that a vector of channels has no one place in the source."""
    if node.target is not _aten.pad.default:
        return False
    padding = arguments(node)[1]
    first = 2 * (len(spec(node).shape) - 2)  # the last dimension comes first
    return any(padding[first : first + 2])
