"""Which layers hypothesis draws: shapes with tails, strides, paddings, groups, and epilogues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from random_layers import ENDS, Binary, Family, Float, Integer, Layer, Slide, WeightOnly

INTEGER_ENDS = tuple(ENDS)
WEIGHT_ONLY_ENDS = (
    "sums",
    "floats",
    "relu",
    "residual",
    "pool floats",
    "uint8",
    "int8",
    "unit",
    "signs",
    "unshifted",
    "floats and bits",
    "pool to bits",
)
FLOAT_ENDS = ("sums", "floats", "relu", "residual", "pool floats")
# What hypothesis tries first comes first: a layer as networks have it.
_PLACES = {  # in each of so many dimensions
    1: st.sampled_from((9, 40, 17, 5, 1, 2, 31, 12)),
    2: st.sampled_from((7, 9, 6, 10, 5, 4, 8, 3, 2, 1)),
    3: st.integers(1, 4).map(lambda n: 5 - n),
}
_LAYERS = 3  # at most so many on one input
_EDGES = (64, 32, 1, 33, 3, 16, 31, 8, 65, 2, 48, 17, 96, 4, 127, 128, 7, 129, 63, 15)
_OUTPUTS = st.one_of(st.sampled_from(_EDGES), st.integers(1, 130))
_BINARY_CHANNELS = st.one_of(st.sampled_from((*_EDGES, 160, 192, 256)), st.integers(1, 200))
_CHANNELS = st.one_of(st.sampled_from(_EDGES[1:12]), st.integers(1, 70))
_SEEDS = st.integers(0, 999)


def rounds(count: int) -> settings:
    """So many examples, and an empty one, in the profile of every day; more in others.

    Nothing is shrunk, as that would compile for minutes: a family says how to have it again.
    """
    assert settings.default is not None
    more = settings.default.max_examples / settings.get_profile("qcompile").max_examples
    return settings(max_examples=1 + round(count * more), phases=[Phase.generate])


def after_nothing(values: st.SearchStrategy[list[Any]]) -> st.SearchStrategy[list[Any]]:
    """The values, but first an empty list: what is tried first is the simplest, the same each time."""
    return st.integers(0, 2**32).flatmap(lambda number: values if number else st.just([]))


@st.composite
def slides(draw: st.DrawFn, size: tuple[int, ...], *, symmetric: bool = False) -> Slide:
    """A kernel that fits over the input with its padding at least once."""
    sides = [_side(draw, n, len(size), symmetric) for n in size]
    kernel, stride, padding, dilation = zip(*sides, strict=True)
    return Slide(kernel, stride, tuple(p for pair in padding for p in pair), dilation)


def _side(
    draw: st.DrawFn, n: int, rank: int, symmetric: bool
) -> tuple[int, int, tuple[int, int], int]:
    """Kernel, stride, padding and dilation in one dimension; half of them what networks use."""
    kernel = draw(st.sampled_from((3, 1, 3, 5, 2, 7) if rank < 3 else (3, 1, 2)))
    if draw(st.sampled_from((True, False))):
        kernel |= 1
        return kernel, draw(st.integers(1, 2)), (kernel // 2, kernel // 2), 1
    before = draw(st.integers(0, 3))
    after = before if symmetric else draw(st.integers(0, 3))
    dilation = draw(st.integers(1, 3))
    padded = n + before + after
    if dilation * (kernel - 1) >= padded:
        dilation = 1
    return min(kernel, padded), draw(st.integers(1, 3)), (before, after), dilation


@dataclass(frozen=True)
class _Choice:
    """What the layers of a family may be."""

    groups: Sequence[int]
    pads: Sequence[int]
    ends: Sequence[str]
    pointwise: bool = False  # a matrix product may run over pixels

    def layer(self, draw: st.DrawFn, family: Family) -> Layer:
        group = draw(st.sampled_from(self.groups))
        outputs = -(-draw(_OUTPUTS) // group) * group
        if group == family.channels and draw(st.booleans()):
            outputs = group  # depthwise
        slide = None
        if family.size and not (self.pointwise and draw(st.integers(0, 9)) == 9):
            slide = draw(slides(family.size, symmetric=isinstance(family, Float)))
        pad, inner = draw(st.sampled_from(self.pads)), draw(st.booleans())
        layer = Layer(outputs, slide, group, pad, inner=inner)
        places = family.places(layer)
        fitting = [end for end in self.ends if "pool" not in end or min(places, default=0) > 1]
        return replace(layer, end=draw(st.sampled_from(fitting)))

    def layers(self, draw: st.DrawFn, family: Family) -> tuple[Layer, ...]:
        """Some layers, of which at most one has the residual."""
        found: list[Layer] = []
        for _ in range(draw(st.integers(2, _LAYERS))):
            layer = self.layer(draw, family)
            taken = any(other.end == "residual" for other in found)
            found.append(replace(layer, end="relu") if taken and layer.end == "residual" else layer)
        return tuple(found)


def _size(draw: st.DrawFn, ranks: Sequence[int]) -> tuple[int, ...]:
    rank = draw(st.sampled_from(ranks))
    return tuple(draw(_PLACES[rank]) for _ in range(rank))


@st.composite
def _binary(draw: st.DrawFn, ranks: Sequence[int], groups: Sequence[int]) -> Binary:
    size, group = _size(draw, ranks), draw(st.sampled_from(groups))
    channels = draw(_BINARY_CHANNELS if size else st.integers(1, 3000))
    if group > 1:
        channels = 32 * group * draw(st.integers(1, 3))
    family = Binary(channels, size, (), draw(_SEEDS), draw(st.sampled_from((-1, -1, 0))))
    pads = (0, 0, 1, -1) if family.low else (0, 1)
    choice = _Choice((group,), pads, INTEGER_ENDS, pointwise=True)
    return replace(family, layers=choice.layers(draw, family))


@st.composite
def _integer(draw: st.DrawFn, ranks: Sequence[int], groups: Sequence[int]) -> Integer:
    size = _size(draw, ranks)
    channels = draw(_CHANNELS if size else st.integers(1, 700))
    bits = draw(st.sampled_from((8, 8, 1, 2, 4, 7, 3)))
    half = 2 ** (bits - 1)
    qmin, qmax = draw(st.sampled_from(((0, 2 * half - 1), (-half, half - 1))))
    zero = draw(st.sampled_from((0, qmin, qmax, (qmin + qmax) // 2)))
    if bits == 1:
        qmin, qmax, zero = -1, 1, 0
    reach = draw(st.sampled_from((127, 127, 127, 1, 7, 255)))
    planes = draw(st.sampled_from((0, 0, 1, 1, 2, 3)))
    family = Integer(channels, size, (), draw(_SEEDS), qmin, qmax, zero, reach, planes)
    choice = _Choice(_divisors(channels, groups), (0, 1, -1) if bits == 1 else (0,), INTEGER_ENDS)
    return replace(family, layers=choice.layers(draw, family))


@st.composite
def _float(draw: st.DrawFn, ranks: Sequence[int], groups: Sequence[int]) -> Float:
    size = _size(draw, ranks)
    family = Float(draw(_CHANNELS if size else st.integers(1, 700)), size, (), draw(_SEEDS))
    choice = _Choice(_divisors(family.channels, groups), (0,), FLOAT_ENDS)
    return replace(family, layers=choice.layers(draw, family))


@st.composite
def _weight_only(draw: st.DrawFn, ranks: Sequence[int], groups: Sequence[int]) -> WeightOnly:
    size = _size(draw, ranks)
    channels = draw(_CHANNELS if size else st.integers(1, 700))
    reach = draw(st.sampled_from((127, 7, 1, 255)))
    family = WeightOnly(channels, size, (), draw(_SEEDS), reach)
    choice = _Choice(_divisors(channels, groups), (0,), WEIGHT_ONLY_ENDS)
    return replace(family, layers=choice.layers(draw, family))


def _divisors(channels: int, groups: Sequence[int]) -> list[int]:
    """The numbers of groups that fit; 0 stands for one channel a group."""
    return [g or channels for g in groups if channels % (g or channels) == 0] or [1]


_Drawn = Callable[[Sequence[int], Sequence[int]], st.SearchStrategy[Any]]


def _families(one: _Drawn, groups: Sequence[int]) -> st.SearchStrategy[list[Any]]:
    """Maps, grouped maps, lines or volumes, and features."""
    kinds = [one((2,), (1,)), one((2,), groups), one((1, 3), (1, *groups)), one((0,), (1,))]
    return after_nothing(st.tuples(*kinds).map(list))


binaries: st.SearchStrategy[list[Binary]] = _families(_binary, (2, 3, 4))
integers: st.SearchStrategy[list[Integer]] = _families(_integer, (0, 2, 3, 4))
floats: st.SearchStrategy[list[Float]] = _families(_float, (0, 2, 3, 4))
weight_only: st.SearchStrategy[list[WeightOnly]] = _families(_weight_only, (0, 2, 3, 4))
