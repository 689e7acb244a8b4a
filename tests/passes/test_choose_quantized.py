"""Bits for each layer: first, last, overridden, or declined with a reason."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from rewriting import check_declines, check_ignores
from torch import Tensor, nn

from qcompile.errors import QCompileError
from qcompile.ir.graph import trace
from qcompile.ir.plan import LayerPlan
from qcompile.passes.choose_quantized import ChooseQuantized
from qcompile.quant.recipe import Recipe

X = torch.zeros(2, 1, 8, 8)


class Branches(nn.Module):
    """Two first layers, a residual block, two last layers."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(1, 4, 3, padding=1)
        self.right = nn.Conv2d(1, 4, 3, padding=1)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.mean = nn.Conv2d(4, 2, 1)
        self.spread = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.left(x) + self.right(x)
        y = self.body(y) + y
        return self.mean(y), self.spread(y)


def plans(model: nn.Module, recipe: Recipe, *inputs: Tensor) -> dict[str, LayerPlan]:
    gm = ChooseQuantized(recipe)(trace(model, inputs)).graph
    found: dict[str, LayerPlan] = gm.meta["plans"]
    return found


def bits(model: nn.Module, recipe: Recipe, *inputs: Tensor) -> dict[str, tuple[int, int]]:
    found = plans(model, recipe, *inputs)
    return {layer: (p.weight_bits, p.activation_bits) for layer, p in found.items()}


def test_first_and_last_layers_by_dataflow() -> None:
    assert bits(Branches(), Recipe(), X) == {
        "left": (8, 8),
        "right": (8, 8),
        "body": (1, 1),
        "mean": (8, 8),
        "spread": (8, 8),
    }


def test_a_plan_says_everything_about_its_layer() -> None:
    found = plans(Branches(), Recipe(weight_bits=1, activation_bits=4), X)
    assert [p.reason for p in found.values()] == ["first layer"] * 2 + [""] + ["last layer"] * 2
    body = found["body"]
    assert (body.layer, body.kind, body.weights, body.quantized) == ("body", "Conv2d", 144, True)
    assert (body.weight_bits, body.activation_bits) == (1, 4)
    assert "test_choose_quantized.py:" in body.where


def test_the_bits_of_first_and_last_are_a_choice() -> None:
    assert bits(Branches(), Recipe(first_last_bits=32), X)["left"] == (32, 32)
    assert bits(Branches(), Recipe(bits=4, first_last_bits=4), X)["mean"] == (4, 4)
    assert plans(Branches(), Recipe(bits=8), X)["left"].reason == ""


def test_overrides_win() -> None:
    recipe = Recipe(overrides={"left": 1, "bo*": "float", "mean": {"weight_bits": 2}})
    found = bits(Branches(), recipe, X)
    assert (found["left"], found["body"], found["mean"]) == ((1, 1), (32, 32), (2, 8))


def test_an_override_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(QCompileError, match="'bdoy' matches no") as caught:
        plans(Branches(), Recipe(overrides={"bdoy": 8}), X)
    assert "did you mean 'body'" in str(caught.value)


def test_float_weights_with_integer_activations_are_an_error() -> None:
    """The recipe refuses what it sees; a partial override may meet a layer that was float."""
    recipe = Recipe(8, overrides={"body": "float", "bod*": {"activation_bits": 4}})
    with pytest.raises(QCompileError, match=r"body \(.*32-bit weights with 4-bit activations"):
        plans(Branches(), recipe, X)


# --- modes ---------------------------------------------------------------------------------------


def test_weight_only_layers_keep_float_activations() -> None:
    found = bits(Branches(), Recipe(bits=4, mode="weight-only"), X)
    assert (found["left"], found["body"], found["mean"]) == ((8, 32), (4, 32), (8, 32))
    found = bits(Branches(), Recipe(bits=4, mode="weight-only", first_last_bits=32), X)
    assert (found["left"], found["body"]) == ((32, 32), (4, 32))


@pytest.mark.parametrize("mode", ["qat", "static", "dynamic", "weight-only"])
def test_one_layer_alone_can_be_weight_only(mode: str) -> None:
    recipe = Recipe(8, mode=mode, overrides={"body": {"weight_bits": 2, "activation_bits": 32}})
    body = plans(Branches(), recipe, X)["body"]
    assert (body.weight_bits, body.activation_bits, body.dynamic) == (2, 32, False)
    assert body.quantized
    assert body.reason == ""


class Mixed(nn.Module):
    """A convolution and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(256, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(torch.flatten(self.conv(x), 1))))


def test_only_linear_layers_are_dynamic() -> None:
    reason = "dynamic quantization is for linear layers"
    recipe = Recipe(bits=4, mode="dynamic")
    found = plans(Mixed(), recipe, X)
    assert {name: p.dynamic for name, p in found.items()} == {
        "conv": False,
        "fc1": True,
        "fc2": True,
    }
    assert (found["conv"].quantized, found["conv"].reason) == (False, reason)
    assert (found["fc1"].weight_bits, found["fc1"].activation_bits) == (4, 4)
    assert (found["fc2"].weight_bits, found["fc2"].reason) == (8, "last layer")
    check_declines(ChooseQuantized(recipe), Mixed(), X, conv=reason)


def test_in_mode_dynamic_a_float_layer_is_not_dynamic() -> None:
    recipe = Recipe(bits=8, mode="dynamic", overrides={"fc1": "float", "conv": "float"})
    found = plans(Mixed(), recipe, X)
    assert (found["fc1"].dynamic, found["fc1"].quantized) == (False, False)
    assert found["conv"].reason == ""


@pytest.mark.parametrize("mode", ["qat", "static", "weight-only"])
def test_other_modes_have_no_dynamic_layers(mode: str) -> None:
    found = plans(Mixed(), Recipe(bits=8, mode=mode), X)
    assert not any(p.dynamic for p in found.values())


def test_float_everywhere_changes_and_declines_nothing() -> None:
    check_ignores(ChooseQuantized(Recipe(bits=32)), Branches(), X)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.conv(x)))


def test_declines_a_layer_called_twice() -> None:
    reason = "conv is called twice, with one weight for inputs of different ranges"
    check_declines(ChooseQuantized(Recipe()), Twice(), X, conv=reason)
    [plan] = plans(Twice(), Recipe(), X).values()
    assert (plan.quantized, plan.reason) == (False, reason)
    check_ignores(ChooseQuantized(Recipe(overrides={"conv": "float"})), Twice(), X)


def test_declines_tied_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    check_declines(
        ChooseQuantized(Recipe()),
        Tied(),
        torch.zeros(2, 8),
        a="it shares its weight with b",
        b="it shares its weight with a",
    )


def test_declines_a_linear_layer_over_sequences() -> None:
    check_declines(
        ChooseQuantized(Recipe()),
        nn.Sequential(nn.Linear(8, 8)),
        torch.zeros(2, 3, 8),
        reasons={"0": "its input has 3 dimensions, a quantized linear layer takes 2"},
    )
