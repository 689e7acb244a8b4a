"""Bits counted in tables of 16: `vpshufb` looks up four of them for each byte of weights at once.

The table is that of four activations: how many of them differ from each of the 16 patterns of four
weights. A vector of bytes holds such patterns for many output channels; a step of one word reads
eight, two to a byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.dots.byte_counts import NIBBLE, halves, lookup
from qcompile.codegen.dots.floats import Load, LoadWeight, Register, Sums
from qcompile.codegen.dots.signs import XnorDot
from qcompile.codegen.expr import Expr
from qcompile.codegen.writer import Writer
from qcompile.constants import Constant

_WORD_BYTES = 4
_FOLD = 4  # channels that share a lane of 32 bits while they are counted
MOST_WORDS = 65535 // 32  # that a counter of 16 bits can count


def differences(width: int) -> Tensor:
    """uint8 `[16 * width]`: for each pattern of activations its table of 16, repeated to a vector."""
    patterns = range(NIBBLE + 1)
    table = torch.tensor([[(a ^ b).bit_count() for b in patterns] for a in patterns])
    return table.to(torch.uint8).repeat(1, width // 16).reshape(-1)


class _LookupSums(Sums):
    """Counts in bytes, moved to 16 bits before they can overflow."""

    capacity = 255 // 32

    def __init__(self, w: Writer, lanes: int, pixels: int, vectors: int) -> None:
        self.lanes, self.pixels, self.vectors = lanes, pixels, vectors
        self._tables = w.buffer(differences(lanes))
        self._counts = self.each(lambda: Register("uint8", lanes))
        self._wide = self.each(lambda: [Register("uint16", lanes // 2) for _ in range(2)])

    def add(self, count: int, x: Load, weight: LoadWeight) -> None:
        for i in range(count):
            words = [x(p, i) for p in range(self.pixels)]
            for byte in range(_WORD_BYTES):
                patterns = [halves(self._patterns(weight, v, i, byte)) for v in range(self.vectors)]
                for half in range(2):
                    self._count(words, 2 * byte + half, [pair[half] for pair in patterns])

    def _patterns(self, weight: LoadWeight, vector: int, step: int, byte: int) -> Expr:
        loaded = weight(vector, step, byte, _WORD_BYTES)
        return e.keep(tirx.reinterpret(e.vector("uint8", self.lanes), loaded))

    def _count(self, words: list[Expr], nibble: int, patterns: list[Expr]) -> None:
        """Add what four places of each pixel's word differ from the weights of each vector."""
        patterns = [e.keep(pattern) for pattern in patterns]
        for word, counts in zip(words, self._counts, strict=True):
            place = tirx.shift_right(word, e.const(4 * nibble, "int32")) & NIBBLE
            at = e.bind(place * self.lanes)
            table = e.bind(self._tables[tirx.Ramp(at, 1, self.lanes)])
            for total, pattern in zip(counts, patterns, strict=True):
                total.set(total.value + lookup(table, pattern))

    def flush(self) -> None:
        for counts, wides in zip(self._counts, self._wide, strict=True):
            for total, wide in zip(counts, wides, strict=True):
                self._widen(total, wide)

    def _widen(self, total: Register, wide: list[Register]) -> None:
        pairs = e.keep(tirx.reinterpret(e.vector("uint16", self.lanes // 2), total.value))
        low, high = _split(pairs, "uint16", 8)
        wide[0].set(wide[0].value + low)
        wide[1].set(wide[1].value + high)
        total.set(e.const(0, "uint8"))

    def totals(self, pixel: int, vector: int) -> list[Expr]:
        wide = self._wide[pixel][vector]
        self._widen(self._counts[pixel][vector], wide)
        kind = e.vector("int32", self.lanes // _FOLD)
        words = [e.keep(tirx.reinterpret(kind, half.value)) for half in wide]
        parts = [_split(word, "int32", 16) for word in words]
        return [part[i] for i in range(2) for part in parts]


def _split(x: Expr, element: str, bits: int) -> tuple[Expr, Expr]:
    """The low and the high bits of each lane."""
    unsigned = e.vector("u" + element.removeprefix("u"), e.lanes(x))
    high = tirx.shift_right(
        tirx.reinterpret(unsigned, x),
        e.splat(tirx.const(bits, unsigned.partition("x")[0]), e.lanes(x)),
    )
    mask = e.splat(e.const((1 << bits) - 1, element), e.lanes(x))
    return x & mask, tirx.reinterpret(e.vector(element, e.lanes(x)), high)


@dataclass(frozen=True)
class LookupDot(XnorDot):
    """Signs in words, counted four at a time."""

    together = 2  # of more words, LLVM would keep the tables of one for the neighbouring pixel
    live = 2
    fold = _FOLD

    def start(self, w: Writer, lanes: int, pixels: int, vectors: int) -> Sums:
        return _LookupSums(w, lanes, pixels, vectors)

    def pack(self, weight: Constant) -> Constant:
        """Byte by byte; channel q * lanes / 4 + l lies in byte q of the lane l of 32 bits."""
        *outer, lanes, _ = weight.shape
        bytes_ = weight.view("uint8").reshape(*outer, _FOLD, lanes // _FOLD, _WORD_BYTES)
        at = len(outer)
        order = bytes_.permute(*range(at), at + 2, at + 1, at)
        return order.view("int32").reshape(*weight.shape)
