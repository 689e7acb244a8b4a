"""Quantized layers stand where float ones stood, train, and leave the user's model alone."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import (
    LENET_INPUT,
    RESNET_INPUT,
    Body,
    LeNet,
    ResNet,
    planned,
    prepared,
    train_a_little,
)
from rewriting import check_rewrite
from torch import nn

from qcompile.errors import QCompileError
from qcompile.ir.stages import Stage
from qcompile.passes.base import run
from qcompile.passes.insert_fake_quant import InsertFakeQuant
from qcompile.passes.insert_observers import InsertObservers
from qcompile.quant.activations import AffineActivation, SignActivation
from qcompile.quant.layers import QuantConv, QuantLayer
from qcompile.quant.recipe import Recipe

X = torch.randn(2, 1, 4, 4)
IMAGE = torch.randn(4, *LENET_INPUT, generator=torch.Generator().manual_seed(1))

RECIPES = [
    Recipe(),
    Recipe(method="xnor"),
    Recipe(method="xnor", k_map=True),
    Recipe(method="dorefa", gradient_bits=4),
    Recipe(method="dorefa", weight_bits=1, activation_bits=2),
    Recipe(bits=4),
    Recipe(bits=8, method="affine"),
    Recipe(weight_bits=2, activation_bits=8, ternary_weights=True),
    Recipe(bits=32),
    Recipe(overrides={"conv2": "float", "fc1": 4}),
]


def model() -> Body:
    return Body(lambda s, y: s.a(s.n(y)), a=nn.Conv2d(4, 4, 1), n=nn.BatchNorm2d(4))


def test_layers_are_replaced_where_they_are() -> None:
    recipe = Recipe(overrides={"head": "float"})
    gm = run([InsertObservers(recipe)], planned(model(), recipe, X)).graph
    after = check_rewrite(
        InsertFakeQuant(recipe),
        gm,
        """
        %0 = placeholder x() : f32[2,1,4,4]
        %1 = call_module stem:QuantConv(%0) : f32[2,4,4,4]
        %2 = call_module n:BatchNorm(%1) : f32[2,4,4,4]
        %3 = call_module a:QuantConv(%2) : f32[2,4,4,4]
        %4 = call_function aten.flatten.using_ints(%3, 1, -1) : f32[2,64]
        %5 = call_module head:Linear(%4) : f32[2,3]
        return %5""",
        X,
        same_result=False,
    )
    assert after.meta["stage"] is Stage.PREPARED
    stem, a = after.get_submodule("stem"), after.get_submodule("a")
    assert isinstance(stem, QuantConv)
    assert isinstance(a, QuantConv)
    assert isinstance(stem.activation, AffineActivation)
    assert stem.activation.observer.layer == "stem"
    assert isinstance(a.activation, SignActivation)
    assert not any("observer" in name for name, _ in after.named_children())


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_it_trains_like_any_model(recipe: Recipe) -> None:
    net = LeNet()
    before = copy.deepcopy(net.state_dict())
    gm = prepared(net, recipe, IMAGE)
    start = {name: p.detach().clone() for name, p in gm.named_parameters()}
    train_a_little(gm, IMAGE)
    weights = [name for name in start if name.endswith(".weight")]
    assert {"conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"} <= set(weights)
    for name, value in gm.named_parameters():
        assert name not in weights or not torch.equal(value, start[name]), name
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_the_state_of_training_can_be_saved_and_loaded() -> None:
    one, other = (prepared(LeNet(), Recipe(), IMAGE) for _ in range(2))
    train_a_little(one, IMAGE)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.eval()(IMAGE), one.eval()(IMAGE))


def test_training_and_evaluating_modes_reach_every_layer() -> None:
    gm = prepared(ResNet(), Recipe(), torch.randn(4, *RESNET_INPUT))
    assert all(module.training for module in gm.modules())
    assert not any(module.training for module in gm.eval().modules())


def test_gradients_of_first_and_last_layers_stay_float() -> None:
    gm = prepared(LeNet(), Recipe(method="dorefa", gradient_bits=4), IMAGE)
    found = {n: m.gradient_bits for n, m in gm.named_modules() if isinstance(m, QuantLayer)}
    assert found == {"conv1": 32, "conv2": 4, "fc1": 4, "fc2": 32}


def test_the_k_map_is_for_layers_of_one_bit() -> None:
    gm = prepared(LeNet(), Recipe(method="xnor", k_map=True, overrides={"fc1": 8}), IMAGE)
    found = {n: m.k_map for n, m in gm.named_modules() if isinstance(m, QuantLayer)}
    assert found == {"conv1": False, "conv2": True, "fc1": False, "fc2": False}


def test_sums_that_overflow_are_refused_with_their_place() -> None:
    recipe = Recipe(method="dorefa", bits=8, first_last_bits=32)
    # 255 * 255 * 33,100 is above 2^31.
    wide = Body(lambda s, y: s.b(s.a(y)), a=nn.Conv2d(4, 33100, 1), b=nn.Conv2d(33100, 1, 1))
    x = torch.randn(2, 1, 1, 1)
    with pytest.raises(QCompileError, match=r"(?s)b \(.*overflow 32-bit sums"):
        prepared(wide, recipe, x)
