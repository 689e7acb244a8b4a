"""Products of signs, packed in words: the places that differ are counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.dots.floats import Dot
from qcompile.codegen.expr import Expr
from qcompile.codegen.machine import Machine
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


Make = Callable[..., XnorDot]
_METHODS: dict[str, tuple[Callable[[Machine, int], bool], Make]] = {}


def register(name: str, applies: Callable[[Machine, int], bool], make: Make) -> None:
    """Add a way to count; those that are added first are preferred.

    Args:
        applies: of the machine and the number of words, whether it can be used.
        make: of the fill and `k=`, the dot.
    """
    _METHODS[name] = (applies, make)


def methods(machine: Machine, words: int) -> tuple[str, ...]:
    """Ways to count on a machine the places that differ in so many words; the best comes first."""
    return tuple(name for name, (applies, _) in _METHODS.items() if applies(machine, words))


def sign_dot(method: str, fill: Tensor, k: int) -> XnorDot:
    """The dot of a method; `k` places are compared, `fill` is `[W]`."""
    return _METHODS[method][1](fill, k=k)


register("popcount", lambda machine, words: True, XnorDot)
