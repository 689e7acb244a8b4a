"""Products of signs, packed in words: the places that differ are counted."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node
from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.dots.floats import Dot, Finish
from qcompile.codegen.expr import Expr
from qcompile.codegen.kernels.counts import of_counts
from qcompile.codegen.writer import Writer


@dataclass(frozen=True)
class XnorDot(Dot):
    """Signs in words: the sum counts which of `k` places differ."""

    k: int = 0
    settles = False  # whether it takes less work to add many steps together
    element = "int32"
    sums = "int32"

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        differ = e.splat(x, e.lanes(weight)) ^ weight
        return total + tirx.popcount(differ)

    def finish(self, w: Writer) -> tuple[Node, Finish]:
        return of_counts(w, self.k)
