"""Every gradient against its closed form, and against finite differences where one is a derivative."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qcompile.ir import ops
from qcompile.ir.qparams import QParams, QScheme
from qcompile.quant import functions as f

POINTS = [
    -math.inf,
    -3.0,
    -1.0000001,
    -1.0,
    -0.7,
    -1e-30,
    -0.0,
    0.0,
    1e-30,
    0.3,
    1.0,
    1.5,
    math.inf,
]
SIGNS = [f.sign_ste, f.approx_sign, f.swish_sign]
SIGN_IDS = ["ste", "approx", "swish"]
# Of double precision: central differences with step h err by h^2 and by eps / h.
STEP, DIFFERENCE = 1e-6, 1e-7


def gradient(function: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (result,) = torch.autograd.grad(function(x), x, g)
    return result


def numeric(function: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    """Central differences of `sum(g * function(x))`, coordinate by coordinate."""
    result = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros_like(x).flatten()
        step[i] = STEP
        step = step.view_as(x)
        rise = (g * (function(x + step) - function(x - step))).sum()
        result.view(-1)[i] = rise / (2 * STEP)
    return result


def double(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def product(quantizer: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Callable[[Tensor], Tensor]:
    def quantized(weight: Tensor) -> Tensor:
        levels, scale = quantizer(weight)
        return levels * f.per_filter(scale, weight)

    return quantized


# --- signs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", SIGNS, ids=SIGN_IDS)
def test_sign_is_the_dialects(sign: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([*POINTS, math.nan])
    levels = sign(x)
    assert levels.dtype is torch.float32
    assert torch.equal(levels, torch.ops.qcompile.sign(x).float())
    assert levels[POINTS.index(0.0)] == 1
    assert sign(torch.tensor([-0.0, 0.0])).tolist() == [1, 1]
    assert levels[-1] == -1


def test_sign_ste_gradient() -> None:
    x, g = torch.tensor(POINTS), torch.arange(1.0, len(POINTS) + 1)
    expected = torch.where((x >= -1) & (x <= 1), g, torch.zeros(()))
    assert torch.equal(gradient(f.sign_ste, x, g), expected)


def test_approx_sign_gradient() -> None:
    x, g = torch.tensor(POINTS), torch.arange(1.0, len(POINTS) + 1)
    expected = torch.where(x.abs() <= 1, g * (2 - 2 * x.abs()), torch.zeros(()))
    assert torch.equal(gradient(f.approx_sign, x, g), expected)


def test_approx_sign_gradient_is_that_of_its_polynomial() -> None:
    def polynomial(x: Tensor) -> Tensor:
        inside = torch.where(x < 0, 2 * x + x * x, 2 * x - x * x)
        return torch.where(x.abs() < 1, inside, torch.sign(x))

    x, g = 1.5 * double(200), double(200, seed=1)
    torch.testing.assert_close(
        gradient(f.approx_sign, x, g), numeric(polynomial, x, g), rtol=0, atol=DIFFERENCE
    )


def test_swish_sign_gradient_is_the_closed_form_and_that_of_its_surrogate() -> None:
    beta = f.SWISH_BETA

    def surrogate(x: Tensor) -> Tensor:
        s = torch.sigmoid(beta * x)
        return 2 * s * (1 + beta * x * (1 - s)) - 1

    x, g = double(200), double(200, seed=1)
    ours = gradient(f.swish_sign, x, g)
    z = beta * x
    closed = g * beta * (2 - z * torch.tanh(z / 2)) / (1 + torch.cosh(z))
    # The two spellings of 1 / (1 + cosh z) round differently.
    torch.testing.assert_close(ours, closed, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours, numeric(surrogate, x, g), rtol=0, atol=10 * DIFFERENCE)


def test_swish_sign_gradient_does_not_overflow() -> None:
    x = torch.tensor([0.0, 20.0, -20.0, 1e30, -1e38, math.inf, -math.inf])
    result = gradient(f.swish_sign, x, torch.ones_like(x))
    assert result[0] == 5
    assert result.isfinite().all()
    assert (result[3:] == 0).all()


@pytest.mark.parametrize("sign", [f.sign_ste, f.approx_sign], ids=["ste", "approx"])
def test_nan_gets_no_gradient(sign: Callable[[Tensor], Tensor]) -> None:
    assert gradient(sign, torch.tensor([math.nan]), torch.ones(1)).item() == 0


# --- rounding and levels ---------------------------------------------------------------------------


def test_straight_through_is_exact_in_value_and_passes_the_gradient_of_the_proxy() -> None:
    value, proxy = torch.tensor([1.0, 2.0]), torch.tensor([1e8, -1e8])
    assert torch.equal(f.straight_through(value, proxy), value)
    g = torch.tensor([3.0, 4.0])
    assert torch.equal(gradient(lambda p: f.straight_through(value, 2 * p), proxy, g), 2 * g)


def test_round_ste() -> None:
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5])
    assert f.round_ste(x).tolist() == [-2, 0, 0, 2, 2]
    assert torch.equal(gradient(f.round_ste, x, x), x)


@pytest.mark.parametrize("bits", range(1, 9))
def test_unit_levels(bits: int) -> None:
    x = 2 * double(500).float()
    steps = 2**bits - 1
    assert torch.equal(f.unit_levels(x, bits), ops.unit_levels(x, bits))
    edges = torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.1])
    ours = gradient(lambda x: f.unit_levels(x, bits), edges, torch.ones(5))
    assert ours.tolist() == [0, steps, steps, steps, 0]


@given(
    st.integers(2, 8),
    st.floats(2.0**-20, 2.0**20, width=32),
    st.integers(0, 255),
    st.integers(0, 2**31 - 1),
)
def test_affine_levels_are_the_dialects(bits: int, scale: float, zero: int, seed: int) -> None:
    """A 0-d tensor divides as the Python float of its value does."""
    qmax = 2**bits - 1
    zero = min(zero, qmax)
    generator = torch.Generator().manual_seed(seed)
    scale_tensor = torch.tensor(scale)
    halves = (torch.arange(-qmax, qmax) + 0.5) * scale_tensor
    up, down = (torch.nextafter(halves, torch.tensor(v)) for v in (math.inf, -math.inf))
    x = torch.cat([torch.randn(67, generator=generator) * scale * qmax, halves, up, down])
    zero_point = torch.tensor(zero, dtype=torch.int32)
    p = QParams(scale_tensor, zero_point, bits, QScheme.PER_TENSOR_AFFINE)
    ours = f.centred_levels(x, scale_tensor, *p.centred())
    assert torch.equal(ours, ops.affine_levels(x, float(scale_tensor), zero, 0, qmax) - zero)


def test_affine_gradient_is_clipped_identity() -> None:
    scale, low, high = torch.tensor(0.5), torch.tensor(-3.0), torch.tensor(4.0)
    x = torch.tensor([-10.0, -2.0, -1.5, 0.2, 2.0, 2.2, 2.5, 10.0])  # levels 0 .. 7 are -1.5 .. 2
    g = torch.arange(1.0, 9.0)
    ours = gradient(lambda x: scale * f.centred_levels(x, scale, low, high), x, g)
    assert ours.tolist() == [0, 0, 3, 4, 5, 6, 0, 0]


# --- weights ---------------------------------------------------------------------------------------


def test_magnitude_sign() -> None:
    w, g = double(4, 3, 3, 3), double(4, 3, 3, 3, seed=1)
    levels, scale = f.magnitude_sign(w)
    assert torch.equal(levels, f.hard_sign(w))
    assert torch.equal(scale, w.abs().flatten(1).mean(1))
    expected = f.per_filter(scale, w) * (w.abs() <= 1) * g
    assert torch.equal(gradient(product(f.magnitude_sign), w, g), expected)


def test_xnor_exact_gradient() -> None:
    w, g = double(4, 5, 3), double(4, 5, 3, seed=1)
    w[0, 0, 0] = 0
    n = 15
    sign, alpha = f.hard_sign(w), f.per_filter(w.abs().flatten(1).mean(1), w)
    total = f.per_filter((g * sign).flatten(1).sum(1), w)
    expected = sign * total / n + alpha * (w.abs() <= 1) * g
    ours = gradient(product(f.xnor_weight), w, g)
    # The sum over a filter is taken in another order.
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


def test_xnor_scale_gradient_is_its_derivative() -> None:
    w, g = double(3, 7), double(3, seed=1)
    assert w.abs().min() > 2 * STEP

    def each_row(w: Tensor) -> Tensor:
        return w.abs().mean(1, keepdim=True)

    numbers = torch.stack([numeric(each_row, w[i : i + 1], g[i])[0] for i in range(3)])
    ours = gradient(lambda w: f.xnor_weight(w)[1], w, g)
    torch.testing.assert_close(ours, numbers, rtol=0, atol=DIFFERENCE)


def test_xnor_paper_gradient() -> None:
    w, g = double(4, 5, 3), double(4, 5, 3, seed=1)
    levels, alpha = f.xnor_weight(w, paper_gradient=True)
    assert torch.equal(levels, f.hard_sign(w))
    assert torch.equal(alpha, w.abs().flatten(1).mean(1))
    expected = g * (1 / 15 + f.per_filter(alpha, w) * (w.abs() <= 1))
    ours = gradient(product(lambda w: f.xnor_weight(w, paper_gradient=True)), w, g)
    # 1/n enters as α * 1/(n α).
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


def test_dorefa_one_bit() -> None:
    w, g = double(4, 5, 3), double(4, 5, 3, seed=1)
    levels, scale = f.dorefa_weight(w, 1)
    assert torch.equal(levels, f.hard_sign(w))
    assert scale.shape == (1,)
    assert torch.equal(scale, w.abs().mean().reshape(1))
    ours = gradient(product(lambda w: f.dorefa_weight(w, 1)), w, g)
    # E * (1/E): the identity but for the rounding.
    torch.testing.assert_close(ours, g, rtol=1e-15, atol=0)


@pytest.mark.parametrize("bits", range(2, 9))
def test_dorefa_levels_and_gradient(bits: int) -> None:
    w, g = double(4, 5, 3), double(4, 5, 3, seed=1)
    steps = 2**bits - 1
    levels, scale = f.dorefa_weight(w, bits)
    t = torch.tanh(w)
    largest = t.abs().max()
    paper = 2 * torch.round(steps * (t / (2 * largest) + 0.5)) / steps - 1
    assert scale.shape == (1,)
    # The paper divides before it doubles.
    torch.testing.assert_close(levels * scale, paper, rtol=0, atol=1e-15)
    assert ((levels + steps) % 2 == 0).all()
    assert levels.abs().max() == steps
    expected = g * (1 - t**2) / largest
    ours = gradient(product(lambda w: f.dorefa_weight(w, bits)), w, g)
    # steps * (1/steps), tanh's derivative from its own value.
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


def test_dorefa_squash_gradient_is_its_derivative() -> None:
    """With the rounding an identity and the maximum a constant there is a true derivative."""
    w, g = double(4, 5), double(4, 5, seed=1)
    largest = torch.tanh(w).abs().max()

    def constant_maximum(w: Tensor) -> Tensor:
        return torch.tanh(w) / (2 * largest) + 0.5

    ours = gradient(f.dorefa_squash, w, g)
    torch.testing.assert_close(ours, numeric(constant_maximum, w, g), rtol=0, atol=DIFFERENCE)


def test_ternary() -> None:
    w, g = double(4, 5, 3), double(4, 5, 3, seed=1)
    levels, scale = f.ternary_weight(w)
    for row, level, s in zip(w.flatten(1), levels.flatten(1), scale, strict=True):
        delta = 0.7 * row.abs().mean()
        assert level.tolist() == [0 if abs(v) <= delta else math.copysign(1, v) for v in row]
        # Means of the same numbers, added in another order.
        torch.testing.assert_close(s, row[row.abs() > delta].abs().mean(), rtol=1e-14, atol=0)
    ours = gradient(product(f.ternary_weight), w, g)
    torch.testing.assert_close(ours, g * (w.abs() <= 1), rtol=1e-15, atol=0)  # s * (1/s)


QUANTIZERS: list[Callable[[Tensor], tuple[Tensor, Tensor]]] = [
    f.magnitude_sign,
    f.xnor_weight,
    lambda w: f.xnor_weight(w, paper_gradient=True),
    lambda w: f.dorefa_weight(w, 1),
    lambda w: f.dorefa_weight(w, 4),
    f.ternary_weight,
]
QUANTIZER_IDS = ["magnitude", "xnor", "xnor-paper", "dorefa-1", "dorefa-4", "ternary"]


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=QUANTIZER_IDS)
def test_weights_that_are_all_zero(quantizer: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    w = torch.zeros(2, 3)
    levels, scale = quantizer(w)
    assert levels.isfinite().all()
    assert scale.isfinite().all()
    assert gradient(product(quantizer), w, torch.ones(2, 3)).isfinite().all()


# --- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
def test_quantized_gradient_formula(bits: int) -> None:
    g, noise = double(3, 4, 5), torch.rand(3, 4, 5, dtype=torch.float64) - 0.5
    steps = 2**bits - 1
    expected = torch.empty_like(g)
    for i in range(3):
        m = g[i].abs().max()
        unit = (g[i] / (2 * m) + 0.5 + noise[i] / steps).clamp(0, 1)
        expected[i] = 2 * m * (torch.round(unit * steps) / steps - 0.5)
    # g / (2m) and g * (1 / 2m).
    torch.testing.assert_close(
        f.quantized_gradient(g, bits, noise), expected, rtol=1e-14, atol=1e-15
    )


def test_quantized_gradient_of_a_sample_without_one_is_zero() -> None:
    g = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    assert f.quantized_gradient(g, 2, torch.full((2, 2), 0.4))[0].tolist() == [0, 0]


def test_quantize_gradient_is_unbiased_identity() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4)
    assert torch.equal(f.quantize_gradient(x, 4), x)
    g = torch.tensor([[1.0, 0.3, -0.2, 0.0], [-2.0, 0.1, 0.4, 0.9]])
    mean = torch.stack(
        [gradient(lambda x: f.quantize_gradient(x, 2), x, g) for _ in range(4000)]
    ).mean(0)
    # A level is 2m/3 wide: the mean of 4000 draws is within 4 m / 3 / sqrt(4000) < 0.05.
    inside = g.abs() < g.abs().amax(1, keepdim=True)
    assert ((mean - g).abs()[inside] < 0.05).all()
    one = gradient(lambda x: f.quantize_gradient(x, 2), x, g)
    assert len(one[1].unique()) <= 4
