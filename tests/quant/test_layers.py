"""In eval mode a layer is the specification: it equals the dialect's ops bit for bit."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from qcompile import QCompileError
from qcompile.ir import ops
from qcompile.quant.activations import (
    ActivationQuantizer,
    AffineActivation,
    DynamicActivation,
    FloatActivation,
    SignActivation,
    UnitActivation,
)
from qcompile.quant.batchnorm import BatchNorm
from qcompile.quant.layers import QuantConv, QuantLinear, dialect_padding
from qcompile.quant.observers import MinMaxObserver, MovingAverageObserver
from qcompile.quant.weights import (
    AffineWeight,
    DorefaWeight,
    MagnitudeSignWeight,
    TernaryWeight,
    WeightQuantizer,
    XnorWeight,
)

dialect = torch.ops.qcompile
CONVS: tuple[type[nn.Conv1d | nn.Conv2d | nn.Conv3d], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
PAIRS = [(w, a) for w in range(1, 9) for a in range(1, 9)]


def weight_of(bits: int, dorefa: bool) -> WeightQuantizer:
    if dorefa:
        return DorefaWeight(bits)
    return MagnitudeSignWeight() if bits == 1 else AffineWeight(bits)


def activation_of(bits: int, dorefa: bool) -> ActivationQuantizer:
    if dorefa:
        return UnitActivation(bits)
    return SignActivation("approx") if bits == 1 else AffineActivation(bits, MinMaxObserver())


def levels_by_dialect(quantizer: ActivationQuantizer, x: Tensor) -> tuple[Tensor, int]:
    if isinstance(quantizer, SignActivation):
        return dialect.sign(x), 0
    if isinstance(quantizer, UnitActivation):
        return dialect.quantize_unit(x, quantizer.bits), 0
    assert isinstance(quantizer, AffineActivation)
    p = quantizer.qparams()
    zero = int(p.zero_point)
    return dialect.quantize(x, float(p.scale), zero, p.qmin, p.qmax), zero


def by_dialect(layer: QuantConv | QuantLinear, x: Tensor) -> Tensor:
    levels, zero = levels_by_dialect(layer.activation, x)
    weight = layer.integer_weight()
    if isinstance(layer, QuantLinear):
        acc = dialect.linear(levels, weight, zero)
    else:
        geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
        acc = dialect.conv(levels, weight, *geometry, zero, layer.pad_value)
    return dialect.scale_shift(acc, layer.multiplier(), layer.bias)


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


# --- equality with the dialect ---------------------------------------------------------------------


@pytest.mark.parametrize("dorefa", [False, True], ids=["affine", "dorefa"])
@pytest.mark.parametrize(("weight_bits", "activation_bits"), PAIRS)
def test_every_pair_of_bits(weight_bits: int, activation_bits: int, dorefa: bool) -> None:
    torch.manual_seed(weight_bits * 8 + activation_bits)
    make = (activation_of(activation_bits, dorefa), weight_of(weight_bits, dorefa))
    conv = QuantConv.from_float(nn.Conv2d(5, 6, 3, padding=1), *make).eval()
    x = torch.randn(2, 5, 6, 7)
    with torch.no_grad():
        same(conv(x), by_dialect(conv, x))
        linear = QuantLinear.from_float(nn.Linear(40, 6, bias=False), *copy.deepcopy(make)).eval()
        x = torch.randn(3, 40)
        same(linear(x), by_dialect(linear, x))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_geometry(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3), "rank")
    groups = data.draw(st.integers(1, 3), "groups")
    seed = data.draw(st.integers(0, 2**31 - 1), "seed")

    def sizes(low: int, high: int) -> list[int]:
        return data.draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    kernel, stride, dilation, extra = sizes(1, 3), sizes(1, 3), sizes(1, 2), sizes(0, 3)
    padding = data.draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    size = [d * (k - 1) + 1 + e for d, k, e in zip(dilation, kernel, extra, strict=True)]
    torch.manual_seed(seed)
    activation = activation_of(data.draw(st.integers(1, 8)), data.draw(st.booleans()))
    layer = QuantConv(
        nn.Parameter(torch.randn(2 * groups, 3, *kernel)),
        nn.Parameter(torch.randn(2 * groups)),
        activation,
        weight_of(data.draw(st.integers(1, 8)), data.draw(st.booleans())),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        pad_value=data.draw(st.sampled_from([0, 1, -1])),
    ).eval()
    x = torch.randn(2, 3 * groups, *size)
    with torch.no_grad():
        same(layer(x), by_dialect(layer, x))


def test_sums_that_float32_cannot_hold() -> None:
    torch.manual_seed(0)
    layer = QuantLinear.from_float(nn.Linear(30_000, 2), UnitActivation(8), DorefaWeight(8)).eval()
    with torch.no_grad():
        layer.weight[0] = 1 + torch.rand(30_000)
    x = 0.5 + torch.rand(2, 30_000)
    acc = dialect.linear(dialect.quantize_unit(x, 8), layer.integer_weight(), 0)
    assert acc.max() > 2**24
    with torch.no_grad():
        same(layer(x), by_dialect(layer, x))


def test_sign_of_zero_and_nan() -> None:
    layer = QuantLinear.from_float(
        nn.Linear(3, 1, bias=False), SignActivation(), MagnitudeSignWeight()
    ).eval()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, -0.0, math.nan]]))
    assert layer.integer_weight().tolist() == [[1, 1, -1]]
    assert SignActivation()(torch.tensor([0.0, -0.0, math.nan]))[0].tolist() == [1, 1, -1]


@pytest.mark.parametrize(
    ("quantizer", "levels", "dtype"),
    [
        (MagnitudeSignWeight(), {-1, 1}, torch.int8),
        (XnorWeight(), {-1, 1}, torch.int8),
        (DorefaWeight(1), {-1, 1}, torch.int8),
        (DorefaWeight(2), {-3, -1, 1, 3}, torch.int8),
        (TernaryWeight(), {-1, 0, 1}, torch.int8),
        (AffineWeight(2), {-1, 0, 1}, torch.int8),
        (AffineWeight(3), set(range(-3, 4)), torch.int8),
        (DorefaWeight(8), set(range(-255, 256, 2)), torch.int16),
    ],
    ids=lambda value: str(value) if isinstance(value, WeightQuantizer) else "",
)
def test_integer_weight(quantizer: WeightQuantizer, levels: set[int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = QuantLinear.from_float(nn.Linear(4096, 4), SignActivation(), quantizer)
    weight = layer.integer_weight()
    assert weight.dtype is dtype
    assert set(weight.unique().tolist()) == levels
    assert max(map(abs, levels)) == quantizer.max_level
    assert layer.multiplier().shape == (4,)
    assert not layer.multiplier().requires_grad


def test_affine_weight_is_torchs() -> None:
    weight = torch.randn(4, 3, 3, 3)
    levels, scale = AffineWeight(8)(weight)
    theirs = torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros(4, dtype=torch.int32), 0, -127, 127
    )
    # torch multiplies by 1 / scale: a level may differ where that lands on the other side of half.
    assert (levels * scale.reshape(-1, 1, 1, 1) != theirs).sum() <= 1
    assert levels.abs().flatten(1).amax(1).tolist() == [127] * 4


def test_affine_weight_gradient_is_identity_inside() -> None:
    weight = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    levels, scale = AffineWeight(4)(weight)
    g = torch.randn(4, 9, dtype=torch.float64)
    (result,) = torch.autograd.grad(levels * scale[:, None], weight, g)
    torch.testing.assert_close(result, g, rtol=1e-6, atol=0)  # scale * (1 / scale) in float32


def test_gradient_of_a_layer_is_that_of_the_fake_quantized_one() -> None:
    torch.manual_seed(0)
    layer = QuantConv.from_float(nn.Conv2d(4, 6, 3, padding=1), SignActivation(), XnorWeight())
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    levels, scale = layer.weight_quantizer(layer.weight)
    y = torch.nn.functional.conv2d(
        layer.activation(x)[0], levels * scale.reshape(-1, 1, 1, 1), layer.bias, padding=1
    )
    g = torch.randn_like(y)
    leaves = [x, *layer.parameters()]
    expected = torch.autograd.grad(y, leaves, g)
    ours = torch.autograd.grad(layer(x), leaves, g)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # float32 sums in another order


def test_gradient_bits() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(8, 5)
    layer = QuantLinear.from_float(linear, UnitActivation(2), DorefaWeight(2), gradient_bits=2)
    y = layer(torch.rand(1, 8)).flatten()
    (result,) = torch.autograd.grad(y, linear.bias, torch.randn(5))
    m = result.abs().max()
    steps = (result / (2 * m) + 0.5) * 3
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-5)  # of a level, in float32


# --- dynamic and weight-only -----------------------------------------------------------------------


@pytest.mark.parametrize("weight_bits", [1, 2, 8])
@pytest.mark.parametrize("bits", range(2, 9))
def test_dynamic_is_the_dialects(bits: int, weight_bits: int) -> None:
    torch.manual_seed(bits)
    layer = QuantLinear.from_float(
        nn.Linear(40, 6), DynamicActivation(bits), weight_of(weight_bits, False)
    ).eval()
    x = torch.randn(6, 40) * torch.tensor([1e-20, 0.0, 1.0, 3.0, 1e10, 1.0]).unsqueeze(1)
    x[3], x[5] = x[3].abs() + 1, -x[5].abs()
    qparams = dialect.dynamic_qparams(x, bits)
    levels = dialect.dynamic_quantize(x, qparams, bits)
    weight = layer.integer_weight()
    acc = dialect.linear(levels, weight, 0)
    sums = weight.sum(1, dtype=torch.int32)
    expected = dialect.dynamic_scale_shift(acc, qparams, sums, layer.multiplier(), layer.bias)
    with torch.no_grad():
        same(layer(x), expected)
        same(layer(x[2:3]), expected[2:3])


def test_dynamic_sums_that_float32_cannot_hold() -> None:
    torch.manual_seed(0)
    layer = QuantLinear.from_float(nn.Linear(30_000, 2), DynamicActivation(8), AffineWeight(8))
    with torch.no_grad():
        layer.weight.uniform_(1, 2)
    layer.eval()
    x = 0.5 + torch.rand(2, 30_000)
    qparams = dialect.dynamic_qparams(x, 8)
    weight = layer.integer_weight()
    acc = dialect.linear(dialect.dynamic_quantize(x, qparams, 8), weight, 0)
    assert acc.max() > 2**24
    sums = weight.sum(1, dtype=torch.int32)
    with torch.no_grad():
        same(layer(x), dialect.dynamic_scale_shift(acc, qparams, sums, *layer.scale_shift()))


def test_dynamic_gradient_is_the_identity() -> None:
    x = torch.randn(3, 5, requires_grad=True)
    quantizer = DynamicActivation(4)
    levels, scale = quantizer(x)
    g = torch.randn(3, 5)
    (ours,) = torch.autograd.grad(levels * scale, x, g)
    torch.testing.assert_close(ours, g, rtol=1e-6, atol=0)  # scale * (1 / scale)
    assert not quantizer.saturated(x).any()


@pytest.mark.parametrize("bits", range(1, 9))
def test_float_activations_are_the_dialects(bits: int) -> None:
    torch.manual_seed(bits)
    conv = QuantConv.from_float(
        nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2), FloatActivation(), weight_of(bits, False)
    ).eval()
    x = torch.randn(2, 4, 7, 8)
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    acc = dialect.weight_only_conv(x, conv.integer_weight(), *geometry)
    with torch.no_grad():
        expected = dialect.scale_shift(acc, conv.multiplier(), conv.bias)
        torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-5)  # another order
        linear = QuantLinear.from_float(nn.Linear(40, 6), FloatActivation(), weight_of(bits, False))
        x = torch.randn(3, 40)
        acc = dialect.weight_only_linear(x, linear.integer_weight())
        expected = dialect.scale_shift(acc, linear.multiplier(), linear.bias)
        torch.testing.assert_close(
            linear.eval()(x), expected, rtol=1e-5, atol=1e-5
        )  # another order


def test_float_activations_do_not_overflow_integers() -> None:
    layer = QuantLinear.from_float(nn.Linear(40_000, 1), FloatActivation(), DorefaWeight(8))
    assert layer(torch.randn(2, 40_000)).shape == (2, 1)
    assert layer.activation(torch.full((1, 2), 0.3))[0].tolist() == [[pytest.approx(0.3)] * 2]
    assert not layer.activation.saturated(torch.tensor([1e9])).any()


def test_dynamic_convolution_is_refused() -> None:
    with pytest.raises(QCompileError, match="for linear layers, not for convolutions"):
        QuantConv.from_float(nn.Conv2d(2, 3, 3), DynamicActivation(8), AffineWeight(8))


# --- the map of magnitudes -------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("padding", [[1, 1, 1, 1], [0, 1, 2, 0]])
def test_k_map(groups: int, padding: list[int]) -> None:
    torch.manual_seed(0)
    layer = QuantConv(
        nn.Parameter(torch.randn(4, 6 // groups, 3, 2)),
        nn.Parameter(torch.randn(4)),
        SignActivation(),
        XnorWeight(),
        stride=[2, 1],
        padding=padding,
        dilation=[1, 2],
        groups=groups,
        k_map=True,
    ).eval()
    x = torch.randn(2, 6, 7, 8)
    a = x.abs().reshape(2, groups, -1, 7, 8).mean(2)
    patches = torch.nn.functional.unfold(
        ops.pad_spatial(a, padding, 0.0), (3, 2), dilation=(1, 2), stride=(2, 1)
    )
    with torch.no_grad():
        k = layer.magnitude_map(x)
        means = patches.reshape(2, groups, 6, -1).mean(2)
        shape = [2, groups, *k.shape[2:]]
        expected = means.reshape(shape).repeat_interleave(k.shape[1] // groups, 1)
        torch.testing.assert_close(k, expected, rtol=1e-5, atol=1e-6)  # sums in another order
        acc = dialect.conv(
            dialect.sign(x), layer.integer_weight(), [2, 1], padding, [1, 2], groups, 0, 0
        )
        y = dialect.scale_shift(acc, layer.multiplier(), None) * k
        same(layer(x), y + layer.bias.reshape(1, -1, 1, 1))  # type: ignore[union-attr]


def test_k_map_of_linear() -> None:
    layer = QuantLinear.from_float(
        nn.Linear(8, 5, bias=False), SignActivation(), XnorWeight(), k_map=True
    ).eval()
    x = torch.randn(3, 8)
    acc = dialect.linear(dialect.sign(x), layer.integer_weight(), 0)
    with torch.no_grad():
        y = dialect.scale_shift(acc, layer.multiplier(), None) * x.abs().mean(1, keepdim=True)
        same(layer(x), y)


# --- from float layers -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 2, "same", "valid"])
def test_dialect_padding(rank: int, padding: int | str) -> None:
    conv = CONVS[rank - 1](2, 3, 4, padding=padding, dilation=3, bias=False)
    plain = CONVS[rank - 1](2, 3, 4, dilation=3, bias=False)
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(1, 2, *[11] * rank)
    with torch.no_grad():
        y = plain(ops.pad_spatial(x, dialect_padding(conv), 0.0))
        torch.testing.assert_close(conv(x), y, rtol=1e-5, atol=1e-6)  # sums in another order


def test_from_float_trains_the_same_parameters() -> None:
    conv = nn.Conv2d(2, 3, 3, stride=2, groups=1).eval()
    layer = QuantConv.from_float(conv, SignActivation(), XnorWeight())
    assert layer.weight is conv.weight
    assert layer.bias is conv.bias
    assert not layer.training
    assert set(layer.state_dict()) == {"weight", "bias"}
    linear = nn.Linear(2, 3, bias=False)
    assert QuantLinear.from_float(linear, SignActivation(), XnorWeight()).weight is linear.weight


def test_state_dict_and_copies() -> None:
    torch.manual_seed(0)

    def make() -> nn.Sequential:
        conv = QuantConv.from_float(
            nn.Conv2d(3, 4, 3), AffineActivation(8, MovingAverageObserver()), AffineWeight(8)
        )
        return nn.Sequential(conv, BatchNorm.from_float(nn.BatchNorm2d(4)))

    model, twin = make(), make()
    x = torch.randn(4, 3, 6, 6)
    model(x)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        y = model.eval()(x)
        same(twin.eval()(x), y)
        same(copy.deepcopy(model)(x), y)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dorefa", [True, False])
@pytest.mark.parametrize("bits", [1, 4])
def test_fake_tensors_leave_no_trace(bits: int, dorefa: bool, training: bool) -> None:
    make = (activation_of(bits, dorefa), weight_of(bits, dorefa))
    model = nn.Sequential(
        QuantConv.from_float(nn.Conv2d(3, 4, 3), *make, gradient_bits=4, k_map=True),
        BatchNorm.from_float(nn.BatchNorm2d(4)),
        nn.Flatten(),
        QuantLinear.from_float(nn.Linear(64, 5), *copy.deepcopy(make), k_map=True),
        BatchNorm.from_float(nn.BatchNorm1d(5, momentum=None)),
    ).train(training)
    before = copy.deepcopy(model.state_dict())
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert model(torch.empty(2, 3, 6, 6)).shape == (2, 5)
    for name, value in model.state_dict().items():
        same(value, before[name])


# --- BatchNorm -------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_batch_norm_trains_as_torch(rank: int, momentum: float | None, affine: bool) -> None:
    torch.manual_seed(0)
    kind = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank]
    bn = kind(3, momentum=momentum, affine=affine)
    ours = BatchNorm.from_float(copy.deepcopy(bn))
    for _ in range(3):
        x = torch.randn(4, 3, *[5] * rank)
        same(ours(x), bn(x))
    for name, value in bn.state_dict().items():
        # Without a momentum torch hands 1 / count to its kernel, and we average in torch.
        tolerance = 0.0 if momentum is not None else 1e-6
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=tolerance, atol=tolerance)
    ours, bn = ours.eval(), bn.eval()
    with torch.no_grad():
        same(ours(x), dialect.scale_shift(x, *ours.scale_shift()))
        torch.testing.assert_close(ours(x), bn(x), rtol=1e-5, atol=1e-6)  # fused by torch


def test_batch_norm_shares_parameters_and_statistics() -> None:
    bn = nn.BatchNorm2d(3, eps=1e-3).eval()
    ours = BatchNorm.from_float(bn)
    assert ours.weight is bn.weight
    assert ours.running_mean is bn.running_mean
    assert ours.eps == 1e-3
    assert not ours.training


# --- refusals --------------------------------------------------------------------------------------


def test_batch_norm_without_statistics_is_refused() -> None:
    with pytest.raises(QCompileError, match="running statistics"):
        BatchNorm.from_float(nn.BatchNorm2d(3, track_running_stats=False))


def test_batch_norm_of_a_vector_is_refused() -> None:
    with pytest.raises(QCompileError, match="not 1d input"):
        BatchNorm(3)(torch.randn(3))


def test_transposed_convolution_is_refused() -> None:
    with pytest.raises(QCompileError, match="ConvTranspose2d"):
        QuantConv.from_float(nn.ConvTranspose2d(2, 3, 3), SignActivation(), XnorWeight())  # type: ignore[arg-type]


def test_padding_mode_is_refused() -> None:
    conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")
    with pytest.raises(QCompileError, match="reflect"):
        QuantConv.from_float(conv, SignActivation(), XnorWeight())


def test_parametrized_weight_is_refused() -> None:
    conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3))
    with pytest.raises(QCompileError, match="computed from others"):
        QuantConv.from_float(conv, SignActivation(), XnorWeight())


def test_sums_beyond_int32_are_refused() -> None:
    with pytest.raises(QCompileError, match="overflow 32-bit sums"):
        QuantLinear.from_float(nn.Linear(40_000, 1), UnitActivation(8), DorefaWeight(8))


def test_missing_batch_dimension_is_refused() -> None:
    conv = QuantConv.from_float(nn.Conv2d(2, 3, 3), SignActivation(), XnorWeight())
    with pytest.raises(QCompileError, match="batch first, not 3"):
        conv(torch.randn(2, 5, 5))
    linear = QuantLinear.from_float(nn.Linear(2, 3), SignActivation(), XnorWeight())
    with pytest.raises(QCompileError, match="not 3 dimensions"):
        linear(torch.randn(2, 5, 2))


@pytest.mark.parametrize("bits", [0, 9, True, 2.0])
def test_quantizers_of_no_such_bits_are_refused(bits: int) -> None:
    with pytest.raises(QCompileError, match="takes 1 to 8 bits"):
        UnitActivation(bits)
    with pytest.raises(QCompileError, match="takes 1 to 8 bits"):
        DorefaWeight(bits)
    with pytest.raises(QCompileError, match="takes 2 to 8 bits"):
        AffineWeight(bits)
    with pytest.raises(QCompileError, match="takes 2 to 8 bits"):
        AffineActivation(bits, MinMaxObserver())
    with pytest.raises(QCompileError, match="takes 2 to 8 bits"):
        DynamicActivation(bits)


def test_unknown_estimator_is_refused() -> None:
    with pytest.raises(QCompileError, match="unknown estimator 'bnn'"):
        SignActivation("bnn")
