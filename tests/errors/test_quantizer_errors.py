"""What quantizers and observers refuse on the way from prepare to convert, and whom they name."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import qcompile
from qcompile import QCompileError, Recipe
from qcompile.calibration import calibrate
from qcompile.quant.training import quant_layers

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
RECIPES: dict[str, dict[str, Any]] = {
    "histogram": {"mode": "static"},
    "percentile": {"observer": "percentile"},
    "lsq": {"method": "lsq"},
    "pact": {"method": "pact"},
}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def prepared(name: str) -> torch.fx.GraphModule:
    return qcompile.prepare(network(), X, Recipe(8, **RECIPES[name]))


@pytest.mark.parametrize("name", RECIPES)
def test_what_saw_nothing_is_named(name: str) -> None:
    with pytest.raises(QCompileError, match="never observed") as caught:
        qcompile.convert(prepared(name))
    assert str(caught.value.where).startswith("0")
    assert "real inputs" in str(caught.value.hint)


@pytest.mark.parametrize("name", RECIPES)
def test_what_saw_nan_is_named(name: str) -> None:
    gm = prepared(name)
    with torch.no_grad():
        gm(X)
        bad = torch.full((4, 4), math.nan)
        middle = quant_layers(gm)["2"].activation.train()
        for buffer in ("known", "seen"):
            if hasattr(middle, buffer):
                getattr(middle, buffer).zero_()
        middle(bad)
    with pytest.raises(QCompileError, match="NaN or infinity") as caught:
        qcompile.convert(gm)
    assert str(caught.value.where).startswith("2")


@pytest.mark.parametrize("name", RECIPES)
def test_one_constant_batch_is_enough(name: str) -> None:
    gm = prepared(name)
    calibrate(gm, [torch.full((4, 6), 0.25)])
    converted = qcompile.convert(gm)
    assert torch.equal(converted(X), gm(X))
    assert converted(X).isfinite().all()


def test_a_dynamic_network_needs_no_data() -> None:
    gm = qcompile.prepare(network(), X, Recipe(8, mode="dynamic")).eval()
    assert torch.equal(qcompile.convert(gm)(X), gm(X))
