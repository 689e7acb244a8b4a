"""Take out of each layer's bias what quantization adds to the mean of its result.

    y = layer(x) + b  ->  y = layer(x) + b - E[layer(x) - float_layer(x)]

Rounding errors of weights do not have a mean of 0 over the inputs that occur, as these do not, and
are the same for all of them: the result of every channel is shifted (Nagel et al., arXiv 1906.04721,
section 4.2; the expectation is the mean over calibration data). Both sides have the same x, which
layers in front of it have quantized: each layer answers for its own error.

A BatchNorm that the layer computes has its running mean moved instead of the bias. Layers of one-bit
activations are left alone: their signs are another network than the float one, not its rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qcompile.ir.graph import module_of
from qcompile.ir.plan import FLOAT_BITS
from qcompile.ir.stages import Stage
from qcompile.passes.base import Declined, Pass
from qcompile.quant.correction import float_forward, shift_result
from qcompile.quant.layers import QuantLayer


@dataclass(frozen=True)
class CorrectBias(Pass):
    """For a prepared network that was calibrated; it is in eval mode after that.

    Attributes:
        batches: the network's inputs, a tuple each.
    """

    name: ClassVar[str] = "correct-bias"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.PREPARED,)
    batches: tuple[tuple[Tensor, ...], ...] = field(repr=False)

    def prepare(self, gm: GraphModule) -> None:
        shift_means(gm.eval(), self.batches)

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        layer = module_of(gm, node)
        if not isinstance(layer, QuantLayer):
            return None
        if layer.activation.bits == 1:
            return Declined("its bias is not corrected: signs are no rounding of floats")
        return node


@torch.no_grad()
def shift_means(prepared: GraphModule, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Correct the biases of a prepared network in eval mode, in place: `meta["correct_bias"]` is done.

    The error that was taken out would be measured again: float layers have the new biases too.
    """
    nodes = prepared.graph.nodes
    layers = {str(n.target): m for n in nodes if (m := _corrected(prepared, n)) is not None}
    errors = {path: _Mean() for path in layers}
    hooks = [layer.register_forward_hook(_adds_to(errors[path])) for path, layer in layers.items()]
    try:
        for inputs in batches:
            prepared(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for path, layer in layers.items():
        if errors[path].count:
            shift_result(layer, -errors[path].value)
    prepared.meta["correct_bias"] = False


def _corrected(gm: GraphModule, node: Node) -> QuantLayer | None:
    layer = module_of(gm, node)
    rounds = isinstance(layer, QuantLayer) and 1 < layer.activation.bits <= FLOAT_BITS
    return layer if rounds and isinstance(layer, QuantLayer) else None


@dataclass
class _Mean:
    """Of the errors of each channel."""

    total: Any = 0.0
    count: int = 0

    def add(self, error: Tensor) -> None:
        rows = error.transpose(0, 1).flatten(1).to(torch.float64)
        self.total = self.total + rows.sum(1)
        self.count += rows.shape[1]

    @property
    def value(self) -> Tensor:
        return (self.total / self.count).to(torch.float32)


def _adds_to(mean: _Mean) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        assert isinstance(layer, QuantLayer)
        mean.add(y - float_forward(layer, inputs[0]))

    return hook
