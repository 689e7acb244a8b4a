"""What a value is like after BatchNorm, ReLU and the rest."""

from __future__ import annotations

import pytest
import torch
from rewriting import staged
from torch import Tensor, nn

from qcompile.ir.stages import Stage
from qcompile.passes.canonicalize import Canonicalize
from qcompile.passes.normalized import State, is_relu, state_of
from qcompile.quant.activations import SignActivation, UnitActivation


class Two(nn.Module):
    """Joins a normalized value with what `other` makes of it."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.other = other

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(x)
        return torch.cat([y, self.other(y)], 1)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Identity(), State.RAW),
        (nn.ReLU(), State.RAW),
        (nn.Sequential(nn.BatchNorm2d(3)), State.CENTRED),
        (nn.Sequential(nn.BatchNorm2d(3), nn.MaxPool2d(2)), State.CENTRED),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), State.POSITIVE),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Sigmoid(), nn.Flatten()), State.POSITIVE),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Tanh()), State.CENTRED),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)), State.RAW),
        (nn.Sequential(nn.BatchNorm2d(3), nn.LogSoftmax(1)), State.RAW),
        (Two(nn.Tanh()), State.CENTRED),
        (Two(nn.ReLU()), State.POSITIVE),
        (Two(nn.Conv2d(3, 2, 1)), State.RAW),
    ],
)
def test_state(model: nn.Module, expected: State) -> None:
    gm = Canonicalize()(staged(Stage.TRACED, model, torch.randn(2, 3, 4, 4))).graph
    result = gm.graph.output_node().args[0]
    assert isinstance(result, torch.fx.Node)
    assert state_of(gm, result) is expected


class Residuals(nn.Module):
    """Additions of a value and its ReLU, `levels` deep: 2 ** levels ways lead to the top."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        for _ in range(self.levels):
            x = x + x.relu()
        return x


@pytest.mark.parametrize("levels", [40, 600])
def test_each_value_is_looked_at_once(levels: int) -> None:
    gm = Canonicalize()(staged(Stage.TRACED, Residuals(levels), torch.randn(2, 3, 1, 1))).graph
    result = gm.graph.output_node().args[0]
    assert isinstance(result, torch.fx.Node)
    assert state_of(gm, result) is State.CENTRED


@pytest.mark.parametrize(
    ("model", "for_sign", "for_unit"),
    [
        (nn.ReLU(), True, True),
        (nn.ReLU6(), True, True),
        (nn.Hardtanh(0.0, 0.5), True, False),  # below the 1 that DoReFa-Net clips to
        (nn.Hardtanh(0.5, 2.0), True, False),
        (nn.Hardtanh(), False, False),
        (nn.Tanh(), False, False),
    ],
)
def test_what_cuts_off_below_zero(model: nn.Module, for_sign: bool, for_unit: bool) -> None:
    gm = Canonicalize()(staged(Stage.TRACED, model, torch.randn(2, 3))).graph
    result = gm.graph.output_node().args[0]
    assert isinstance(result, torch.fx.Node)
    assert is_relu(result, SignActivation) is for_sign
    assert is_relu(result, UnitActivation) is for_unit
