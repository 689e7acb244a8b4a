"""Products of floats, and what all dots have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.writer import Point, Writer


class Register:
    """A variable vector. Below 1 KiB TVM leaves it to LLVM, which keeps it in a register."""

    def __init__(self, element: str, lanes: int, start: Expr | None = None) -> None:
        self._buffer: Any = tb.alloc_buffer((lanes,), element, scope="global")
        self._index = e.ramp(e.const(0, "int32"), 1, lanes)
        self.lanes = lanes
        self.set(e.const(0, element) if start is None else start)

    @property
    def value(self) -> Expr:
        return self._buffer[self._index]

    def set(self, value: Expr) -> None:
        tb.buffer_store(self._buffer, e.splat(value, self.lanes), [self._index])


class Accumulator:
    """The sums of one pixel and one vector of output channels while products are added to them.

    `capacity` is how many steps may be added before `flush` must be called, or None.
    """

    capacity: int | None = None

    def __init__(self, dot: Dot, lanes: int) -> None:
        self._dot = dot
        self._total = Register(dot.sums, lanes)

    def add(self, xs: Sequence[Expr], weights: Sequence[Expr]) -> None:
        """Add the products of some steps, each of `unit` activations and a vector of weights."""
        for x, weight in zip(xs, weights, strict=True):
            self._total.set(self._dot.step(self._total.value, x, weight))

    def flush(self) -> None:
        """Move what small counters hold to larger ones."""

    def total(self) -> Expr:
        """The sums; nothing is added after."""
        return self._total.value


@dataclass(frozen=True)
class Dot:
    """A product of one activation with a vector of weights, added up. This one is of float32.

    Attributes:
        fill: the value beyond the border, as it lies in memory: a number, or one for each channel.
        bias: what is added to the sums, `[O]`, or None.
    """

    fill: float | Tensor = 0.0
    bias: Tensor | None = None
    unit = 1  # neighbouring activations that one step multiplies
    element = "float32"  # in which activations lie, once prepared
    sums = "float32"
    prepares = False  # whether `prepare` does anything
    together = 1  # steps that are written out one after another, in the order of memory

    def prepare(self, x: Expr) -> Expr:
        return x

    def accumulator(self, lanes: int) -> Accumulator:
        """Sums of 0, in registers from here on."""
        return Accumulator(self, lanes)

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        """Add the products; x is `unit` activations, weight a vector of `unit * lanes`."""
        return total + x * weight

    def finish(self, w: Writer, total: Expr, p: Point) -> Expr:
        if self.bias is None:
            return total
        return total + w.constant(self.bias, p.channels)
