"""The dialect's ops of dynamic quantization: levels whose range is that of the values at hand.

Each sample has its own range, so that no result depends on the rest of its batch:

    qparams = dynamic_qparams(x, bits)                        [N, 2]
    levels  = dynamic_quantize(x, qparams, bits)              [N, K]
    acc     = linear(levels, weight, 0)                       [N, O]
    y       = dynamic_scale_shift(acc, qparams, weight_sum, scale, shift)

The functions without a decorator are what the training's forward shares with the ops.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcompile.ir.ops import per_channel
from qcompile.ir.qparams import QScheme, qparams_of_range


def dynamic_range_qparams(x: Tensor, bits: int) -> Tensor:
    """Scale and zero point (an integer) of each sample's range, widened to hold 0: `[N, ...]` to float32 `[N, 2]`.

    The levels are 0 .. 2^bits - 1, of 2 to 8 bits. NaN has no part in the range. Where the range
    is too wide for float32 (an infinity does that), the scale is infinite and the zero point 0.
    """
    rows = torch.where(x.isnan(), 0, x).flatten(1)
    low, high = torch.aminmax(rows, dim=1)
    qparams = qparams_of_range(low, high, bits, QScheme.PER_CHANNEL_AFFINE, axis=0)
    zero_point = torch.where(qparams.scale.isinf(), 0, qparams.zero_point)
    return torch.stack([qparams.scale, zero_point.to(torch.float32)], dim=1)


def per_sample(column: Tensor, like: Tensor) -> Tensor:
    """Reshape `[N]` so that it broadcasts over dimension 0 of `like`."""
    return column.reshape(-1, *[1] * (like.dim() - 1))


def dynamic_levels(x: Tensor, qparams: Tensor, bits: int) -> Tensor:
    """`clamp(round(x / scale) + zero_point, 0, 2^bits - 1)` by sample in float32; 0 for NaN."""
    scale, zero_point = (per_sample(column, x) for column in qparams.unbind(1))
    levels = torch.clamp(torch.round(x / scale) + zero_point, 0, 2**bits - 1)
    return torch.where(levels.isnan(), 0, levels)


def dynamic_scaled_shifted(
    centred: Tensor, qparams: Tensor, scale: Tensor, shift: Tensor | None
) -> Tensor:
    """`centred * (sample's scale * scale) + shift`: three float32 roundings, never a fused multiply-add.

    Args:
        centred: `sum((level - zero_point) * weight)`, `[N, O]`.
        scale, shift: float32 `[O]` (or `[1]`).
    """
    factor = per_sample(qparams[:, 0], centred) * per_channel(scale, centred)
    y = centred.to(torch.float32) * factor
    return y if shift is None else y + per_channel(shift, y)


@torch.library.custom_op("qcompile::dynamic_qparams", mutates_args=())
def dynamic_qparams(x: Tensor, bits: int) -> Tensor:
    """Each sample's scale and zero point: float32 `[N, ...]` to float32 `[N, 2]`."""
    return dynamic_range_qparams(x, bits)


@dynamic_qparams.register_fake
def _(x: Tensor, bits: int) -> Tensor:
    return x.new_empty([x.shape[0], 2])


@torch.library.custom_op("qcompile::dynamic_quantize", mutates_args=())
def dynamic_quantize(x: Tensor, qparams: Tensor, bits: int) -> Tensor:
    """Levels 0 .. 2^bits - 1 by each sample's scale and zero point: float32 to uint8; 0 for NaN.

    Args:
        x: `[N, ...]`.
        qparams: float32 `[N, 2]`, of `dynamic_qparams` with the same bits.
    """
    return dynamic_levels(x, qparams, bits).to(torch.uint8)


@dynamic_quantize.register_fake
def _(x: Tensor, qparams: Tensor, bits: int) -> Tensor:
    return torch.empty_like(x, dtype=torch.uint8)


@torch.library.custom_op("qcompile::dynamic_scale_shift", mutates_args=())
def dynamic_scale_shift(
    acc: Tensor, qparams: Tensor, weight_sum: Tensor, scale: Tensor, shift: Tensor | None
) -> Tensor:
    """`float32(acc - zero_point * weight_sum) * (sample's scale * scale) + shift`, each step rounded.

    Args:
        acc: int32 `[N, O]`, the product of levels (with their zero point in them) and weights.
        qparams: float32 `[N, 2]`, those of the levels.
        weight_sum: int32 `[O]`, the sum of each row of weights.
        scale, shift: float32 `[O]` (or `[1]`).
    """
    zero_point = per_sample(qparams[:, 1].to(torch.int32), acc)
    centred = acc - zero_point * per_channel(weight_sum, acc)
    return dynamic_scaled_shifted(centred, qparams, scale, shift)


@dynamic_scale_shift.register_fake
def _(
    acc: Tensor, qparams: Tensor, weight_sum: Tensor, scale: Tensor, shift: Tensor | None
) -> Tensor:
    return torch.empty_like(acc, dtype=torch.float32)
