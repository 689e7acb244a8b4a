"""Which ways there are to compute a product of signs or of integers on a machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from qcompile.codegen.dots.byte_counts import can_shuffle
from qcompile.codegen.dots.carry_save import CarrySaveDot
from qcompile.codegen.dots.floats import Dot
from qcompile.codegen.dots.lookup import MOST_WORDS, LookupDot
from qcompile.codegen.dots.neon import CountBytesDot, CountDot
from qcompile.codegen.dots.planes import MaskedDot, PlaneDot, Planes, planes_of
from qcompile.codegen.dots.signs import XnorDot
from qcompile.codegen.dots.tables import MOST_LEVEL, TableDot, tables_beyond
from qcompile.codegen.machine import Machine
from qcompile.ir.borders import border_table
from qcompile.ir.ops import full_word_mask

_FEW = 15  # the highest level of which a byte holds so many tables that these beat four in one

_METHODS: dict[str, Callable[..., XnorDot]] = {
    "popcount": XnorDot,
    "carry-save": CarrySaveDot,
    "carry-save-bytes": partial(CarrySaveDot, planes=4, in_bytes=True),
    "lookup": LookupDot,
    "count": CountDot,
    "count-bytes": CountBytesDot,
}


def methods(machine: Machine, words: int) -> tuple[str, ...]:
    """Ways to count on a machine the places that differ in so many words; the best comes first."""
    found: list[str] = []
    if machine.family == "aarch64":
        dotprod = "asimddp" in machine.features
        return (*(("count",) if dotprod else ()), "count-bytes", "popcount")
    ternary = {"avx512f", "avx512vl"} <= set(machine.features)
    if ternary and "avx512_vpopcntdq" in machine.features:
        found.append("carry-save")
    elif ternary and can_shuffle(machine):
        found.append("carry-save-bytes")
    if can_shuffle(machine) and words <= MOST_WORDS:
        found.append("lookup")
    return (*found, "popcount")


def sign_dot(method: str, fill: Tensor, k: int) -> XnorDot:
    """The dot of a method; `k` places are compared, `fill` is `[W]`."""
    return _METHODS[method](fill, k=k)


@dataclass(frozen=True)
class Factors:
    """What is known of the factors of an integer product.

    Attributes:
        weight: `[groups, O / groups, *kernel, channels]`, int8 or int16.
        low, high: the lowest and the highest level of activations, as they lie in memory.
        two: whether there are none between them.
        zero: their zero point.
        pad: what stands beyond the border, less the zero point; None where there is no border.
        size, slide: of a convolution: the source's sizes; stride, padding and dilation.
    """

    weight: Tensor
    low: int
    high: int
    two: bool = False
    zero: int = 0
    pad: int | None = None
    size: Sequence[int] = ()
    slide: Sequence[Sequence[int]] = ()

    @property
    def beyond(self) -> int:
        """The level beyond the border; the lowest one where there is no border."""
        return self.low if self.pad is None else self.zero + self.pad

    @property
    def ends(self) -> tuple[int, int]:
        """The lowest and the highest level, with the one beyond the border."""
        return min(self.low, self.beyond), max(self.high, self.beyond)

    @property
    def rows(self) -> Tensor:
        """int64 `[O, products of a sum]`."""
        return self.weight.flatten(2).flatten(0, 1).to(torch.int64)


@dataclass(frozen=True)
class Product:
    """A way to sum products.

    Attributes:
        weight: as a `Contraction` has it.
        given: channels of the source that a group reads at a pixel, where the weight has others.
    """

    dot: Dot
    weight: Tensor
    given: int = 0


def integer_methods(machine: Machine, factors: Factors) -> tuple[str, ...]:
    """Ways to sum products of integers on a machine; the best comes first.

    "int8" is always among them: products of bytes, in whatever way the machine has.
    """
    low, high = factors.ends
    dear = machine.dot in ("pair", "byte pair")  # no four products in one instruction
    planes = factors.two and _planes(machine, factors) is not None
    first = planes and (dear or "avx512_vpopcntdq" in machine.features)
    tables = high - low <= (MOST_LEVEL if dear else _FEW) and _has_tables(machine, factors)
    found = {"bit-planes": first, "lookup": tables, "int8": True}
    ordered = tuple(method for method, offered in found.items() if offered)
    return (*ordered, "bit-planes") if planes and not first else ordered


def _has_tables(machine: Machine, factors: Factors) -> bool:
    bytes_ = can_shuffle(machine) or machine.family == "aarch64"
    return bytes_ and factors.high > factors.low and bool((factors.weight.abs() == 1).all())


def product_by(method: str, machine: Machine, factors: Factors) -> Product:
    """The product by a method that is not "int8"."""
    return _INTEGER_METHODS[method](machine, factors)


def _tables(machine: Machine, factors: Factors) -> Product:
    low, high = factors.ends
    rows, channels = factors.rows, factors.weight.shape[-1]
    plus, minus = (rows > 0).sum(1), (rows < 0).sum(1)
    bias = (low * plus - high * minus - factors.zero * (plus - minus)).to(torch.int32)
    weight = F.pad(factors.weight, [0, -channels % TableDot.unit])
    fill: float | Tensor = factors.beyond
    if channels % TableDot.unit:
        fill = tables_beyond(channels, factors.beyond - low, high - low)
    steps = weight[0, 0].numel() // TableDot.unit
    neon = machine.family == "aarch64"
    dot = TableDot(fill, bias, low=low, most=high - low, steps=steps, neon=neon)
    return Product(dot, weight, channels)


def _planes(machine: Machine, factors: Factors) -> Planes | None:
    return planes_of(factors.weight, mask="avx512_vpopcntdq" in machine.features)


def _by_planes(machine: Machine, factors: Factors) -> Product:
    planes = _planes(machine, factors)
    assert planes is not None, factors
    channels, low, gain = factors.weight.shape[-1], factors.low, factors.high - factors.low
    shift = planes.halved * (low - factors.zero)
    bias = gain * planes.positive + shift * factors.rows.sum(1)
    classes: Sequence[Tensor] = ()
    if factors.beyond not in (low, factors.high):  # it is taken for the low level, and corrected
        flat = factors.weight.movedim(-1, 2).flatten(0, 1)
        table, classes = border_table(flat, factors.size, *factors.slide)
        bias = bias.reshape(-1, *[1] * (table.dim() - 1))
        bias = bias - planes.halved * (low - factors.beyond) * table
    one = factors.beyond == factors.high
    fill = full_word_mask(channels) if one else torch.zeros_like(full_word_mask(channels))
    words, form, method = planes.words, PlaneDot, "popcount"
    if planes.masked:
        form = MaskedDot
    else:
        method = methods(machine, words[0, 0].numel())[0]
    counts = sign_dot(method, fill, 0)
    dot = form(fill, bias.to(torch.int32), counts, planes.powers, low, gain, tuple(classes))
    return Product(dot, words, channels)


_INTEGER_METHODS: dict[str, Callable[[Machine, Factors], Product]] = {
    "bit-planes": _by_planes,
    "lookup": _tables,
}
