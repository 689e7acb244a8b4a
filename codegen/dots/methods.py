"""Which ways there are to compute a product of signs or of integers on a machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from qcompile.codegen.dots.byte_counts import can_shuffle
from qcompile.codegen.dots.carry_save import CarrySaveDot
from qcompile.codegen.dots.floats import Dot
from qcompile.codegen.dots.lookup import MOST_WORDS, LookupDot
from qcompile.codegen.dots.neon import CountBytesDot, CountDot
from qcompile.codegen.dots.signs import XnorDot
from qcompile.codegen.dots.tables import TableDot
from qcompile.codegen.machine import Machine

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
        low, high: the levels that activations may have, as they lie in memory.
        zero: their zero point; pad: what stands beyond the border, less the zero point.
    """

    weight: Tensor
    low: int
    high: int
    zero: int = 0
    pad: int = 0

    @property
    def ends(self) -> tuple[int, int]:
        """The lowest and the highest level, with the one beyond the border."""
        beyond = self.zero + self.pad
        return min(self.low, beyond), max(self.high, beyond)

    @property
    def rows(self) -> Tensor:
        """int64 `[O, products of a sum]`."""
        return self.weight.flatten(2).flatten(0, 1).to(torch.int64)


def integer_methods(machine: Machine, factors: Factors) -> tuple[str, ...]:
    """Ways to sum products of integers on a machine; the best comes first.

    "int8" is always among them: products of bytes, in whatever way the machine has.
    """
    found = []
    low, high = factors.ends
    if can_shuffle(machine) and TableDot.reads(factors.weight, high - low):
        found.append("lookup")
    return (*found, "int8")


def integer_dot(method: str, factors: Factors) -> Dot:
    """The dot of a method that is not "int8"."""
    return _INTEGER_METHODS[method](factors)


def _table_dot(factors: Factors) -> Dot:
    low, high = factors.ends
    rows = factors.rows
    plus, minus = (rows > 0).sum(1), (rows < 0).sum(1)
    bias = low * plus - high * minus - factors.zero * (plus - minus)
    steps = rows.shape[1] // TableDot.unit
    fill = factors.zero + factors.pad
    return TableDot(fill, bias.to(torch.int32), low=low, most=high - low, steps=steps)


_INTEGER_METHODS: dict[str, Callable[[Factors], Dot]] = {"lookup": _table_dot}
