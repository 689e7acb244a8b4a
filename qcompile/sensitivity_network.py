"""A float network that is quantized after training, in many ways, and compared with itself."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from qcompile import api, pipelines
from qcompile.calibration import calibrate, inputs_of_each
from qcompile.errors import QCompileError
from qcompile.ir.graph import module_of
from qcompile.ir.plan import FLOAT_BITS, LayerPlan
from qcompile.passes.base import run
from qcompile.passes.choose_quantized import ChooseQuantized
from qcompile.quant.batchnorm import BatchNorm
from qcompile.quant.observers import Observer
from qcompile.quant.recipe import Recipe
from qcompile.sensitivity_noise import Noise, run_and_see
from qcompile.sensitivity_widths import DEFAULT, Width, pattern_of, widths_of

Inputs = tuple[Tensor, ...]
Evaluate = Callable[[nn.Module], float]


class Network:
    """One traced network and its calibration data.

    Attributes:
        name: of the model.
        layers: plans of its conv and linear layers, in network order, as if all had 8 bits: those
            that cannot be quantized say why.
        samples: how many it is calibrated and compared on.
        float_accuracy: what `evaluate` gives for the float network, or None.
    """

    def __init__(
        self,
        model: nn.Module | ExportedProgram,
        example_inputs: Tensor | Sequence[Tensor],
        *,
        recipe: Recipe | None = None,
        calibration: Iterable[Any] | None = None,
        evaluate: Evaluate | None = None,
        samples: int | None = None,
        name: str = "",
    ) -> None:
        """Trace it.

        Args:
            model: stays as it is.
            example_inputs: as `qcompile.prepare` takes them.
            recipe: the method and its options; its bits and overrides are not looked at.
            calibration: batches of real inputs; without it the example inputs have to do.
            evaluate: accuracy of a network, from 0 to 1.
            samples: how many samples of the calibration data are used at most.
            name: of the model, where its class is not to name it.

        Raises:
            QCompileError: the model or the data cannot be had, or no layer can be quantized.
        """
        if samples is not None and (type(samples) is not int or samples < 1):
            raise QCompileError(f"samples is {samples!r}", hint="a number from 1 up, or None")
        if evaluate is not None and not callable(evaluate):
            raise QCompileError(
                f"evaluate is {evaluate!r}", hint="a function of a network: its accuracy, 0 to 1"
            )
        if isinstance(model, ExportedProgram):
            model = api.from_exported(model, example_inputs)
        if isinstance(model, nn.Module):
            model = copy.deepcopy(model).eval()  # some functions are traced in the model's mode
        self._evaluate = evaluate
        self._recipe = _base(recipe)
        self._mode = Recipe().mode if recipe is None else recipe.mode
        self._traced = api.traced(model, example_inputs)
        self.name = name or str(self._traced.meta["model"])
        self._float = self._prepare({})
        self._float.eval()
        self.layers = self._layers()
        given = [_batch(example_inputs)] if calibration is None else calibration
        specs = self._float.meta["inputs"]
        self.batches = list(_first(inputs_of_each(given, specs), samples))
        self.samples = sum(batch[0].shape[0] for batch in self.batches)
        if not self.batches:
            raise QCompileError(
                "there is no calibration batch",
                hint="a batch is a tensor, or a tuple of which the first are the model's inputs",
            )
        with torch.no_grad():
            self._outputs = [self._float(*batch) for batch in self.batches]
        self._check_outputs()
        self.float_accuracy = None if evaluate is None else self.accuracy(model)

    @property
    def quantizable(self) -> tuple[LayerPlan, ...]:
        """The layers that can be quantized."""
        return tuple(plan for plan in self.layers if plan.quantized)

    def _layers(self) -> tuple[LayerPlan, ...]:
        every = {plan.layer: Width(8, 8) for plan in self._float.meta["plans"].values()}
        if not every:
            raise QCompileError(
                "the model has no convolution and no linear layer",
                hint="only such layers have weights to quantize",
            )
        passes = pipelines.prepare_passes(self.recipe(every))
        planned = 1 + [type(pass_) for pass_ in passes].index(ChooseQuantized)
        plans = tuple(run(passes[:planned], self._traced).graph.meta["plans"].values())
        if not any(plan.quantized for plan in plans):
            raise QCompileError(
                "no layer of the model can be quantized",
                where=plans[0].where or None,
                hint=f"{plans[0].layer}: {plans[0].reason}",
            )
        return plans

    def _check_outputs(self) -> None:
        values = [y for y in tree_leaves(self._outputs) if isinstance(y, Tensor)]
        if not all(y.isfinite().all() for y in values):
            raise QCompileError(
                "the float network gives NaN or infinity on the calibration data",
                hint="noise cannot be compared with that",
            )
        if not any(y.any() for y in values):
            raise QCompileError(
                "the float network gives nothing but zeros on the calibration data",
                hint="noise cannot be compared with that: give it real inputs",
            )

    # --- quantized -------------------------------------------------------------------------------

    def recipe(self, widths: Mapping[str, Width], *, trained: bool = False) -> Recipe:
        """Float everywhere, but for these layers.

        Args:
            widths: layer path to width.
            trained: in the mode that was given, "qat" unless said; else after training.
        """
        found = _with(self._recipe, {pattern_of(path): width for path, width in widths.items()})
        return dataclasses.replace(found, mode=self._mode) if trained else found

    def _prepare(self, widths: Mapping[str, Width]) -> GraphModule:
        return run(pipelines.prepare_passes(self.recipe(widths)), self._traced).graph

    def quantize(self, widths: Mapping[str, Width]) -> GraphModule:
        """Prepared, calibrated, in eval mode; its observers record no more.

        Raises:
            QCompileError: a layer cannot have that width.
        """
        prepared = self._prepare(widths)
        calibrate(prepared, self.batches)
        for module in prepared.modules():
            if isinstance(module, Observer):
                module.freeze()
        return prepared

    def refused(self, width: Width) -> dict[str, str]:
        """Layers that cannot have a width, with the reason."""
        layers = [plan.layer for plan in self.quantizable]
        if self._obstacle(dict.fromkeys(layers, width)) is None:
            return {}
        alone = {layer: self._obstacle({layer: width}) for layer in layers}
        return {layer: reason for layer, reason in alone.items() if reason is not None}

    def _obstacle(self, widths: Mapping[str, Width]) -> str | None:
        try:
            self._prepare(widths)
        except QCompileError as error:
            return error.what
        return None

    # --- compared --------------------------------------------------------------------------------

    def accuracy(self, network: nn.Module) -> float | None:
        """What the user's `evaluate` gives, or None without one.

        Raises:
            QCompileError: that is no number.
        """
        if self._evaluate is None:
            return None
        network.eval()
        with torch.no_grad():
            value = self._evaluate(network)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isnan(number):
            raise QCompileError(
                f"evaluate returns {value!r}, not a number",
                hint="return the share of right answers, as a float from 0 to 1",
            )
        return number

    @torch.no_grad()
    def noise(self, network: Callable[..., Any]) -> float:
        """Noise power over signal power at the network's outputs, over all calibration data."""
        noise = Noise()
        for batch, expected in zip(self.batches, self._outputs, strict=True):
            noise.add(expected, network(*batch))
        return noise.ratio

    @torch.no_grad()
    def noises(
        self, layer: str, networks: Mapping[Width, GraphModule]
    ) -> dict[Width, tuple[Noise, Noise]]:
        """Noise at a layer's own result, and at the network's outputs.

        Where a BatchNorm is a layer's only reader, the result is the BatchNorm's.
        """
        place = self._result_of(layer)
        noises = {width: (Noise(), Noise()) for width in networks}
        for batch, outputs in zip(self.batches, self._outputs, strict=True):
            expected, _ = run_and_see(self._float, place, batch)
            for width, network in networks.items():
                got, y = run_and_see(network, place, batch)
                noises[width][0].add(expected, got)
                noises[width][1].add(outputs, y)
        return noises

    def _result_of(self, layer: str) -> str:
        """The module whose result is compared: quantized layers compute their BatchNorm too."""
        graph = self._float.graph
        [node] = graph.find_nodes(op="call_module", target=layer)
        readers = list(node.users)
        if len(readers) > 1 or not isinstance(module_of(self._float, readers[0]), BatchNorm):
            return layer
        path = str(readers[0].target)
        once = len(graph.find_nodes(op="call_module", target=path)) == 1
        return path if once else layer


def widths_to_try(widths: Iterable[Any] | int | None, recipe: Recipe | None) -> tuple[Width, ...]:
    """The widths that are given, or the usual ones that a recipe's method has.

    Raises:
        QCompileError: one of them is none, or the method lacks it.
    """
    base = _base(recipe)
    if widths is None:
        return tuple(width for width in DEFAULT if not _missing(base, width))
    found = widths_of(widths)
    for error in (_missing(base, width) for width in found):
        if error is not None:
            raise error
    return found


def _missing(base: Recipe, width: Width) -> QCompileError | None:
    """What the method says of a width that it lacks."""
    try:
        _with(base, {"*": width})
    except QCompileError as error:
        return error
    return None


def _with(base: Recipe, widths: Mapping[str, Width]) -> Recipe:
    """A recipe of other overrides."""
    ternary = base.ternary_weights and any(w.weight_bits == 2 for w in widths.values())
    overrides = {pattern: width.override for pattern, width in widths.items()}
    return dataclasses.replace(base, overrides=overrides, ternary_weights=ternary)


def _base(recipe: Recipe | None) -> Recipe:
    """The recipe's method, after training, all layers float."""
    given = Recipe() if recipe is None else recipe
    if not isinstance(given, Recipe):
        raise QCompileError(f"recipe is {given!r}", hint="pass qcompile.Recipe(method=...)")
    return dataclasses.replace(
        given,
        bits=FLOAT_BITS,
        weight_bits=None,
        activation_bits=None,
        first_last_bits=FLOAT_BITS,
        overrides={"*": 2} if given.ternary_weights else {},
        mode="static" if given.mode == "qat" else given.mode,
    )


def _batch(example_inputs: Tensor | Sequence[Tensor]) -> Inputs:
    return (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)


def _first(batches: Iterable[Inputs], samples: int | None) -> Iterator[Inputs]:
    """The first samples of some batches; what comes after them is not asked for."""
    left = math.inf if samples is None else samples
    for batch in batches:
        size = min(batch[0].shape[0], left)
        yield tuple(x[: int(size)] for x in batch)
        left -= size
        if left <= 0:
            return
