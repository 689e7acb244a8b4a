"""Quantized layers as they are trained; in eval mode each is the specification of what is compiled.

They compute on the integer grid and scale afterwards: the accumulator of

    y = (sum(levels * weight levels)) * multiplier + bias

is an exact integer whatever the order of summation, so the only roundings are the multiplication
and the addition, in the dialect's own expression.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qcompile.errors import QCompileError
from qcompile.ir import ops
from qcompile.ir.dynamic_ops import dynamic_scaled_shifted
from qcompile.ir.graph import Leaf
from qcompile.ir.plan import FLOAT_BITS
from qcompile.quant import functions
from qcompile.quant.activations import ActivationQuantizer, DynamicActivation
from qcompile.quant.batchnorm import BatchNorm
from qcompile.quant.scaled import Geometry, scaled_conv, scaled_shifted
from qcompile.quant.weights import WeightQuantizer

aten = torch.ops.aten


class QuantLayer(Leaf):
    """What convolution and linear have in common.

    Args:
        weight: Parameter `[O, ...]`; `bias`: Parameter `[O]` or None. Both are trained in float.
        gradient_bits: 1 to 8 to quantize the gradient that enters (DoReFa-Net), 32 for float.
        k_map: XNOR-Net's scale for each output position, the mean |x| under the kernel.

    Raises:
        QCompileError: so many inputs that int32 could overflow, or a weight that is no Parameter.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        activation: ActivationQuantizer,
        weight_quantizer: WeightQuantizer,
        *,
        gradient_bits: int = FLOAT_BITS,
        k_map: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(weight, nn.Parameter):
            raise QCompileError(
                "its weight is computed from others (weight_norm, parametrize)",
                hint="make it a plain weight first: torch.nn.utils.parametrize.remove_parametrizations",
            )
        self.weight = weight
        self.bias = bias
        self.activation = activation
        self.weight_quantizer = weight_quantizer
        self.gradient_bits = gradient_bits
        self.k_map = k_map
        self._norm: BatchNorm | None = None
        self._largest = activation.max_level * weight_quantizer.max_level * weight[0].numel()
        if self._largest > ops.INT32_MAX:
            raise QCompileError(
                f"{weight[0].numel()} inputs of {activation.bits} by {weight_quantizer.bits} bits "
                "can overflow 32-bit sums",
                hint="give the layer fewer bits, or leave it in float, with overrides",
            )

    def forward(self, x: Tensor) -> Tensor:
        levels, step = self.activation(x)
        weight, scale = self.weight_quantizer(self.weight)
        if self._in_double(x):
            levels, weight = levels.double(), weight.double()
        if isinstance(self.activation, DynamicActivation):
            multiplier, shift = self._normalized(self._expanded(scale))
            y = dynamic_scaled_shifted(self._accumulate(levels, weight), step, multiplier, shift)
        elif self.k_map:
            y = self._scaled(levels, weight, self._expanded(step * scale), None)
            y = y * self.magnitude_map(x)
            y = y if self.bias is None else y + ops.per_channel(self.bias, y)
        else:
            y = self._scaled(levels, weight, *self._normalized(self._expanded(step * scale)))
        if self.gradient_bits < FLOAT_BITS:
            y = functions.quantize_gradient(y, self.gradient_bits)
        return y

    def _scaled(
        self, levels: Tensor, weight: Tensor, multiplier: Tensor, shift: Tensor | None
    ) -> Tensor:
        return scaled_shifted(self._accumulate(levels, weight), multiplier, shift)

    def integer_weight(self) -> Tensor:
        """The weight's levels, int8, or int16 where one could pass 127."""
        levels = self.weight_quantizer(self.weight)[0].detach()
        return levels.to(ops.level_dtype(*self.weight_quantizer.levels))

    def multiplier(self) -> Tensor:
        """What one step of the accumulator is worth in each output channel, float32 `[O]`.

        Of a dynamic layer the weights' part of it: each sample has a scale of its own.
        """
        scale = self.weight_quantizer(self.weight)[1]
        return self._expanded(self.activation.scale() * scale).detach()

    def scale_shift(self) -> tuple[Tensor, Tensor | None]:
        """What makes y of the accumulator, float32 `[O]` each: the BatchNorm is in it where absorbed."""
        multiplier, shift = self._normalized(self.multiplier())
        return multiplier.detach(), None if shift is None else shift.detach()

    def absorb(self, norm: BatchNorm) -> None:
        """Compute `norm`, the only reader of the result, here: where both are in eval mode.

        Each knows the other without being its submodule: names in the state dict stay, and copies
        of a model that holds both know each other's copies.
        """
        object.__setattr__(self, "_norm", norm)
        object.__setattr__(norm, "_layer", self)

    @property
    def absorbs_norm(self) -> bool:
        """Whether the next forward computes the absorbed BatchNorm."""
        return self._norm is not None and not (self.training or self._norm.training)

    def _normalized(self, multiplier: Tensor) -> tuple[Tensor, Tensor | None]:
        """`(multiplier, bias)`, times and plus what an absorbed BatchNorm does with the result."""
        if self._norm is None or not self.absorbs_norm:
            return multiplier, self.bias
        scale, shift = self._norm.scale_shift()
        return multiplier * scale, shift if self.bias is None else self.bias * scale + shift

    def magnitude_map(self, x: Tensor) -> Tensor:
        """Mean |x| under the kernel at each output position; broadcasts against the output."""
        raise NotImplementedError

    def _accumulate(self, levels: Tensor, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def _expanded(self, scale: Tensor) -> Tensor:
        return scale.expand(self.weight.shape[0])

    def _in_double(self, x: Tensor) -> bool:
        # On a GPU a float32 convolution may be a Winograd or TF32 one, which are not exact.
        inexact = self._largest >= ops.FLOAT32_EXACT or x.device.type != "cpu"
        return inexact and not self.training and self._largest > 0

    def extra_repr(self) -> str:
        bits = "" if self.gradient_bits == FLOAT_BITS else f", gradient_bits={self.gradient_bits}"
        k_map = ", k_map=True" if self.k_map else ""
        return f"{list(self.weight.shape)}, bias={self.bias is not None}{bits}{k_map}"


class QuantConv(QuantLayer):
    """Convolution over levels, 1 to 3 spatial dimensions by the weight's rank.

    Args:
        weight: `[O, C / groups, *kernel]`.
        padding: `[before, after]` for each spatial dimension.
        pad_value: what stands beyond the border, in units of the activation's levels.

    Raises:
        QCompileError: as QuantLayer; a dynamic activation.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        activation: ActivationQuantizer,
        weight_quantizer: WeightQuantizer,
        *,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int = 1,
        pad_value: int = 0,
        gradient_bits: int = FLOAT_BITS,
        k_map: bool = False,
    ) -> None:
        if isinstance(activation, DynamicActivation):
            raise QCompileError(
                "dynamic quantization is for linear layers, not for convolutions",
                hint="leave it in float with overrides, or take mode='static' or 'qat'",
            )
        super().__init__(
            weight,
            bias,
            activation,
            weight_quantizer,
            gradient_bits=gradient_bits,
            k_map=k_map,
        )
        self.stride = list(stride)
        self.padding = list(padding)
        self.dilation = list(dilation)
        self.groups = groups
        self.pad_value = pad_value

    @classmethod
    def from_float(
        cls,
        conv: nn.Conv1d | nn.Conv2d | nn.Conv3d,
        activation: ActivationQuantizer,
        weight_quantizer: WeightQuantizer,
        *,
        gradient_bits: int = FLOAT_BITS,
        k_map: bool = False,
        pad_value: int = 0,
    ) -> QuantConv:
        """The quantized twin of a convolution; it trains the same parameters.

        Raises:
            QCompileError: a transposed convolution, or a padding_mode that is not "zeros".
        """
        if not isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            raise QCompileError(f"cannot quantize a {type(conv).__name__} as a convolution")
        if conv.padding_mode != "zeros":
            raise QCompileError(
                f"padding_mode={conv.padding_mode!r} must be a pad of its own before quantizing"
            )
        layer = cls(
            conv.weight,
            conv.bias,
            activation,
            weight_quantizer,
            stride=conv.stride,
            padding=dialect_padding(conv),
            dilation=conv.dilation,
            groups=conv.groups,
            pad_value=pad_value,
            gradient_bits=gradient_bits,
            k_map=k_map,
        )
        return layer.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        rank = self.weight.dim()
        if x.dim() != rank:
            raise QCompileError(
                f"a {rank - 2}d convolution takes {rank} dimensions, batch first, not {x.dim()}"
            )
        return super().forward(x)

    def magnitude_map(self, x: Tensor) -> Tensor:
        """Mean |x| of each group's channels under the kernel, zeros beyond the border.

        `[N, 1, *out]`, or `[N, O, *out]` where there are groups. Only aten ops of the float
        vocabulary, their constants from `map_weights`: convert can run it on graph nodes.
        """
        return magnitude_map(
            x, *self.map_weights(), self.stride, self.padding, self.dilation, self.groups
        )

    def map_weights(self) -> tuple[Tensor, Tensor]:
        """The filters of `magnitude_map`: channel mean `[G, C/G, 1..]`, box `[1 or O, 1, *kernel]`."""
        out, channels, *kernel = self.weight.shape
        mean = self.weight.new_full([self.groups, channels, *[1] * len(kernel)], 1 / channels)
        rows = 1 if self.groups == 1 else out
        return mean, self.weight.new_full([rows, 1, *kernel], 1 / math.prod(kernel))

    def _accumulate(self, levels: Tensor, weight: Tensor) -> Tensor:
        levels, geometry = self._padded(levels)
        return geometry.convolve(levels, weight)

    def _scaled(
        self, levels: Tensor, weight: Tensor, multiplier: Tensor, shift: Tensor | None
    ) -> Tensor:
        if levels.dtype is not torch.float32:
            return super()._scaled(levels, weight, multiplier, shift)
        levels, geometry = self._padded(levels)
        return scaled_conv(levels, weight, multiplier, shift, geometry)

    def _padded(self, levels: Tensor) -> tuple[Tensor, Geometry]:
        before, after = self.padding[::2], self.padding[1::2]
        if self.pad_value != 0 or before != after:
            levels = ops.pad_spatial(levels, self.padding, self.pad_value)
            before = [0] * len(before)
        return levels, Geometry(self.stride, before, self.dilation, self.groups)

    def extra_repr(self) -> str:
        geometry = f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}"
        return f"{super().extra_repr()}, {geometry}, groups={self.groups}"


class QuantLinear(QuantLayer):
    """Matrix product over levels: `[N, K]` to `[N, O]`, weight `[O, K]`."""

    @classmethod
    def from_float(
        cls,
        linear: nn.Linear,
        activation: ActivationQuantizer,
        weight_quantizer: WeightQuantizer,
        *,
        gradient_bits: int = FLOAT_BITS,
        k_map: bool = False,
    ) -> QuantLinear:
        """The quantized twin of a linear layer; it trains the same parameters."""
        layer = cls(
            linear.weight,
            linear.bias,
            activation,
            weight_quantizer,
            gradient_bits=gradient_bits,
            k_map=k_map,
        )
        return layer.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2:
            raise QCompileError(
                f"a quantized linear layer takes [batch, features], not {x.dim()} dimensions",
                hint="flatten before it, or leave it in float with overrides",
            )
        return super().forward(x)

    def magnitude_map(self, x: Tensor) -> Tensor:
        """Mean |x| of each sample, `[N, 1]`."""
        return aten.mean.dim(aten.abs.default(x), [1], True)

    def _accumulate(self, levels: Tensor, weight: Tensor) -> Tensor:
        return F.linear(levels, weight)


def magnitude_map(
    x: Tensor,
    mean: Tensor,
    box: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """XNOR-Net's K (arXiv 1603.05279, section 3.2): `box * mean_c |x|`, both convolutions.

    `padding` is the dialect's. Takes tensors or the proxies of a graph.
    """
    none = [0] * (len(padding) // 2)
    one = [1] * len(none)
    a = aten.convolution.default(
        aten.abs.default(x), mean, None, one, none, one, False, none, groups
    )
    before, after = list(padding[::2]), list(padding[1::2])
    if before != after:
        a = aten.pad.default(a, ops.torch_padding(padding), "constant", 0.0)
        before = none
    return aten.convolution.default(
        a, box, None, list(stride), before, list(dilation), False, none, groups
    )


def dialect_padding(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[int]:
    """Zero padding of a convolution as `[before, after]` for each spatial dimension.

    An odd total of padding="same" puts the extra one after, as torch does.
    """
    if conv.padding == "valid":
        return [0, 0] * len(conv.kernel_size)
    if conv.padding == "same":
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return [side for total in totals for side in (total // 2, total - total // 2)]
    return [int(side) for side in conv.padding for _ in range(2)]
