"""Products of integers: four bytes at once, or one by one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node
from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.constants import constant_from
from qcompile.codegen.cuda.products import Product
from qcompile.codegen.cuda.writer import CudaWriter
from qcompile.codegen.dots.floats import Dot, Finish
from qcompile.codegen.dots.integers import SingleDot
from qcompile.codegen.expr import Expr
from qcompile.codegen.kernels.contraction import Contraction
from qcompile.codegen.layout import is_outside
from qcompile.codegen.writer import Operand, Writer
from qcompile.constants import Constant

_BYTES = 4  # of a unit
_SIGN_BITS = -0x7F7F7F80  # of four bytes, as an int32
_LIFT = 128


@dataclass(frozen=True)
class Integers(Product):
    """Integers, one by one: activations are centred, weights of 8 or 16 bits."""

    element = "int32"
    sums = "int32"

    @property
    def _dot(self) -> SingleDot:
        assert isinstance(self.c.dot, SingleDot)
        return self.c.dot

    def weight(self, stored: Expr) -> Expr:
        return e.cast(stored, "int32")

    def load(self, source: Operand, index: Expr, left: Expr) -> Expr:
        return e.cast(source.flat[index], "int32") - self._dot.zero_point

    def beyond(self, w: CudaWriter, word: Expr) -> Expr:
        return e.const(_number(self._dot), "int32")

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        return total + x * weight


@dataclass(frozen=True)
class Bytes(Product):
    """Four signed bytes at once (`dp4a`): sum((x - z) w) = sum((x - lift) w) + (lift - z) sum(w).

    Attributes:
        together: four activations lie in a word of memory.
    """

    together: bool = False
    element = "int32"
    sums = "int32"
    per = _BYTES

    @staticmethod
    def fits(w: Writer, c: Contraction) -> bool:
        """Whether weights, and what stands beyond the border, are signed bytes."""
        assert isinstance(c.dot, SingleDot)
        beyond = c.dot.zero_point + _number(c.dot) - _lift(w, c)
        return c.weight.dtype is torch.int8 and -128 <= beyond <= 127

    @staticmethod
    def lie_together(w: Writer, c: Contraction) -> bool:
        layout = w.layout(c.source)
        rows = c.whole or layout.channels_last
        return rows and c.channels % _BYTES == 0 and not is_outside(c.source)

    def weights(self) -> Constant:
        c = self.c
        bytes_ = constant_from(c.weight).reshape(-1, c.channels)
        words = bytes_.pad(0, -c.channels % _BYTES).view("int32")
        return words.reshape(-1, self.units)

    def load(self, source: Operand, index: Expr, left: Expr) -> Expr:
        signed = e.dtype(source.flat[index]) == "int8"
        if self.together:
            # TVM reads a word only where it sees that it is aligned.
            aligned = tirx.shift_right(index, e.const(2, "int32")) * _BYTES
            word = tirx.reinterpret("int32", source.flat[tirx.Ramp(aligned, 1, _BYTES)])
        else:
            word = _word(source, index, left if self.c.channels % _BYTES else None)
        return word if signed else word ^ e.const(_SIGN_BITS, "int32")

    def beyond(self, w: CudaWriter, word: Expr) -> Expr:
        dot = self.c.dot
        assert isinstance(dot, SingleDot)
        byte = (dot.zero_point + _number(dot) - _lift(w, self.c)) & 0xFF
        return e.const(int.from_bytes(bytes([byte] * _BYTES), "little", signed=True), "int32")

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        return tirx.call_pure_extern("int32", "__dp4a", x, weight, total)

    def finish(self, w: CudaWriter) -> tuple[Node, Finish]:
        dot = self.c.dot
        assert isinstance(dot, SingleDot)
        rest = _lift(w, self.c) - dot.zero_point
        rows = self.c.weight.flatten(2).flatten(0, 1).to(torch.int64)
        return Dot(bias=(rest * rows.sum(1)).to(torch.int32) if rest else None).finish(w)


def _number(dot: SingleDot) -> int:
    """What stands beyond the border, less the zero point."""
    assert not isinstance(dot.fill, Tensor)
    return int(dot.fill)


def _lift(w: Writer, c: Contraction) -> int:
    return _LIFT if w.layout(c.source).dtype == "uint8" else 0


def _word(source: Operand, index: Expr, left: Expr | None) -> Expr:
    """Four bytes from wherever they lie; 0 for those that are not there."""
    stride = source.layout.strides[1]
    word = None
    for i in range(_BYTES):
        byte = e.cast(source.flat[index + i * stride], "int32") & e.const(0xFF, "int32")
        if left is not None and i:
            byte = tirx.if_then_else(left > i, byte, e.const(0, "int32"))
        byte = tirx.shift_left(byte, e.const(8 * i, "int32")) if i else byte
        word = byte if word is None else word | byte
    return word
