"""Ops that compute an element from the elements at the same place: RULES[op](writer, node, point).

Each is the float32 expression of the op's reference, operation by operation, every product rounded:
signs and levels that follow come out as in plain torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Node
from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import arguments
from qcompile.codegen.math import erf, exp, tanh
from qcompile.codegen.quotient import reciprocal
from qcompile.codegen.writer import Point, Rule, Writer

_aten, _dialect = torch.ops.aten, torch.ops.qcompile


def _scale_shift(w: Writer, node: Node, p: Point) -> Expr:
    x, scale, shift = arguments(node)
    product = e.fence(e.cast(w.read(x, p), "float32") * w.channel(scale, p))
    return product if shift is None else product + w.channel(shift, p)


def _sign(w: Writer, node: Node, p: Point) -> Expr:
    x = w.read(arguments(node)[0], p)
    zero, one = e.const(0, "float32"), e.const(1, "int8")
    return e.select(x >= e.splat(zero, e.lanes(x)), one, e.const(-1, "int8"))


def _quantize(w: Writer, node: Node, p: Point) -> Expr:
    x, scale, zero_point, qmin, qmax = arguments(node)
    parts = None
    if w.machine.fuses:
        parts = reciprocal(scale, qmin - zero_point, qmax - zero_point)
    if zero_point == qmin and x in w.group.nodes and x.target is _aten.relu.default:
        x = arguments(x)[0]  # what is below 0 becomes the lowest level without it
    value = w.read(x, p)
    if parts is None:
        quotient = value / w.scalar(scale)
    else:
        major, minor = (e.splat(w.scalar(part), e.lanes(value)) for part in parts)
        quotient = e.call("llvm.fma", value, major, e.fence(value * minor))
    dtype = w.layout(node).dtype
    if not zero_point:
        return e.cast(e.nearest(e.clamp(quotient, qmin, qmax)), dtype)
    level = e.round_even(quotient) + w.scalar(zero_point)
    return e.cast(e.clamp(level, qmin, qmax), dtype)


def _quantize_unit(w: Writer, node: Node, p: Point) -> Expr:
    x, bits = arguments(node)
    unit = e.clamp(w.read(x, p), 0.0, 1.0)
    return e.cast(e.round_even(unit * e.const(2.0**bits - 1, "float32")), "uint8")


def _threshold(w: Writer, node: Node, p: Point) -> Expr:
    acc, tau, direction, low = arguments(node)
    hot = w.read(acc, p) * w.channel(direction, p) >= w.channel(tau, p)
    dtype = w.layout(node).dtype
    return e.select(hot, e.const(1, dtype), e.const(low, dtype))


def _zero_one(w: Writer, node: Node, p: Point) -> Expr:
    acc, weight_sum = arguments(node)
    total = w.read(acc, p) + w.channel(weight_sum, p)
    return tirx.shift_right(total, e.splat(e.const(1, "int32"), e.lanes(total)))


def _border_correction(w: Writer, node: Node, p: Point) -> Expr:
    acc, table, _ = arguments(node)
    return w.read(acc, p) - at_border_class(w, node, w.tensor(table), p)


def at_border_class(w: Writer, node: Node, table: Tensor, p: Point) -> Expr:
    """What a table `[O, *classes]` has for the channels and the place of a point.

    Args:
        node: the border_correction that says which class a place is of.
    """
    return of_class(w, [w.tensor(of_dimension) for of_dimension in arguments(node)[2]], table, p)


def of_class(w: Writer, classes: Sequence[Tensor], table: Tensor, p: Point) -> Expr:
    """The same, of classes in each spatial dimension; in none, `table` is `[O]`."""
    tensor = table.movedim(0, -1)  # [*classes, O]: a vector of channels is a vector there
    at: Expr = e.const(0, "int32")
    for d, of_dimension in enumerate(classes):
        index = w.constant(of_dimension.to(torch.int32), p.spatial[d])
        at = at * tensor.shape[d] + index
    return w.constant(tensor, at * tensor.shape[-1] + p.channels if classes else p.channels)


def _relu(w: Writer, node: Node, p: Point) -> Expr:
    return e.at_least(w.read(arguments(node)[0], p), 0.0)


def _hardtanh(w: Writer, node: Node, p: Point) -> Expr:
    x, low, high = arguments(node)
    return e.clamp(w.read(x, p), low, high)


def _leaky(x: Expr, slope: Expr) -> Expr:
    return e.select(x > e.splat(e.const(0, "float32"), e.lanes(x)), x, e.fence(x * slope))


def _leaky_relu(w: Writer, node: Node, p: Point) -> Expr:
    x, slope = arguments(node)
    return _leaky(w.read(x, p), w.read(slope, p))


def _prelu(w: Writer, node: Node, p: Point) -> Expr:
    return _leaky(w.read(arguments(node)[0], p), w.channel(arguments(node)[1], p))


def _sigmoid_of(x: Expr) -> Expr:
    one = e.const(1, "float32")
    return one / (one + exp(-x))


def _sigmoid(w: Writer, node: Node, p: Point) -> Expr:
    return _sigmoid_of(w.read(arguments(node)[0], p))


def _silu(w: Writer, node: Node, p: Point) -> Expr:
    x = w.read(arguments(node)[0], p)
    one = e.const(1, "float32")
    return x / (one + exp(-x))


def _tanh(w: Writer, node: Node, p: Point) -> Expr:
    return tanh(w.read(arguments(node)[0], p))


def _gelu(w: Writer, node: Node, p: Point) -> Expr:
    source, approximate = arguments(node)
    x = w.read(source, p)
    half, one = e.const(0.5, "float32"), e.const(1, "float32")
    if approximate == "tanh":
        cubic = x + e.const(0.044715, "float32") * x * x * x
        return half * x * (one + tanh(e.const((2 / torch.pi) ** 0.5, "float32") * cubic))
    return half * x * (one + erf(x * e.const(0.5**0.5, "float32")))


def _relu6_of(x: Expr) -> Expr:
    return e.clamp(x + e.const(3, "float32"), 0.0, 6.0)


def _hardsigmoid(w: Writer, node: Node, p: Point) -> Expr:
    return _relu6_of(w.read(arguments(node)[0], p)) / e.const(6, "float32")


def _hardswish(w: Writer, node: Node, p: Point) -> Expr:
    x = w.read(arguments(node)[0], p)
    return e.fence(x * _relu6_of(x)) / e.const(6, "float32")


def _abs(w: Writer, node: Node, p: Point) -> Expr:
    return e.call("llvm.fabs", w.read(arguments(node)[0], p))


def _neg(w: Writer, node: Node, p: Point) -> Expr:
    # 0 - x would give +0 for +0.
    return w.read(arguments(node)[0], p) * e.const(-1, "float32")


def _add_or_sub(w: Writer, node: Node, p: Point) -> Expr:
    left, right, alpha = arguments(node)
    a, b = w.read(left, p), w.read(right, p)
    sign = -1 if node.target is _aten.sub.Tensor else 1
    if alpha != 1:
        # torch fuses this one, where the processor can.
        b = e.splat(b, max(e.lanes(a), e.lanes(b)))
        factor = e.splat(e.const(sign * alpha, "float32"), e.lanes(b))
        return e.call("llvm.fma", b, factor, e.splat(a, e.lanes(b)))
    return a - b if sign < 0 else a + b


def _mul(w: Writer, node: Node, p: Point) -> Expr:
    return e.fence(w.read(arguments(node)[0], p) * w.read(arguments(node)[1], p))


def _div(w: Writer, node: Node, p: Point) -> Expr:
    return w.read(arguments(node)[0], p) / w.read(arguments(node)[1], p)


RULES: dict[object, Rule] = {
    _dialect.scale_shift.default: _scale_shift,
    _dialect.sign.default: _sign,
    _dialect.quantize.default: _quantize,
    _dialect.quantize_unit.default: _quantize_unit,
    _dialect.threshold.default: _threshold,
    _dialect.zero_one.default: _zero_one,
    _dialect.border_correction.default: _border_correction,
    _aten.relu.default: _relu,
    _aten.hardtanh.default: _hardtanh,
    _aten.leaky_relu.default: _leaky_relu,
    _aten.prelu.default: _prelu,
    _aten.sigmoid.default: _sigmoid,
    _aten.tanh.default: _tanh,
    _aten.hardsigmoid.default: _hardsigmoid,
    _aten.hardswish.default: _hardswish,
    _aten.silu.default: _silu,
    _aten.gelu.default: _gelu,
    _aten.abs.default: _abs,
    _aten.neg.default: _neg,
    _aten.add.Tensor: _add_or_sub,
    _aten.sub.Tensor: _add_or_sub,
    _aten.mul.Tensor: _mul,
    _aten.div.Tensor: _div,
    _aten.add.Scalar: _add_or_sub,
    _aten.mul.Scalar: _mul,
}
