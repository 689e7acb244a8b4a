"""Activation quantizers: floats to integer levels, with the gradient of the paper.

`forward(x)` gives `level - zero_point` as float32, and what one step is worth: times each other they
are the fake-quantized x, with its straight-through gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcompile.errors import QCompileError
from qcompile.ir.dynamic_ops import dynamic_levels, dynamic_range_qparams
from qcompile.ir.graph import Leaf
from qcompile.ir.plan import FLOAT_BITS
from qcompile.ir.qparams import QParams, QScheme
from qcompile.quant import functions, learned
from qcompile.quant.observers import Observer

ESTIMATORS = {
    "ste": functions.sign_ste,
    "approx": functions.approx_sign,
    "swish": functions.swish_sign,
}


class ActivationQuantizer(Leaf):
    """Base of all: `bits`, and the largest |level - zero_point| in `max_level`."""

    bits: int
    max_level: int

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Levels less zero point, float32, of x's shape; what one is worth, 0-d (dynamic: `[N, 1]`)."""
        raise NotImplementedError

    def scale(self) -> Tensor:
        """What one level is worth as far as x does not decide that, 0-d float32."""
        raise NotImplementedError

    def saturated(self, x: Tensor) -> Tensor:
        """Where the straight-through gradient is cut off: bool, of x's shape."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class _FixedScale(ActivationQuantizer):
    step: Tensor

    def __init__(self, bits: int, step: float) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("step", torch.tensor(step), persistent=False)

    def scale(self) -> Tensor:
        return self.step


class SignActivation(_FixedScale):
    """±1; `estimator` names the gradient: "ste", "approx" (Bi-Real Net) or "swish" (BNN+).

    Raises:
        QCompileError: unknown estimator.
    """

    max_level = 1

    def __init__(self, estimator: str = "ste") -> None:
        super().__init__(1, 1.0)
        if estimator not in ESTIMATORS:
            raise QCompileError(
                f"unknown estimator {estimator!r}", hint=f"estimators: {', '.join(ESTIMATORS)}"
            )
        self.estimator = estimator

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return ESTIMATORS[self.estimator](x), self.step

    def saturated(self, x: Tensor) -> Tensor:
        return x.abs() > 1

    def extra_repr(self) -> str:
        return f"estimator={self.estimator!r}"


class UnitActivation(_FixedScale):
    """DoReFa-Net's levels 0 .. 2^bits - 1 of clip(x, 0, 1); one bit is {0, 1}, not ±1."""

    def __init__(self, bits: int) -> None:
        check_bits(bits, 1)
        super().__init__(bits, 1 / (2**bits - 1))
        self.max_level = 2**bits - 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return functions.unit_levels(x, self.bits), self.step

    def saturated(self, x: Tensor) -> Tensor:
        return (x < 0) | (x > 1)


class FloatActivation(_FixedScale):
    """No quantizer: the levels are x itself (weight-only layers)."""

    max_level = 0  # no integers, so no sum of them that could overflow

    def __init__(self) -> None:
        super().__init__(FLOAT_BITS, 1.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.step

    def saturated(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x, dtype=torch.bool)


class DynamicActivation(_FixedScale):
    """Unsigned levels of 2 to 8 bits by each sample's own range; `scale()` is 1.

    The gradient is the identity: a range that holds all values cuts none off.
    """

    def __init__(self, bits: int) -> None:
        check_bits(bits, 2)
        super().__init__(bits, 1.0)
        self.max_level = 2**bits - 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        detached = x.detach()
        qparams = dynamic_range_qparams(detached, self.bits)
        scale, zero_point = qparams.split(1, dim=1)
        levels = dynamic_levels(detached, qparams, self.bits) - zero_point
        return functions.straight_through(levels, x / scale), scale

    def saturated(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x, dtype=torch.bool)


class GridActivation(ActivationQuantizer):
    """Base of those whose affine grid, unsigned levels of 2 to 8 bits, is fixed at inference."""

    def __init__(self, bits: int) -> None:
        check_bits(bits, 2)
        super().__init__()
        self.bits = bits
        self.max_level = 2**bits - 1

    def estimate(self) -> QParams:
        """Scale and zero point as they stand, unchecked: for forwards, fake tensors included."""
        raise NotImplementedError

    def qparams(self) -> QParams:
        """Scale and zero point as they stand.

        Raises:
            QCompileError: they are not known yet, or what they follow from was not finite.
        """
        raise NotImplementedError

    def scale(self) -> Tensor:
        return self.estimate().scale


class AffineActivation(GridActivation):
    """Scale and zero point from what the observer saw.

    Raises:
        QCompileError: an observer that keeps ranges by channel.
    """

    def __init__(self, bits: int, observer: Observer) -> None:
        super().__init__(bits)
        if observer.axis is not None:
            raise QCompileError(
                "activations with a scale for each channel cannot be computed on integers",
                hint="observe them per tensor: axis=None; weights have a scale for each filter",
            )
        self.observer = observer

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.observer(x)  # first, so that the range holds what it is about to quantize
        p = self.estimate()
        return functions.centred_levels(x, p.scale, *p.centred()), p.scale

    def saturated(self, x: Tensor) -> Tensor:
        p = self.estimate()
        below, above = functions.clipped_from(p.scale, *p.centred())
        return (x <= below) | (x >= above)

    def estimate(self) -> QParams:
        return self.observer.estimate(self.bits, QScheme.PER_TENSOR_AFFINE)

    def qparams(self) -> QParams:
        return self.observer.qparams(self.bits, QScheme.PER_TENSOR_AFFINE)


class _LearnedGrid(GridActivation):
    """Base of those with one learned number, which the first batch sets."""

    known: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))

    def qparams(self) -> QParams:
        if not self.known:
            raise QCompileError(
                "its activations were never observed",
                hint="train the prepared model, or run it on a few batches of real inputs",
            )
        p = self.estimate()
        if not p.scale.isfinite():
            raise QCompileError(
                "its activations held NaN or infinity, or training diverged",
                hint="check the inputs, or take a smaller learning rate",
            )
        return p


class LsqActivation(_LearnedGrid):
    """LSQ (arXiv 1902.08153): a learned step; the levels are signed if the first batch goes below 0.

    Signed levels, -2^(bits - 1) .. 2^(bits - 1) - 1, are written as unsigned ones with the zero
    point 2^(bits - 1).
    """

    zero_point: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.step = nn.Parameter(torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if learned.unsettled(self.known, x):
            self._settle(x.detach())
        low, high = self.estimate().centred()
        step = learned.positive(self.step)
        return learned.lsq_levels(x, step, low, high, x[0].numel()), step.detach()

    def _settle(self, x: Tensor) -> None:
        half = self.zero_point.new_full((), 2 ** (self.bits - 1))
        self.zero_point.copy_(torch.where((x < 0).any(), half, torch.zeros_like(half)))
        _, high = self.estimate().centred()
        learned.settle(self.step, self.known, learned.lsq_first_step(x, high))

    def saturated(self, x: Tensor) -> Tensor:
        p = self.estimate()
        low, high = p.centred()
        level = x / p.scale
        return (level <= low) | (level >= high)

    def estimate(self) -> QParams:
        step = learned.positive(self.step.detach())
        return QParams(step, self.zero_point, self.bits, QScheme.PER_TENSOR_AFFINE)


class PactActivation(_LearnedGrid):
    """PACT (arXiv 1805.06085): clip to [0, a], a learned from the largest value of the first batch on."""

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.clip = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if learned.unsettled(self.known, x):
            learned.settle(self.clip, self.known, x.detach().amax())
        clip = learned.positive(self.clip)
        levels = learned.pact_levels(x, clip, self.max_level)
        return levels, clip.detach() / float(self.max_level)

    def saturated(self, x: Tensor) -> Tensor:
        return (x < 0) | (x > learned.positive(self.clip))

    def estimate(self) -> QParams:
        step = learned.positive(self.clip.detach()) / float(self.max_level)
        zero_point = torch.zeros_like(step, dtype=torch.int32)
        return QParams(step, zero_point, self.bits, QScheme.PER_TENSOR_AFFINE)


def check_bits(bits: int, least: int) -> None:
    """Refuse what is no integer between `least` and 8.

    Raises:
        QCompileError: it is not.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not least <= bits <= 8:
        raise QCompileError(f"this quantizer takes {least} to 8 bits, not {bits!r}")
