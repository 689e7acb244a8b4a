"""Arithmetic and activations: what works on each element by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from qcompile.ir.graph import add_constant
from qcompile.passes.spellings.emit import Emit, Spelling

aten = torch.ops.aten


def unary(op: Callable[..., Any]) -> Spelling:
    def spelling(emit: Emit, input: Node, inplace: bool = False) -> Node:
        return emit(op, input)

    return spelling


relu = unary(aten.relu.default)


def same(emit: Emit, input: Node, *args: Any, **kwargs: Any) -> Node:
    """What changes nothing, so long as the dtype stays."""
    value = emit.node.meta["spec"]
    if value != input.meta["spec"]:
        raise emit.refuse(
            f"it turns {input.meta['spec']} into {value}", hint="only float32 is known"
        )
    return input


def relu6(emit: Emit, input: Node, inplace: bool = False) -> Node:
    return emit(aten.hardtanh.default, input, 0.0, 6.0)


def hardtanh(
    emit: Emit, input: Node, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Node:
    return emit(aten.hardtanh.default, input, float(min_val), float(max_val))


def clamp(emit: Emit, input: Node, min: Any = None, max: Any = None) -> Node:
    if isinstance(min, Node) or isinstance(max, Node):
        raise emit.refuse("clamp between tensors is not supported", hint="use two numbers")
    if min == 0 and max is None:
        return relu(emit, input)
    low = -math.inf if min is None else float(min)
    return emit(aten.hardtanh.default, input, low, math.inf if max is None else float(max))


def leaky_relu(
    emit: Emit, input: Node, negative_slope: float = 0.01, inplace: bool = False
) -> Node:
    return emit(aten.leaky_relu.default, input, float(negative_slope))


def prelu(emit: Emit, input: Node, weight: Node) -> Node:
    return emit(aten.prelu.default, input, weight)


def gelu(emit: Emit, input: Node, *, approximate: str = "none") -> Node:
    if approximate != "none":
        raise emit.refuse(f"gelu with approximate={approximate!r} is not supported", "use 'none'")
    return emit(aten.gelu.default, input)


def add(emit: Emit, input: Any, other: Any, *, alpha: float = 1) -> Node:
    if alpha != 1:
        other = mul(emit, other, alpha) if isinstance(other, Node) else other * alpha
    return _commutative(emit, aten.add.Tensor, aten.add.Scalar, input, other)


def mul(emit: Emit, input: Any, other: Any) -> Node:
    return _commutative(emit, aten.mul.Tensor, aten.mul.Scalar, input, other)


def _commutative(emit: Emit, tensors: Any, scalar: Any, a: Any, b: Any) -> Node:
    if isinstance(a, Node) and isinstance(b, Node):
        return emit(tensors, a, b)
    return emit(scalar, a, float(b)) if isinstance(a, Node) else emit(scalar, b, float(a))


def sub(emit: Emit, input: Any, other: Any, *, alpha: float = 1) -> Node:
    """a - b; with one number it is an addition, which rounds the same."""
    if not isinstance(other, Node):
        return add(emit, input, -other * alpha)
    if not isinstance(input, Node):
        return add(emit, emit(aten.neg.default, other), input)
    return emit(aten.sub.Tensor, input, other if alpha == 1 else mul(emit, other, alpha))


def rsub(emit: Emit, input: Any, other: Any) -> Node:
    return sub(emit, other, input)


def div(emit: Emit, input: Any, other: Any, *, rounding_mode: str | None = None) -> Node:
    """a / b; multiplying by the reciprocal of a number would round twice unless it is exact."""
    if rounding_mode is not None:
        raise emit.refuse(f"division with rounding_mode={rounding_mode!r} is not supported")
    if not isinstance(other, Node) and other != 0 and abs(math.frexp(other)[0]) == 0.5:
        return emit(aten.mul.Scalar, input, 1.0 / other)
    if not isinstance(other, Node):
        other = add_constant(emit.gm, "divisor", torch.tensor(float(other)))
    if not isinstance(input, Node):
        input = add_constant(emit.gm, "dividend", torch.tensor(float(input)))
    return emit(aten.div.Tensor, input, other)
