"""Counts of at most 255, one in each byte, and their sums."""

from __future__ import annotations

import torch
from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.machine import Machine

_SHUFFLE = {
    16: "llvm.x86.ssse3.pshuf.b.128",
    32: "llvm.x86.avx2.pshuf.b",
    64: "llvm.x86.avx512.pshuf.b.512",
}
_TABLE = "llvm.aarch64.neon.tbl1.v16i8"
_FLAG = {16: "ssse3", 32: "avx2", 64: "avx512bw"}
NIBBLE = 15
ONES = [i.bit_count() for i in range(NIBBLE + 1)]


def can_shuffle(machine: Machine) -> bool:
    """Whether bytes can be looked up in tables of 16, in whole vectors of the machine."""
    return machine.family == "x86_64" and _FLAG[4 * machine.lanes] in machine.features


def lookup(table: Expr, index: Expr, *, neon: bool = False) -> Expr:
    """Bytes of a table: every 16 bytes are a table of their own, for the indices (0..15) there."""
    count = e.lanes(index)
    name = _TABLE if neon else _SHUFFLE[count]
    return tirx.call_llvm_pure_intrin(e.vector("uint8", count), name, table, index)


def table_of(values: list[int], count: int) -> Expr:
    """A table of 16 bytes, repeated to fill `count`, as a constant of the code."""
    words = torch.tensor(values, dtype=torch.uint8).view(torch.int32).tolist()
    lanes = [e.const(word, "int32") for word in words * (count // 16)]
    return tirx.reinterpret(e.vector("uint8", count), tirx.Shuffle(lanes, list(range(len(lanes)))))


def halves(x: Expr) -> tuple[Expr, Expr]:
    """The low and the high nibble of each byte."""
    mask = e.splat(e.const(NIBBLE, "uint8"), e.lanes(x))
    return x & mask, tirx.shift_right(x, e.splat(e.const(4, "uint8"), e.lanes(x))) & mask


def ones(x: Expr, *, weight: int = 1) -> Expr:
    """How many bits each byte has, times a weight of at most 31."""
    table = table_of([weight * n for n in ONES], e.lanes(x))
    low, high = halves(e.keep(x))
    return lookup(table, low) + lookup(table, high)


_PAIRS = {
    16: "llvm.x86.ssse3.pmadd.ub.sw.128",
    32: "llvm.x86.avx2.pmadd.ub.sw",
    64: "llvm.x86.avx512.pmaddubs.w.512",
}
_QUADS = {
    16: "llvm.x86.sse2.pmadd.wd",
    32: "llvm.x86.avx2.pmadd.wd",
    64: "llvm.x86.avx512.pmaddw.d.512",
}


def quad_sums(parts: list[tuple[Expr, int]]) -> Expr:
    """Sums of four neighbouring bytes each, as int32; of several vectors, each times its weight.

    The weighted sum of two bytes of each part must fit 16 bits.
    """
    total = None
    for part, weight in parts:
        count = e.lanes(part)
        factor = tirx.Broadcast(e.const(weight, "int8"), count)
        pairs = tirx.call_llvm_pure_intrin(
            e.vector("int16", count // 2), _PAIRS[count], part, factor
        )
        total = pairs if total is None else total + pairs
    count = 2 * e.lanes(total)
    one = tirx.Broadcast(e.const(1, "int16"), count // 2)
    return tirx.call_llvm_pure_intrin(e.vector("int32", count // 4), _QUADS[count], total, one)
