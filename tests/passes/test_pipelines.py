"""What the pipelines make of a small network, from its float graph to packed words."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from rewriting import assert_same_result
from torch import nn

from qcompile import pipelines
from qcompile.api import convert, prepare
from qcompile.ir.graph import text
from qcompile.passes import PASSES
from qcompile.passes.correct_bias import CorrectBias
from qcompile.quant.recipe import Recipe


def network() -> nn.Module:
    """A stem, a padded convolution with pooling, a strided one without BatchNorm, two linear layers."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 40, 3, padding=1, bias=False),
        nn.BatchNorm2d(40),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(40, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(64, 20),
        nn.ReLU(),
        nn.Linear(20, 10),
        nn.LogSoftmax(dim=1),
    )
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)  # channels that fall, too
            nn.init.normal_(module.bias)
    return net.eval()


def rounded(printed: str) -> str:
    """Floats to three digits: sums in another order, on another machine, differ in the last one."""
    return re.sub(r"\d+\.\d{4,}(e-?\d+)?", lambda m: f"{float(m.group()):.3g}", printed)


@pytest.mark.parametrize("method", ["bireal", "xnor", "dorefa"])
def test_from_float_to_packed_words(method: str, golden: Callable[[str, str], None]) -> None:
    x = torch.linspace(-1, 1, 2 * 100).reshape(2, 1, 10, 10).sin()
    prepared = prepare(network(), [x], Recipe(bits=1, method=method))
    prepared(x)
    converted = convert(prepared)
    lowered = pipelines.lower(converted)
    assert_same_result(converted, prepared, x)
    assert_same_result(lowered, converted, x)
    graphs = {"prepared": prepared, "converted": converted, "lowered": lowered}
    page = "\n\n".join(f"# {name}\n{text(gm)}" for name, gm in graphs.items())
    golden(rounded(page), f"pipeline-{method}.txt")


def test_every_pass_has_a_place_in_a_pipeline() -> None:
    used = [
        *pipelines.prepare_passes(Recipe(equalize=True)),
        CorrectBias(()),  # of calibrate
        *pipelines.convert_passes(),
        *pipelines.lower_passes(),
    ]
    assert {type(p) for p in used} == set(PASSES)


def test_names_are_unique() -> None:
    assert len({p.name for p in PASSES}) == len(PASSES)
