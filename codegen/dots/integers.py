"""Products of integers of at most 8 bits, centred ones of 9, summed in 32 bits."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.dots.floats import Dot
from qcompile.codegen.expr import Expr


@dataclass(frozen=True)
class SingleDot(Dot):
    """Integers, one product at a time, in 32 bits. Activations lie centred, in 16 bits."""

    zero_point: int = 0
    element = "int16"
    sums = "int32"

    @property
    def prepares(self) -> bool:
        return True

    def prepare(self, x: Expr) -> Expr:
        return e.cast(x, "int16") - e.const(self.zero_point, "int16")

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        return total + e.cast(x, "int32") * e.cast(weight, "int32")


_PAIR = {
    4: "llvm.x86.sse2.pmadd.wd",
    8: "llvm.x86.avx2.pmadd.wd",
    16: "llvm.x86.avx512.pmaddw.d.512",
}
_BYTES = {
    4: "llvm.x86.ssse3.pmadd.ub.sw.128",
    8: "llvm.x86.avx2.pmadd.ub.sw",
    16: "llvm.x86.avx512.pmaddubs.w.512",
}
_QUAD = {
    4: "llvm.x86.avx512.vpdpbusd.128",
    8: "llvm.x86.avx512.vpdpbusd.256",
    16: "llvm.x86.avx512.vpdpbusd.512",
}


@dataclass(frozen=True)
class PairDot(SingleDot):
    """Two products of 16 bits in one instruction; |x| <= 256, so that their sum fits 32 bits."""

    unit = 2

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        count = e.lanes(total)
        pair = e.splat(tirx.reinterpret("int32", x), count)
        both = tirx.reinterpret(e.vector("int16", 2 * count), pair)
        product = tirx.call_llvm_pure_intrin(
            e.vector("int32", count), _PAIR[count], both, e.cast(weight, "int16")
        )
        return total + product


@dataclass(frozen=True)
class QuadDot(Dot):
    """Four products of an unsigned with a signed byte in one instruction (VNNI).

    Signed activations are moved up by `lift` = 128; `bias` takes that and the zero point back:
    sum((u - lift - z) * w) = sum(u * w) - (lift + z) * sum(w).
    """

    lift: int = 0
    least = 0  # that an activation can be once it is lifted
    unit = 4
    element = "uint8"
    sums = "int32"

    @property
    def prepares(self) -> bool:
        return self.lift != 0

    def prepare(self, x: Expr) -> Expr:
        if not self.lift:
            return x
        return e.cast(e.cast(x, "int16") + e.const(self.lift, "int16"), "uint8")

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        count = e.lanes(total)
        quad = e.splat(tirx.reinterpret("int32", x), count)
        bytes_ = tirx.reinterpret(e.vector("uint8", 4 * count), quad)
        return tirx.call_llvm_pure_intrin(
            e.vector("int32", count), _QUAD[count], total, bytes_, weight
        )


@dataclass(frozen=True)
class FewLevelsDot(QuadDot):
    """Four products in two instructions, where it is known that no sum of two leaves 16 bits.

    `pmaddubsw` saturates: activations of 8 bits times weights of 8 may not be so multiplied.
    """

    @staticmethod
    def holds(highest: int, weight: int) -> bool:
        """Whether two products of activations up to `highest` and weights of that size fit."""
        return 2 * highest * weight < 1 << 15

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        count = e.lanes(total)
        quad = e.splat(tirx.reinterpret("int32", x), count)
        bytes_ = tirx.reinterpret(e.vector("uint8", 4 * count), quad)
        pairs = tirx.call_llvm_pure_intrin(
            e.vector("int16", 2 * count), _BYTES[count], bytes_, weight
        )
        one = e.splat(e.const(1, "int16"), 2 * count)
        product = tirx.call_llvm_pure_intrin(e.vector("int32", count), _PAIR[count], pairs, one)
        return total + product
