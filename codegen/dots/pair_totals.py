"""Sums of bytes that are added up in 16 bits: three instructions for a vector of bytes.

A vector of bytes, seen as words of 16 bits, holds low + 256 * high in each. Both the words and their
high bytes are summed; the sums of the low bytes are what is left, modulo 2^16:

    whole = sum(low) + 256 * sum(high)        high = sum(high)        sum(low) = whole - 256 * high
"""

from __future__ import annotations

from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.dots.floats import Register
from qcompile.codegen.expr import Expr

FOLD = 4  # channels that share a lane of 32 bits, a byte each
MOST = (1 << 16) - 1  # that a sum may reach


class PairTotals:
    """The sums of a vector of bytes, of at most `MOST` each."""

    def __init__(self, lanes: int) -> None:
        self._whole = Register("uint16", lanes // 2)
        self._high = Register("uint16", lanes // 2)

    def add(self, counts: Expr) -> None:
        words = e.keep(tirx.reinterpret(e.vector("uint16", e.lanes(counts) // 2), counts))
        self._whole.set(self._whole.value + words)
        self._high.set(self._high.value + shifted(words, 8))

    def clear(self) -> None:
        for register in (self._whole, self._high):
            register.set(e.const(0, "uint16"))

    def totals(self) -> list[Expr]:
        """Vectors of int32: byte 0 of each lane of 32 bits, byte 1, ..."""
        high = e.keep(self._high.value)
        eight = e.splat(e.const(8, "uint16"), e.lanes(high))
        low = e.keep(self._whole.value - tirx.shift_left(high, eight))
        lanes = e.lanes(high) // 2
        words = [e.keep(tirx.reinterpret(e.vector("uint32", lanes), part)) for part in (low, high)]
        mask = e.splat(e.const(MOST, "uint32"), lanes)
        parts = [word & mask for word in words] + [shifted(word, 16) for word in words]
        return [tirx.reinterpret(e.vector("int32", lanes), part) for part in parts]


def shifted(x: Expr, bits: int) -> Expr:
    """Unsigned lanes without their low bits."""
    return tirx.shift_right(x, e.splat(e.const(bits, e.dtype(x)), e.lanes(x)))
