"""Whether a layer of one-bit levels and weights is worth packing into words.

Words of 32 are mostly empty where there are few channels, and a small matrix product is over before the
bits are counted. Both forms of the layer are built, and the model says how long each would take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from qcompile.codegen.costs.layers import LayerShape, contraction_in, graph_of
from qcompile.codegen.costs.model import coefficients_of
from qcompile.codegen.costs.ranking import margin_of, pick
from qcompile.codegen.groups import INTEGER_CONTRACTIONS, arguments
from qcompile.codegen.kernels.contraction import methods_of
from qcompile.codegen.machine import Machine
from qcompile.codegen.schedules.cpu import NODE_RULES
from qcompile.codegen.writer import Writer
from qcompile.ir.graph import spec

_q = torch.ops.qcompile


@dataclass(frozen=True)
class Comparison:
    """The layer in words beside the layer in bytes.

    Attributes:
        ratio: of their times, the geometric mean over the machines.
        pays: whether words are faster by more than the models' margins.
    """

    ratio: float
    pays: bool


def shape_of(node: Node) -> LayerShape:
    """The shape of an integer convolution or matrix product of one-bit factors."""
    assert node.target in INTEGER_CONTRACTIONS, node
    levels, weight = spec(node.args[0]), spec(node.args[1])  # type: ignore[arg-type]
    low = 0 if levels.dtype is torch.uint8 else -1
    if node.target is _q.linear.default:
        return LayerShape(weight.shape[1], weight.shape[0], low=low)
    _, _, stride, padding, dilation, groups, *_ = arguments(node)
    return LayerShape(
        levels.shape[1],
        weight.shape[0],
        tuple(levels.shape[2:]),
        tuple(weight.shape[2:]),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
        low=low,
    )


def compare(shape: LayerShape, machines: Sequence[Machine]) -> Comparison | None:
    """How long words take beside bytes, each in its best way; None where no model knows both.

    One graph is compiled for all machines of a portable program: what is right for most of them by
    most is right.
    """
    graphs = [graph_of(shape, words=words) for words in (True, False)]
    groups = [contraction_in(gm) for gm in graphs]
    ratios, asked = [], []
    for machine in machines:
        known = coefficients_of(machine)
        words, bytes_ = (
            pick(gm, group, machine).seconds for gm, group in zip(graphs, groups, strict=True)
        )
        if known is not None and words is not None and bytes_ is not None:
            ratios.append(words / bytes_)
            asked.append(ratios[-1] * (1 + margin_of(known)))
    if not ratios:
        return None
    return Comparison(_mean(ratios), _mean(asked) < 1)


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def methods_in_bytes(shape: LayerShape, machine: Machine) -> tuple[str, ...]:
    """The methods that a layer of one-bit factors has where it stays in bytes."""
    gm = graph_of(shape)
    found = methods_of(Writer(gm, contraction_in(gm), machine, NODE_RULES), machine)
    return tuple(method for method in found if method is not None)
