"""What reaches each quantized layer, and what quantizing it alone does to its output."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qcompile.bench.results import Range
from qcompile.ir import ops
from qcompile.quant.activations import (
    ActivationQuantizer,
    GridActivation,
    SignActivation,
    UnitActivation,
)
from qcompile.quant.histograms import PercentileObserver
from qcompile.quant.layers import QuantConv, QuantLayer
from qcompile.quant.scaled import Geometry
from qcompile.quant.training import quant_layers
from qcompile.sensitivity_analysis import decibels
from qcompile.sensitivity_noise import Noise

MIDDLE = 99.5  # percent of the values lie below the upper bound of the middle
COMPARED = 8  # samples on which layers are compared with float ones
_AT_ONCE = 8  # samples
SECONDS = 10.0


@dataclass(frozen=True)
class Seen:
    """What was found, by layer.

    Attributes:
        ranges: None where the values held NaN or infinity.
        sqnr_db: None where the two outputs are equal, or the float one is zero.
        samples, of: how many were looked at, and how many there are.
    """

    ranges: Mapping[str, Range | None]
    sqnr_db: Mapping[str, float | None]
    samples: int
    of: int


def observe(
    prepared: GraphModule, batches: Sequence[tuple[Tensor, ...]], seconds: float = SECONDS
) -> Seen:
    """Run a prepared network, and look at what reaches its quantized layers.

    Args:
        prepared: trained or calibrated; its observers record no more. It is run in eval mode.
        batches: inputs; memory for a few samples at a time is what is needed.
        seconds: after these no more samples are looked at; at least a few are.
    """
    looks = {path: _Look() for path in quant_layers(prepared)}
    total = sum(len(batch[0]) for batch in batches)
    end, samples = time.perf_counter() + seconds, 0
    prepared.eval()
    with torch.no_grad(), _looking(prepared, looks):
        for part in _parts(batches):
            if samples and time.perf_counter() > end:
                break
            for look in looks.values():
                look.compares = samples < COMPARED
            prepared(*part)
            samples += len(part[0])
    layers = quant_layers(prepared)
    return Seen(
        {path: look.range(layers[path].activation) for path, look in looks.items()},
        {path: sqnr(look.noise) for path, look in looks.items()},
        samples,
        total,
    )


def _parts(batches: Sequence[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    for batch in batches:
        yield from zip(*(x.split(_AT_ONCE) for x in batch), strict=True)


@dataclass
class _Look:
    """What one layer was given, and gave.

    Attributes:
        compares: whether the next output is compared with that of a float layer.
    """

    values: PercentileObserver = field(
        default_factory=lambda: PercentileObserver(percentile=MIDDLE).eval()
    )
    noise: Noise = field(default_factory=Noise)
    compares: bool = True

    def take(self, layer: nn.Module, inputs: tuple[Any, ...], result: Tensor) -> None:
        """As a hook of the layer."""
        assert isinstance(layer, QuantLayer)
        [x] = inputs
        self.values(x)
        if self.compares:
            self.noise.add(in_float(layer, x), result)

    def range(self, quantizer: ActivationQuantizer) -> Range | None:
        values = self.values
        if not (values.seen and values.low.isfinite() and values.high.isfinite()):
            return None
        low, high = (float(bound) for bound in values.bounds())
        return Range(
            float(values.low), float(values.high), (low, max(low, high)), representable(quantizer)
        )


@contextmanager
def _looking(prepared: GraphModule, looks: Mapping[str, _Look]) -> Iterator[None]:
    layers = quant_layers(prepared)
    handles = [
        layers[path].register_forward_hook(partial(_hook, look)) for path, look in looks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(look: _Look, layer: nn.Module, inputs: tuple[Any, ...], result: Tensor) -> None:
    look.take(layer, inputs, result)


def representable(quantizer: ActivationQuantizer) -> tuple[float, float] | None:
    """The least and the greatest value that a quantizer gives; None where that is not fixed."""
    if isinstance(quantizer, SignActivation):
        step = float(quantizer.step)
        return -step, step
    if isinstance(quantizer, UnitActivation):
        return 0.0, float(quantizer.step) * quantizer.max_level
    if isinstance(quantizer, GridActivation):
        found = quantizer.estimate()
        low, high = (float(level * found.scale) for level in found.centred())
        return low, high
    return None


def in_float(layer: QuantLayer, x: Tensor) -> Tensor:
    """What a layer would give without quantizers: on its latent weights, beyond the border zeros.

    The BatchNorm that it computes is in it.
    """
    if isinstance(layer, QuantConv):
        padded = ops.pad_spatial(x, layer.padding, 0)
        none = [0] * len(layer.stride)
        y = Geometry(layer.stride, none, layer.dilation, layer.groups).convolve(
            padded, layer.weight
        )
    else:
        y = nn.functional.linear(x, layer.weight)
    multiplier, shift = layer.scale_shift()
    own = layer.multiplier()
    norm = torch.where(own == 0, torch.ones_like(own), multiplier / own)
    y = y * ops.per_channel(norm, y)
    return y if shift is None else y + ops.per_channel(shift, y)


def sqnr(noise: Noise) -> float | None:
    """Signal over noise, in dB; None where there is no noise, or no signal."""
    return decibels(noise.ratio) if 0 < noise.ratio < math.inf else None
