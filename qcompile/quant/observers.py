"""Observers: the range of what passes by, from which scale and zero point follow.

When they record:

    train mode                  always; the range then belongs to training
    eval mode                   until `freeze`, or until something was recorded in train mode

so a model can be calibrated in eval mode, and one that was trained can be evaluated without the
test data widening its ranges. While `enabled` is False nothing is recorded in either.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from qcompile.errors import QCompileError
from qcompile.ir.graph import Leaf
from qcompile.ir.qparams import QParams, QScheme, qparams_of_range

Widest = Callable[[Tensor, Tensor], Tensor]


class Observer(Leaf):
    """Identity that records the least and largest value it saw.

    Args:
        axis: the channel dimension, or None to keep one range for the whole tensor.
        channels: size of that dimension; the ranges are then float32 `[channels]`.
        layer: whose values these are, for messages.

    Attributes:
        enabled: whether it records at all; like `training` a state of the loop, not of the model.
    """

    low: Tensor
    high: Tensor
    seen: Tensor
    trained: Tensor
    frozen: Tensor

    def __init__(self, axis: int | None = None, channels: int = 1, *, layer: str = "") -> None:
        super().__init__()
        self.axis = axis
        self.layer = layer
        self.enabled = True
        shape = () if axis is None else (channels,)
        self.register_buffer("low", torch.full(shape, math.inf))
        self.register_buffer("high", torch.full(shape, -math.inf))
        # Tensors, not Python flags: a forward on fake tensors must leave them as they are.
        for flag in ("seen", "trained", "frozen"):
            self.register_buffer(flag, torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        if self.axis is not None:
            self._check_channels(x, self.axis)
        # What is recorded of fake tensors reaches no buffer.
        if self.enabled and (isinstance(x, FakeTensor) or self.training or self._calibrates()):
            self._record(x.detach().to(torch.float32))
        return x

    def _calibrates(self) -> bool:
        return not bool(self.frozen | self.trained)

    def _check_channels(self, x: Tensor, axis: int) -> None:
        where = self.layer or None
        if not -x.dim() <= axis < x.dim():
            raise QCompileError(
                f"dimension {axis} of a {x.dim()}-dimensional tensor cannot be its channels",
                where=where,
                hint="observe it per tensor: axis=None",
            )
        channels = self.low.shape[0]
        if x.shape[axis] != channels:
            raise QCompileError(
                f"dimension {axis} has {x.shape[axis]} channels, not {channels}", where=where
            )

    def freeze(self) -> None:
        """Record no more in eval mode."""
        self.frozen.fill_(True)

    def estimate(self, bits: int, qscheme: QScheme) -> QParams:
        """Scale and zero point of the range so far, unchecked: for forwards, fake tensors included."""
        return qparams_of_range(self.low, self.high, bits, qscheme, self.axis)

    def qparams(self, bits: int, qscheme: QScheme) -> QParams:
        """Scale and zero point of the range so far.

        Raises:
            QCompileError: nothing was recorded, or something that was not finite.
        """
        where = self.layer or None
        if not self.seen:
            raise QCompileError(
                "its activations were never observed",
                where=where,
                hint="train the prepared model, or run it on a few batches of real inputs",
            )
        if not (self.low.isfinite().all() and self.high.isfinite().all()):
            raise QCompileError(
                "its activations held NaN or infinity",
                where=where,
                hint="check the inputs, and the model in plain PyTorch",
            )
        return self.estimate(bits, qscheme)

    def _record(self, x: Tensor) -> None:
        low, high = self._range(x)
        self.low.copy_(self._next(self.low, low, torch.minimum))
        self.high.copy_(self._next(self.high, high, torch.maximum))
        self.seen.fill_(True)
        if self.training:
            self.trained.fill_(True)

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.axis is None:
            return torch.aminmax(x)
        rows = self._rows(x)
        return rows.amin(1), rows.amax(1)

    def _rows(self, x: Tensor) -> Tensor:
        """`[channels, values]`, or `[1, values]` where there is one range for all."""
        return x.reshape(1, -1) if self.axis is None else x.movedim(self.axis, 0).flatten(1)

    def _next(self, old: Tensor, new: Tensor, widest: Widest) -> Tensor:
        """The bound after one more batch whose bound is `new`; the first finds ±inf in `old`."""
        return widest(old, new)


class MinMaxObserver(Observer):
    """The range of everything seen."""


class MovingAverageObserver(Observer):
    """In train mode a moving average of the batches' ranges, in eval mode the range of everything.

    `bound += momentum * (batch's bound - bound)`; the first batch sets it.
    """

    def __init__(
        self,
        axis: int | None = None,
        channels: int = 1,
        *,
        momentum: float = 0.1,
        layer: str = "",
    ) -> None:
        super().__init__(axis, channels, layer=layer)
        self.momentum = momentum

    def _next(self, old: Tensor, new: Tensor, widest: Widest) -> Tensor:
        if not self.training:
            return super()._next(old, new, widest)
        return torch.where(self.seen, old + self.momentum * (new - old), new)
