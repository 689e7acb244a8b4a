"""Scale and zero point of an affine quantizer, and how they follow from a range."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor


class QScheme(Enum):
    """torch's four qschemes."""

    PER_TENSOR_AFFINE = "per_tensor_affine"
    PER_TENSOR_SYMMETRIC = "per_tensor_symmetric"
    PER_CHANNEL_AFFINE = "per_channel_affine"
    PER_CHANNEL_SYMMETRIC = "per_channel_symmetric"

    @property
    def symmetric(self) -> bool:
        return self in (QScheme.PER_TENSOR_SYMMETRIC, QScheme.PER_CHANNEL_SYMMETRIC)


@dataclass(frozen=True)
class QParams:
    """`real = scale * (level - zero_point)`.

    Attributes:
        scale: float32, 0-d per tensor or `[C]` per channel, above 0.
        zero_point: int32 of the same shape; 0 where symmetric.
        bits: 2 to 8.
        axis: the channel dimension, or None per tensor.
    """

    scale: Tensor
    zero_point: Tensor
    bits: int
    qscheme: QScheme
    axis: int | None = None

    @property
    def qmin(self) -> int:
        """Lowest level: -(2^(bits-1) - 1) symmetric, so that the levels mirror; 0 affine."""
        return -(2 ** (self.bits - 1) - 1) if self.qscheme.symmetric else 0

    @property
    def qmax(self) -> int:
        """Highest level: 2^(bits-1) - 1 symmetric, 2^bits - 1 affine."""
        return 2 ** (self.bits - 1) - 1 if self.qscheme.symmetric else 2**self.bits - 1

    def centred(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest level less the zero point, float32 of its shape."""
        zero_point = self.zero_point.to(torch.float32)
        return self.qmin - zero_point, self.qmax - zero_point


def qparams_of_range(
    low: Tensor, high: Tensor, bits: int, qscheme: QScheme, axis: int | None = None
) -> QParams:
    """The parameters that cover `[low, high]` (float32, 0-d or `[C]`), widened to hold 0.

    The formulas are those of Jacob et al. 2018 (arXiv 1712.05877). A range of no width gets scale 1.
    """
    low, high = torch.clamp(low, max=0.0), torch.clamp(high, min=0.0)
    if qscheme.symmetric:
        scale = torch.maximum(-low, high) / float(2 ** (bits - 1) - 1)
    else:
        scale = (high - low) / float(2**bits - 1)
    # Below the smallest normal number, x / scale would overflow.
    scale = torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
    if qscheme.symmetric:
        zero_point = torch.zeros_like(scale, dtype=torch.int32)
    else:
        zero_point = torch.clamp(torch.round(-low / scale), 0, 2**bits - 1).to(torch.int32)
    return QParams(scale.to(torch.float32), zero_point, bits, qscheme, axis)
