"""A quantized layer beside the float layer that it is made of: what bias correction asks of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcompile.ir import ops
from qcompile.quant.layers import QuantLayer


def float_forward(layer: QuantLayer, x: Tensor) -> Tensor:
    """What the layer would give with neither x nor its weight quantized; K is not in it."""
    acc = layer._accumulate(x, layer.weight)
    ones = layer.weight.new_ones(layer.weight.shape[0])
    return ops.scaled_shifted(acc, *layer._normalized(ones))


@torch.no_grad()
def shift_result(layer: QuantLayer, amount: Tensor) -> None:
    """Add float32 `[O]` to the result at inference, by the bias or the absorbed BatchNorm's mean.

    A layer with neither gets a bias.
    """
    if layer.absorbs_norm:
        assert layer._norm is not None
        assert layer._norm.running_mean is not None
        scale, _ = layer._norm.scale_shift()
        layer._norm.running_mean.sub_(torch.where(scale == 0, 0.0, amount / scale))
    elif layer.bias is None:
        layer.bias = nn.Parameter(amount.clone())
    else:
        layer.bias.add_(amount)
