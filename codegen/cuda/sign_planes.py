"""Products of few levels as products of signs: planes of bits, each as often as it counts.

Levels are sums of signs s = -1, +1 times powers of two, and so are weights:

    0, 1, 2, 3:     x = (3 + s0 + 2 s1) / 2        -3, -1, 1, 3:  w = t0 + 2 t1
    low, high:      x = (low + high + (high - low) s) / 2         -1, 0, 1:  w = (t0 + t1) / 2

So sum(x w) is, up to a constant of the output channel, a product of rows of signs in which a plane
that counts twice stands twice: [s0, s1, s1] . [t, t, t], or [s, s, s] . [t0, t1, t1], or
[s, s] . [t0, t1]. On tensor cores that multiply bits eight times as fast as bytes, two or three of
them are worth it. (DoReFa-Net, Zhou et al. 2016, arXiv:1606.06160, section 2.1.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.fx import Node
from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.matrices import Matrix, sign_matrix
from qcompile.codegen.cuda.places import THREADS, element
from qcompile.codegen.cuda.writer import WARP, CudaWriter, Grid
from qcompile.codegen.dots.floats import Finish
from qcompile.codegen.dots.methods import Factors
from qcompile.codegen.dots.planes import planes_of
from qcompile.codegen.dots.signs import XnorDot
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import INTEGER_CONTRACTIONS
from qcompile.codegen.kernels.contraction import Contraction, contraction_of, factors_of
from qcompile.codegen.layout import Layout
from qcompile.codegen.schedules.loops import split
from qcompile.codegen.writer import Point, Writer
from qcompile.ir.ops import full_word_mask, pack_words

EMULATED = 100  # from this architecture on, products of bits are made of products of bytes
_Coded = tuple[tuple[int, ...], tuple[int, ...], Tensor, "PlaneDot"]
_FOUR = 3  # the highest of four levels, less the lowest


@dataclass(frozen=True)
class PlaneDot(XnorDot):
    """Counts of differing signs of all planes; a sum of products is (base - gain * count) >> halved.

    Attributes:
        base: int32 `[O]`.
    """

    base: Tensor | None = None
    gain: int = 1
    halved: int = 0

    def finish(self, w: Writer) -> tuple[Node, Finish]:
        base = self.base
        assert base is not None

        def value(count: Expr, p: Point) -> Expr:
            scaled = count * e.const(self.gain, "int32")
            total = w.constant(base, p.channels) - scaled
            return tirx.shift_right(total, e.const(1, "int32")) if self.halved else total

        return w.group.anchor, value


@dataclass(frozen=True)
class SignPlanes:
    """A contraction of few levels, as one of signs.

    Attributes:
        matrix: of the packed planes.
        source: the contraction of the levels.
        layout: where these lie; a whole sample is one pixel where the contraction says so.
        order: the planes of a pixel, in the order in which they are packed.
        low: the lowest level.
    """

    matrix: Matrix
    source: Contraction
    layout: Layout
    order: tuple[int, ...]
    low: int


def sign_planes(w: CudaWriter) -> SignPlanes | None:
    """The planes of a group's contraction, where the program is for one GPU and they are worth it."""
    arch = w.machine.arch.removeprefix("sm_")
    if not arch.isdigit() or int(arch) >= EMULATED:
        return None
    if w.group.anchor.target not in INTEGER_CONTRACTIONS:
        return None
    factors = factors_of(w, w.group.anchor)
    c = contraction_of(w, w.machine, "int8")
    found = _coded(factors, c) if c.groups == 1 else None
    if found is None:
        return None
    order, of_weights, words, dot = found
    layout = w.layout(c.source)
    if c.whole:
        layout = replace(layout, spatial=(), channels=layout.size, torch_order=False)
    count = len(order) * -(-layout.channels // WARP)
    packed = replace(layout, channels=count, dtype="int32", torch_order=False)
    signs = replace(c, weight=words, dot=dot, given=0)
    matrix = sign_matrix(signs, packed, of_weights)
    return SignPlanes(matrix, c, layout, order, factors.low) if matrix is not None else None


def _coded(factors: Factors, c: Contraction) -> _Coded | None:
    """The planes, where they pay: of activations and of weights, words of these, and the dot."""
    weights, gain = planes_of(c.weight, mask=False), factors.high - factors.low
    if weights is None or not factors.low <= factors.beyond <= factors.high:
        return None
    several = len(weights.powers) > 1
    if factors.two and several and factors.beyond in (factors.low, factors.high):
        activations = 1
    elif gain == _FOUR and not several:
        activations = 2
    else:
        return None
    powers = weights.powers if several else (1, 2)
    repeated = [i for i, power in enumerate(powers) for _ in range(power)]
    order = tuple(0 if activations == 1 else i for i in repeated)
    own = [pack_words(bits) for bits in weights.bits]
    of_weights = tuple(i if several else 0 for i in repeated)
    words = torch.cat([own[i] for i in of_weights], -1)
    rows = factors.rows
    k, halved = len(repeated) * rows.shape[1], weights.halved > 1
    # twice the sum of products: (2 (low - zero) + gain) sum(w), plus scale * (k - 2 count)
    scale = (gain if activations == 1 else 1) if not halved else gain
    twice = (2 * (factors.low - factors.zero) + gain) * rows.sum(1)
    base = twice + (scale * k // 2 if halved else scale * k)
    fill = _beyond(factors, order, c.weight.shape[-1], activations)
    if not halved:
        base = base // 2
    dot = PlaneDot(fill, k=k, base=base.to(torch.int32), gain=scale, halved=int(halved))
    return order, of_weights, words, dot


def _beyond(factors: Factors, order: tuple[int, ...], channels: int, planes: int) -> Tensor:
    """The words of a pixel beyond the border."""
    level, mask = factors.beyond - factors.low, full_word_mask(channels)
    high = [level > 0] if planes == 1 else [bool(level >> i & 1) for i in range(planes)]
    return torch.cat([torch.zeros_like(mask) if high[plane] else mask for plane in order])


def pack_planes(w: CudaWriter, planes: SignPlanes, scratch: str) -> None:
    """A launch: a warp for each word of a pixel's channels packs their planes."""
    layout = planes.layout
    source = replace(w.operands[planes.source.source], layout=layout)
    words = -(-layout.channels // WARP)
    size = layout.size // layout.channels * words * WARP
    with w.launch(Grid(size, THREADS, threads=THREADS)) as t:
        index, valid = element(w.n * size, t.x * THREADS + t.thread)
        n, *place, word, lane = split(index, [*layout.spatial, words, WARP])
        channel = e.bind(word * WARP + lane)
        inside = tirx.min(channel, layout.channels - 1)
        level = e.keep(e.cast(source.load(Point(n, tuple(place), inside)), "int32"))
        own = tirx.all(valid, channel < layout.channels)
        pixel = e.bind(tirx.floordiv(index, words * WARP))
        found = {
            plane: _votes(w, planes, level, plane, own) for plane in dict.fromkeys(planes.order)
        }
        with tb.If(tirx.all(valid, tirx.EQ(lane, 0))), tb.Then():
            for number, plane in enumerate(planes.order):
                at = (pixel * len(planes.order) + number) * words + word
                tb.buffer_store(w.scratch(scratch), found[plane], [at])


def _votes(w: CudaWriter, planes: SignPlanes, level: Expr, plane: int, own: Expr) -> Expr:
    """A plane's word: a bit for each channel whose sign is negative."""
    bit = level - planes.low
    if len(set(planes.order)) > 1:
        bit = tirx.shift_right(bit, e.const(plane, "int32")) & e.const(1, "int32")
    return w.votes(tirx.all(own, bit <= 0))
