"""Where ReLUs, BatchNorms and shortcuts go around layers of one bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import LENET_INPUT, RESNET_INPUT, Body, LeNet, ResNet, planned
from rewriting import check_ignores, check_rewrite
from torch import Tensor, nn
from torch.fx import GraphModule

from qcompile.ir.graph import text
from qcompile.passes.binarize_blocks import BinarizeBlocks
from qcompile.quant.recipe import Recipe

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
XNOR, BIREAL, DOREFA = (Recipe(method=method) for method in ("xnor", "bireal", "dorefa"))


def conv() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1)


def check(model: nn.Module, recipe: Recipe, expected: str, x: Tensor = X) -> GraphModule:
    gm = planned(model, recipe, x)
    return check_rewrite(BinarizeBlocks(recipe), gm, expected, x, same_result=False)


def body_of(model: nn.Module, recipe: Recipe, x: Tensor = X) -> list[str]:
    """The printed nodes between the stem and the head."""
    gm = BinarizeBlocks(recipe)(planned(model, recipe, x)).graph
    lines = [line.split(" : ")[0] for line in text(gm).splitlines()]
    start = next(i for i, line in enumerate(lines) if "stem" in line)
    end = next(i for i, line in enumerate(lines) if "flatten" in line)
    return [line.split(" ", 3)[3] for line in lines[start + 1 : end]]


LENET = """
    %0 = placeholder x() : f32[2,1,14,14]
    %1 = call_module conv1:Conv2d(%0) : f32[2,6,12,12]
    %2 = call_function aten.max_pool2d(%1, [2, 2], [2, 2], [0, 0], [1, 1], False) : f32[2,6,6,6]
    %3 = call_module conv2_norm:BatchNorm(%2) : f32[2,6,6,6]
    %4 = call_module conv2:Conv2d(%3) : f32[2,8,6,6]
    %5 = call_module drop:Dropout2d(%4) : f32[2,8,6,6]
    %6 = call_function aten.max_pool2d(%5, [2, 2], [2, 2], [0, 0], [1, 1], False) : f32[2,8,3,3]
    %7 = call_module fc1_norm:BatchNorm(%6) : f32[2,8,3,3]
    %8 = call_function aten.flatten.using_ints(%7, 1, -1) : f32[2,72]
    %9 = call_module fc1:Linear(%8) : f32[2,20]
    %10 = call_function aten.relu(%9) : f32[2,20]
    %11 = call_module dropout:Dropout(%10) : f32[2,20]
    %12 = call_module fc2:Linear(%11) : f32[2,5]
    %13 = call_function aten.log_softmax.int(%12, 1) : f32[2,5]
    return %13"""


@pytest.mark.parametrize("recipe", [XNOR, DOREFA])
def test_norms_go_after_pooling_and_before_flattening(recipe: Recipe) -> None:
    after = check(LeNet(), recipe, LENET, torch.zeros(2, *LENET_INPUT))
    assert after.meta["fresh_norms"] == ("conv2_norm", "fc1_norm")
    layers = [node.meta["layer"] for node in after.graph.nodes if node.op == "call_module"]
    assert layers[:3] == ["conv1", "conv2_norm", "conv2"]
    assert after.get_submodule("conv2_norm").training


def test_a_norm_in_front_of_a_relu_is_used_as_it_is() -> None:
    check(
        ResNet(),
        XNOR,
        """
        %0 = placeholder x() : f32[2,3,12,12]
        %1 = call_module stem.0:Conv2d(%0) : f32[2,8,12,12]
        %2 = call_module stem.1:BatchNorm2d(%1) : f32[2,8,12,12]
        %3 = call_function aten.relu(%2) : f32[2,8,12,12]
        %4 = call_function aten.max_pool2d(%3, [3, 3], [2, 2], [1, 1], [1, 1], False) : f32[2,8,6,6]
        %5 = call_function aten.max_pool2d(%2, [3, 3], [2, 2], [1, 1], [1, 1], False) : f32[2,8,6,6]
        %6 = call_module layer1.conv1:Conv2d(%5) : f32[2,8,6,6]
        %7 = call_module layer1.bn1:BatchNorm2d(%6) : f32[2,8,6,6]
        %8 = call_module layer1.conv2:Conv2d(%7) : f32[2,8,6,6]
        %9 = call_module layer1.bn2:BatchNorm2d(%8) : f32[2,8,6,6]
        %10 = call_function aten.add.Tensor(%9, %4) : f32[2,8,6,6]
        %11 = call_module layer2.conv1:Conv2d(%10) : f32[2,16,3,3]
        %12 = call_module layer2.bn1:BatchNorm2d(%11) : f32[2,16,3,3]
        %13 = call_module layer2.conv2:Conv2d(%12) : f32[2,16,3,3]
        %14 = call_module layer2.bn2:BatchNorm2d(%13) : f32[2,16,3,3]
        %15 = call_module layer2.down.0:Conv2d(%10) : f32[2,16,3,3]
        %16 = call_module layer2.down.1:BatchNorm2d(%15) : f32[2,16,3,3]
        %17 = call_function aten.add.Tensor(%14, %16) : f32[2,16,3,3]
        %18 = call_function aten.relu(%17) : f32[2,16,3,3]
        %19 = call_function aten.mean.dim(%18, [2, 3], True) : f32[2,16,1,1]
        %20 = call_function aten.flatten.using_ints(%19, 1, -1) : f32[2,16]
        %21 = call_module fc:Linear(%20) : f32[2,4]
        return %21""",
        torch.zeros(2, *RESNET_INPUT),
    )


def test_bireal_has_no_relu_and_one_convolution_a_shortcut() -> None:
    check(
        ResNet(),
        BIREAL,
        """
        %0 = placeholder x() : f32[2,3,12,12]
        %1 = call_module stem.0:Conv2d(%0) : f32[2,8,12,12]
        %2 = call_module stem.1:BatchNorm2d(%1) : f32[2,8,12,12]
        %3 = call_function aten.max_pool2d(%2, [3, 3], [2, 2], [1, 1], [1, 1], False) : f32[2,8,6,6]
        %4 = call_module layer1.conv1:Conv2d(%3) : f32[2,8,6,6]
        %5 = call_module layer1.bn1:BatchNorm2d(%4) : f32[2,8,6,6]
        %6 = call_function aten.add.Tensor(%5, %3) : f32[2,8,6,6]
        %7 = call_module layer1.conv2:Conv2d(%6) : f32[2,8,6,6]
        %8 = call_module layer1.bn2:BatchNorm2d(%7) : f32[2,8,6,6]
        %9 = call_function aten.add.Tensor(%8, %3) : f32[2,8,6,6]
        %10 = call_module layer2.conv1:Conv2d(%9) : f32[2,16,3,3]
        %11 = call_module layer2.bn1:BatchNorm2d(%10) : f32[2,16,3,3]
        %12 = call_module layer2.conv2:Conv2d(%11) : f32[2,16,3,3]
        %13 = call_module layer2.bn2:BatchNorm2d(%12) : f32[2,16,3,3]
        %14 = call_module layer2.down.0:Conv2d(%9) : f32[2,16,3,3]
        %15 = call_module layer2.down.1:BatchNorm2d(%14) : f32[2,16,3,3]
        %16 = call_function aten.add.Tensor(%13, %15) : f32[2,16,3,3]
        %17 = call_function aten.relu(%16) : f32[2,16,3,3]
        %18 = call_function aten.mean.dim(%17, [2, 3], True) : f32[2,16,1,1]
        %19 = call_function aten.flatten.using_ints(%18, 1, -1) : f32[2,16]
        %20 = call_module fc:Linear(%19) : f32[2,4]
        return %20""",
        torch.zeros(2, *RESNET_INPUT),
    )


def test_bireal_gives_a_plain_convolution_norm_and_shortcut() -> None:
    model = Body(lambda s, y: F.relu(s.b(F.relu(s.a(F.relu(y))))), a=conv(), b=conv())
    assert body_of(model, BIREAL) == [
        "a_norm:BatchNorm(%1)",
        "a:Conv2d(%2)",
        "a_out_norm:BatchNorm(%3)",
        "aten.add.Tensor(%4, %2)",
        "b:Conv2d(%5)",
        "b_out_norm:BatchNorm(%6)",
        "aten.add.Tensor(%7, %5)",
        "aten.relu(%8)",
    ]


def test_bireal_adds_no_shortcut_where_shapes_differ() -> None:
    model = Body(lambda s, y: s.a(s.n(y)), a=nn.Conv2d(4, 4, 3), n=nn.BatchNorm2d(4))
    assert body_of(model, BIREAL) == ["n:BatchNorm2d(%1)", "a:Conv2d(%2)"]


POOL = "aten.max_pool2d({}, [2, 2], [2, 2], [0, 0], [1, 1], False)"


def test_other_readers_keep_their_relu() -> None:
    def forward(s: Any, y: Tensor) -> Tensor:
        shared = F.max_pool2d(F.relu(y), 2)
        return s.a(shared) + s.b(shared) + shared

    assert body_of(Body(forward, a=conv(), b=conv()), XNOR) == [
        "aten.relu(%1)",
        POOL.format("%2"),
        POOL.format("%1"),
        "a_norm:BatchNorm(%4)",
        "a:Conv2d(%5)",
        POOL.format("%1"),
        "b_norm:BatchNorm(%7)",
        "b:Conv2d(%8)",
        "aten.add.Tensor(%6, %9)",
        "aten.add.Tensor(%10, %3)",
    ]


def test_relus_joined_by_cat_need_a_norm_for_signs_only() -> None:
    def forward(s: Any, y: Tensor) -> Tensor:
        return s.a(torch.cat([F.relu(s.n(y)), F.relu(s.m(y))], 1))

    parts = {"a": nn.Conv2d(8, 4, 1), "n": nn.BatchNorm2d(4), "m": nn.BatchNorm2d(4)}
    assert body_of(Body(forward, **parts), XNOR)[-2:] == ["a_norm:BatchNorm(%6)", "a:Conv2d(%7)"]
    check_ignores(BinarizeBlocks(DOREFA), planned(Body(forward, **parts), DOREFA, X), X)


def test_averages_keep_the_relu_that_dorefa_needs() -> None:
    model = Body(lambda s, y: s.a(F.avg_pool2d(F.relu(s.n(y)), 2)), a=conv(), n=nn.BatchNorm2d(4))
    average = "aten.avg_pool2d(%2, [2, 2], [2, 2], [0, 0], False, True)"
    assert body_of(model, XNOR) == ["n:BatchNorm2d(%1)", average, "a:Conv2d(%3)"]
    check_ignores(BinarizeBlocks(DOREFA), planned(model, DOREFA, X), X)


@pytest.mark.parametrize(
    ("clip", "xnor", "dorefa"),
    [
        (nn.ReLU6(), True, True),
        (nn.Hardtanh(0, 1), True, True),
        (nn.Hardtanh(0, 0.5), True, False),  # DoReFa-Net clips at 1, which is not at 0.5
        (nn.Hardtanh(), False, False),
        (nn.PReLU(), False, False),
        (nn.LeakyReLU(), False, False),
    ],
)
def test_which_clips_go(clip: nn.Module, xnor: bool, dorefa: bool) -> None:
    model = Body(lambda s, y: s.a(s.clip(s.n(y))), a=conv(), n=nn.BatchNorm2d(4), clip=clip)
    assert (len(body_of(model, XNOR)) == 2) == xnor
    assert (len(body_of(model, DOREFA)) == 2) == dorefa


@pytest.mark.parametrize("function", [torch.sigmoid, torch.abs, F.hardswish])
def test_what_is_never_negative_needs_a_norm(function: nn.Module) -> None:
    model = Body(lambda s, y: s.a(function(s.n(y))), a=conv(), n=nn.BatchNorm2d(4))
    assert body_of(model, XNOR)[2] == "a_norm:BatchNorm(%3)"


def test_a_norm_goes_before_padding() -> None:
    model = Body(lambda s, y: s.a(F.pad(F.relu(y), (1, 1))), a=conv())
    assert body_of(model, XNOR)[:2] == [
        "a_norm:BatchNorm(%1)",
        "aten.pad(%2, [1, 1], 'constant', 0.0)",
    ]


def test_a_binarized_first_layer_has_a_norm_on_the_input() -> None:
    recipe = Recipe(method="xnor", overrides={"stem": 1})
    gm = BinarizeBlocks(recipe)(planned(Body(lambda s, y: s.a(y), a=conv()), recipe, X)).graph
    assert "%1 = call_module stem_norm:BatchNorm(%0)" in text(gm)


def test_names_that_are_taken_get_a_number() -> None:
    model = Body(lambda s, y: s.a(y), a=conv(), a_norm=nn.Identity())
    assert body_of(model, XNOR)[0] == "a_norm:BatchNorm(%1)"  # Identity went with canonicalize
    model = Body(lambda s, y: s.a(s.a_norm(y)), a=conv(), a_norm=nn.PReLU())
    assert body_of(model, XNOR)[1] == "a_norm_1:BatchNorm(%2)"


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(bits=8),
        Recipe(bits=2),
        Recipe(bits=32),
        Recipe(weight_bits=1, activation_bits=8),
        Recipe(overrides={"conv2": 8, "fc1": "float"}),
    ],
)
def test_nothing_changes_where_nothing_is_binarized(recipe: Recipe) -> None:
    x = torch.zeros(2, *LENET_INPUT)
    check_ignores(BinarizeBlocks(recipe), planned(LeNet(), recipe, x), x)


def test_dorefa_of_any_width_wants_its_norm() -> None:
    recipe = Recipe(bits=4, method="dorefa")
    check(LeNet(), recipe, LENET, torch.zeros(2, *LENET_INPUT))
