"""Ops that are no layers, drawn by hypothesis: windows, reductions, moves, chains of elements.

An `Ops` is one input and some ops that read it, each a name of `_OPS` and arguments. Its `repr` is
all that it takes to have it again, as with a `Family` of layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from compiling import Case
from hypothesis import strategies as st
from layer_strategies import after_nothing, slides
from small_nets import normal
from torch import Tensor

from qcompile.ir.ops import full_word_mask
from qcompile.ir.stages import aten, dialect

Op = tuple[Any, ...]  # a name and arguments


@dataclass(frozen=True)
class Ops:
    """Some ops of one input `[N, channels, *size]`; `near` where a tolerance is needed."""

    channels: int
    size: tuple[int, ...]
    ops: tuple[Op, ...]
    near: bool = False

    def case(self) -> Case:
        """All ops side by side."""
        constants = {
            "a": normal(self.channels, seed=1),
            "b": normal(self.channels, seed=2),
            "mask": full_word_mask(self.channels) & 0x5A5A0FF0,
        }

        def function(x: Tensor, **c: Tensor) -> Any:
            return tuple(_OPS[name](x, self, c, *arguments) for name, *arguments in self.ops)

        # Of some hundred terms of size 1, added in another order; polynomials of some 2^-23.
        tolerance = (1e-5, 1e-5) if self.near else (0.0, 0.0)
        shapes = [(self.channels, *self.size)]
        return Case(
            function, shapes, constants, tolerance, repr(self), spread=2.0, extreme=not self.near
        )


def _by_rank(name: str) -> list[Any]:
    return [None, *(getattr(aten, name.format(rank)).default for rank in (1, 2, 3))]


_MAX_POOLS, _AVG_POOLS = _by_rank("max_pool{}d"), _by_rank("avg_pool{}d")


def _bits(x: Tensor) -> Tensor:
    return dialect.bitpack.default(dialect.sign.default(x))


def _max_pool(x: Tensor, of: Ops, _: Any, *window: Any) -> Tensor:
    return _MAX_POOLS[len(of.size)](x, *window)


def _avg_pool(x: Tensor, of: Ops, _: Any, *window: Any) -> Tensor:
    return _AVG_POOLS[len(of.size)](x, *window)


def _bit_maxpool(x: Tensor, _: Ops, c: dict[str, Tensor], *window: Any) -> Tensor:
    return dialect.bit_maxpool.default(_bits(x), c["mask"], *window)


def _patches(x: Tensor, of: Ops, _: Any, *window: Any) -> Tensor:
    return dialect.im2col.default(_bits(x), of.channels, 1, *window)


def _reversed(x: Tensor, *_: Any) -> Tensor:
    """Flattened, where the value before and the value after are of kernels."""
    return aten.neg.default(aten.flatten.using_ints(aten.relu.default(x), *_[2:]))


def _cat(x: Tensor, _: Ops, __: Any, dim: int) -> Tensor:
    return aten.cat.default([x, aten.neg.default(x), x], dim)


def _plain(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, _, __, *arguments: op(x, *arguments)


def _chain(x: Tensor, _: Ops, c: dict[str, Tensor], *names: str) -> Tensor:
    for name in names:
        x = ELEMENTS[name](x, c["a"], c["b"])
    return x


_OPS: dict[str, Callable[..., Tensor]] = {
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "bit_maxpool": _bit_maxpool,
    "im2col": _patches,
    "mean": _plain(aten.mean.dim),
    "amax": _plain(aten.amax.default),
    "softmax": _plain(aten.softmax.int),
    "log_softmax": _plain(aten.log_softmax.int),
    "pad": _plain(aten.pad.default),
    "cat": _cat,
    "flatten": _reversed,
    "quantize": _plain(dialect.quantize.default),
    "quantize_unit": _plain(dialect.quantize_unit.default),
    "chain": _chain,
}
ELEMENTS: dict[str, Callable[..., Tensor]] = {
    "relu": lambda x, a, b: aten.relu.default(x),
    "scale_shift": lambda x, a, b: dialect.scale_shift.default(x, a, b),
    "hardtanh": lambda x, a, b: aten.hardtanh.default(x, -0.75, 1.5),
    "leaky_relu": lambda x, a, b: aten.leaky_relu.default(x, 0.3),
    "prelu": lambda x, a, b: aten.prelu.default(x, a),
    "hardsigmoid": lambda x, a, b: aten.hardsigmoid.default(x),
    "hardswish": lambda x, a, b: aten.hardswish.default(x),
    "abs": lambda x, a, b: aten.abs.default(x),
    "neg": lambda x, a, b: aten.neg.default(x),
    "add": lambda x, a, b: aten.add.Tensor(x, aten.abs.default(x)),
    "sub": lambda x, a, b: aten.sub.Tensor(x, 0.3),
    "square": lambda x, a, b: aten.mul.Tensor(x, x),
    "div": lambda x, a, b: aten.div.Tensor(x, 3.0),
    "mul": lambda x, a, b: aten.mul.Scalar(x, -1.1),
}
_ENDINGS = {
    "": lambda x, a, b: x,
    "sign": lambda x, a, b: dialect.sign.default(x),
    "bits": lambda x, a, b: _bits(x),
    "levels": lambda x, a, b: dialect.quantize.default(x, 0.0625, 3, 0, 255),
    "unit": lambda x, a, b: dialect.quantize_unit.default(x, 3),
}
_APPROXIMATED = {
    "sigmoid": lambda x, a, b: aten.sigmoid.default(x),
    "tanh": lambda x, a, b: aten.tanh.default(x),
    "silu": lambda x, a, b: aten.silu.default(x),
    "gelu": lambda x, a, b: aten.gelu.default(x),
    "gelu tanh": lambda x, a, b: aten.gelu.default(x, approximate="tanh"),
}
NAMES = tuple(ELEMENTS)
ELEMENTS |= {**_ENDINGS, **_APPROXIMATED}


# --- strategies --------------------------------------------------------------------------------


def _pool(draw: st.DrawFn, size: tuple[int, ...], *, dilated: bool) -> list[list[int]]:
    """Kernel, stride, padding and dilation; no window lies wholly in the padding."""
    found = []
    for n in size:
        kernel = min(draw(st.sampled_from((2, 3, 1, 5))), n)
        padding, stride = draw(st.integers(0, kernel // 2)), draw(st.integers(1, 3))
        wide = dilated and 2 * (kernel - 1) < n
        found.append((kernel, stride, padding, draw(st.integers(1, 2)) if wide else 1))
    return [list(column) for column in zip(*found, strict=True)]


@st.composite
def _window(draw: st.DrawFn, name: str, size: tuple[int, ...]) -> Op:
    if name == "im2col":
        slide = draw(slides(size))
        return (name, list(slide.kernel), *slide.arguments, draw(st.sampled_from((1, -1))))
    kernel, stride, padding, dilation = _pool(draw, size, dilated=name == "max_pool")
    ceil = draw(st.booleans())
    if name == "avg_pool":
        return (name, kernel, stride, padding, ceil, draw(st.booleans()))
    if name == "max_pool":
        return (name, kernel, stride, padding, dilation, ceil)
    return (name, kernel, stride, [p for p in padding for _ in range(2)], dilation, ceil)


@st.composite
def _pad(draw: st.DrawFn, channels: int, size: tuple[int, ...]) -> Op:
    mode = draw(st.sampled_from(("constant", "reflect", "replicate", "circular")))
    if mode == "constant" or not size:
        widths = [draw(st.integers(1 - n if n < 3 else -1, 3)) for n in (*size[::-1], channels)]
        padding = [side for n in widths for side in (max(n, 0), n if n < 0 else 1)]
        return ("pad", padding, "constant", draw(st.sampled_from((0.0, 1.5, -1.0))))
    most = {"reflect": [n - 1 for n in size[::-1]], "circular": size[::-1]}.get(
        mode, [3] * len(size)
    )
    return ("pad", [draw(st.integers(0, min(3, n))) for n in most for _ in range(2)], mode)


@st.composite
def _dims(draw: st.DrawFn, name: str, rank: int) -> Op:
    dims = draw(st.sets(st.integers(1, rank + 1), min_size=1).map(sorted))
    return (name, dims, draw(st.booleans()))


@st.composite
def _flatten(draw: st.DrawFn, rank: int) -> Op:
    start = draw(st.integers(1, rank + 1))
    return ("flatten", start, draw(st.integers(start, rank + 1)))


_LEVELS = st.builds(
    lambda scale, zero, signed, bits: ("quantize", scale, *_range(zero, signed, bits)),
    st.floats(2.0**-20, 2.0**10, width=32),
    st.floats(0, 1),
    st.booleans(),
    st.integers(2, 8),
)


def _range(zero: float, signed: bool, bits: int) -> tuple[int, int, int]:
    low = -(2 ** (bits - 1)) if signed else 0
    high = low + 2**bits - 1
    return round(low + zero * (high - low)), low, high


@st.composite
def _ops(draw: st.DrawFn, near: bool) -> Ops:
    channels = draw(st.sampled_from((33, 3, 32, 1, 7, 70, 64)))
    size = draw(st.sampled_from(((5, 6), (7,), (), (9, 4), (3, 2, 4), (1, 1))))
    rank, names = len(size), st.sampled_from(NAMES)
    dim = st.integers(1, rank + 1)
    if near:
        last = st.sampled_from(tuple(_APPROXIMATED))
        kinds = [
            st.builds(lambda name: ("chain", "hardtanh", name), last),
            *(_dims(name, rank) for name in ("mean",)),
            st.tuples(st.sampled_from(("softmax", "log_softmax")), dim),
            *([_window("avg_pool", size)] if size else []),
        ]
    else:
        chains = st.lists(names, min_size=1, max_size=4)
        endings = st.sampled_from(tuple(_ENDINGS))
        kinds = [
            st.builds(lambda some, last: ("chain", *some, last), chains, endings),
            _dims("amax", rank),
            _pad(channels, size),
            _flatten(rank),
            st.tuples(st.just("cat"), dim),
            _LEVELS,
            st.tuples(st.just("quantize_unit"), st.integers(1, 8)),
            *([_window(n, size) for n in ("max_pool", "bit_maxpool", "im2col")] if size else []),
        ]
    chosen = draw(st.lists(st.one_of(kinds), min_size=4, max_size=4))
    return Ops(channels, size, tuple(chosen), near)


ops: st.SearchStrategy[list[Ops]] = after_nothing(
    st.tuples(_ops(False), _ops(False), _ops(True)).map(list)
)
