"""Bi-Real Net in OpenVINO's own operations: binary convolutions, the first and last layer in int8."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Interpreter, symbolic_trace

from qcompile.rivals import ov
from qcompile.rivals.entrant import Entrant, Inputs, Ready, Unavailable

BINARY_NETWORK = "OpenVINO Bi-Real-Net-18, 1 bit"


def entrant(build: Callable[[], nn.Module], threads: int, precision: str | None = None) -> Entrant:
    """Bi-Real-Net-18: its 3 x 3 convolutions of signs as BinaryConvolution, shortcuts in float.

    Args:
        precision: of the float parts; what OpenVINO finds best if None.
    """
    note = "BinaryConvolution; stem and last layer int8 by FakeQuantize, downsampling float"
    run = partial(_network, build, threads, precision)
    return Entrant("openvino-binary", BINARY_NETWORK, run, "1 bit", note, ov.PACKAGE)


def _network(
    build: Callable[[], nn.Module], threads: int, precision: str | None, inputs: Inputs
) -> Ready:
    (x,) = inputs
    package = ov.openvino()
    model = build().eval()
    graph = package.opset13.parameter(list(x.shape), np.float32)
    with torch.no_grad():
        result = _Translation(package, model, x).run(graph)
    return ov.run(package.Model([result], [graph], "binary"), inputs, threads, precision)


class _Translation(Interpreter):
    """Runs a traced network on OpenVINO's nodes in place of tensors."""

    def __init__(self, package: Any, model: nn.Module, x: Tensor) -> None:
        super().__init__(symbolic_trace(model))
        self._op, self._package = package.opset13, package
        self._ranges = _Ranges(self.module)
        self._ranges.run(x)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer: Any = self.fetch_attr(target)
        value = args[0]
        if isinstance(layer, (nn.Identity, nn.Hardtanh)):
            return value  # the sign of a clipped value is the value's
        if isinstance(layer, nn.Conv2d):
            return self._conv(str(target), layer, value)
        if isinstance(layer, nn.BatchNorm2d):
            return self._scaled(layer, value)
        if isinstance(layer, nn.Linear):
            levels = self._levels(value, *self._ranges.seen[str(target)])
            product = self._op.matmul(levels, self._weight(layer), False, True)
            return self._op.add(product, self._op.constant(layer.bias.detach().numpy()))
        return self._pool(layer, value)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is operator.add:
            return self._op.add(*args)
        if target is torch.flatten:
            return self._op.reshape(args[0], self._op.constant(np.array([0, -1])), True)
        raise Unavailable(f"{target} is not translated")

    def _conv(self, name: str, layer: Any, value: Any) -> Any:
        if layer.kernel_size == (3, 3):
            high = (layer.weight.detach() >= 0).numpy().astype(np.uint8)
            tau = np.zeros(layer.in_channels, np.float32)
            return ov.binary_convolution(self._package, value, tau, high, layer.stride[0])
        pads = list(layer.padding)
        if layer.kernel_size == (1, 1):
            weight = self._op.constant(layer.weight.detach().numpy())
        else:
            value, weight = self._levels(value, *self._ranges.seen[name]), self._weight(layer)
        return self._op.convolution(value, weight, list(layer.stride), pads, pads, [1, 1])

    def _levels(self, value: Any, low: float, high: float) -> Any:
        """256 levels of activations."""
        ends = [self._op.constant(np.float32(end)) for end in (low, high)]
        return self._op.fake_quantize(value, *ends, *ends, 256)

    def _weight(self, layer: Any) -> Any:
        """255 levels of weights, with a range for each output channel."""
        weight = layer.weight.detach()
        most = weight.abs().flatten(1).amax(1).reshape(-1, *[1] * (weight.dim() - 1)).numpy()
        ends = [self._op.constant(end) for end in (-most, most)]
        return self._op.fake_quantize(self._op.constant(weight.numpy()), *ends, *ends, 255)

    def _scaled(self, norm: Any, value: Any) -> Any:
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        scale, shift = (
            self._op.constant(v.detach().numpy().reshape(1, -1, 1, 1)) for v in (scale, shift)
        )
        return self._op.add(self._op.multiply(value, scale), shift)

    def _pool(self, layer: Any, value: Any) -> Any:
        op = self._op
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            return op.reduce_mean(value, op.constant(np.array([2, 3])), True)
        if isinstance(layer, nn.AvgPool2d):
            size, step = [layer.kernel_size] * 2, [layer.stride] * 2
            return op.avg_pool(value, step, [0, 0], [0, 0], size, True)
        if isinstance(layer, nn.MaxPool2d):
            size, step, pads = ([n] * 2 for n in (layer.kernel_size, layer.stride, layer.padding))
            pooled = op.max_pool(value, step, [1, 1], pads, pads, size)
            return pooled.output(0)
        raise Unavailable(f"{type(layer).__name__} is not translated")


class _Ranges(Interpreter):
    """The least and the largest value that each layer takes."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.seen: dict[str, tuple[float, float]] = {}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = args[0]
        self.seen[str(target)] = (min(0.0, x.min().item()), max(0.0, x.max().item()))
        return super().call_module(target, args, kwargs)
