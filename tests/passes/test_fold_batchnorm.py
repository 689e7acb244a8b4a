"""A BatchNorm behind a quantized layer costs nothing at inference, and training does not notice."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import RESNET_INPUT, Body, ResNet, prepared, train_a_little
from rewriting import assert_same_result, check_declines, check_ignores, check_rewrite
from torch import Tensor, nn
from torch.fx import GraphModule

from qcompile import pipelines
from qcompile.ir.graph import calls
from qcompile.ir.stages import aten, dialect
from qcompile.passes.base import run
from qcompile.passes.convert import Convert
from qcompile.passes.fold_batchnorm import FoldBatchnorm
from qcompile.quant.batchnorm import BatchNorm
from qcompile.quant.layers import QuantLayer
from qcompile.quant.recipe import Recipe

X = torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(0))
COLOUR = torch.randn(3, *RESNET_INPUT, generator=torch.Generator().manual_seed(2))
ALONE = "its BatchNorm stays a step of its own: "

RECIPES: list[dict[str, Any]] = [
    {"bits": 8},
    {"bits": 4},
    {"bits": 2, "first_last_bits": 4},
    {"method": "xnor"},
    {"method": "bireal"},
    {"method": "dorefa"},
    {"weight_bits": 2, "activation_bits": 8, "ternary_weights": True},
]


def net(forward: Callable[..., Tensor] | None = None, **layers: nn.Module) -> Body:
    """A convolution with a bias, and a BatchNorm of scales and shifts of both signs."""
    torch.manual_seed(0)
    model = Body(forward or (lambda s, y: s.n(s.a(y))), **layers)
    model.a = nn.Conv2d(4, 4, 3, padding=1)
    model.n = nn.BatchNorm2d(4)
    nn.init.normal_(model.n.weight)
    nn.init.normal_(model.n.bias)
    return model


def trained(model: nn.Module, recipe: Recipe, x: Tensor = X) -> GraphModule:
    gm = prepared(model, recipe, x)
    train_a_little(gm, x)
    return gm.eval()


def folded(gm: GraphModule) -> GraphModule:
    return FoldBatchnorm()(gm).graph


def scale_shifts(gm: GraphModule) -> int:
    return sum(calls(node, dialect.scale_shift.default) for node in gm.graph.nodes)


def test_the_graph_stays_and_the_layer_computes_both() -> None:
    gm = trained(net(), Recipe(bits=8))
    after = check_rewrite(
        FoldBatchnorm(),
        gm,
        """
        %0 = placeholder x() : f32[4,1,5,5]
        %1 = call_module stem:QuantConv(%0) : f32[4,4,5,5]
        %2 = call_module a:QuantConv(%1) : f32[4,4,5,5]
        %3 = call_module n:BatchNorm(%2) : f32[4,4,5,5]
        %4 = call_function aten.flatten.using_ints(%3, 1, -1) : f32[4,100]
        %5 = call_module head:QuantLinear(%4) : f32[4,3]
        return %5""",
        X,
        same_result=False,
    )
    layer, norm = after.get_submodule("a"), after.get_submodule("n")
    assert isinstance(layer, QuantLayer)
    assert isinstance(norm, BatchNorm)
    assert layer.absorbs_norm
    assert norm.is_absorbed
    x = torch.randn(2, 4, 5, 5)
    assert norm(x) is x
    before = gm.get_submodule("n")(gm.get_submodule("a")(x))
    torch.testing.assert_close(norm(layer(x)), before, rtol=1e-5, atol=1e-5)
    assert not torch.equal(layer(x), gm.get_submodule("a")(x))


@pytest.mark.parametrize("fields", RECIPES, ids=str)
def test_one_scale_shift_computes_what_two_did(fields: dict[str, Any]) -> None:
    gm = trained(net(), Recipe(**fields))
    after = folded(gm)
    with torch.no_grad():
        x = torch.randn(2, 4, 5, 5)
        layers = [[m.get_submodule(name) for name in "an"] for m in (gm, after)]
        one, other = (norm(layer(x)) for layer, norm in layers)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    converted = run([Convert()], after).graph
    assert_same_result(converted, after, X)
    assert_same_result(pipelines.lower(converted), converted, X)
    assert scale_shifts(converted) == 3
    assert scale_shifts(run([Convert()], gm).graph) > 3


@pytest.mark.parametrize("fields", RECIPES, ids=str)
def test_residual_networks_are_exact(fields: dict[str, Any]) -> None:
    after = folded(trained(ResNet(), Recipe(**fields), COLOUR))
    absorbed = [m for m in after.modules() if isinstance(m, BatchNorm) and m.is_absorbed]
    assert len(absorbed) == 6
    converted = run([Convert()], after).graph
    assert_same_result(converted, after, COLOUR)
    assert_same_result(pipelines.lower(converted), converted, COLOUR)


def test_training_is_the_same_to_the_bit() -> None:
    gm = prepared(net(), Recipe(), X)
    after = folded(gm)
    assert list(after.state_dict()) == list(gm.state_dict())
    assert [n for n, _ in after.named_modules()] == [n for n, _ in gm.named_modules()]
    train_a_little(gm, X)
    train_a_little(after, X)
    torch.testing.assert_close(after.state_dict(), gm.state_dict(), rtol=0, atol=0)


def test_copies_and_loaded_states_are_folded_too() -> None:
    after = folded(trained(net(), Recipe(bits=4)))
    twin = copy.deepcopy(after)
    with torch.no_grad():
        twin.get_parameter("n.weight").mul_(2)
    layer, norm = (twin.get_submodule(name) for name in "an")
    x = torch.randn(2, 4, 5, 5)
    assert isinstance(layer, QuantLayer)
    torch.testing.assert_close(layer.scale_shift()[0], 2 * after.a.scale_shift()[0])  # type: ignore[union-attr,operator]
    assert not torch.equal(norm(layer(x)), after.get_submodule("a")(x))
    twin.load_state_dict(after.state_dict())
    assert torch.equal(twin(X), after(X))


@pytest.mark.parametrize("name", ["a", "n"])
def test_where_one_of_both_trains_they_are_two_steps(name: str) -> None:
    """A BatchNorm that is frozen while the layer trains, and one whose statistics are estimated."""
    gm = trained(net(), Recipe(bits=8))
    after = folded(gm)
    for model in (gm, after):
        model.get_submodule(name).train()
    assert_same_result(after, gm, X)


def test_thresholds_take_the_norm_in() -> None:
    two = net(lambda s, y: s.b(s.n(s.a(y))), b=nn.Conv2d(4, 4, 1))
    after = folded(trained(two, Recipe(method="xnor")))
    lowered = pipelines.lower(run([Convert()], after).graph)
    assert sum(calls(n, dialect.threshold.default) for n in lowered.graph.nodes) == 2
    assert scale_shifts(lowered) == 2  # of b and of the head


@pytest.mark.parametrize("rank", [1, 3])
def test_other_numbers_of_dimensions(rank: int) -> None:
    conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1]
    model = nn.Sequential(conv(2, 4, 3), norm(4), nn.ReLU(), conv(4, 2, 1))
    x = torch.randn(2, 2, *[6] * rank)
    after = folded(trained(model, Recipe(bits=8), x))
    assert_same_result(run([Convert()], after).graph, after, x)


def test_linear_layers_absorb() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(7, 6)
    converted = run([Convert()], folded(trained(model, Recipe(bits=8), x))).graph
    assert scale_shifts(converted) == 2


def test_norms_without_weight_and_bias() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 2))
    x = torch.randn(7, 6)
    after = folded(trained(model, Recipe(bits=8), x))
    converted = run([Convert()], after).graph
    assert_same_result(converted, after, x)
    assert scale_shifts(converted) == 2


def test_declines_a_result_that_others_read() -> None:
    gm = trained(net(lambda s, y: s.n(z := s.a(y)) + z), Recipe(bits=8))
    [add] = [n for n in gm.graph.nodes if calls(n, aten.add.Tensor)]
    check_declines(FoldBatchnorm(), gm, a=f"{ALONE}{add.meta['layer']} reads what is before")


def test_declines_two_norms_of_one_result() -> None:
    two = net(lambda s, y: s.n(z := s.a(y)) + s.m(z), m=nn.BatchNorm2d(4))
    check_declines(
        FoldBatchnorm(), trained(two, Recipe(bits=8)), a=f"{ALONE}m reads what is before"
    )


def test_declines_a_result_of_the_model() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm = nn.Linear(6, 4), nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.fc(x)
            return self.norm(y), y

    gm = prepared(Two(), Recipe(bits=8), torch.randn(3, 6))
    check_declines(FoldBatchnorm(), gm, fc=f"{ALONE}the output reads what is before")


def test_declines_a_norm_of_two_layers() -> None:
    shared = net(lambda s, y: s.n(s.a(s.n(s.b(y)))), b=nn.Conv2d(4, 4, 1))
    reason = f"{ALONE}n is called elsewhere too"
    check_declines(FoldBatchnorm(), trained(shared, Recipe(bits=8)), a=reason, b=reason)


def test_declines_layers_with_a_magnitude_map() -> None:
    gm = trained(net(), Recipe(method="xnor", k_map=True, overrides={"stem": "float"}))
    check_declines(FoldBatchnorm(), gm, a=f"{ALONE}XNOR-Net's K stands before it")


def test_float_layers_keep_their_norms() -> None:
    recipe = Recipe(bits=8, overrides={"a": "float"})
    check_ignores(FoldBatchnorm(), trained(net(), recipe))
    relu = net(lambda s, y: s.n(torch.relu(s.a(y))))
    check_ignores(FoldBatchnorm(), trained(relu, Recipe(bits=8)))
