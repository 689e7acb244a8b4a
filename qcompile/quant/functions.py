"""Quantizer formulas and their gradients, as plain functions of tensors.

All work in the dtype of their argument, so that gradients can be checked in double precision. What
leaves a function is exactly on its grid: gradients go round the rounding, never through a sum such
as `x + (q - x).detach()`, which is off by a rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SWISH_BETA = 5.0


def hard_sign(x: Tensor) -> Tensor:
    """+1 where x >= 0 (both zeros), else -1 (NaN too), in x's dtype, without a gradient."""
    x = x.detach()
    # A comparison into floats is several times as fast as `where` on one of bools.
    return torch.ge(x, 0, out=torch.empty_like(x)).mul_(2).sub_(1)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, proxy: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:
        return None, g


def straight_through(value: Tensor, proxy: Tensor) -> Tensor:
    """`value` exactly, with the gradient of `proxy` (same shape)."""
    return _StraightThrough.apply(value.detach(), proxy)


def round_ste(x: Tensor) -> Tensor:
    """Round half to even; the gradient is the identity."""
    return straight_through(torch.round(x.detach()), x)


# --- signs of activations --------------------------------------------------------------------------


class _SignSte(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return hard_sign(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x.abs().le_(1).mul_(g)


def sign_ste(x: Tensor) -> Tensor:
    """Sign; gradient `g * 1[|x| <= 1]` (BinaryConnect, arXiv 1511.00363; BNN, arXiv 1602.02830)."""
    return _SignSte.apply(x)


class _ApproxSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return hard_sign(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        # Zero from |x| = 1 on, so that the clamp is the mask; NaN has no gradient, as in the STE.
        return x.abs().clamp_(max=1).mul_(-2).add_(2).nan_to_num_(nan=0.0).mul_(g)


def approx_sign(x: Tensor) -> Tensor:
    """Sign; gradient `g * (2 - 2|x|) * 1[|x| <= 1]` (Bi-Real Net, arXiv 1808.00278)."""
    return _ApproxSign.apply(x)


class _SwishSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.beta = beta
        return hard_sign(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        # 1 / (1 + cosh z) = 2 e^-|z| / (1 + e^-|z|)^2 does not overflow; the clamp saves z = inf,
        # and changes nothing that is not 0 in float32 anyway.
        z = torch.clamp(ctx.beta * x, -200, 200)
        decay = torch.exp(-z.abs())
        bell = 2 * decay / (1 + decay) ** 2
        return g * (ctx.beta * (2 - z * torch.tanh(z / 2)) * bell), None


def swish_sign(x: Tensor, beta: float = SWISH_BETA) -> Tensor:
    """Sign; gradient `g * β(2 - βx tanh(βx/2)) / (1 + cosh βx)` (BNN+, arXiv 1812.11800).

    The derivative of `2σ(βx)(1 + βx(1 - σ(βx))) - 1`, finite for every x but NaN.
    """
    return _SwishSign.apply(x, beta)


# --- levels of activations -------------------------------------------------------------------------


class _UnitLevels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.steps = steps
        return torch.clamp(x, 0, 1).mul_(steps).round_()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        # What is next to an end lies outside: the mask has no ends.
        below, above = torch.nextafter(x.new_tensor([0.0, 1.0]), x.new_tensor([-1.0, 2.0])).tolist()
        return inside(g, x, below, above).mul_(ctx.steps), None


def unit_levels(x: Tensor, bits: int) -> Tensor:
    """`round((2^bits - 1) * clip(x, 0, 1))`, differentiable (DoReFa-Net, arXiv 1606.06160).

    Divided by 2^bits - 1 the gradient to x is `g * 1[0 <= x <= 1]`. The expression is that of
    `ir.ops.unit_levels`.
    """
    levels: Tensor = _UnitLevels.apply(x, float(2**bits - 1))
    return levels


def inside(g: Tensor, x: Tensor, below: float, above: float) -> Tensor:
    """g where below < x < above, else 0; in one pass."""
    masked: Tensor = torch.ops.aten.hardtanh_backward(g, x, below, above)
    return masked


def clipped_from(scale: Tensor, low: Tensor, high: Tensor) -> tuple[float, float]:
    """Where a grid of centred levels ends: from these values on x is clipped."""
    return float((low - 0.5) * scale), float((high + 0.5) * scale)


class _CentredLevels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale, low, high)
        return (x / scale).round_().clamp_min_(low).clamp_max_(high)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        x, scale, low, high = ctx.saved_tensors
        return inside(g, x, *clipped_from(scale, low, high)).div_(scale), None, None, None


def centred_levels(x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`clamp(round(x / scale), low, high)`: levels less zero point, differentiable in x.

    With low = qmin - zero_point and high = qmax - zero_point that is `ir.ops.affine_levels` less
    the zero point. Times `scale` the gradient to x is g inside the grid, half a step beyond its
    ends, else 0.

    Args:
        scale, low, high: 0-d.
    """
    levels: Tensor = _CentredLevels.apply(x, scale, low, high)
    return levels


# --- weights: (levels, scale) ----------------------------------------------------------------------


def per_filter(vector: Tensor, weight: Tensor) -> Tensor:
    """Reshape `[O]` (or `[1]`) so that it broadcasts over dimension 0 of `weight`."""
    return vector.reshape(-1, *[1] * (weight.dim() - 1))


def _mean_magnitude(weight: Tensor) -> Tensor:
    """Mean of |w| of each filter, `[O]`; its gradient at 0 is that of sign(0) = +1."""
    return (weight * hard_sign(weight.detach())).flatten(1).mean(1)


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where x is 0."""
    return torch.where(x > 0, 1 / torch.where(x > 0, x, torch.ones_like(x)), torch.zeros_like(x))


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return (x / scale).round_()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return g / scale, None


def rounded(x: Tensor, scale: Tensor) -> Tensor:
    """`round(x / scale)`, where no level can be clipped; times `scale` the gradient to x is g."""
    levels: Tensor = _Rounded.apply(x, scale)
    return levels


def magnitude_sign(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`s * sign(w)`, s = mean |w| per filter (Bi-Real Net's magnitude-aware sign).

    Gradient of levels * scale to w: `s * 1[|w| <= 1] * g`; s is a constant.

    Returns:
        levels like `weight`, scale `[O]`.
    """
    return sign_ste(weight), _mean_magnitude(weight.detach())


def xnor_weight(weight: Tensor, paper_gradient: bool = False) -> tuple[Tensor, Tensor]:
    """`α * sign(w)`, α = mean |w| per filter (XNOR-Net, arXiv 1603.05279).

    Gradient of levels * scale to w, n weights a filter: the exact one,
    `(1/n) sign(w_i) Σ_j g_j sign(w_j) + α 1[|w_i| <= 1] g_i`, or the paper's
    `g (1/n + α 1[|w| <= 1])`.

    Returns:
        levels like `weight`, scale `[O]`.
    """
    if not paper_gradient:
        return sign_ste(weight), _mean_magnitude(weight)
    alpha = _mean_magnitude(weight.detach())
    # The scale multiplies what flows to the levels by α, so 1/n must enter as 1/(n α).
    slope = per_filter(_inverse(alpha), weight) / weight[0].numel()
    return straight_through(hard_sign(weight), weight * slope + weight.clamp(-1, 1)), alpha


def dorefa_weight(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """DoReFa-Net's weights (arXiv 1606.06160).

    1 bit: `E * sign(w)`, E = mean |w| of the layer, a constant; gradient of levels * scale: g.
    More: `2 quantize_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1`, its levels `2i - (2^k - 1)`; the
    gradient goes through tanh, the maximum is a constant: `g (1 - tanh(w)^2) / max|tanh(w)|`.

    Returns:
        levels like `weight`, scale `[1]`.
    """
    if bits == 1:
        mean = weight.detach().abs().mean().reshape(1)
        return straight_through(hard_sign(weight), weight * _inverse(mean)), mean
    steps = 2**bits - 1
    squashed = dorefa_squash(weight)
    levels = 2 * round_ste(squashed * float(steps)) - steps
    return levels, torch.full_like(levels[:1].detach().flatten()[:1], 1 / steps)


def dorefa_squash(weight: Tensor) -> Tensor:
    """`tanh(w) / (2 max|tanh(w)|) + 1/2`, in [0, 1], the maximum a constant; 1/2 if all w are 0."""
    squashed = torch.tanh(weight)
    largest = squashed.detach().abs().max()
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    return squashed / (2 * largest) + 0.5


def ternary_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """0 where `|w| <= Δ`, else ±s: Δ = 0.7 mean |w|, s = mean of the |w| above Δ, each per filter.

    Gradient of levels * scale to w: `g * 1[|w| <= 1]` (Ternary Weight Networks, arXiv 1605.04711).

    Returns:
        levels like `weight`, scale `[O]`.
    """
    magnitude = weight.detach().abs()
    delta = per_filter(0.7 * magnitude.flatten(1).mean(1), weight)
    kept = magnitude > delta
    count = kept.flatten(1).sum(1)
    scale = torch.where(kept, magnitude, torch.zeros_like(magnitude)).flatten(1).sum(1)
    scale = scale / count.clamp(min=1)
    levels = torch.where(kept, hard_sign(weight.detach()), torch.zeros_like(magnitude))
    return straight_through(
        levels, weight.clamp(-1, 1) * per_filter(_inverse(scale), weight)
    ), scale


# --- gradients -------------------------------------------------------------------------------------


def quantized_gradient(g: Tensor, bits: int, noise: Tensor) -> Tensor:
    """`2 m [quantize_k(clip(g / (2m) + 1/2 + noise / (2^k - 1), 0, 1)) - 1/2]` (DoReFa-Net).

    m is the largest |g| of each sample (dimension 0); a sample without gradient keeps zeros.
    `noise`, of g's shape, is uniform in [-1/2, 1/2).
    """
    steps = float(2**bits - 1)
    largest = g.abs().flatten(1).amax(1).reshape(-1, *[1] * (g.dim() - 1))
    inverse = _inverse(2 * largest)
    unit = torch.clamp(g * inverse + 0.5 + noise / steps, 0, 1)
    return 2 * largest * (torch.round(unit * steps) / steps - 0.5)


class _QuantizeGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int) -> Tensor:
        ctx.bits = bits
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return quantized_gradient(g, ctx.bits, torch.rand_like(g) - 0.5), None


def quantize_gradient(x: Tensor, bits: int) -> Tensor:
    """Identity whose gradient is quantized to `bits` (1 to 8) with uniform noise; batch first."""
    return _QuantizeGradient.apply(x, bits)
