"""Convolutions and matrix products: sums of products over the taps and channels of a patch.

    result[n, o, y, x] = sum over taps t and channels c of  source[n, c, y*s + t*d - p] . weight[o, c, t]

What "." is, and in what form the sources and weights are laid out for it, a `Dot` says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node
from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import arguments, sizes
from qcompile.codegen.machine import Machine
from qcompile.codegen.writer import Point, Writer
from qcompile.errors import QCompileError
from qcompile.ir.graph import where
from qcompile.ir.ops import full_word_mask

_aten, _dialect = torch.ops.aten, torch.ops.qcompile


@dataclass(frozen=True)
class Dot:
    """A product of one activation with a vector of weights, added up. This one is of float32.

    Attributes:
        fill: the value beyond the border, as it lies in memory: a number, or one for each channel.
        bias: what is added to the sums, `[O]`, or None.
    """

    fill: float | Tensor = 0.0
    bias: Tensor | None = None
    unit = 1  # neighbouring activations that one step multiplies
    element = "float32"  # in which activations lie, once prepared
    sums = "float32"
    prepares = False  # whether `prepare` does anything

    def prepare(self, x: Expr) -> Expr:
        return x

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        """Add the products; x is `unit` activations, weight a vector of `unit * lanes`."""
        return total + x * weight

    def finish(self, w: Writer, total: Expr, p: Point) -> Expr:
        if self.bias is None:
            return total
        return total + w.constant(self.bias, p.channels)


@dataclass(frozen=True)
class XnorDot(Dot):
    """Signs in words: the sum counts the places that differ, and `k - 2 * sum` is the product."""

    k: int = 0
    element = "int32"
    sums = "int32"

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        differ = e.splat(x, e.lanes(weight)) ^ weight
        return total + tirx.popcount(differ)

    def finish(self, w: Writer, total: Expr, p: Point) -> Expr:
        return e.const(self.k, "int32") - total * e.const(2, "int32")


@dataclass(frozen=True)
class SingleDot(Dot):
    """Integers, one product at a time, in 32 bits. Activations lie centred, in 16 bits."""

    zero_point: int = 0
    element = "int16"
    sums = "int32"
    prepares = True

    def prepare(self, x: Expr) -> Expr:
        return e.cast(x, "int16") - e.const(self.zero_point, "int16")

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        return total + e.cast(x, "int32") * e.cast(weight, "int32")


_PAIR = {
    4: "llvm.x86.sse2.pmadd.wd",
    8: "llvm.x86.avx2.pmadd.wd",
    16: "llvm.x86.avx512.pmaddw.d.512",
}
_QUAD = {
    4: "llvm.x86.avx512.vpdpbusd.128",
    8: "llvm.x86.avx512.vpdpbusd.256",
    16: "llvm.x86.avx512.vpdpbusd.512",
}


@dataclass(frozen=True)
class PairDot(SingleDot):
    """Two products of 16 bits in one instruction; |x| <= 256, so that their sum fits 32 bits."""

    unit = 2

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        count = e.lanes(total)
        pair = e.splat(tirx.reinterpret("int32", x), count)
        both = tirx.reinterpret(e.vector("int16", 2 * count), pair)
        product = tirx.call_llvm_pure_intrin(
            e.vector("int32", count), _PAIR[count], both, e.cast(weight, "int16")
        )
        return total + product


@dataclass(frozen=True)
class QuadDot(Dot):
    """Four products of an unsigned with a signed byte in one instruction (VNNI).

    Signed activations are moved up by `lift` = 128; `bias` takes that and the zero point back:
    sum((u - lift - z) * w) = sum(u * w) - (lift + z) * sum(w).
    """

    lift: int = 0
    unit = 4
    element = "uint8"
    sums = "int32"
    prepares = True

    def prepare(self, x: Expr) -> Expr:
        if not self.lift:
            return x
        return e.cast(e.cast(x, "int16") + e.const(self.lift, "int16"), "uint8")

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        count = e.lanes(total)
        quad = e.splat(tirx.reinterpret("int32", x), count)
        bytes_ = tirx.reinterpret(e.vector("uint8", 4 * count), quad)
        return tirx.call_llvm_pure_intrin(
            e.vector("int32", count), _QUAD[count], total, bytes_, weight
        )


@dataclass(frozen=True)
class Contraction:
    """The geometry of a convolution; a matrix product is one of one tap over one pixel.

    Attributes:
        source: the node that gives the activations.
        weight: `[groups, O / groups, *kernel, channels]`.
        kernel, stride, dilation: of each spatial dimension, at least one.
        padding: `[before, after]` for each.
        inputs, outputs: spatial sizes of the source and of the result.
    """

    source: Node
    weight: Tensor
    dot: Dot
    stride: tuple[int, ...] = (1,)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1,)
    inputs: tuple[int, ...] = (1,)
    outputs: tuple[int, ...] = (1,)

    @property
    def groups(self) -> int:
        return self.weight.shape[0]

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.weight.shape[2:-1])

    @property
    def channels(self) -> int:
        """Source elements (or words) that a group reads at a pixel."""
        return self.weight.shape[-1]

    @property
    def steps(self) -> int:
        """Products for each element of the result."""
        return math.prod(self.weight.shape[2:])


def contraction_of(w: Writer, machine: Machine) -> Contraction:
    """Read a group's convolution or matrix product.

    Raises:
        QCompileError: a rank or an option that is not compiled.
    """
    node = w.group.anchor
    if node.target is _dialect.xnor_matmul.default:
        return _xnor(w, node)
    if node.target is _dialect.conv.default:
        return _integer_conv(w, node, machine)
    if node.target is _aten.convolution.default:
        return _float_conv(w, node)
    if len(w.layout(node).spatial) or w.layout(node).rank != 2:
        raise QCompileError(
            f"{node.target} over {w.layout(node).rank} dimensions is not compiled",
            where=where(node),
            hint="supported: [N, K]; flatten before the layer",
        )
    source, second, third = arguments(node)
    weight = w.tensor(second)
    rows = weight.reshape(1, weight.shape[0], 1, -1)
    if node.target is _dialect.linear.default:
        dot = _integer_dot(machine, w.layout(source).dtype, rows, third, 0)
        return Contraction(source, rows, dot)
    return Contraction(source, rows, Dot(bias=None if third is None else w.tensor(third)))


def _xnor(w: Writer, node: Node) -> Contraction:
    source, weight, k, groups = arguments(node)
    rows = w.tensor(weight)
    outputs = w.layout(node).spatial
    if source not in w.group.nodes:
        shaped = rows.reshape(groups, rows.shape[0] // groups, *[1] * max(1, len(outputs)), -1)
        ones, size = (1,) * max(1, len(outputs)), outputs or (1,)
        return Contraction(source, shaped, XnorDot(k=k), ones, (0, 0) * len(ones), ones, size, size)
    bits, channels, _, kernel, stride, padding, dilation, pad_value = arguments(source)
    fill = full_word_mask(channels)
    return Contraction(
        bits,
        rows.reshape(groups, rows.shape[0] // groups, *kernel, -1),
        XnorDot(fill if pad_value < 0 else torch.zeros_like(fill), k=k),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        w.layout(bits).spatial,
        outputs,
    )


def _grouped(weight: Tensor, groups: int) -> Tensor:
    """`[O, C, *kernel]` to `[groups, O / groups, *kernel, C]`."""
    return weight.movedim(1, -1).unflatten(0, (groups, -1))


def _integer_conv(w: Writer, node: Node, machine: Machine) -> Contraction:
    source, weight, stride, padding, dilation, groups, zero_point, pad_value = arguments(node)
    shaped = _grouped(w.tensor(weight), groups)
    dot = _integer_dot(machine, w.layout(source).dtype, shaped, zero_point, pad_value)
    return Contraction(
        source,
        shaped,
        dot,
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        w.layout(source).spatial,
        w.layout(node).spatial,
    )


def _integer_dot(machine: Machine, dtype: str, weight: Tensor, zero: int, pad: int) -> Dot:
    lift = 128 if dtype == "int8" else 0
    stored = zero + pad + lift
    if machine.dot == "quad" and weight.dtype is torch.int8 and 0 <= stored <= 255:
        rows = weight.reshape(weight.shape[0] * weight.shape[1], -1)
        taken_back = -(lift + zero) * rows.to(torch.int64).sum(1)
        bias = taken_back.to(torch.int32) if lift + zero else None
        return QuadDot(stored, bias, lift=lift)
    return (SingleDot if machine.dot == "single" else PairDot)(pad, zero_point=zero)


def _float_conv(w: Writer, node: Node) -> Contraction:
    source, weight, bias, stride, padding, dilation, transposed, _, groups = arguments(node)
    if transposed:
        raise QCompileError("transposed convolutions are not compiled", where=where(node))
    rank = len(w.layout(node).spatial)
    return Contraction(
        source,
        _grouped(w.tensor(weight), groups),
        Dot(bias=None if bias is None else w.tensor(bias)),
        sizes(stride, rank),
        tuple(p for one in sizes(padding, rank) for p in (one, one)),
        sizes(dilation, rank),
        w.layout(source).spatial,
        w.layout(node).spatial,
    )
