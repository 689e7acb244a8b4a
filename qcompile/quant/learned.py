"""Quantizers with a learned step or clip, as plain functions of tensors: LSQ and PACT.

As in functions.py all work in the dtype of their argument and what leaves them is exactly on its
grid. The gradients are those of levels * step, step a constant there: what the step or the clip
learns comes through the levels alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TINY = torch.finfo(torch.float32).tiny  # below it, x / step would overflow


def settled(parameter: nn.Parameter, known: Tensor, first: Tensor) -> Tensor:
    """A copy of a learned number, which becomes `first` (or 1 for none above 0) where not `known`.

    Tensors decide, not Python: a forward on fake tensors leaves both as they are. A copy, since
    the next forward may write to the original before this one's backward.
    """
    with torch.no_grad():
        usable = torch.where(first <= TINY, torch.ones_like(first), first)
        parameter.copy_(torch.where(known, parameter, usable))
        known.fill_(True)
    return parameter.clone()


def positive(learned: Tensor) -> Tensor:
    """|learned|, and no less than what can divide: an optimizer's step may pass 0."""
    return learned.abs().clamp(min=TINY)


# --- LSQ -------------------------------------------------------------------------------------------


def lsq_first_step(v: Tensor, high: int | Tensor) -> Tensor:
    """`2 mean |v| / sqrt(Q_P)`, 0-d: where the step starts."""
    return 2 * v.abs().mean() / torch.as_tensor(high, dtype=v.dtype).sqrt()


class _LsqLevels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, step: Tensor, low: Tensor, high: Tensor, count: int) -> Tensor:
        clipped = (v / step).clamp_(low, high)
        ctx.save_for_backward(clipped, step, low, high)
        ctx.count = count
        return torch.round(clipped)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        clipped, step, low, high = ctx.saved_tensors
        inside = (clipped > low) & (clipped < high)
        g = g / step
        to_v = torch.where(inside, g, 0)
        to_step = torch.dot(g.flatten(), torch.round(clipped).flatten())
        to_step = to_step - torch.dot(to_v.flatten(), clipped.flatten())
        return to_v, to_step / torch.sqrt(ctx.count * high), None, None, None


def lsq_levels(v: Tensor, step: Tensor, low: Tensor, high: Tensor, count: int) -> Tensor:
    """`round(clip(v / step, low, high))`, differentiable in v and step (arXiv 1902.08153).

    Gradients of levels * step, with Q_N = -low and Q_P = high: to v, g inside, else 0; to the step,
    `g (round(v/s) - v/s)` inside, `-g Q_N` and `g Q_P` outside, divided by `sqrt(count Q_P)`.

    Args:
        step, low, high: 0-d, low and high in v's dtype.
        count: how many weights, or features of a sample, share the step.
    """
    levels: Tensor = _LsqLevels.apply(v, step, low, high, count)
    return levels


# --- PACT ------------------------------------------------------------------------------------------


class _PactLevels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: Tensor, steps: int) -> Tensor:
        step = clip / float(steps)
        ctx.save_for_backward(x, clip, step)
        return (x / step).round_().clamp_(0, steps)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, clip, step = ctx.saved_tensors
        g = g / step
        to_x = torch.where((x >= 0) & (x <= clip), g, 0)
        return to_x, torch.where(x >= clip, g, 0).sum(), None


def pact_levels(x: Tensor, clip: Tensor, steps: int) -> Tensor:
    """`clamp(round(x / s), 0, steps)`, s = clip / steps, differentiable (arXiv 1805.06085).

    Gradients of levels * s: to x, `g 1[0 <= x <= clip]`; to the clip, `g 1[x >= clip]`.
    """
    levels: Tensor = _PactLevels.apply(x, clip, steps)
    return levels
