"""Products of floats with integer levels, which become floats in registers."""

from __future__ import annotations

from dataclasses import dataclass

from qcompile.codegen import expr as e
from qcompile.codegen.dots.floats import Dot
from qcompile.codegen.expr import Expr


@dataclass(frozen=True)
class LevelDot(Dot):
    """A float times weights that lie as int8 or int16: a quarter or a half of what is read of floats.

    A vector of weights is made floats once for all pixels of a tile: the conversions of a step are
    the same expression, which LLVM computes once.
    """

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        return total + x * e.cast(e.cast(weight, "int32"), "float32")
