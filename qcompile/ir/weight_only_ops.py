"""The dialect's weight-only ops: float activations, integer levels as weights.

What the levels are worth is the affair of the `scale_shift` that follows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from qcompile.ir.ops import output_size, pad_spatial


@torch.library.custom_op("qcompile::weight_only_conv", mutates_args=())
def weight_only_conv(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolution of 1 to 3 spatial dimensions: `sum(x * float32(weight))`, in any order.

    Args:
        x: float32 `[N, C, *spatial]`; zeros stand beyond the border.
        weight: levels `[O, C / groups, *kernel]`, int8 or int16.

    Returns:
        float32 `[N, O, *out]`.
    """
    before, after = list(padding[::2]), list(padding[1::2])
    # As QuantConv does: torch sums in another order where the input was padded beforehand.
    if before != after:
        x, before = pad_spatial(x, padding, 0), [0] * len(before)
    function = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
    taps = weight.to(torch.float32)
    return function(x, taps, None, list(stride), before, list(dilation), groups)


@weight_only_conv.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    size = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    return x.new_empty([x.shape[0], weight.shape[0], *size])


@torch.library.custom_op("qcompile::weight_only_linear", mutates_args=())
def weight_only_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Matrix product `x @ float32(weight).T`: float32 `[N, K]`, levels `[O, K]` to float32 `[N, O]`."""
    return x @ weight.to(torch.float32).T


@weight_only_linear.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty([*x.shape[:-1], weight.shape[0]])
