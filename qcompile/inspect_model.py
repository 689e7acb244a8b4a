"""A network on its way to kernels, to be looked into: nothing is trained, and nothing runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import GraphModule

from qcompile import api
from qcompile.building import layers_of
from qcompile.calibration import calibrate, knows_ranges, needs_calibration
from qcompile.codegen.assembly import assembly
from qcompile.codegen.built import KernelInfo
from qcompile.codegen.costs.survey import survey
from qcompile.cuda.launches import Launch
from qcompile.inspect_code import Listing, cuda_listings, kernels_of, titled
from qcompile.inspect_graphs import Snapshots
from qcompile.ir.target import Target
from qcompile.kernels import Selection, lower
from qcompile.model_file import ModelFile
from qcompile.program_info import LayerInfo
from qcompile.quant.recipe import Recipe


@dataclass(frozen=True)
class Inspected:
    """What becomes of a network.

    Attributes:
        snapshots: of all passes.
        target: of several, or of a portable one, the first, whose kernels are shown.
        arch: LLVM's name of its processor, "cuda", or a GPU's architecture.
        kernels: in the order in which they run.
        layers: those with weights.
    """

    snapshots: Snapshots
    target: Target
    arch: str
    kernels: tuple[KernelInfo, ...]
    layers: tuple[LayerInfo, ...]
    _lowered: GraphModule
    _selection: Selection

    def code(self, pattern: str) -> list[Listing]:
        """The code of the layers that a path or glob names.

        Raises:
            QCompileError: there is no such layer.
        """
        chosen = kernels_of(pattern, self.kernels)
        if self.target.is_gpu:
            source, launches = _generated(self._lowered, self.target)
            return cuda_listings(source, launches, self.kernels, chosen)
        layers = {kernel.layer for _, kernel in chosen}
        made = assembly(
            self._lowered, self.target, self._selection.choose(), lambda k: k.layer in layers
        )
        return [
            Listing(
                titled(kernel, f"compiled by itself for {self.arch}"),
                tuple(text.splitlines()),
                "asm",
            )
            for kernel, text in made
        ]


def _generated(lowered: GraphModule, target: Target) -> tuple[str, Sequence[Launch]]:
    from qcompile.codegen.cuda.build import generate

    made = generate(lowered, target)
    return made.source, made.launches


def inspected(
    file: ModelFile, recipe: Recipe, targets: tuple[Target, ...], forced: Sequence[str] = ()
) -> Inspected:
    """Take a network through all passes, with the weights that it has.

    Args:
        forced: kernels, as for `qcompile.compile`.

    Raises:
        QCompileError: as of `qcompile.prepare` and `qcompile.compile`.
    """
    snapshots = Snapshots(api.traced(file.model, file.example_inputs))
    prepared = api.prepare(file.model, file.example_inputs, recipe, after_each=snapshots)
    if needs_calibration(prepared) and not knows_ranges(prepared):
        # Two rows, without which BatchNorm has no variance.
        calibrate(prepared, [tuple(torch.cat([x, x]) for x in file.example_inputs)])
    converted = api.convert(prepared, after_each=snapshots)
    selection, lowered = lower(converted, targets, forced, snapshots)
    target = targets[0].variants()[0]
    found = survey(lowered, target, selection.choose())
    made = tuple(one.kernel for one in found.kernels)
    layers = layers_of(lowered, converted, made)
    return Inspected(snapshots, target, found.arch, made, layers, lowered, selection)


def without_training(recipe: Recipe, file: ModelFile, *, mode_given: bool) -> Recipe:
    """The recipe that `qcompile MODEL` would take: where nothing can be trained, ranges are calibrated."""
    if mode_given or recipe.mode != "qat" or file.has("train"):
        return recipe
    return dataclasses.replace(recipe, mode="static")
