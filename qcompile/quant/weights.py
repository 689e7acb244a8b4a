"""Weight quantizers: `forward(weight)` gives integer levels and what one level is worth.

Levels are float32 of the weight's shape, scales float32 `[O]` or `[1]`. Their product is the
quantized weight, and both carry the gradients of the paper. Formulas are in functions.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcompile.ir.graph import Leaf
from qcompile.ir.qparams import QScheme, qparams_of_range
from qcompile.quant import functions, learned
from qcompile.quant.activations import check_bits


class WeightQuantizer(Leaf):
    """Base of all.

    Attributes:
        bits: 1 to 8.
        max_level: the largest |level|.
        clips: whether weights beyond ±1 get no gradient, so that training must keep them inside.
    """

    bits: int
    max_level: int
    clips: bool = False

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Levels like `weight` `[O, ...]`, and scale `[O]` or `[1]`."""
        raise NotImplementedError

    @property
    def levels(self) -> tuple[int, int]:
        """Lowest and highest level."""
        return -self.max_level, self.max_level

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class SignWeight(WeightQuantizer):
    """Base of those with two levels, ±1, and a scale per filter."""

    bits = 1
    max_level = 1
    clips = True


class MagnitudeSignWeight(SignWeight):
    """Bi-Real Net: sign times mean |w| of the filter, the latter a constant."""

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return functions.magnitude_sign(weight)


class XnorWeight(SignWeight):
    """XNOR-Net: sign times mean |w| of the filter, with the exact gradient or the paper's."""

    def __init__(self, paper_gradient: bool = False) -> None:
        super().__init__()
        self.paper_gradient = paper_gradient

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return functions.xnor_weight(weight, self.paper_gradient)


class DorefaWeight(WeightQuantizer):
    """DoReFa-Net: ±1 times mean |w| of the layer, or odd levels of tanh(w) for 2 to 8 bits."""

    def __init__(self, bits: int) -> None:
        check_bits(bits, 1)
        super().__init__()
        self.bits = bits
        self.max_level = 2**bits - 1

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return functions.dorefa_weight(weight, self.bits)


class TernaryWeight(WeightQuantizer):
    """Ternary Weight Networks: -1, 0 or +1 times a scale per filter."""

    bits = 2
    max_level = 1
    clips = True

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return functions.ternary_weight(weight)


class AffineWeight(WeightQuantizer):
    """Symmetric levels of 2 to 8 bits, a scale per filter from the filter's largest |w|."""

    def __init__(self, bits: int) -> None:
        check_bits(bits, 2)
        super().__init__()
        self.bits = bits
        self.max_level = 2 ** (bits - 1) - 1

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        rows = weight.detach().flatten(1)
        p = qparams_of_range(
            rows.amin(1), rows.amax(1), self.bits, QScheme.PER_CHANNEL_SYMMETRIC, axis=0
        )
        # The range holds every weight, so that none is clipped.
        return functions.rounded(weight, functions.per_filter(p.scale, weight)), p.scale


class LsqWeight(WeightQuantizer):
    """LSQ (arXiv 1902.08153): levels -2^(bits - 1) .. 2^(bits - 1) - 1, one learned step for the layer.

    The weights that the first forward finds say where the step starts.
    """

    known: Tensor

    def __init__(self, bits: int) -> None:
        check_bits(bits, 2)
        super().__init__()
        self.bits = bits
        self.max_level = 2 ** (bits - 1)
        self.step = nn.Parameter(torch.ones(()))
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))

    @property
    def levels(self) -> tuple[int, int]:
        return -self.max_level, self.max_level - 1

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (weight.new_full((), level) for level in self.levels)
        if learned.unsettled(self.known, weight):
            first = learned.lsq_first_step(weight.detach(), high)
            learned.settle(self.step, self.known, first)
        step = learned.positive(self.step)
        levels = learned.lsq_levels(weight, step, low, high, weight.numel())
        return levels, step.detach().reshape(1)
