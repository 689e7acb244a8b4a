"""What threads multiply without tensor cores: units of activations times units of weights.

A unit has 32 bits: a float, an integer, four bytes, or a word of signs. The units of a patch are
counted tap by tap; `Product` says how they are made, multiplied and added up, schedules which thread
does it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node
from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.constants import constant_from
from qcompile.codegen.cuda.writer import CudaWriter
from qcompile.codegen.dots.floats import Finish
from qcompile.codegen.expr import Expr
from qcompile.codegen.kernels.contraction import Contraction
from qcompile.codegen.writer import Operand
from qcompile.constants import Constant

Pair = tuple[Expr, Expr]
STEP = 32  # units, all of which a schedule may read where there is one


class Totals:
    """Sums of one thread, in registers."""

    def __init__(self, w: CudaWriter, product: Product, count: int) -> None:
        self._product = product
        self._sums = zeros(w, count, product.sums)

    def add(self, i: Expr, units: Sequence[Pair]) -> None:
        """Add the products of one or two (activation, weight) to a sum."""
        for x, weight in units:
            tb.buffer_store(self._sums, self._product.step(self._sums[i], x, weight), [i])

    def total(self, i: Expr) -> Expr:
        """A sum; nothing is added after."""
        return self._sums[i]


@dataclass(frozen=True)
class Product:
    """Floats times floats.

    Attributes:
        c: the contraction, of which `dot` gives the bias, or what follows.
    """

    c: Contraction
    element = "float32"  # of a unit
    sums = "float32"
    per = 1  # channels of a unit
    registers = 1  # of a sum

    @property
    def words(self) -> int:
        """Units of a tap."""
        return -(-self.c.channels // self.per)

    @property
    def units(self) -> int:
        """Units of a patch."""
        return math.prod(self.c.kernel) * self.words

    @property
    def channels(self) -> int:
        """Output channels of a group."""
        return self.c.weight.shape[1]

    def weights(self) -> Constant:
        """`[groups * O, units]`, each as `weight` reads it."""
        return constant_from(self.c.weight).reshape(-1, self.units)

    def weight(self, stored: Expr) -> Expr:
        return stored

    @property
    def fold(self) -> int:
        """Units that a stored word of `folded` holds."""
        return 1

    def folded(self) -> Constant:
        """The weights `[groups * O, units / fold]`, filled to a multiple of `STEP` units."""
        return self.weights().pad(0, -self.units % STEP)

    def unfolded(self, word: Expr) -> list[Expr]:
        """The units of a stored word."""
        return [self.weight(word)]

    def load(self, source: Operand, index: Expr, left: Expr) -> Expr:
        """The unit whose first channel is at an index.

        Args:
            left: how many channels there are from there on.
        """
        return source.flat[index]

    def beyond(self, w: CudaWriter, word: Expr) -> Expr:
        """A unit beyond the border."""
        return e.const(0, self.element)

    def totals(self, w: CudaWriter, count: int) -> Totals:
        """So many sums of 0."""
        return Totals(w, self, count)

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        return tirx.call_pure_extern("float32", "__fmaf_rn", x, weight, total)

    def finish(self, w: CudaWriter) -> tuple[Node, Finish]:
        """Which node's value is found of the sums, and how."""
        return self.c.dot.finish(w)


def zeros(w: CudaWriter, count: int, dtype: str) -> Any:
    """So many registers of 0."""
    found = w.registers(count, dtype)
    with tb.unroll(count) as i:
        tb.buffer_store(found, e.const(0, dtype), [i])
    return found
