"""Products of signs, packed in words: the places that differ are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.constants import words_from
from qcompile.codegen.cuda.products import Pair, Product, Totals, zeros
from qcompile.codegen.cuda.writer import CudaWriter
from qcompile.codegen.expr import Expr
from qcompile.constants import Constant


class _Counts(Totals):
    """Counts of ones, of which those of even places of the sum's bits are kept apart.

    An adder that saves its carries takes two words and leaves one to count, where POPC is the scarce
    instruction (see `dots.carry_save`); all three steps are functions of three bits, LOP3.
    """

    def __init__(self, w: CudaWriter, product: Product, count: int) -> None:
        super().__init__(w, product, count)
        self._low = zeros(w, count, "int32")

    def add(self, i: Expr, units: Sequence[Pair]) -> None:
        if len(units) == 1:
            super().add(i, units)
            return
        (x, weight), (other, its) = units
        low = self._low[i]
        once = e.bind(low ^ x ^ weight)
        twice = e.bind(once ^ other ^ its)
        carry = tirx.call_pure_extern("int32", "qc_carry", once, twice, low)
        tb.buffer_store(self._sums, self._sums[i] + 2 * _ones(carry), [i])
        tb.buffer_store(self._low, twice, [i])

    def total(self, i: Expr) -> Expr:
        return self._sums[i] + _ones(self._low[i])


@dataclass(frozen=True)
class Signs(Product):
    """Words of signs, of which the places that differ are counted."""

    element = "int32"
    sums = "int32"
    registers = 2

    def weights(self) -> Constant:
        return words_from(self.c.weight).reshape(-1, self.units)

    def beyond(self, w: CudaWriter, word: Expr) -> Expr:
        fill = self.c.dot.fill
        assert isinstance(fill, Tensor)
        if bool((fill == fill[0]).all()):
            return e.const(int(fill[0]), "int32")
        return w.constant(fill, word)

    def totals(self, w: CudaWriter, count: int) -> Totals:
        return _Counts(w, self, count)

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        return total + _ones(x ^ weight)


def _ones(word: Expr) -> Expr:
    return tirx.call_pure_extern("int32", "__popc", word)
