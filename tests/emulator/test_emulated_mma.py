"""Tensor core instructions against numpy, with the fragments of the PTX ISA written out here.

PTX ISA, "Matrix Fragments for mma.m8n8k16 / m8n8k128 / m16n8k32 / m16n8k256": with g = lane / 4 and
t = lane % 4, element i of a lane's fragment is at (row, column):

    A of m8n8kK      (g, t K/4 + i)                          b1, s8, u8; B is its transpose
    A of m16n8kK     (g + 8 [i mod K/4 >= K/8],  t K/8 + i mod K/8 + K/2 [i >= K/4])
    B of m16n8kK     (t K/8 + i mod K/8 + K/2 [i >= K/8],  g)
    C of both        (g + 8 [i >= 2],  2 t + i mod 2)

Elements fill registers from the lowest bits on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from emulated_gpu import Array, Kernels, needs_emulator

pytestmark = needs_emulator

LANES = 32


@dataclass(frozen=True)
class Shape:
    """An instruction: d += a b, a of `rows` x `k`, b of k x 8, elements of `bits` bits."""

    rows: int
    k: int
    a: str
    b: str
    operation: str = ""

    @property
    def bits(self) -> int:
        return int(self.a[1:])

    @property
    def name(self) -> str:
        types = f"b1_{self.operation}" if self.bits == 1 else f"{self.a}{self.b}"
        return f"m{self.rows}n8k{self.k}_{types}"

    @property
    def per_register(self) -> int:
        return 32 // self.bits

    def a_place(self, lane: int, i: int) -> tuple[int, int]:
        g, t, per = lane // 4, lane % 4, self.per_register
        if self.rows == 8:
            return g, t * per + i
        return g + 8 * (i % (2 * per) >= per), t * per + i % per + self.k // 2 * (i >= 2 * per)

    def b_place(self, lane: int, i: int) -> tuple[int, int]:
        g, t, per = lane // 4, lane % 4, self.per_register
        return t * per + i % per + self.k // 2 * (i >= per), g

    @staticmethod
    def c_place(lane: int, i: int) -> tuple[int, int]:
        return lane // 4 + 8 * (i >= 2), 2 * (lane % 4) + i % 2

    def product(self, a: Array, b: Array) -> Array:
        if self.operation == "xor":
            return (a[:, :, None] ^ b[None]).sum(1)
        return a @ b


SHAPES = (
    Shape(8, 128, "b1", "b1", "xor"),
    Shape(16, 256, "b1", "b1", "xor"),
    Shape(16, 256, "b1", "b1", "and"),
    Shape(8, 16, "s8", "s8"),
    Shape(8, 16, "u8", "s8"),
    Shape(16, 32, "s8", "s8"),
    Shape(16, 32, "u8", "s8"),
    Shape(16, 32, "u8", "u8"),
)


def kernel(shape: Shape) -> str:
    """A kernel whose lanes load their registers, multiply, and store what they got."""
    registers = 4 if shape.rows == 16 else 1
    a = ", ".join(f"a[lane * {registers} + {i}]" for i in range(registers))
    halves = 2 if shape.rows == 16 else 1
    b = ", ".join(f"b[lane * {halves} + {i}]" for i in range(halves))
    sums = 2 * halves
    return f"""
extern "C" __global__ void {shape.name}(unsigned *a, unsigned *b, int *c) {{
  int lane = (int)threadIdx.x, d[{sums}];
  for (int i = 0; i < {sums}; i++) d[i] = c[lane * {sums} + i];
  qc_ptx_mma_{shape.name}(d, {a}, {b});
  for (int i = 0; i < {sums}; i++) c[lane * {sums} + i] = d[i];
}}"""


@cache
def kernels() -> Kernels:
    return Kernels("".join(map(kernel, SHAPES)))


def values(type_: str, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """All values that the type has, as int64."""
    bits, signed = int(type_[1:]), type_.startswith("s")
    low = -(1 << (bits - 1)) if signed else 0
    return rng.integers(low, low + (1 << bits), shape)


def packed(matrix: Array, bits: int, count: int, place: object) -> Array:
    """Registers of all lanes, [32, count], with element 0 of each in the lowest bits."""
    per, words = 32 // bits, np.zeros((LANES, count), np.uint64)
    for lane in range(LANES):
        for i in range(count * per):
            element = int(matrix[place(lane, i)]) & ((1 << bits) - 1)  # type: ignore[operator]
            words[lane, i // per] |= np.uint64(element << (i % per * bits))
    return words.astype(np.uint32)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
def test_products_are_those_of_numpy(shape: Shape, extreme: bool) -> None:
    rng = np.random.default_rng(shape.k)
    a, b = values(shape.a, (shape.rows, shape.k), rng), values(shape.b, (shape.k, 8), rng)
    c = rng.integers(-(1 << 31), 1 << 31, (shape.rows, 8))
    if extreme:  # all sums are as large as they get, and wrap
        a, b = np.full_like(a, a.min()), np.full_like(b, b.max())
        c = np.full_like(c, (1 << 31) - 1)
    double = shape.rows == 16
    registers_a = packed(a, shape.bits, 4 if double else 1, shape.a_place)
    registers_b = packed(b, shape.bits, 2 if double else 1, shape.b_place)
    count = 4 if double else 2
    places = [[shape.c_place(lane, i) for i in range(count)] for lane in range(LANES)]
    sums = np.array([[c[place] for place in row] for row in places], np.int32)
    kernels()(shape.name, (1,), (LANES,), registers_a, registers_b, sums)
    expected = (c + shape.product(a, b)).astype(np.int32)
    found = np.zeros_like(expected)
    for lane in range(LANES):
        for i in range(count):
            found[places[lane][i]] = sums[lane, i]
    np.testing.assert_array_equal(found, expected)


def test_instructions_are_those_of_the_architecture() -> None:
    from qcompile import emulator
    from qcompile.errors import QCompileError

    older = [shape for shape in SHAPES if shape.rows == 8]
    assert emulator.image("".join(map(kernel, older)), 75)
    for shape in set(SHAPES) - set(older):
        with pytest.raises(QCompileError, match=f"qc_ptx_mma_{shape.name}") as refused:
            emulator.image(kernel(shape), 75)
        assert refused.value.where == "kernels.cu:5"
