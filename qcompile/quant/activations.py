"""Activation quantizers: floats to integer levels, with the gradient of the paper.

`forward(x)` gives `level - zero_point` as float32, and `scale()` what one step is worth: times each
other they are the fake-quantized x, with its straight-through gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcompile.errors import QCompileError
from qcompile.ir.graph import Leaf
from qcompile.ir.qparams import QParams, QScheme
from qcompile.quant import functions
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

    def forward(self, x: Tensor) -> Tensor:
        """Levels less zero point, float32, of x's shape."""
        raise NotImplementedError

    def scale(self) -> Tensor:
        """What one level is worth, 0-d float32."""
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

    def forward(self, x: Tensor) -> Tensor:
        return ESTIMATORS[self.estimator](x)

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

    def forward(self, x: Tensor) -> Tensor:
        return functions.unit_levels(x, self.bits)

    def saturated(self, x: Tensor) -> Tensor:
        return (x < 0) | (x > 1)


class AffineActivation(ActivationQuantizer):
    """Unsigned levels of 2 to 8 bits, scale and zero point from what the observer saw."""

    def __init__(self, bits: int, observer: Observer) -> None:
        check_bits(bits, 2)
        super().__init__()
        self.bits = bits
        self.max_level = 2**bits - 1
        self.observer = observer

    def forward(self, x: Tensor) -> Tensor:
        x = self.observer(x)  # first, so that the range holds what it is about to quantize
        p = self._estimate()
        levels = functions.affine_levels(x, p.scale, p.zero_point, p.qmin, p.qmax)
        return levels - p.zero_point

    def scale(self) -> Tensor:
        return self._estimate().scale

    def saturated(self, x: Tensor) -> Tensor:
        p = self._estimate()
        level = torch.round(x / p.scale) + p.zero_point
        return (level < p.qmin) | (level > p.qmax)

    def qparams(self) -> QParams:
        """Scale and zero point as they stand.

        Raises:
            QCompileError: the observer saw nothing, or NaN or infinity.
        """
        return self.observer.qparams(self.bits, QScheme.PER_TENSOR_AFFINE)

    def _estimate(self) -> QParams:
        return self.observer.estimate(self.bits, QScheme.PER_TENSOR_AFFINE)


def check_bits(bits: int, least: int) -> None:
    """Refuse what is no integer between `least` and 8.

    Raises:
        QCompileError: it is not.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not least <= bits <= 8:
        raise QCompileError(f"this quantizer takes {least} to 8 bits, not {bits!r}")
