"""What is benchmarked, and the steps on the way to it where they are known."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule

from qcompile.model_file import ModelFile
from qcompile.program import Program
from qcompile.quant.recipe import Recipe


@dataclass(frozen=True)
class Made:
    """How a program came from a model.

    Attributes:
        file: with the float network, trained or loaded as asked for.
        prepared, converted, lowered: its stages.
        calibration: batches of inputs, each a tuple of tensors as `forward` takes them.
        trained: "not trained", "trained, 8 epochs", "from net.safetensors".
    """

    file: ModelFile
    recipe: Recipe
    prepared: GraphModule
    converted: GraphModule
    lowered: GraphModule
    calibration: tuple[tuple[Tensor, ...], ...]
    trained: str


@dataclass(frozen=True)
class Built:
    """A program that runs here; `made` is None where the user gave the program alone."""

    program: Program
    source: str
    made: Made | None = None
