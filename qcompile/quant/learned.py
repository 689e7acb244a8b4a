"""Quantizers with a learned step or clip, as plain functions of tensors: LSQ and PACT.

As in functions.py all work in the dtype of their argument and what leaves them is exactly on its
grid. The gradients are those of levels * step, step a constant there: what the step or the clip
learns comes through the levels alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from qcompile.quant import functions

TINY = torch.finfo(torch.float32).tiny  # below it, x / step would overflow


def unsettled(known: Tensor, v: Tensor) -> bool:
    """Whether v is what sets a learned number: it is not known, or all is fake and nothing stays."""
    known = known.clone()  # fake where a mode makes everything so
    return isinstance(v, FakeTensor) or isinstance(known, FakeTensor) or not bool(known)


def settle(parameter: nn.Parameter, known: Tensor, first: Tensor) -> None:
    """Begin to learn at `first`, or at 1 where that is not above 0."""
    with torch.no_grad():
        parameter.copy_(torch.where(first <= TINY, torch.ones_like(first), first))
        known.fill_(True)


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
        clipped = (v / step).clamp_min_(low).clamp_max_(high)
        levels = torch.round(clipped)
        ctx.save_for_backward(clipped, levels, step, low, high)
        ctx.count = count
        return levels

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        clipped, levels, step, low, high = ctx.saved_tensors
        to_v = functions.inside(g, clipped, float(low), float(high))
        # Levels inside and outside, less v / step inside.
        to_step = _dot(g, levels) - _dot(to_v, clipped)
        to_step = to_step / (step * torch.sqrt(ctx.count * high))
        return to_v.div_(step), to_step, None, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))


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
        top = x.new_full((), float(clip))
        zero, far = top.new_zeros(()), top.new_full((), math.inf)
        # What is next to an end lies outside: the masks have no ends.
        below = float(torch.nextafter(zero, -far))
        to_x = functions.inside(g, x, below, float(torch.nextafter(top, far))).div_(step)
        above = functions.inside(g, x, float(torch.nextafter(top, -far)), math.inf)
        return to_x, above.sum() / step, None


def pact_levels(x: Tensor, clip: Tensor, steps: int) -> Tensor:
    """`clamp(round(x / s), 0, steps)`, s = clip / steps, differentiable (arXiv 1805.06085).

    Gradients of levels * s: to x, `g 1[0 <= x <= clip]`; to the clip, `g 1[x >= clip]`.
    """
    levels: Tensor = _PactLevels.apply(x, clip, steps)
    return levels
