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
from qcompile.codegen.costs.ranking import INT8, margin_of, predicted
from qcompile.codegen.groups import INTEGER_CONTRACTIONS, arguments
from qcompile.codegen.kernels.contraction import methods_of
from qcompile.codegen.machine import Machine
from qcompile.codegen.schedules.cpu import NODE_RULES
from qcompile.codegen.writer import Writer
from qcompile.ir.graph import spec

_q = torch.ops.qcompile
_MUCH = 2.0  # times the time of another way in bytes


@dataclass(frozen=True)
class Comparison:
    """The layer in words beside the layer in bytes.

    Attributes:
        int8: the time of words over that of products of bytes, the geometric mean over the machines.
        best: over that of the fastest way in bytes; method: which one that is on the first machine.
        pays: whether words are to be taken.
    """

    int8: float
    best: float
    method: str
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

    Words pay where they are faster than products of bytes by more than the model's margin, unless
    another way in bytes is much faster still: what words read and store is an eighth.

    One graph is compiled for all machines of a portable program, by the means over all of them.
    """
    graphs = [graph_of(shape, words=words) for words in (True, False)]
    groups = [contraction_in(gm) for gm in graphs]
    found: list[tuple[float, float, float]] = []
    method = INT8
    for machine in machines:
        words, bytes_ = (
            predicted(gm, group, machine) for gm, group in zip(graphs, groups, strict=True)
        )
        known = coefficients_of(machine)
        if known is None or not words or INT8 not in bytes_:
            continue
        took, best = min(words.values()), min(bytes_, key=bytes_.__getitem__)
        method = method if found else best
        found.append((took / bytes_[INT8], took / bytes_[best], 1 + margin_of(known)))
    if not found:
        return None
    int8, least, margin = (_mean(values) for values in zip(*found, strict=True))
    return Comparison(int8, least, method, int8 * margin < 1 and least < _MUCH)


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def methods_in_bytes(shape: LayerShape, machine: Machine) -> tuple[str, ...]:
    """The methods that a layer of one-bit factors has where it stays in bytes."""
    gm = graph_of(shape)
    found = methods_of(Writer(gm, contraction_in(gm), machine, NODE_RULES), machine)
    return tuple(method for method in found if method is not None)
