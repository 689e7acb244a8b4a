"""A small network that is compiled, with all the stages on the way: what benchmark reports look into."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch
from small_nets import generator
from torch import Tensor, nn
from torch.fx import GraphModule

from qcompile import api, kernels
from qcompile.bench.built import Built, Made
from qcompile.bench.results import AS_GIVEN, NOT_TRAINED
from qcompile.building import build_program
from qcompile.calibration import calibrate
from qcompile.ir.target import Target
from qcompile.model_file import ModelFile
from qcompile.quant.recipe import Recipe


class Residual(nn.Module):
    """A stem, a convolution beside a shortcut, a head: `[N, 1, 8, 8]` to `[N, 5]`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.body = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.drop = nn.Dropout(0.1)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.relu(self.norm(self.stem(x))))
        y = self.relu(self.norm2(self.body(y)) + y)
        return self.head(torch.flatten(self.mean(self.drop(y)), 1))


def batches(count: int = 2, size: int = 6) -> tuple[tuple[Tensor, ...], ...]:
    """Inputs of a normal distribution."""
    random = generator(1)
    return tuple((torch.randn(size, 1, 8, 8, generator=random),) for _ in range(count))


def calibrated(model: nn.Module, recipe: Recipe) -> GraphModule:
    """The network with its quantizers, which have seen `batches()`."""
    prepared = api.prepare(model.eval(), (batches()[0][0][:1],), recipe)
    calibrate(prepared, batches())
    return prepared


def built(recipe: Recipe, module: ModuleType | None = None, trained: str | None = None) -> Built:
    """The network, calibrated and compiled for this machine.

    Args:
        module: where `train` and `evaluate` are, if anywhere.
        trained: None where nothing was.
    """
    torch.manual_seed(0)
    model, data = Residual().eval(), batches()
    examples = (data[0][0][:1],)
    prepared = calibrated(model, recipe)
    converted = api.convert(prepared)
    targets = (Target(),)
    selection, lowered = kernels.lower(converted, targets)
    choose = selection.choose()
    program = build_program(converted, lowered, targets, (), choose=choose)
    file = ModelFile("residual", Path("residual.py"), model, examples, module or ModuleType("m"))
    trained = trained or (NOT_TRAINED if file.has("train") else AS_GIVEN)
    made = Made(
        file, recipe, prepared, converted, lowered, data, trained, targets=targets, choose=choose
    )
    return Built(program, "residual.py", made)
