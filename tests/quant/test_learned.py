"""LSQ and PACT: their papers' gradients, where they start, and what the dialect makes of them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from qcompile import QCompileError
from qcompile.quant import learned
from qcompile.quant.activations import GridActivation, LsqActivation, PactActivation
from qcompile.quant.layers import QuantConv, QuantLinear
from qcompile.quant.weights import LsqWeight

dialect = torch.ops.qcompile
ACTIVATIONS: list[type[LsqActivation | PactActivation]] = [LsqActivation, PactActivation]


def double(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


# --- formulas --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_lsq_is_the_papers(bits: int, signed: bool) -> None:
    low = -(2.0 ** (bits - 1)) if signed else 0.0
    high = 2.0 ** (bits - 1) - 1 if signed else 2.0**bits - 1
    step = scalar(2.5 / high).requires_grad_()
    v = torch.cat([double(500), step.detach() * torch.tensor([low, high, 1e9, -1e9, 0.0])])
    v.requires_grad_()
    g = double(505, seed=1)
    levels = learned.lsq_levels(v, step, scalar(low), scalar(high), v.numel())
    quotient = (v / step).detach()
    same(levels.detach(), torch.round(quotient.clamp(low, high)))

    to_v, to_step = torch.autograd.grad(levels * step.detach(), (v, step), g)
    inside = (quotient > low) & (quotient < high)
    outer = torch.where(quotient <= low, low, high)
    slope = torch.where(inside, torch.round(quotient) - quotient, outer)
    expected = (g * slope).sum() / math.sqrt(v.numel() * high)
    # g * step / step, and a sum in another order.
    torch.testing.assert_close(to_v, g * inside, rtol=1e-14, atol=0)
    torch.testing.assert_close(to_step, expected, rtol=1e-10, atol=1e-12)


def test_lsq_with_the_identity_for_its_rounding_is_a_derivative() -> None:
    """Clip(v / s) s + (round - v / s) s, the latter's levels a constant, by central differences."""
    v, g, low, high, h = double(300), double(300, seed=1), scalar(-4), scalar(3), 1e-6
    s = scalar(0.3)
    residue = torch.round(v / s) - v / s

    def loss(s: Tensor) -> Tensor:
        quotient = v / s
        inside = (quotient > low) & (quotient < high)
        return (g * torch.where(inside, v + residue * s, quotient.clamp(low, high) * s)).sum()

    step = s.clone().requires_grad_()
    levels = learned.lsq_levels(v, step, low, high, 1)
    (ours,) = torch.autograd.grad(levels * s, step, g)
    numeric = (loss(s + h) - loss(s - h)) / (2 * h)
    torch.testing.assert_close(ours * math.sqrt(3), numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", range(2, 9))
def test_pact_is_the_papers(bits: int) -> None:
    steps = 2**bits - 1
    clip = scalar(1.3).requires_grad_()
    edges = torch.tensor([0.0, -0.0, 1.3, 1.3000001, 1.2999999, -1e-30, 1e-30, 7.0]).double()
    x = torch.cat([double(500), edges])
    x[502] = clip.detach()
    x.requires_grad_()
    g = double(508, seed=1)
    step = clip.detach() / steps
    levels = learned.pact_levels(x, clip, steps)
    same(levels.detach(), torch.round(x.detach() / step).clamp(0, steps))
    to_x, to_clip = torch.autograd.grad(levels * step, (x, clip), g)
    torch.testing.assert_close(to_x, g * ((x >= 0) & (x <= clip)), rtol=1e-14, atol=0)
    expected = (g * (x >= clip)).sum()
    torch.testing.assert_close(to_clip, expected, rtol=1e-12, atol=0)


# --- where they start ------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(2, 9))
def test_lsq_activation_starts_from_its_first_batch(bits: int) -> None:
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    for batch, zero_point in ((x, 2 ** (bits - 1)), (x.relu(), 0)):
        quantizer = LsqActivation(bits)
        levels, step = quantizer(batch)
        positive = 2**bits - 1 - zero_point
        first = 2 * batch.abs().mean() / math.sqrt(positive)
        torch.testing.assert_close(step, first, rtol=1e-6, atol=0)
        assert int(quantizer.qparams().zero_point) == zero_point
        assert levels.min() >= -zero_point
        assert levels.max() <= positive
        quantizer(100 * x)
        same(quantizer.qparams().scale, step)
        assert int(quantizer.qparams().zero_point) == zero_point


@pytest.mark.parametrize("bits", range(2, 9))
def test_lsq_weight_starts_from_its_weights(bits: int) -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    quantizer = LsqWeight(bits)
    levels, scale = quantizer(weight)
    first = 2 * weight.abs().mean() / math.sqrt(2 ** (bits - 1) - 1)
    torch.testing.assert_close(scale, first.reshape(1), rtol=1e-6, atol=0)
    low, high = quantizer.levels
    assert (low, high) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    same(levels.detach(), torch.round((weight / scale).clamp(low, high)).detach())
    layer = QuantLinear.from_float(nn.Linear(4096, 4), LsqActivation(bits), LsqWeight(bits))
    with torch.no_grad():
        layer.weight.normal_(std=10).clamp_(-300, 300)
        layer.weight_quantizer(layer.weight)
        layer.weight_quantizer.step.fill_(0.01)  # type: ignore[operator]
    assert layer.integer_weight().dtype is torch.int8
    assert {low, high} <= set(layer.integer_weight().unique().tolist())


def test_pact_starts_from_the_largest_of_its_first_batch() -> None:
    quantizer = PactActivation(4)
    quantizer(torch.tensor([[-3.0, 0.5, 2.0]]))
    assert quantizer.clip.item() == 2
    quantizer(torch.tensor([[7.0]]))
    assert float(quantizer.qparams().scale) == float(torch.tensor(2.0) / 15)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_a_first_batch_of_zeros(kind: type[LsqActivation | PactActivation]) -> None:
    quantizer = kind(4)
    levels, scale = quantizer(torch.zeros(2, 3))
    assert (levels == 0).all()
    assert scale.isfinite()
    assert float(quantizer.qparams().scale) > 0


def test_the_next_forward_may_come_before_the_backward() -> None:
    torch.manual_seed(0)
    layer = QuantLinear.from_float(nn.Linear(6, 4), LsqActivation(4), LsqWeight(4))
    loss = layer(torch.randn(3, 6)).sum() + layer(torch.randn(3, 6)).sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_a_step_that_passed_zero_still_divides(kind: type[LsqActivation | PactActivation]) -> None:
    quantizer = kind(4)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    quantizer(x)
    for value in (-0.5, 0.0, -1e-42):
        with torch.no_grad():
            next(quantizer.parameters()).fill_(value)
        levels, scale = quantizer(x)
        assert levels.isfinite().all()
        assert scale > 0
        levels.sum().backward()
        assert quantizer.qparams().scale > 0


# --- at inference ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("signed", [True, False])
def test_eval_is_the_dialects(
    kind: type[LsqActivation | PactActivation], bits: int, signed: bool
) -> None:
    torch.manual_seed(bits)
    x = torch.randn(4, 5, 6, 6)
    x = x if signed else x.relu()
    conv = QuantConv.from_float(nn.Conv2d(5, 6, 3, padding=1), kind(bits), LsqWeight(bits))
    conv(x)
    conv.eval()
    assert isinstance(conv.activation, GridActivation)
    p = conv.activation.qparams()
    halves = (torch.arange(-300, 300).repeat(2)[: 4 * 5 * 6 * 6] + 0.5) * p.scale
    for sample in (x, 3 * torch.randn_like(x), halves.repeat(2)[: x.numel()].reshape(x.shape)):
        levels = dialect.quantize(sample, float(p.scale), int(p.zero_point), p.qmin, p.qmax)
        with torch.no_grad():
            centred, _ = conv.activation(sample)
            same(centred, levels.float() - p.zero_point)
            acc = dialect.conv(
                levels, conv.integer_weight(), [1, 1], [1] * 4, [1, 1], 1, int(p.zero_point), 0
            )
            same(conv(sample), dialect.scale_shift(acc, conv.multiplier(), conv.bias))


def test_state_dict_and_fake_tensors() -> None:
    def make() -> nn.Sequential:
        first = QuantConv.from_float(nn.Conv2d(3, 4, 3), LsqActivation(4), LsqWeight(4))
        last = QuantLinear.from_float(nn.Linear(64, 5), PactActivation(4), LsqWeight(4))
        return nn.Sequential(first, nn.Flatten(), last)

    model, twin = make(), make()
    before = copy.deepcopy(model.state_dict())
    for training in (True, False):
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert model.train(training)(torch.empty(2, 3, 6, 6)).shape == (2, 5)
    for name, value in model.state_dict().items():
        same(value, before[name])
    x = torch.randn(2, 3, 6, 6)
    model.train()(x)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model(torch.empty(2, 3, 6, 6))
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        y = model.eval()(x)
        same(twin.eval()(x), y)
        same(copy.deepcopy(model)(x), y)


# --- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_never_observed(kind: type[LsqActivation | PactActivation]) -> None:
    with pytest.raises(QCompileError, match="never observed"):
        kind(4).qparams()


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_finite(kind: type[LsqActivation | PactActivation], bad: float) -> None:
    quantizer = kind(4)
    quantizer(torch.tensor([[0.5, bad]]))
    with pytest.raises(QCompileError, match="NaN or infinity"):
        quantizer.qparams()


@pytest.mark.parametrize("kind", [*ACTIVATIONS, LsqWeight])
@pytest.mark.parametrize("bits", [1, 9])
def test_no_such_bits(kind: type[LsqActivation | PactActivation | LsqWeight], bits: int) -> None:
    with pytest.raises(QCompileError, match="takes 2 to 8 bits"):
        kind(bits)
