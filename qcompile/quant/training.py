"""Training helpers, all ordinary hooks: what the papers do between steps, and a doctor.

optimizer = torch.optim.Adam(prepared.parameters())
clip_weights(optimizer, prepared)
centre_weights(optimizer, prepared)     # layers of XNOR-Net only
with TrainingDoctor(prepared).attach(optimizer) as doctor:
    ...
    print(doctor.report())

The last epochs of a training may want ranges and statistics to stand still, as at inference:

    freeze_after(optimizer, prepared, observers=2 * len(loader), norms=3 * len(loader))

or, between two epochs of a loop of your own, `disable_observer(prepared)`, `freeze_bn_stats(prepared)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from qcompile.errors import QCompileError
from qcompile.quant.batchnorm import BatchNorm
from qcompile.quant.layers import QuantLayer
from qcompile.quant.observers import Observer
from qcompile.quant.weights import XnorWeight


def quant_layers(model: nn.Module) -> dict[str, QuantLayer]:
    """The quantized layers of a model by path, each once."""
    return {path: m for path, m in model.named_modules() if isinstance(m, QuantLayer)}


def _after_each_step(optimizer: Optimizer, action: Callable[[], None]) -> RemovableHandle:
    def hook(_optimizer: Optimizer, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        with torch.no_grad():
            action()

    return optimizer.register_step_post_hook(hook)


def clip_weights(optimizer: Optimizer, model: nn.Module, bound: float = 1.0) -> RemovableHandle:
    """After each step clamp latent weights to [-bound, bound], where outside ±1 is no gradient.

    Those are the weights of sign and ternary layers; others are left alone.
    """
    layers = [m for m in quant_layers(model).values() if m.weight_quantizer.clips]

    def clip() -> None:
        for layer in layers:
            layer.weight.clamp_(-bound, bound)

    return _after_each_step(optimizer, clip)


def centre_weights(optimizer: Optimizer, model: nn.Module) -> RemovableHandle:
    """After each step subtract each filter's mean over its inputs, then clamp to [-1, 1].

    XNOR-Net's step, for layers with its weights; others are left alone, and so are those with one
    input channel, which would become all zero.
    """
    layers = [
        m
        for m in quant_layers(model).values()
        if isinstance(m.weight_quantizer, XnorWeight) and m.weight.shape[1] > 1
    ]

    def centre() -> None:
        for layer in layers:
            layer.weight.sub_(layer.weight.mean(1, keepdim=True)).clamp_(-1, 1)

    return _after_each_step(optimizer, centre)


# --- schedules -------------------------------------------------------------------------------------


def disable_observer(model: nn.Module) -> None:
    """Ranges of activations stay as they are, in train mode too."""
    _enable_observers(model, False)


def enable_observer(model: nn.Module) -> None:
    """Ranges follow what passes by again."""
    _enable_observers(model, True)


def _enable_observers(model: nn.Module, enabled: bool) -> None:
    for module in model.modules():
        if isinstance(module, Observer):
            module.enabled = enabled


def freeze_bn_stats(model: nn.Module) -> None:
    """In train mode too, BatchNorms of a prepared model use their running statistics, unchanged.

    Their weights and biases go on being trained.
    """
    _freeze_norms(model, True)


def update_bn_stats(model: nn.Module) -> None:
    """In train mode BatchNorms use the batch's statistics again, and average them."""
    _freeze_norms(model, False)


def _freeze_norms(model: nn.Module, frozen: bool) -> None:
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.frozen = frozen


def freeze_after(
    optimizer: Optimizer,
    model: nn.Module,
    *,
    observers: int | None = None,
    norms: int | None = None,
) -> RemovableHandle:
    """Call `disable_observer` and `freeze_bn_stats` after so many steps of the optimizer.

    Args:
        observers, norms: steps, `epochs * len(loader)`; None leaves that one alone.

    Raises:
        QCompileError: no whole number of steps above 0.
    """
    due = {disable_observer: observers, freeze_bn_stats: norms}
    for name, steps in (("observers", observers), ("norms", norms)):
        whole = isinstance(steps, int) and not isinstance(steps, bool)
        if steps is not None and not (whole and steps > 0):
            raise QCompileError(
                f"{name} is {steps!r}, not a number of steps above 0",
                hint="one epoch is len(loader) steps; None never freezes them",
            )
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        for freeze, steps in due.items():
            if done == steps:
                freeze(model)

    return _after_each_step(optimizer, count)


# --- the doctor ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerHealth:
    """How one quantized layer trains.

    Attributes:
        layer: its path.
        flip_ratio: share of the weights whose sign changed, mean over the steps.
        last_flip_ratio: the same for the latest step.
        saturation: share of the activations whose straight-through gradient is cut off (|x| > 1 of
            a sign), mean over the forwards.
        dead_channels: input channels whose level was the same everywhere, in every forward: they
            tell the layer nothing.
        channels: how many input channels there are.
    """

    layer: str
    flip_ratio: float
    last_flip_ratio: float
    saturation: float
    dead_channels: tuple[int, ...]
    channels: int


class _Record:
    """What was seen of one layer since attach or reset."""

    def __init__(self, layer: QuantLayer) -> None:
        self.signs = layer.weight.detach() >= 0
        self.reset()

    def reset(self) -> None:
        self.steps = self.forwards = 0
        self.flips = self.last_flips = self.saturation = torch.zeros(())
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def step(self, weight: Tensor) -> None:
        signs = weight >= 0
        self.last_flips = (signs != self.signs).float().mean()
        self.flips = self.flips + self.last_flips
        self.signs = signs
        self.steps += 1

    def forward(self, saturated: Tensor, levels: Tensor) -> None:
        low, high = levels.transpose(0, 1).flatten(1).aminmax(dim=1)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        self.saturation = self.saturation + saturated.float().mean()
        self.forwards += 1

    def health(self, path: str) -> LayerHealth:
        dead: list[int] = []
        if self.low is not None and self.high is not None:
            dead = (self.low == self.high).nonzero().flatten().tolist()
        return LayerHealth(
            path,
            float(self.flips) / max(self.steps, 1),
            float(self.last_flips),
            float(self.saturation) / max(self.forwards, 1),
            tuple(dead),
            0 if self.low is None else len(self.low),
        )


class TrainingDoctor:
    """Watches the quantized layers of a model in training.

    `attach` sets the hooks and `detach` takes them away. Forwards in eval mode are not looked at.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = quant_layers(model)
        self._records: dict[str, _Record] = {}
        self._handles: list[RemovableHandle] = []

    def attach(self, optimizer: Optimizer) -> TrainingDoctor:
        """Start afresh to watch forwards, and the steps of `optimizer`."""
        self.detach()
        self._records = {path: _Record(layer) for path, layer in self._layers.items()}
        for path, layer in self._layers.items():
            hook = self._forward_hook(layer, self._records[path])
            self._handles.append(layer.activation.register_forward_hook(hook))
        self._handles.append(_after_each_step(optimizer, self._step))
        return self

    def detach(self) -> None:
        """Remove all hooks; what was recorded can still be reported."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def report(self) -> tuple[LayerHealth, ...]:
        """What was seen since `attach` or `reset`, layer by layer in the model's order."""
        return tuple(record.health(path) for path, record in self._records.items())

    def reset(self) -> None:
        """Forget what was seen, as at the end of an epoch; go on watching."""
        for record in self._records.values():
            record.reset()

    def _step(self) -> None:
        for path, layer in self._layers.items():
            self._records[path].step(layer.weight)

    @staticmethod
    def _forward_hook(layer: QuantLayer, record: _Record) -> Callable[..., None]:
        def hook(
            activation: nn.Module, inputs: tuple[Tensor, ...], quantized: tuple[Tensor, Tensor]
        ) -> None:
            # A deep copy of the model carries this hook along, and is not the patient.
            if activation is layer.activation and activation.training:
                with torch.no_grad():
                    record.forward(layer.activation.saturated(inputs[0]), quantized[0])

        return hook
