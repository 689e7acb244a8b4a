"""Every width of weights with every width of activations: prepared, converted and compiled are equal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

import qcompile
from qcompile import Recipe
from qcompile.calibration import calibrate
from qcompile.ir.graph import calls, constant_of
from qcompile.ir.stages import dialect
from qcompile.passes.one_bit import argument

WIDTHS = range(1, 9)
CHANNELS, FEATURES = 36, 75  # no multiples of what a word or a vector holds
X = torch.randn(3, 5, 6, 6, generator=torch.Generator().manual_seed(0))


class Widths(nn.Module):
    """A convolution and a linear layer for each width of weights, all at one of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(5, CHANNELS, 3), nn.BatchNorm2d(CHANNELS))
        self.fold = nn.Sequential(nn.Linear(5 * 36, FEATURES), nn.BatchNorm1d(FEATURES))
        self.conv = nn.ModuleList(nn.Conv2d(CHANNELS, 17, 3, padding=1) for _ in WIDTHS)
        self.linear = nn.ModuleList(nn.Linear(FEATURES, 19) for _ in WIDTHS)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        image, vector = F.relu(self.stem(x)), F.relu(self.fold(x.flatten(1)))
        maps = [conv(image) for conv in self.conv]
        return *maps, *(linear(vector) for linear in self.linear)


def overrides(activation_bits: int) -> dict[str, dict[str, int]]:
    return {
        f"{kind}.{i}": {"weight_bits": bits, "activation_bits": activation_bits}
        for kind in ("conv", "linear")
        for i, bits in enumerate(WIDTHS)
    }


def products(converted: GraphModule) -> dict[str, tuple[Tensor, int, int]]:
    """Of each layer: levels of the weights, and the least and greatest level of activations."""
    found = {}
    for node in converted.graph.nodes:
        if calls(node, dialect.conv.default, dialect.linear.default):
            weight, levels = constant_of(converted, argument(node, 1)), argument(node)
            assert weight is not None
            found[str(node.meta["layer"])] = (weight.unique(), *ends(levels))
    return found


def ends(levels: torch.fx.Node) -> tuple[int, int]:
    if calls(levels, dialect.sign.default):
        return -1, 1
    if calls(levels, dialect.quantize_unit.default):
        return 0, 2 ** int(str(levels.args[1])) - 1
    return int(str(levels.args[3])), int(str(levels.args[4]))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bireal", "dorefa"])
@pytest.mark.parametrize("activation_bits", WIDTHS)
def test_the_specification_the_integers_and_the_program_are_equal(
    activation_bits: int, method: str
) -> None:
    torch.manual_seed(activation_bits)
    recipe = Recipe(8, method=method, overrides=overrides(activation_bits))
    prepared = qcompile.prepare(Widths(), X, recipe)
    calibrate(prepared, [X])
    converted = qcompile.convert(prepared)
    found = products(converted)
    for layer, wanted in overrides(activation_bits).items():
        weights, low, high = found[layer]
        bits = wanted["weight_bits"]
        assert len(weights) <= 2**bits
        assert len(weights) > 2 ** (bits - 1)  # and none narrower
        steps = high - low + 1 if (low, high) != (-1, 1) else 2
        assert steps == 2**activation_bits
    program = qcompile.compile(converted)
    x = torch.cat([X, torch.randn_like(X)])
    specified, integers, compiled = prepared(x), converted(x), program(x)
    for a, b, c in zip(specified, integers, compiled, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=0)
        torch.testing.assert_close(c, b, rtol=0, atol=0)
