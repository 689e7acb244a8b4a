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

from qcompile.codegen.dots.floats import Dot
from qcompile.codegen.dots.integers import FewLevelsDot, PairDot, QuadDot, SingleDot
from qcompile.codegen.dots.methods import (
    Factors,
    Product,
    integer_methods,
    methods,
    product_by,
    sign_dot,
)
from qcompile.codegen.dots.neon import (
    BytePairDot,
    MixedQuadDot,
    SignedQuadDot,
    TwoBytePairsDot,
)
from qcompile.codegen.dots.weight_only import level_dot, product_of
from qcompile.codegen.groups import INTEGER_CONTRACTIONS, arguments, sizes
from qcompile.codegen.kernels.ranges import are_two_levels, levels
from qcompile.codegen.machine import Machine
from qcompile.codegen.writer import Writer
from qcompile.errors import QCompileError
from qcompile.ir.graph import where
from qcompile.ir.ops import WORD, full_word_mask

_aten, _dialect = torch.ops.aten, torch.ops.qcompile


@dataclass(frozen=True)
class Contraction:
    """The geometry of a convolution; a matrix product is one of one tap over one pixel.

    Attributes:
        source: the node that gives the activations.
        weight: `[groups, O / groups, *kernel, channels]`.
        kernel, stride, dilation: of each spatial dimension, at least one.
        padding: `[before, after]` for each.
        inputs, outputs: spatial sizes of the source and of the result.
        whole: each output channel is a product with a whole sample, seen as one pixel.
        given: channels of the source that a group reads at a pixel; 0: as many as the weight has.
    """

    source: Node
    weight: Tensor
    dot: Dot
    stride: tuple[int, ...] = (1,)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1,)
    inputs: tuple[int, ...] = (1,)
    outputs: tuple[int, ...] = (1,)
    whole: bool = False
    given: int = 0

    @property
    def groups(self) -> int:
        return self.weight.shape[0]

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.weight.shape[2:-1])

    @property
    def channels(self) -> int:
        """Elements that a group reads at a pixel: of the source, or what the dot makes of them."""
        return self.weight.shape[-1]

    @property
    def steps(self) -> int:
        """Products for each element of the result."""
        return math.prod(self.weight.shape[2:])


def contraction_of(w: Writer, machine: Machine, method: str | None = None) -> Contraction:
    """Read a group's convolution or matrix product.

    Args:
        method: how signs are counted or integers multiplied, one of `methods_of`; None: the best.

    Raises:
        QCompileError: a rank or an option that is not compiled.
    """
    c = _read(w, machine, method)
    flat = not w.layout(c.source).torch_order or w.layout(c.source).channels_last
    if c.groups > 1 or any(c.padding) or c.kernel != (c.inputs or (1,)) or not flat:
        return c
    taps = math.prod(c.kernel)
    if taps > 1 and c.given % WORD:
        return c  # what a dot makes of some channels ends with each tap
    rows = c.weight.reshape(1, c.weight.shape[1], 1, -1)
    return Contraction(c.source, rows, c.dot, whole=True, given=taps * c.given)


def methods_of(w: Writer, machine: Machine) -> tuple[str | None, ...]:
    """Ways to compute a group's convolution or matrix product, the best first; None: the only one."""
    node = w.group.anchor
    given = arguments(node)
    if node.target is _dialect.xnor_matmul.default:
        return methods(machine, w.tensor(given[1]).shape[1])
    if node.target not in INTEGER_CONTRACTIONS:
        return (None,)
    return integer_methods(machine, factors_of(w, node))


def factors_of(w: Writer, node: Node) -> Factors:
    """Of an integer convolution or matrix product."""
    if node.target is not _dialect.conv.default:
        source, weight, zero = arguments(node)
        rows = w.tensor(weight)[None, :, None]
        return Factors(rows, *levels(w, source), are_two_levels(w, source), zero)
    source, weight, stride, padding, dilation, groups, zero, pad = arguments(node)
    return Factors(
        _grouped(w.tensor(weight), groups),
        *levels(w, source),
        are_two_levels(w, source),
        zero,
        pad if any(padding) else None,
        w.layout(source).spatial,
        (stride, padding, dilation),
    )


def _read(w: Writer, machine: Machine, method: str | None) -> Contraction:
    node = w.group.anchor
    if node.target is _dialect.xnor_matmul.default:
        return _xnor(w, node, machine, method)
    if node.target is _dialect.conv.default:
        return _integer_conv(w, node, method)
    if node.target is _aten.convolution.default:
        return _float_conv(w, node)
    if node.target is _dialect.weight_only_conv.default:
        return _weight_only_conv(w, node)
    if len(w.layout(node).spatial) or w.layout(node).rank != 2:
        raise QCompileError(
            f"{node.target} over {w.layout(node).rank} dimensions is not compiled",
            where=where(node),
            hint="supported: [N, K]; flatten before the layer",
        )
    source, second, *others = arguments(node)
    if node.target is _dialect.linear.default:
        product = _product(w, node, method)
        return Contraction(source, product.weight, product.dot, given=product.given)
    weight = w.tensor(second)
    rows = weight.reshape(1, weight.shape[0], 1, -1)
    if node.target is _dialect.weight_only_linear.default:
        codes, dot = product_of(weight, machine)
        return Contraction(source, codes.reshape(rows.shape), dot)
    (bias,) = others
    return Contraction(source, rows, Dot(bias=None if bias is None else w.tensor(bias)))


def _xnor(w: Writer, node: Node, machine: Machine, method: str | None) -> Contraction:
    source, weight, k, groups = arguments(node)
    rows = w.tensor(weight)
    outputs = w.layout(node).spatial
    method = method or methods(machine, rows.shape[1])[0]
    if source not in w.group.nodes:
        shaped = rows.reshape(groups, rows.shape[0] // groups, *[1] * max(1, len(outputs)), -1)
        ones, size = (1,) * max(1, len(outputs)), outputs or (1,)
        dot = sign_dot(method, torch.zeros(rows.shape[1]), k)
        return Contraction(source, shaped, dot, ones, (0, 0) * len(ones), ones, size, size)
    bits, channels, _, kernel, stride, padding, dilation, pad_value = arguments(source)
    fill = full_word_mask(channels)
    return Contraction(
        bits,
        rows.reshape(groups, rows.shape[0] // groups, *kernel, -1),
        sign_dot(method, fill if pad_value < 0 else torch.zeros_like(fill), k),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        w.layout(bits).spatial,
        outputs,
    )


def _grouped(weight: Tensor, groups: int) -> Tensor:
    """`[O, C, *kernel]` to `[groups, O / groups, *kernel, C]`."""
    return weight.movedim(1, -1).unflatten(0, (groups, -1))


def _integer_conv(w: Writer, node: Node, method: str | None) -> Contraction:
    source, _, stride, padding, dilation, *_ = arguments(node)
    product = _product(w, node, method)
    return Contraction(
        source,
        product.weight,
        product.dot,
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        w.layout(source).spatial,
        w.layout(node).spatial,
        given=product.given,
    )


# By how a machine sums products of bytes, and how activations lie: the dot, and what is added to them.
_OF_BYTES: dict[tuple[str, str], tuple[type[QuadDot], int]] = {
    ("quad", "uint8"): (QuadDot, 0),
    ("quad", "int8"): (QuadDot, 128),
    ("mixed quad", "uint8"): (MixedQuadDot, 0),
    ("mixed quad", "int8"): (SignedQuadDot, 0),
    ("signed quad", "uint8"): (SignedQuadDot, -128),
    ("signed quad", "int8"): (SignedQuadDot, 0),
    ("byte pair", "uint8"): (TwoBytePairsDot, -128),
    ("byte pair", "int8"): (TwoBytePairsDot, 0),
}


def _product(w: Writer, node: Node, method: str | None) -> Product:
    factors = factors_of(w, node)
    method = method or integer_methods(w.machine, factors)[0]
    if method == "int8":
        return Product(_of_bytes(w, arguments(node)[0], factors), factors.weight)
    return product_by(method, w.machine, factors)


def _of_bytes(w: Writer, source: Node, factors: Factors) -> Dot:
    weight, zero, pad = factors.weight, factors.zero, factors.pad or 0
    machine, dtype = w.machine, w.layout(source).dtype
    form, lift = _OF_BYTES.get((machine.dot, dtype), (None, 0))
    if machine.dot == "pair" and "ssse3" in machine.features:
        lift = max(0, -factors.low)
        highest, size = (
            max(factors.high, zero + pad) + lift,
            int(weight.to(torch.int32).abs().amax()),
        )
        form = FewLevelsDot if FewLevelsDot.holds(highest, size) else None
    stored = zero + pad + lift
    if form and weight.dtype is torch.int8 and form.least <= stored <= form.least + 255:
        rows = weight.reshape(weight.shape[0] * weight.shape[1], -1)
        if form is TwoBytePairsDot and int(rows.min()) == -128:
            form = BytePairDot
        taken_back = -(lift + zero) * rows.to(torch.int64).sum(1)
        bias = taken_back.to(torch.int32) if lift + zero else None
        return form(stored, bias, lift=lift)
    return (PairDot if machine.dot in ("quad", "pair") else SingleDot)(pad, zero_point=zero)


def _weight_only_conv(w: Writer, node: Node) -> Contraction:
    source, weight, stride, padding, dilation, groups = arguments(node)
    taps = _grouped(w.tensor(weight), groups)
    return Contraction(
        source,
        taps,
        level_dot(taps.numel(), math.prod(w.layout(node).spatial)),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        w.layout(source).spatial,
        w.layout(node).spatial,
    )


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
