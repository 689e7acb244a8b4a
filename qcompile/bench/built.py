"""What is benchmarked, and the steps on the way to it where they are known."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule

from qcompile.codegen.build import Choose, by_default
from qcompile.ir.target import Target
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
        trained: what the weights are, as `Subject.training` says it.
        targets: that it was compiled for.
        choose: how a contraction is computed on a machine.
    """

    file: ModelFile
    recipe: Recipe
    prepared: GraphModule
    converted: GraphModule
    lowered: GraphModule
    calibration: tuple[tuple[Tensor, ...], ...]
    trained: str
    targets: tuple[Target, ...] = (Target(),)
    choose: Choose = by_default


@dataclass(frozen=True)
class Built:
    """A program that runs here; `made` is None where the user gave the program alone.

    Attributes:
        source: the model file or the program, as the user named it.
        beside: a float network that is measured beside a program which was given; else None.
    """

    program: Program
    source: str
    made: Made | None = None
    beside: ModelFile | None = None

    @property
    def file(self) -> ModelFile | None:
        """Where the float network is, if there is one."""
        return self.beside if self.made is None else self.made.file
