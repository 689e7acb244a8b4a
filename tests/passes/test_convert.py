"""What is converted computes what was trained, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import LENET_INPUT, RESNET_INPUT, Body, LeNet, ResNet, prepared, train_a_little
from rewriting import assert_same_result, check_rewrite
from torch import Tensor, nn
from torch.fx import GraphModule

from qcompile.errors import QCompileError
from qcompile.ir.graph import text
from qcompile.ir.qparams import QParams, QScheme
from qcompile.ir.stages import Stage
from qcompile.passes.base import run
from qcompile.passes.convert import Convert
from qcompile.passes.fold_batchnorm import FoldBatchnorm
from qcompile.passes.merge_duplicates import MergeDuplicates
from qcompile.passes.remove_dropout import RemoveDropout
from qcompile.pipelines import lower
from qcompile.quant import functions
from qcompile.quant.activations import GridActivation
from qcompile.quant.layers import QuantLinear
from qcompile.quant.recipe import Recipe

X = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(3, *LENET_INPUT, generator=torch.Generator().manual_seed(1))
COLOUR = torch.randn(3, *RESNET_INPUT, generator=torch.Generator().manual_seed(2))

METHODS: list[dict[str, Any]] = [
    {"method": "bireal"},
    {"method": "xnor"},
    {"method": "xnor", "k_map": True},
    {"method": "dorefa"},
    {"method": "bireal", "estimator": "swish"},
    *({"bits": bits} for bits in (2, 3, 4, 8)),
    *({"bits": bits, "method": "dorefa"} for bits in (2, 4, 8)),
    {"weight_bits": 1, "activation_bits": 8},
    {"weight_bits": 8, "activation_bits": 1, "method": "dorefa"},
    {"weight_bits": 2, "activation_bits": 8, "ternary_weights": True},
    {"bits": 32},
    {"first_last_bits": 32},
    *({"bits": bits, "method": method} for bits in (2, 4, 8) for method in ("lsq", "pact")),
    *({"bits": bits, "mode": "dynamic"} for bits in (2, 4, 8)),
    {"weight_bits": 1, "activation_bits": 8, "mode": "dynamic"},
    *({"bits": bits, "mode": "weight-only"} for bits in (1, 2, 8)),
    {"bits": 4, "mode": "weight-only", "method": "dorefa"},
    *({"bits": bits, "mode": "static"} for bits in (1, 4, 8)),
    {"bits": 8, "overrides": {"*2": {"weight_bits": 2, "activation_bits": 32}}},
]


def calibrated(model: nn.Module, recipe: Recipe, x: Tensor) -> GraphModule:
    gm = prepared(model, recipe, x)
    train_a_little(gm, x)
    return gm.eval()


def check_exact(gm: GraphModule, x: Tensor) -> GraphModule:
    after = run([RemoveDropout(), Convert()], gm).graph
    assert after.meta["stage"] is Stage.CONVERTED
    assert {node.op for node in after.graph.nodes} <= {
        "placeholder",
        "get_attr",
        "call_function",
        "output",
    }
    assert list(after.parameters()) == []
    assert_same_result(after, gm, x)
    return after


@pytest.mark.parametrize("fields", METHODS, ids=str)
def test_converted_networks_are_exact(fields: dict[str, Any]) -> None:
    check_exact(calibrated(LeNet(), Recipe(**fields), IMAGE), IMAGE)


@pytest.mark.parametrize("fields", METHODS[:1] + METHODS[2:4], ids=str)
def test_converted_residual_networks_are_exact(fields: dict[str, Any]) -> None:
    check_exact(calibrated(ResNet(), Recipe(**fields), COLOUR), COLOUR)


def test_every_kind_of_layer() -> None:
    model = Body(
        lambda s, y: s.c(s.act(s.n(s.a(y)))),
        a=nn.Conv2d(4, 4, 3, padding=1, bias=False),
        n=nn.BatchNorm2d(4),
        act=nn.PReLU(4),
        c=nn.Conv2d(4, 2, (2, 3), stride=2, padding=(1, 0), groups=2),
    )
    recipe = Recipe(method="xnor", overrides={"c": "float", "head": "float"})
    gm = calibrated(model, recipe, X)
    check_rewrite(
        Convert(),
        gm,
        """
        %0 = placeholder x() : f32[2,1,4,4]
        %1 = call_function qcompile.quantize(%0, {scale}, {zero}, 0, 255) : u8[2,1,4,4]
        %2 = get_attr stem_weight() : i8[4,1,1,1]
        %3 = call_function qcompile.conv(%1, %2, [1, 1], [0, 0, 0, 0], [1, 1], 1, {zero}, 0) : i32[2,4,4,4]
        %4 = get_attr stem_multiplier() : f32[4]
        %5 = get_attr stem_bias() : f32[4]
        %6 = call_function qcompile.scale_shift(%3, %4, %5) : f32[2,4,4,4]
        %7 = get_attr a_norm_scale() : f32[4]
        %8 = get_attr a_norm_shift() : f32[4]
        %9 = call_function qcompile.scale_shift(%6, %7, %8) : f32[2,4,4,4]
        %10 = call_function qcompile.sign(%9) : i8[2,4,4,4]
        %11 = get_attr a_weight() : i8[4,4,3,3]
        %12 = call_function qcompile.conv(%10, %11, [1, 1], [1, 1, 1, 1], [1, 1], 1, 0, 0) : i32[2,4,4,4]
        %13 = get_attr a_multiplier() : f32[4]
        %14 = call_function qcompile.scale_shift(%12, %13, None) : f32[2,4,4,4]
        %15 = get_attr n_scale() : f32[4]
        %16 = get_attr n_shift() : f32[4]
        %17 = call_function qcompile.scale_shift(%14, %15, %16) : f32[2,4,4,4]
        %18 = get_attr act_weight() : f32[4]
        %19 = call_function aten.prelu(%17, %18) : f32[2,4,4,4]
        %20 = get_attr c_weight() : f32[2,2,2,3]
        %21 = get_attr c_bias() : f32[2]
        %22 = call_function aten.convolution(%19, %20, %21, [2, 2], [1, 0], [1, 1], False, [0, 0], 2) : f32[2,2,3,1]
        %23 = call_function aten.flatten.using_ints(%22, 1, -1) : f32[2,6]
        %24 = get_attr head_weight() : f32[3,6]
        %25 = get_attr head_bias() : f32[3]
        %26 = call_function aten.linear(%23, %24, %25) : f32[2,3]
        return %26""".format(**_stem(gm)),
        X,
    )


def test_a_weight_only_layer() -> None:
    model = Body(lambda s, y: s.n(s.a(y)), a=nn.Conv2d(4, 4, (2, 3), padding=(0, 1)))
    model.n = nn.BatchNorm2d(4)
    floats: dict[str, Any] = {"stem": "float", "head": {"weight_bits": 3, "activation_bits": 32}}
    gm = calibrated(model, Recipe(bits=2, mode="weight-only", overrides=floats), X)
    check_rewrite(
        Convert(),
        FoldBatchnorm()(gm).graph,
        """
        %0 = placeholder x() : f32[2,1,4,4]
        %1 = get_attr stem_weight() : f32[4,1,1,1]
        %2 = get_attr stem_bias() : f32[4]
        %3 = call_function aten.convolution(%0, %1, %2, [1, 1], [0, 0], [1, 1], False, [0, 0], 1) : f32[2,4,4,4]
        %4 = get_attr a_weight() : i8[4,4,2,3]
        %5 = call_function qcompile.weight_only_conv(%3, %4, [1, 1], [0, 0, 1, 1], [1, 1], 1) : f32[2,4,3,4]
        %6 = get_attr a_multiplier() : f32[4]
        %7 = get_attr a_bias() : f32[4]
        %8 = call_function qcompile.scale_shift(%5, %6, %7) : f32[2,4,3,4]
        %9 = call_function aten.flatten.using_ints(%8, 1, -1) : f32[2,48]
        %10 = get_attr head_weight() : i8[3,48]
        %11 = call_function qcompile.weight_only_linear(%9, %10) : f32[2,3]
        %12 = get_attr head_multiplier() : f32[3]
        %13 = get_attr head_bias() : f32[3]
        %14 = call_function qcompile.scale_shift(%11, %12, %13) : f32[2,3]
        return %14""",
        X,
    )


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("padding", [0, 2, (1, 0), "same"])
@pytest.mark.parametrize("stride", [1, 2])
def test_weight_only_sums_are_added_in_one_order(padding: Any, stride: int) -> None:
    """Floats: with a stride of 2 and zeros around it, torch pads and convolves in another order."""
    padding = 1 if padding == "same" and stride > 1 else padding  # torch has no such pair
    kernel = (1, 1) if padding == 2 else (2, 3)
    model = nn.Sequential(nn.Conv2d(64, 4, kernel, stride, padding), nn.ReLU()).eval()
    x = torch.randn(9, 64, 15, 15, generator=torch.Generator().manual_seed(0))
    recipe = Recipe(4, mode="weight-only", first_last_bits=4)
    check_exact(prepared(model, recipe, x).eval(), x)


def test_a_dynamic_layer() -> None:
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 2))
    x = torch.randn(7, 6)
    gm = calibrated(model, Recipe(bits=4, mode="dynamic", overrides={"2": "float"}), x)
    after = check_rewrite(
        Convert(),
        FoldBatchnorm()(gm).graph,
        """
        %0 = placeholder input() : f32[7,6]
        %1 = call_function qcompile.dynamic_qparams(%0, 8) : f32[7,2]
        %2 = call_function qcompile.dynamic_quantize(%0, %1, 8) : u8[7,6]
        %3 = get_attr 0_weight() : i8[5,6]
        %4 = call_function qcompile.linear(%2, %3, 0) : i32[7,5]
        %5 = get_attr 0_weight_sum() : i32[5]
        %6 = get_attr 0_multiplier() : f32[5]
        %7 = get_attr 0_bias() : f32[5]
        %8 = call_function qcompile.dynamic_scale_shift(%4, %1, %5, %6, %7) : f32[7,5]
        %9 = get_attr 2_weight() : f32[2,5]
        %10 = get_attr 2_bias() : f32[2]
        %11 = call_function aten.linear(%8, %9, %10) : f32[7,2]
        return %11""",
        x,
    )
    alone = torch.cat([after(row[None] * size) for row, size in zip(x, range(1, 8), strict=True)])
    together = after(x * torch.arange(1, 8)[:, None])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)  # the float layer's sums


def test_dynamic_layers_that_read_one_value_quantize_it_once() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    x = torch.randn(3, 6)
    gm = calibrated(Heads(), Recipe(bits=8, mode="dynamic"), x)
    merged = run([Convert(), MergeDuplicates()], gm).graph
    assert_same_result(merged, gm, x)
    assert text(merged).count("dynamic_qparams") == 1
    assert text(merged).count("dynamic_quantize") == 1


@pytest.mark.parametrize("bits", [2, 8])
def test_levels_below_zero(bits: int) -> None:
    """A symmetric grid: quantize has qmin < 0 and no zero point."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
    x = torch.randn(7, 6)
    gm = prepared(model, Recipe(bits=bits, first_last_bits=bits), x)
    for path in "01":
        layer = gm.get_submodule(path)
        assert isinstance(layer, QuantLinear)
        layer.activation = _Symmetric(bits)
    gm.eval()
    after = check_exact(gm, x)
    top = 2 ** (bits - 1) - 1
    assert f"qcompile.quantize(%0, 0.125, 0, {-top}, {top}) : i8[7,6]" in text(after)
    assert_same_result(lower(after), after, x)


class _Symmetric(GridActivation):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self.qparams()
        return functions.centred_levels(x, p.scale, *p.centred()), p.scale

    def estimate(self) -> QParams:
        zero = torch.zeros((), dtype=torch.int32)
        return QParams(torch.tensor(0.125), zero, self.bits, QScheme.PER_TENSOR_SYMMETRIC)

    def qparams(self) -> QParams:
        return self.estimate()


def _stem(gm: GraphModule) -> dict[str, float]:
    p = gm.get_submodule("stem").activation.qparams()  # type: ignore[union-attr,operator]
    return {"scale": float(p.scale), "zero": int(p.zero_point)}


def test_the_k_map_multiplies_each_position() -> None:
    model = Body(lambda s, y: s.a(s.n(y)), a=nn.Conv2d(4, 4, 3, padding=1, groups=2))
    model.n = nn.BatchNorm2d(4)
    gm = calibrated(model, Recipe(method="xnor", k_map=True), X)
    printed = text(check_exact(gm, X))
    assert printed.count("aten.abs") == 1
    assert "aten.mul.Tensor" in printed
    assert "get_attr a_bias() : f32[4,1,1]" in printed


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("bits", [1, 4, 32])
def test_padding_same_that_is_not_symmetric(bits: int) -> None:
    model = Body(lambda s, y: s.a(y), a=nn.Conv2d(4, 4, (2, 3), padding="same"))
    check_exact(calibrated(model, Recipe(bits=bits, method="xnor"), X), X)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("bits", [1, 8])
def test_padding_modes(mode: Any, bits: int) -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode=mode)
    model = Body(lambda s, y: s.a(F.relu(y)), a=conv)
    check_exact(calibrated(model, Recipe(bits=bits, method="xnor"), X), X)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("bits", [1, 4, 32])
def test_other_numbers_of_dimensions(rank: int, bits: int) -> None:
    conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1]
    model = nn.Sequential(
        conv(2, 4, 3), nn.ReLU(), conv(4, 4, 2), norm(4), nn.ReLU(), conv(4, 2, 1)
    )
    x = torch.randn(2, 2, *[6] * rank)
    check_exact(calibrated(model, Recipe(bits=bits), x), x)


def test_parameters_that_stand_alone_become_constants() -> None:
    model = Body(lambda s, y: s.a(y * s.gain))
    model.a = nn.Conv2d(4, 4, 1)
    model.gain = nn.Parameter(torch.tensor([0.5, 1.0, 2.0, 3.0]).reshape(4, 1, 1))
    after = check_exact(calibrated(model, Recipe(bits=8), X), X)
    assert "get_attr gain_1() : f32[4,1,1]" in text(after)


def test_wide_layers_are_exact_beyond_24_bits() -> None:
    model = nn.Sequential(nn.Linear(4, 600), nn.Linear(600, 4)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    x = torch.linspace(-1, 1, 32).reshape(8, 4)
    gm = prepared(model, Recipe(bits=8), x)
    gm(x)
    check_exact(gm, x)


def test_observers_that_saw_nothing_are_named() -> None:
    gm = prepared(LeNet(), Recipe(bits=8), IMAGE)
    with pytest.raises(QCompileError, match=r"conv1 \(.*never observed\n  train the prepared"):
        run([RemoveDropout(), Convert()], gm)


def test_observers_that_saw_nan_are_named() -> None:
    gm = prepared(LeNet(), Recipe(bits=8), IMAGE).eval()
    gm(torch.full_like(IMAGE, torch.nan))
    with pytest.raises(QCompileError, match=r"conv1 \(.*held NaN or infinity"):
        run([RemoveDropout(), Convert()], gm)


def test_weights_that_are_not_finite_are_named() -> None:
    gm = prepared(LeNet(), Recipe(), IMAGE).eval()
    gm(IMAGE)
    with torch.no_grad():
        gm.get_parameter("fc1.weight")[0, 0] = torch.inf
    with pytest.raises(QCompileError, match=r"fc1\.weight: it holds NaN or infinity"):
        run([RemoveDropout(), Convert()], gm)
