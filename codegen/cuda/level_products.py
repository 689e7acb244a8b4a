"""Products of floats with integer levels, stored as codes of few bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.constants import constant_from
from qcompile.codegen.cuda.products import STEP, Product
from qcompile.codegen.expr import Expr
from qcompile.constants import Constant

_ONE_AND_ZEROS = 0x4B000000  # the bits of 2^23: an integer below, in their place, is added to it


@dataclass(frozen=True)
class Levels(Product):
    """Floats times integer levels, each a float once it is read.

    Stored words hold codes of 2, 4 or 8 bits: level = low + gain * code. The bits of a code below
    those of 2^23 are a float, 2^23 + code, without a conversion.
    """

    def weight(self, stored: Expr) -> Expr:
        return e.cast(e.cast(stored, "int32"), "float32")

    @cached_property
    def _code(self) -> _Code | None:
        return _code_of(self.c.weight)

    @property
    def fold(self) -> int:
        return 1 if self._code is None else 32 // self._code.width

    def folded(self) -> Constant:
        code = self._code
        if code is None:
            return super().folded()
        rows = constant_from(code.values).reshape(-1, self.units).pad(0, -self.units % STEP)
        return rows.fields(code.width).view("int32")

    def unfolded(self, word: Expr) -> list[Expr]:
        code = self._code
        if code is None:
            return super().unfolded(word)
        word = e.bind(word ^ e.const(code.flips, "int32")) if code.flips else word
        return [self._level(code, word, i) for i in range(self.fold)]

    def _level(self, code: _Code, word: Expr, i: int) -> Expr:
        shifted = tirx.shift_right(word, e.const(i * code.width, "int32")) if i else word
        bits = (shifted & e.const((1 << code.width) - 1, "int32")) | e.const(
            _ONE_AND_ZEROS, "int32"
        )
        lifted = tirx.reinterpret("float32", bits)
        if code.gain == 1:
            return lifted - e.const(2.0**23 - code.low, "float32")
        gain, low = (e.const(float(value), "float32") for value in (code.gain, code.low))
        return (lifted - e.const(2.0**23, "float32")) * gain + low


@dataclass(frozen=True)
class _Code:
    """Levels as codes: level = low + gain * code.

    Attributes:
        values: of which the lowest `width` bits are the codes, once `flips` are flipped in a word.
    """

    values: Tensor
    width: int
    low: int
    gain: int = 1
    flips: int = 0


def _code_of(weight: Tensor) -> _Code | None:
    """The narrowest codes; None if levels have more than 8 bits.

    Levels that fit are stored as they are: as for any processor.
    """
    levels = weight.to(torch.int32)
    low, high = int(levels.min()), int(levels.max())
    gain = math.gcd(*(levels.unique() - low).tolist()) or 1
    for width in (2, 4, 8):
        half = 1 << width - 1
        if -half <= low and high < half:
            flips = sum(half << place for place in range(0, 32, width))
            return _Code(weight.to(torch.int8), width, -half, flips=flips - (1 << 32))
        if high - low < gain << width:
            codes = torch.div(levels - low, gain, rounding_mode="floor")
            return _Code(codes.to(torch.uint8), width, low, gain)
    return None
