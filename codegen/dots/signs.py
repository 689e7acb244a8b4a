"""Products of signs, packed in words: the places that differ are counted."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.dots.floats import Dot
from qcompile.codegen.expr import Expr
from qcompile.codegen.writer import Point, Writer


@dataclass(frozen=True)
class XnorDot(Dot):
    """Signs in words: the sum counts the places that differ, and `k - 2 * sum` is the product."""

    k: int = 0
    element = "int32"
    sums = "int32"

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        differ = e.splat(x, e.lanes(weight)) ^ weight
        return total + tirx.popcount(differ)

    def finish(self, w: Writer, total: Expr, p: Point) -> Expr:
        return e.const(self.k, "int32") - total * e.const(2, "int32")
