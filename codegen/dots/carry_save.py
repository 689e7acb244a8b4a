"""Bits counted by adders that save their carries, so that few words are left to be counted.

A full adder takes three words and gives two, of weight 1 and of weight 2, bit by bit; a tree of them
leaves a few "planes" of weights 1, 2, 4, ... (Harley and Seal, in Warren, Hacker's Delight, 2nd ed.,
section 5-1; on vectors: Mula, Kurz, Lemire 2018, arXiv:1611.07612). `vpternlogd` computes any
function of three bits, so two words, with the xor of their weights, cost three instructions:

    u = s ^ w0 ^ a0        n = u ^ w1 ^ a1        carry = u ? ~n : s        s = n
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.dots.byte_counts import ones, quad_sums
from qcompile.codegen.dots.floats import Load, LoadWeight, Register, Sums
from qcompile.codegen.dots.signs import XnorDot
from qcompile.codegen.expr import Expr
from qcompile.codegen.writer import Writer

_XOR, _MAJORITY, _CARRY = 0x96, 0xE8, 0x3A  # truth tables; the last is a ? ~b : c
_MOST = 255


def ternary(table: int, a: Expr, b: Expr, c: Expr) -> Expr:
    """Any function of three bits, for each bit of vectors of int32 (AVX-512 F and VL)."""
    count = max(map(e.lanes, (a, b, c)))
    operands = [e.splat(v, count) for v in (a, b, c)]
    name = f"llvm.x86.avx512.pternlog.d.{32 * count}"
    return tirx.call_llvm_pure_intrin(
        e.vector("int32", count), name, *operands, e.const(table, "int32")
    )


class _Counter:
    """The planes of one vector of sums, and a count of the carries that leave them."""

    def __init__(self, lanes: int, planes: int) -> None:
        self.planes = [Register("int32", lanes) for _ in range(planes)]
        self._waiting: dict[int, Expr] = {}

    def add(self, words: list[tuple[Expr, Expr]]) -> None:
        """Add one or two words, each as an activation and weights."""
        low = self.planes[0]
        u = e.keep(ternary(_XOR, low.value, words[0][1], words[0][0]))
        if len(words) == 1:
            self._carry(1, e.keep(ternary(_CARRY, u, u, low.value)))
            low.set(u)
            return
        n = e.keep(ternary(_XOR, u, words[1][1], words[1][0]))
        carry = e.keep(ternary(_CARRY, u, n, low.value))
        low.set(n)
        self._carry(1, carry)

    def _carry(self, plane: int, word: Expr) -> None:
        if plane == len(self.planes):
            self.count(word)
        elif plane not in self._waiting:
            self._waiting[plane] = word
        else:
            self._add(plane, self._waiting.pop(plane), word)

    def _add(self, plane: int, a: Expr, b: Expr) -> None:
        total = self.planes[plane]
        up = e.keep(ternary(_MAJORITY, total.value, a, b))
        total.set(ternary(_XOR, total.value, a, b))
        self._carry(plane + 1, up)

    def settle(self) -> None:
        """Add the carries that wait for another one."""
        zero = e.const(0, "int32")
        for plane in range(1, len(self.planes)):
            if plane in self._waiting:
                word = self._waiting.pop(plane)
                self._add(plane, word, e.splat(zero, e.lanes(word)))

    def count(self, word: Expr) -> None:
        """Count the ones of a word of the weight that follows the planes'."""
        raise NotImplementedError

    def total(self) -> Expr:
        raise NotImplementedError


class _VectorCounter(_Counter):
    """Where an instruction counts the ones of 32 bits (VPOPCNTDQ)."""

    def __init__(self, lanes: int, planes: int) -> None:
        super().__init__(lanes, planes)
        self._high = Register("int32", lanes)

    def count(self, word: Expr) -> None:
        self._high.set(self._high.value + tirx.popcount(word))

    def total(self) -> Expr:
        total = self._high.value
        for plane in reversed(self.planes):
            total = total + total + tirx.popcount(plane.value)
        return total


class _ByteCounter(_Counter):
    """Where ones are counted byte by byte, with a table of nibbles."""

    def __init__(self, lanes: int, planes: int) -> None:
        super().__init__(lanes, planes)
        self._high = Register("uint8", 4 * lanes)
        self._flushed = Register("int32", lanes)

    def count(self, word: Expr) -> None:
        self._high.set(self._high.value + ones(_bytes(word)))

    def flush(self) -> None:
        self._flushed.set(self._flushed.value + quad_sums([(self._high.value, 1)]))
        self._high.set(e.const(0, "uint8"))

    def total(self) -> Expr:
        weight = 1 << len(self.planes)
        low = None
        for i, plane in enumerate(self.planes):
            counted = ones(_bytes(plane.value), weight=1 << i)
            low = counted if low is None else low + counted
        flushed = self._flushed.value * e.splat(e.const(weight, "int32"), self._flushed.lanes)
        return flushed + quad_sums([(low, 1), (self._high.value, weight)])


def _bytes(word: Expr) -> Expr:
    return tirx.reinterpret(e.vector("uint8", 4 * e.lanes(word)), word)


class _CarrySaveSums(Sums):
    def __init__(self, dot: CarrySaveDot, lanes: int, pixels: int, vectors: int) -> None:
        self.lanes, self.pixels, self.vectors = lanes, pixels, vectors
        counter = _ByteCounter if dot.in_bytes else _VectorCounter
        self._counters = self.each(lambda: counter(lanes, dot.planes))
        if dot.in_bytes:
            # n words move at most (n + what the planes of a bit held before) >> planes carries of
            # each of a byte's 8 bits: flushing empties the byte, not the planes.
            self.capacity = _MOST // 8 << dot.planes

    def add(self, count: int, x: Load, weight: LoadWeight) -> None:
        for first in range(0, count, 2):
            steps = range(first, min(first + 2, count))
            weights = [[weight(v, i) for i in steps] for v in range(self.vectors)]
            for p, row in enumerate(self._counters):
                xs = [x(p, i) for i in steps]
                for counter, ws in zip(row, weights, strict=True):
                    counter.add(list(zip(xs, ws, strict=True)))
        for row in self._counters:
            for counter in row:
                counter.settle()

    def flush(self) -> None:
        for row in self._counters:
            for counter in row:
                assert isinstance(counter, _ByteCounter)
                counter.flush()

    def totals(self, pixel: int, vector: int) -> list[Expr]:
        return [self._counters[pixel][vector].total()]


@dataclass(frozen=True)
class CarrySaveDot(XnorDot):
    """Adders, and counts of what leaves them.

    Attributes:
        planes: bits of a sum that are kept bit by bit.
        in_bytes: ones are counted byte by byte.
    """

    planes: int = 1
    in_bytes: bool = False
    together = 24
    live = 2

    @property
    def registers(self) -> int:  # type: ignore[override]
        return self.planes + 1

    @property
    def settles(self) -> bool:  # type: ignore[override]
        return self.planes > 1

    def start(self, w: Writer, lanes: int, pixels: int, vectors: int) -> Sums:
        return _CarrySaveSums(self, lanes, pixels, vectors)
