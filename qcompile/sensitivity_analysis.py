"""What each layer costs in accuracy: quantized alone, at each width, after training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from qcompile.errors import QCompileError
from qcompile.ir.plan import LayerPlan
from qcompile.quant.recipe import Recipe
from qcompile.sensitivity_network import Evaluate, Network, widths_to_try
from qcompile.sensitivity_widths import Width

if TYPE_CHECKING:
    from rich.console import RenderableType

Progress = Callable[[int, int], None]
ORDERS = ("network", "error")


@dataclass(frozen=True)
class Measured:
    """One layer at one width, all others float.

    Attributes:
        layer: its path.
        width: of it.
        layer_noise: noise power over signal power at its own result.
        output_noise: the same at the network's outputs.
        accuracy: of the network, or None without `evaluate`.
        refused: why it cannot have this width, or ""; the noises are infinite then.
    """

    layer: str
    width: Width
    layer_noise: float = math.inf
    output_noise: float = math.inf
    accuracy: float | None = None
    refused: str = ""


@dataclass(frozen=True)
class Sensitivity:
    """What `sensitivity` found; print it.

    Attributes:
        model: its name.
        layers: in network order; those that cannot be quantized have a `reason`.
        widths: that were tried.
        measured: one for each layer that can be quantized and each width.
        float_accuracy: of the float network, or None without `evaluate`.
        samples: how many the noise was measured on.
    """

    model: str
    layers: tuple[LayerPlan, ...]
    widths: tuple[Width, ...]
    measured: tuple[Measured, ...]
    float_accuracy: float | None
    samples: int

    def of(self, layer: str) -> dict[Width, Measured]:
        """What was measured of a layer."""
        return {m.width: m for m in self.measured if m.layer == layer}

    @property
    def layers_measured(self) -> tuple[str, ...]:
        """Paths of the layers that can be quantized."""
        return tuple(plan.layer for plan in self.layers if plan.quantized)

    def sorted(self, order: str) -> tuple[LayerPlan, ...]:
        """The layers in "network" order, or by "error": the most noise at the output first.

        Raises:
            QCompileError: there is no such order.
        """
        if order not in ORDERS:
            raise QCompileError(f"unknown order {order!r}", hint=f"one of {', '.join(ORDERS)}")
        if order == "network":
            return self.layers
        return tuple(sorted(self.layers, key=self._error, reverse=True))

    def _error(self, plan: LayerPlan) -> float:
        """Mean logarithm, to which all widths contribute; below all else where nothing is known."""
        noises = [m.output_noise for m in self.of(plan.layer).values() if not m.refused]
        logs = [math.log(max(noise, 1e-30)) for noise in noises]
        return sum(logs) / len(logs) if logs else -math.inf

    def __rich__(self) -> RenderableType:
        from qcompile.sensitivity_report import tables

        return tables(self)

    def to_json(self) -> dict[str, Any]:
        """What `json.dumps` takes; docs/accuracy.md has the schema."""
        from qcompile.sensitivity_report import to_json

        return to_json(self)


def decibels(noise: float) -> float:
    """The signal-to-quantization-noise ratio of noise power over signal power, in dB."""
    if noise == 0:
        return math.inf
    return -10 * math.log10(noise)


def sensitivity(
    model: nn.Module | ExportedProgram,
    example_inputs: Tensor | Sequence[Tensor],
    *,
    widths: Iterable[Any] | int | None = None,
    recipe: Recipe | None = None,
    calibration: Iterable[Any] | None = None,
    evaluate: Evaluate | None = None,
    samples: int | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Quantize each layer alone, at each width, after training, and compare with float.

    Args:
        model: a float network; it stays as it is.
        example_inputs: float32, one for each argument of `forward`; dimension 0 is the batch.
        widths: 8, "1/4", (4, 8), "float", ...; None: what the method has of 8, 4, 2, 1/4 and 1.
        recipe: the method and its options; its bits and overrides are not looked at.
        calibration: batches of real inputs, each a tensor or a tuple that begins with the inputs;
            without it the example inputs have to do.
        evaluate: accuracy of a network, from 0 to 1; called once for each layer and width.
        samples: how many samples of the calibration data are used at most.
        progress: called as `progress(done, total)`.

    Raises:
        QCompileError: the model, the data or a width cannot be had.
    """
    tried = widths_to_try(widths, recipe)
    network = Network(
        model,
        example_inputs,
        recipe=recipe,
        calibration=calibration,
        evaluate=evaluate,
        samples=samples,
    )
    return measure(network, tried, progress)


def measure(
    network: Network,
    widths: Sequence[Width],
    progress: Progress | None = None,
    *,
    accuracy: bool = True,
) -> Sensitivity:
    """The same for a network that is there already, with accuracy or without."""
    measured: list[Measured] = []
    for done, plan in enumerate(network.quantizable, 1):
        measured += _of_layer(network, plan.layer, widths, accuracy)
        if progress is not None:
            progress(done, len(network.quantizable))
    return Sensitivity(
        network.name,
        network.layers,
        tuple(widths),
        tuple(measured),
        network.float_accuracy,
        network.samples,
    )


def _of_layer(
    network: Network, layer: str, widths: Sequence[Width], accuracy: bool
) -> list[Measured]:
    quantized: dict[Width, GraphModule] = {}
    refused: dict[Width, str] = {}
    for width in widths:
        try:
            quantized[width] = network.quantize({layer: width})
        except QCompileError as error:
            refused[width] = error.what
    noises = network.noises(layer, quantized)
    return [
        Measured(layer, width, refused=refused[width])
        if width in refused
        else Measured(
            layer,
            width,
            noises[width][0].ratio,
            noises[width][1].ratio,
            network.accuracy(quantized[width]) if accuracy else None,
        )
        for width in widths
    ]
