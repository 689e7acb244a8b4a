"""Products of signs and of bytes on AArch64, in vectors of 128 bits.

Ones are counted byte by byte (`cnt`). Where the processor has dot products, `udot` with ones adds the
four counts of a word to a sum of 32 bits: three instructions for 128 products. Elsewhere the counts
are added as bytes, and widened (`uaddlp`, `uadalp`) before a byte can overflow.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.dots.floats import Dot, Load, LoadWeight, Register, Sums
from qcompile.codegen.dots.integers import QuadDot
from qcompile.codegen.dots.signs import XnorDot
from qcompile.codegen.expr import Expr
from qcompile.codegen.writer import Writer

_LANES = 4  # of 32 bits
_WIDE = "int32x4"
_NEON = "llvm.aarch64.neon"


def _quads(x: Expr) -> Expr:
    """Four activations, in each lane."""
    quad = e.splat(tirx.reinterpret("int32", x), _LANES)
    return tirx.reinterpret(e.vector(e.dtype(x), 4 * _LANES), quad)


def _ones(x: Expr, weight: Expr) -> Expr:
    """How many bits differ, byte by byte."""
    differ = e.splat(x, _LANES) ^ weight
    return tirx.popcount(tirx.reinterpret(e.vector("uint8", 4 * _LANES), differ))


def _widened(counts: Expr) -> Expr:
    """Sums of four neighbouring bytes each."""
    pairs = tirx.call_llvm_pure_intrin("uint16x8", f"{_NEON}.uaddlp.v8i16.v16i8", counts)
    return tirx.call_llvm_pure_intrin(_WIDE, f"{_NEON}.uaddlp.v4i32.v8i16", pairs)


class _Sums(Sums):
    """One vector of weights after another, each times all pixels: few registers hold weights."""

    def add(self, count: int, x: Load, weight: LoadWeight) -> None:
        for i in range(count):
            xs = [x(p, i) for p in range(self.pixels)]
            for v in range(self.vectors):
                w = weight(v, i)
                for p, activation in enumerate(xs):
                    self._add(p, v, activation, w)

    def _add(self, pixel: int, vector: int, x: Expr, weight: Expr) -> None:
        total = self._totals[pixel][vector]
        total.set(self._dot.step(total.value, x, weight))


@dataclass(frozen=True)
class CountDot(XnorDot):
    """Counts are added by `udot`."""

    def start(self, w: Writer, lanes: int, pixels: int, vectors: int) -> Sums:
        return _Sums(self, lanes, pixels, vectors)

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        one = e.splat(e.const(1, "uint8"), 4 * _LANES)
        counts = _ones(x, weight)
        return tirx.call_llvm_pure_intrin(_WIDE, f"{_NEON}.udot.v4i32.v16i8", total, counts, one)


class _ByteSums(_Sums):
    capacity = 255 // 8  # counts of at most 8 in a byte

    def __init__(self, dot: Dot, lanes: int, pixels: int, vectors: int) -> None:
        super().__init__(dot, lanes, pixels, vectors)
        self._bytes = self.each(lambda: Register("uint8", 4 * lanes))

    def _add(self, pixel: int, vector: int, x: Expr, weight: Expr) -> None:
        counted = self._bytes[pixel][vector]
        counted.set(counted.value + _ones(x, weight))

    def flush(self) -> None:
        for p in range(self.pixels):
            for v in range(self.vectors):
                self._totals[p][v].set(self.totals(p, v)[0])
                self._bytes[p][v].set(e.const(0, "uint8"))

    def totals(self, pixel: int, vector: int) -> list[Expr]:
        return [self._totals[pixel][vector].value + _widened(self._bytes[pixel][vector].value)]


@dataclass(frozen=True)
class CountBytesDot(XnorDot):
    """Counts are added as bytes, up to 31 of them."""

    def start(self, w: Writer, lanes: int, pixels: int, vectors: int) -> Sums:
        return _ByteSums(self, lanes, pixels, vectors)


@dataclass(frozen=True)
class MixedQuadDot(QuadDot):
    """Four products of an unsigned with a signed byte (`usdot`, of the extension I8MM)."""

    live = 0

    def start(self, w: Writer, lanes: int, pixels: int, vectors: int) -> Sums:
        return _Sums(self, lanes, pixels, vectors)

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        name = f"{_NEON}.usdot.v4i32.v16i8"
        return tirx.call_llvm_pure_intrin(_WIDE, name, total, _quads(x), weight)


@dataclass(frozen=True)
class SignedQuadDot(QuadDot):
    """Four products of signed bytes (`sdot`); unsigned activations are moved down: `lift` is -128."""

    least = -128
    element = "int8"
    live = 0

    def start(self, w: Writer, lanes: int, pixels: int, vectors: int) -> Sums:
        return _Sums(self, lanes, pixels, vectors)

    def prepare(self, x: Expr) -> Expr:
        if not self.lift:
            return x
        return e.cast(e.cast(x, "int16") + e.const(self.lift, "int16"), "int8")

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        name = f"{_NEON}.sdot.v4i32.v16i8"
        return tirx.call_llvm_pure_intrin(_WIDE, name, total, _quads(x), weight)


class _PairSums(Sums):
    def add(self, count: int, x: Load, weight: LoadWeight) -> None:
        for first in range(0, count, self._dot.together):
            steps = range(first, min(first + self._dot.together, count))
            weights = [
                [e.keep(e.cast(weight(v, i), "int16")) for i in steps] for v in range(self.vectors)
            ]
            for p, totals in enumerate(self._totals):
                xs = [_pairs(x(p, i)) for i in steps]
                for total, ws in zip(totals, weights, strict=True):
                    products = [a * w for a, w in zip(xs, ws, strict=True)]
                    pairs = products[0] if len(products) == 1 else products[0] + products[1]
                    name = f"{_NEON}.saddlp.v4i32.v8i16"
                    total.set(total.value + tirx.call_llvm_pure_intrin(_WIDE, name, pairs))


def _pairs(x: Expr) -> Expr:
    """Two activations, in each lane, as 16 bits."""
    pair = e.splat(tirx.reinterpret("int16", x), _LANES)
    return e.keep(e.cast(tirx.reinterpret(f"int8x{2 * _LANES}", pair), "int16"))


@dataclass(frozen=True)
class BytePairDot(SignedQuadDot):
    """Products of signed bytes in 16 bits (`smull`), added in pairs to 32 (`sadalp`)."""

    unit = 2
    registers = 2  # with a product, until it is added
    live = 1

    def start(self, w: Writer, lanes: int, pixels: int, vectors: int) -> Sums:
        return _PairSums(self, lanes, pixels, vectors)


@dataclass(frozen=True)
class TwoBytePairsDot(BytePairDot):
    """Two products are added in 16 bits (`smlal`): weights are above -128, 2 * 128 * 127 < 2^15."""

    together = 2
