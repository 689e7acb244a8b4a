"""Products of floats with integer levels, which become floats in registers, or when a program is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from qcompile.codegen import expr as e
from qcompile.codegen.dots.floats import Dot
from qcompile.codegen.expr import Expr
from qcompile.constants import Constant

_FAR = 1 << 22  # bytes of floats that do not stay in a core's second cache
_USES, _FAR_USES = 16, 64  # of a weight, up to which converting it is quicker than reading a float


@dataclass(frozen=True)
class LevelDot(Dot):
    """A float times weights that lie as int8 or int16: a quarter or a half of what is read of floats.

    A vector of weights is made floats once for all pixels of a tile: the conversions of a step are
    the same expression, which LLVM computes once.
    """

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        return total + x * e.cast(e.cast(weight, "int32"), "float32")


@dataclass(frozen=True)
class WideLevelDot(Dot):
    """A float times levels that lie as floats: only in a program's file they are integers."""

    def pack(self, weight: Constant) -> Constant:
        return weight.cast("float32")


def level_dot(weights: int, positions: int) -> Dot:
    """The dot of a layer of so many weights, each used at so many positions of a sample."""
    few = _FAR_USES if 4 * weights > _FAR else _USES
    return LevelDot() if positions <= few else WideLevelDot()
