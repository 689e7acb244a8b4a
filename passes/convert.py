"""Make of modules that are trained the functions and constants that are compiled.

    quant_conv(x)  ->  scale_shift(conv(sign(x), W), multiplier, bias)
    quant_conv(x)  ->  scale_shift(weight_only_conv(x, W), multiplier, bias)
    quant_linear(x)  ->  dynamic_scale_shift(linear(dynamic_quantize(x, p), W, 0), p, sum(W),
                                             multiplier, bias)    with p = dynamic_qparams(x)
    batch_norm(x)  ->  scale_shift(x, scale, shift), or x where the layer before it has absorbed it
    conv(x)        ->  aten.convolution(x, w, b, ...)

In eval mode quantized layers compute on the integer grid, in the dialect's own expression: the
accumulator is an exact integer in both, so that the results are equal to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node, Proxy
from torch.fx.proxy import GraphAppendingTracer

from qcompile.errors import QCompileError
from qcompile.ir.graph import add_constant, constant_of, module_of, where
from qcompile.ir.ops import torch_padding
from qcompile.ir.stages import Stage, aten, dialect
from qcompile.passes.base import Declined, Pass
from qcompile.quant.activations import (
    DynamicActivation,
    FloatActivation,
    GridActivation,
    SignActivation,
    UnitActivation,
)
from qcompile.quant.batchnorm import BatchNorm
from qcompile.quant.layers import (
    QuantConv,
    QuantLayer,
    QuantLinear,
    dialect_padding,
    magnitude_map,
)


@dataclass(frozen=True)
class Convert(Pass):
    """The observers' ranges become constants as they stand."""

    name: ClassVar[str] = "convert"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.PREPARED,)
    gives: ClassVar[Stage] = Stage.CONVERTED

    def prepare(self, gm: GraphModule) -> None:
        gm.eval()
        for name, value in gm.named_parameters():
            if not value.isfinite().all():
                raise QCompileError(
                    "it holds NaN or infinity",
                    where=name,
                    hint="training diverged: take an earlier state, or a smaller learning rate",
                )

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        parameter = constant_of(gm, node)
        if isinstance(parameter, nn.Parameter):
            return add_constant(gm, str(node.target), parameter)
        module = module_of(gm, node)
        build = _Build(gm, node)
        if isinstance(module, QuantLayer):
            return build.quantized(module)
        if isinstance(module, BatchNorm):
            if module.is_absorbed:
                return build.x
            scale, shift = module.scale_shift()
            constants = build.constant("scale", scale), build.constant("shift", shift)
            return build(dialect.scale_shift.default, build.x, *constants)
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return build.float_conv(module)
        if isinstance(module, nn.Linear):
            constants = build.constant("weight", module.weight), build.constant("bias", module.bias)
            return build(aten.linear.default, build.x, *constants)
        if isinstance(module, nn.PReLU):
            return build(aten.prelu.default, build.x, build.constant("weight", module.weight))
        return None


@dataclass(frozen=True)
class _Build:
    """Emits what takes the place of one node."""

    gm: GraphModule
    node: Node

    def __call__(self, op: object, *args: object) -> Node:
        return self.gm.graph.call_function(op, args)  # type: ignore[arg-type]

    @property
    def x(self) -> Node:
        x = self.node.args[0]
        assert isinstance(x, Node)
        return x

    def constant(self, name: str, value: Tensor | None) -> Node | None:
        """Read a new buffer, named after the layer; None stays None."""
        if value is None:
            return None
        return add_constant(self.gm, f"{self.node.target}_{name}", value.detach().clone())

    def quantized(self, layer: QuantLayer) -> Node:
        if isinstance(layer.activation, DynamicActivation):
            return self._dynamic(layer, layer.activation.bits)
        if isinstance(layer.activation, FloatActivation):
            return self._weight_only(layer)
        levels, zero_point = self._levels(layer)
        weight = self.constant("weight", layer.integer_weight())
        if isinstance(layer, QuantConv):
            sizes = (layer.stride, layer.padding, layer.dilation, layer.groups)
            args = (levels, weight, *sizes, zero_point, layer.pad_value)
            acc = self(dialect.conv.default, *args)
        else:
            assert isinstance(layer, QuantLinear)
            acc = self(dialect.linear.default, levels, weight, zero_point)
        if layer.k_map:
            multiplier = self.constant("multiplier", layer.multiplier())
            return self._k_mapped(layer, self(dialect.scale_shift.default, acc, multiplier, None))
        return self(dialect.scale_shift.default, acc, *self._scale_shift(layer))

    def _scale_shift(self, layer: QuantLayer) -> tuple[Node | None, Node | None]:
        multiplier, bias = layer.scale_shift()
        return self.constant("multiplier", multiplier), self.constant("bias", bias)

    def _weight_only(self, layer: QuantLayer) -> Node:
        weight = self.constant("weight", layer.integer_weight())
        if isinstance(layer, QuantConv):
            sizes = (layer.stride, layer.padding, layer.dilation, layer.groups)
            y = self(dialect.weight_only_conv.default, self.x, weight, *sizes)
        else:
            y = self(dialect.weight_only_linear.default, self.x, weight)
        return self(dialect.scale_shift.default, y, *self._scale_shift(layer))

    def _dynamic(self, layer: QuantLayer, bits: int) -> Node:
        """The zero point is not known before the product: it is taken off by the sums of weights."""
        weight = layer.integer_weight()
        qparams = self(dialect.dynamic_qparams.default, self.x, bits)
        levels = self(dialect.dynamic_quantize.default, self.x, qparams, bits)
        acc = self(dialect.linear.default, levels, self.constant("weight", weight), 0)
        sums = self.constant("weight_sum", weight.sum(1, dtype=torch.int32))
        constants = self._scale_shift(layer)
        return self(dialect.dynamic_scale_shift.default, acc, qparams, sums, *constants)

    def _levels(self, layer: QuantLayer) -> tuple[Node, int]:
        """The activation's integer levels, and its zero point."""
        activation = layer.activation
        if isinstance(activation, SignActivation):
            return self(dialect.sign.default, self.x), 0
        if isinstance(activation, UnitActivation):
            return self(dialect.quantize_unit.default, self.x, activation.bits), 0
        assert isinstance(activation, GridActivation)
        try:
            p = activation.qparams()
        except QCompileError as error:
            raise QCompileError(error.what, where=where(self.node), hint=error.hint) from error
        zero_point = int(p.zero_point)
        args = (self.x, float(p.scale), zero_point, p.qmin, p.qmax)
        return self(dialect.quantize.default, *args), zero_point

    def _k_mapped(self, layer: QuantLayer, y: Node) -> Node:
        """XNOR-Net's K varies from place to place, so it is a multiplication of its own."""
        tracer = GraphAppendingTracer(self.gm.graph)
        x = Proxy(self.x, tracer)
        if isinstance(layer, QuantConv):
            mean, box = (
                Proxy(add_constant(self.gm, f"{self.node.target}_{name}", weight), tracer)
                for name, weight in zip(("mean", "box"), layer.map_weights(), strict=True)
            )
            sizes = (layer.stride, layer.padding, layer.dilation, layer.groups)
            k: Any = magnitude_map(x, mean, box, *sizes)  # type: ignore[arg-type]
        else:
            k = layer.magnitude_map(x)  # type: ignore[arg-type]
        y = self(aten.mul.Tensor, y, k.node)
        if layer.bias is None:
            return y
        shape = [-1, *[1] * (layer.weight.dim() - 2)]
        return self(aten.add.Tensor, y, self.constant("bias", layer.bias.reshape(shape)))

    def float_conv(self, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Node:
        padding = dialect_padding(conv)
        x, before, after = self.x, padding[::2], padding[1::2]
        if before != after:
            x = self(aten.pad.default, x, torch_padding(padding), "constant", 0.0)
            before = [0] * len(before)
        constants = self.constant("weight", conv.weight), self.constant("bias", conv.bias)
        sizes = (list(conv.stride), before, list(conv.dilation))
        none = [0] * len(before)
        return self(aten.convolution.default, x, *constants, *sizes, False, none, conv.groups)
