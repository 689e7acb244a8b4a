"""BatchNorm of a prepared network, by itself or computed by the layer in front of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from qcompile.errors import QCompileError
from qcompile.ir import ops
from qcompile.ir.graph import Leaf

if TYPE_CHECKING:
    from qcompile.quant.layers import QuantLayer


class BatchNorm(Leaf, _BatchNorm):
    """BatchNorm of any rank, `[N, C, ...]`; in eval mode the dialect's scale_shift.

    The identity in eval mode, where the layer in front of it computes it (`QuantLayer.absorb`).

    Attributes:
        frozen: train with the running statistics as they are, not with those of the batch; like
            `training` a state of the loop, not of the model.
    """

    frozen: bool = False
    _layer: QuantLayer | None = None

    @classmethod
    def from_float(cls, bn: _BatchNorm) -> BatchNorm:
        """The twin of a BatchNorm; it trains the same parameters and running statistics.

        Raises:
            QCompileError: it keeps no running statistics, so that inference would depend on the
                rest of the batch.
        """
        if not bn.track_running_stats or bn.running_mean is None:
            raise QCompileError(
                "BatchNorm without running statistics has no fixed scale at inference",
                hint="construct it with track_running_stats=True",
            )
        twin = cls(bn.num_features, bn.eps, bn.momentum, bn.affine)
        twin.weight, twin.bias = bn.weight, bn.bias
        twin.running_mean, twin.running_var = bn.running_mean, bn.running_var
        twin.num_batches_tracked = bn.num_batches_tracked
        return twin.train(bn.training)

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        if self.training and not self.frozen:
            return self._by_batch(input)
        if self.is_absorbed:
            return input
        return ops.scaled_shifted(input, *self.scale_shift())

    @property
    def is_absorbed(self) -> bool:
        """Whether the layer in front has done it already."""
        return self._layer is not None and self._layer.absorbs_norm

    def scale_shift(self) -> tuple[Tensor, Tensor]:
        """Scale and shift at inference, float32 `[C]` each."""
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = torch.rsqrt(self.running_var + self.eps)
        scale = scale if self.weight is None else self.weight * scale
        shift = -self.running_mean * scale
        return scale, shift if self.bias is None else self.bias + shift

    def _by_batch(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        # The parent's `add_` on the counter would change it from a forward on fake tensors.
        self.num_batches_tracked.copy_(self.num_batches_tracked + 1)
        mean, var = self.running_mean, self.running_var
        if self.momentum is not None:
            return F.batch_norm(x, mean, var, self.weight, self.bias, True, self.momentum, self.eps)
        latest = torch.zeros_like(mean), torch.zeros_like(var)
        y = F.batch_norm(x, *latest, self.weight, self.bias, True, 1.0, self.eps)
        for old, new in zip((mean, var), latest, strict=True):
            old.copy_(old + (new - old) / self.num_batches_tracked)
        return y

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise QCompileError(f"BatchNorm takes [batch, channels, ...], not {input.dim()}d input")
