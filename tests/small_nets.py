"""Small networks that call dialect ops themselves, and the constants they are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qcompile.ir.stages import dialect


class Net(nn.Module):
    """`forward(x) = function(x, **constants)`, the constants as buffers."""

    def __init__(self, function: Callable[..., object], **constants: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in constants.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> object:
        return self.function(x, **dict(self.named_buffers()))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def signs(*shape: int, seed: int = 0) -> Tensor:
    """Random ±1, int8."""
    return torch.where(torch.rand(*shape, generator=generator(seed)) < 0.5, -1, 1).to(torch.int8)


def levels(low: int, high: int, *shape: int, seed: int = 0) -> Tensor:
    """Random integers low .. high, int8 where they fit, else int16."""
    values = torch.randint(low, high + 1, shape, generator=generator(seed))
    return values.to(torch.int8 if low >= -128 and high <= 127 else torch.int16)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Random float32 of a normal distribution, some of them zeros of either sign."""
    x = torch.randn(*shape, generator=generator(seed))
    zero = torch.rand(*shape, generator=generator(seed + 1)) < 0.1
    return torch.where(zero, x * 0.0, x)


def conv(
    x: Tensor,
    w: Tensor,
    stride: int = 1,
    padding: int = 0,
    *,
    groups: int = 1,
    zero_point: int = 0,
    pad_value: int = 0,
) -> Tensor:
    """The dialect's convolution, the same in every dimension."""
    rank = w.dim() - 2
    return dialect.conv.default(
        x, w, [stride] * rank, [padding] * 2 * rank, [1] * rank, groups, zero_point, pad_value
    )
