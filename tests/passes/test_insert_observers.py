"""Observers stand in front of layers whose activations are affine."""

from __future__ import annotations

import pytest
import torch
from networks import LENET_INPUT, Body, LeNet, planned
from rewriting import check_ignores, check_rewrite
from torch import nn

from qcompile.errors import QCompileError
from qcompile.ir.graph import trace
from qcompile.passes.insert_observers import InsertObservers
from qcompile.quant.observers import Observer
from qcompile.quant.recipe import Recipe

X = torch.randn(2, 1, 4, 4)


def test_affine_layers_are_observed() -> None:
    recipe = Recipe(method="bireal")
    model = Body(lambda s, y: s.body_conv(y), body_conv=nn.Conv2d(4, 4, 1))
    after = check_rewrite(
        InsertObservers(recipe),
        planned(model, recipe, X),
        """
        %0 = placeholder x() : f32[2,1,4,4]
        %1 = call_module stem_observer:MovingAverageObserver(%0) : f32[2,1,4,4]
        %2 = call_module stem:Conv2d(%1) : f32[2,4,4,4]
        %3 = call_module body_conv:Conv2d(%2) : f32[2,4,4,4]
        %4 = call_function aten.flatten.using_ints(%3, 1, -1) : f32[2,64]
        %5 = call_module head_observer:MovingAverageObserver(%4) : f32[2,64]
        %6 = call_module head:Linear(%5) : f32[2,3]
        return %6""",
        X,
    )
    observer = after.get_submodule("stem_observer")
    assert isinstance(observer, Observer)
    assert observer.layer == "stem"
    assert not observer.seen


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(bits=32),
        Recipe(overrides={"*": 1}),
        Recipe(method="dorefa", first_last_bits=32),
        Recipe(method="dorefa", bits=4, first_last_bits=32),
    ],
)
def test_fixed_scales_need_no_observer(recipe: Recipe) -> None:
    x = torch.randn(2, *LENET_INPUT)
    check_ignores(InsertObservers(recipe), planned(LeNet(), recipe, x), x)


def test_without_plans_it_is_an_error() -> None:
    with pytest.raises(QCompileError, match="no layer was planned\n  run choose-quantized first"):
        InsertObservers(Recipe())(trace(nn.Sequential(nn.Conv2d(1, 1, 1)), [X]))
