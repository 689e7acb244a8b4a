"""Products of floats, and what all dots have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor
from torch.fx import Node
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.writer import Point, Writer
from qcompile.constants import Constant

T = TypeVar("T")
Load = Callable[[int, int], Expr]
Finish = Callable[[Expr, Point], Expr]


class LoadWeight(Protocol):
    """Loads the weights of (vector, step), or one of so many parts of them."""

    def __call__(self, vector: int, step: int, part: int = 0, parts: int = 1) -> Expr: ...


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


class Sums:
    """The sums of a tile of pixels and vectors of output channels, while products are added.

    Attributes:
        capacity: how many steps may be added before `flush` must be called, or None.
    """

    capacity: int | None = None

    def __init__(self, dot: Dot, lanes: int, pixels: int, vectors: int) -> None:
        self.lanes, self.pixels, self.vectors = lanes, pixels, vectors
        self._dot = dot
        self._totals = self.each(lambda: Register(dot.sums, lanes))

    def each(self, make: Callable[[], T]) -> list[list[T]]:
        """Something for each pixel and vector, `[pixels][vectors]`."""
        return [[make() for _ in range(self.vectors)] for _ in range(self.pixels)]

    def add(self, count: int, x: Load, weight: LoadWeight) -> None:
        """Add the products of some steps.

        Args:
            count: how many; all are written out.
            x: of (pixel, step): `unit` activations.
            weight: of (vector, step): a vector of `unit * lanes` weights.
        """
        for i in range(count):
            weights = [weight(v, i) for v in range(self.vectors)]
            for p, totals in enumerate(self._totals):
                activation = x(p, i)
                for total, w in zip(totals, weights, strict=True):
                    total.set(self._dot.step(total.value, activation, w))

    def flush(self) -> None:
        """Move what small counters hold to larger ones."""

    def totals(self, pixel: int, vector: int) -> list[Expr]:
        """The sums of a pixel's vector, in one or several vectors; nothing is added after."""
        return [self._totals[pixel][vector].value]


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
    registers = 1  # that the sums of a vector need
    live = 1  # registers with weights of a vector at a time
    fold = 1  # output channels that share a lane of 32 bits while products are added
    abreast = 2  # vectors of a tile, where a broadcast is a part of the instruction that uses it
    together = 1  # steps that are written out one after another, if there are so many
    gathers = (
        False  # whether `prepare` takes neighbouring channels, and makes something else of them
    )

    @property
    def prepares(self) -> bool:
        """Whether `prepare` does anything."""
        return False

    def prepare(self, x: Expr) -> Expr:
        return x

    def made(self, channels: int) -> int:
        """How many elements `prepare` makes of so many neighbouring channels, at most 32."""
        return channels

    def beyond(self, count: int) -> Expr:
        """So many elements beyond the border, prepared, where `fill` is a number."""
        assert not isinstance(self.fill, Tensor)
        return e.splat(e.const(self.fill, self.element), count)

    def start(self, w: Writer, lanes: int, pixels: int, vectors: int) -> Sums:
        """Sums of 0, in registers from here on."""
        return Sums(self, lanes, pixels, vectors)

    def pack(self, weight: Constant) -> Constant:
        """Arrange `[groups, vectors, taps, steps, lanes, unit]` as the steps read it.

        What a step reads of a vector, the last two dimensions, stays in its place; its size may be
        another one.
        """
        return weight

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        """Add the products; x is `unit` activations, weight a vector of `unit * lanes`."""
        return total + x * weight

    def finish(self, w: Writer) -> tuple[Node, Finish]:
        """Which node's value is found of the sums, and how."""
        bias = self.bias
        if bias is None:
            return w.group.anchor, lambda total, p: total
        return w.group.anchor, lambda total, p: total + w.constant(bias, p.channels)
