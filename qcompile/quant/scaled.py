"""Products of levels and what they are worth, lean in training.

The expression is that of `ir.ops.scaled_shifted`, two float32 roundings, written over the sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qcompile.ir import ops
from qcompile.quant.functions import per_filter


@dataclass(frozen=True)
class Geometry:
    """Of a convolution, as torch takes it; padding is the same on both sides."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    def convolve(self, levels: Tensor, weight: Tensor) -> Tensor:
        """Sums of products, 1 to 3 spatial dimensions by the weight's rank."""
        function: Any = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
        sizes = (self.stride, self.padding, self.dilation, self.groups)
        return function(levels, weight, None, *sizes)


def scaled_shifted(acc: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    """`acc * scale + shift`; `acc`, which nobody else reads, is written over."""
    if scale.requires_grad or acc.dtype is not torch.float32:
        return ops.scaled_shifted(acc, scale, shift)
    y = acc.mul_(ops.per_channel(scale, acc))
    return y if shift is None else y.add_(ops.per_channel(shift, y))


class _ScaledConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        levels: Tensor,
        weight: Tensor,
        scale: Tensor,
        shift: Tensor | None,
        geometry: Geometry,
    ) -> Tensor:
        ctx.save_for_backward(levels, weight, scale)
        ctx.geometry = geometry
        return scaled_shifted(geometry.convolve(levels, weight), scale.detach(), shift)

    @staticmethod
    def backward(
        ctx: Any, g: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, None]:
        levels, weight, scale = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        scales = per_filter(scale, weight)
        geometry = ctx.geometry
        # The scale multiplies the few weights, on their way in and out, and not all of g.
        to_levels, to_taps, to_shift = torch.ops.aten.convolution_backward(
            g,
            levels,
            weight * scales,
            list(scale.shape),
            list(geometry.stride),
            list(geometry.padding),
            list(geometry.dilation),
            False,
            [0] * (weight.dim() - 2),
            geometry.groups,
            [wanted[0], wanted[1] or wanted[2], wanted[3]],
        )
        # acc = sum(levels * weight), so that sum(g * acc) = sum(weight * sum(g * levels)).
        to_scale = (weight * to_taps).flatten(1).sum(1) if wanted[2] else None
        to_weight = to_taps * scales if wanted[1] else None
        return to_levels, to_weight, to_scale, to_shift, None


def scaled_conv(
    levels: Tensor, weight: Tensor, scale: Tensor, shift: Tensor | None, geometry: Geometry
) -> Tensor:
    """`convolve(levels, weight) * scale + shift` for each channel, differentiable in all four.

    Args:
        levels, weight: float32 `[N, C, *spatial]`, `[O, C / groups, *kernel]`.
        scale, shift: float32 `[O]`.
    """
    y: Tensor = _ScaledConv.apply(levels, weight, scale, shift, geometry)
    return y
