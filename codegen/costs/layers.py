"""A layer by itself, in the forms in which it may be compiled: what is compared before it is lowered.

    levels -> conv -> threshold                                  products of bytes
    levels -> bitpack -> im2col -> xnor_matmul -> threshold -> bitpack    packed words
    levels -> conv -> scale_shift -> quantize                    of more bits

Weights are random, since the time does not depend on them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qcompile.codegen.fusion import form
from qcompile.codegen.groups import CONTRACTIONS, Group
from qcompile.ir.graph import trace, verify
from qcompile.ir.ops import output_size, pack_words
from qcompile.ir.stages import Stage

_aten, _q = torch.ops.aten, torch.ops.qcompile


@dataclass(frozen=True)
class LayerShape:
    """A convolution, or a matrix product (of no spatial size), and the widths of its factors.

    Attributes:
        size: spatial sizes of the input.
        padding: `[before, after]` for each dimension.
        low: the lower of two levels, -1 or 0; more levels begin at 0.
        ternary: weights are -1, 0 and 1.
    """

    channels: int
    outputs: int
    size: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    weight_bits: int = 1
    activation_bits: int = 1
    low: int = -1
    ternary: bool = False

    @property
    def binary(self) -> bool:
        """Whether words can hold its factors."""
        return self.weight_bits == self.activation_bits == 1

    @property
    def k(self) -> int:
        """Length of its dot products."""
        return self.channels // self.groups * math.prod(self.kernel)


class _Layer(nn.Module):
    def __init__(self, shape: LayerShape, *, words: bool) -> None:
        super().__init__()
        self.shape, self.words = shape, words
        generator = torch.Generator().manual_seed(0)
        full = (shape.outputs, shape.channels // shape.groups, *shape.kernel)
        half = 1 << (shape.weight_bits - 1)
        weight = torch.randint(-half, half, full, generator=generator)
        if shape.ternary:
            weight = torch.randint(-1, 2, full, generator=generator)
        elif shape.weight_bits <= 2:
            weight = 2 * weight + 1  # with levels beside 0, as few bits have them
        if words:
            rows = pack_words(weight.movedim(1, -1) > 0).flatten(1)
            self.register_buffer("weight", rows)
        else:
            self.register_buffer("weight", weight.to(torch.int8))
        ones = torch.ones(shape.outputs)
        self.register_buffer("tau", torch.zeros_like(ones, dtype=torch.int32))
        self.register_buffer("direction", ones.to(torch.int32))
        self.register_buffer("scale", ones / math.sqrt(shape.k))
        self.register_buffer("shift", 0.5 * ones)

    def forward(self, x: Tensor) -> Any:
        low = self.shape.low
        result = self._finished(self._product(self._levels(x)))
        if self.shape.binary and self.words:
            return _q.bitpack.default(_q.threshold.default(*result, low))
        if self.shape.binary:
            result = _q.threshold.default(*result, low)
        # A pad by nothing is a kernel of its own: the layer's result lies as between two layers.
        return _aten.pad.default(result, [0, 0] * len(self.shape.size))

    def _levels(self, x: Tensor) -> Any:
        shape = self.shape
        if shape.activation_bits > 1:
            return _q.quantize.default(x, 0.02, 0, 0, (1 << shape.activation_bits) - 1)
        return _q.sign.default(x) if shape.low < 0 else _q.quantize_unit.default(x, 1)

    def _product(self, levels: Any) -> Any:
        shape = self.shape
        geometry = [list(shape.stride), list(shape.padding), list(shape.dilation)]
        if not self.words:
            if not shape.size:
                return _q.linear.default(levels, self.weight, 0)
            return _q.conv.default(levels, self.weight, *geometry, shape.groups, 0, 0)
        bits = _q.bitpack.default(levels)
        if shape.size:
            kernel = list(shape.kernel)
            bits = _q.im2col.default(bits, shape.channels, shape.groups, kernel, *geometry, 1)
        return _q.xnor_matmul.default(bits, self.weight, shape.k, shape.groups)

    def _finished(self, acc: Any) -> Any:
        if self.shape.binary:
            return acc, self.tau, self.direction
        real = _aten.relu.default(_q.scale_shift.default(acc, self.scale, self.shift))
        return _q.quantize.default(real, 0.1, 0, 0, (1 << self.shape.activation_bits) - 1)


def graph_of(shape: LayerShape, *, words: bool = False) -> GraphModule:
    """The layer as a lowered graph; its input is float.

    Args:
        words: packed; the shape must be binary.
    """
    x = torch.zeros(2, shape.channels, *shape.size)
    gm = trace(_Layer(shape, words=words), [x])
    gm.meta["stage"] = Stage.LOWERED
    verify(gm)
    return gm


def contraction_in(gm: GraphModule) -> Group:
    """The group of the only contraction."""
    [group] = [g for g in form(gm) if g.anchor.target in CONTRACTIONS]
    return group


def conv(
    channels: int, outputs: int, size: int, kernel: int = 3, *, stride: int = 1, **more: Any
) -> LayerShape:
    """A square convolution, padded so that it keeps the size at stride 1."""
    return LayerShape(
        channels,
        outputs,
        (size, size),
        (kernel, kernel),
        (stride, stride),
        (kernel // 2,) * 4,
        (1, 1),
        **more,
    )


def pixels_of(shape: LayerShape) -> int:
    """Places at which a layer computes its outputs."""
    if not shape.size:
        return 1
    geometry = (shape.size, shape.kernel, shape.stride, shape.padding, shape.dilation)
    return math.prod(output_size(*geometry))
