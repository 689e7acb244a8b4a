"""Where the units of a contraction's patches lie in memory: rows of a matrix that never exists.

A row is the patch of a place of the result; column k is unit `k % words` of tap `k // words`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.products import Product
from qcompile.codegen.cuda.writer import CudaWriter
from qcompile.codegen.expr import Expr
from qcompile.codegen.writer import Point


def digits_of(index: Expr, sizes: Sequence[int]) -> list[Expr]:
    """Digits of an index that is not negative, though TVM may not know; the first takes what is left.

    `loops.split` asks for the sign at each digit.
    """
    digits: list[Expr] = []
    for size in reversed(sizes):
        digits.append(e.bind(tirx.truncmod(index, size)) if size > 1 else e.const(0, "int32"))
        index = tirx.truncdiv(index, size) if size > 1 else index
    return [e.bind(index), *reversed(digits)]


@dataclass(frozen=True)
class Row:
    """A place of the result, and where its patch begins.

    Attributes:
        n, place: the sample, and the index in each spatial dimension of the contraction.
        start: where the patch's first element would lie in the source.
        first: the place of its first tap, in each dimension that has a border.
        valid: whether there is such a row; it is another one if not.
    """

    n: Expr
    place: tuple[Expr, ...]
    start: Expr
    first: dict[int, Expr]
    valid: Expr


@dataclass(frozen=True)
class Tap:
    """Units of a tap, for all rows.

    Attributes:
        offset: elements from a patch's start to the first of the tap's channels.
        steps: from a patch's first tap to this one, in each dimension that has a border.
    """

    offset: Expr
    steps: dict[int, Expr]


class Patches:
    """The patches of a contraction, as they lie in the source."""

    def __init__(self, w: CudaWriter, product: Product) -> None:
        self._w, self._product, self._c = w, product, product.c
        source = w.operands[self._c.source]
        if self._c.whole:
            layout = source.layout
            source = replace(source, layout=replace(layout, spatial=(), channels=layout.size))
        self._source = source
        self._flat = not source.layout.spatial
        borders = enumerate(zip(self._c.padding[::2], self._c.padding[1::2], strict=True))
        self._borders = [d for d, pair in borders if any(pair)]

    def row(self, n: Expr, place: Expr, valid: Expr, group: Expr) -> Row:
        """The patch of a sample's place, by its number; it must be one even where it is not valid."""
        c = self._c
        _, *at_place = digits_of(place, c.outputs)
        firsts = [
            o * stride - before
            for o, stride, before in zip(at_place, c.stride, c.padding[::2], strict=True)
        ]
        at = Point(n, () if self._flat else tuple(firsts), group * c.channels)
        first = {d: e.bind(firsts[d]) for d in self._borders}
        return Row(n, tuple(at_place), e.bind(self._source.index(at)), first, valid)

    def tap(self, digits: Sequence[Expr]) -> Tap:
        """A tap, by its index in each dimension."""
        zero = e.const(0, "int32")
        steps = [digit * d for digit, d in zip(digits, self._c.dilation, strict=True)]
        at = Point(zero, () if self._flat else tuple(steps), zero)
        return Tap(e.bind(self._source.index(at)), {d: e.bind(steps[d]) for d in self._borders})

    def inside(self, row: Row, tap: Tap) -> list[Expr]:
        """What must hold so that a tap lies in the source; nothing where it always does."""
        found = []
        for d in self._borders:
            at = e.bind(row.first[d] + tap.steps[d])
            before, after = self._c.padding[2 * d : 2 * d + 2]
            found += [at >= 0] if before else []
            found += [at < self._c.inputs[d]] if after else []
        return found

    def unit(self, row: Row, tap: Tap, word: Expr, conditions: Sequence[Expr]) -> Expr:
        """A unit of a tap, where all conditions hold; elsewhere one beyond the border."""
        product, channel = self._product, word * self._product.per
        stride = self._source.layout.strides[1]
        index = row.start + tap.offset + channel * stride
        found = product.load(self._source, index, self._c.channels - channel)
        if not conditions:
            return found
        beyond = product.beyond(self._w, word)
        return tirx.if_then_else(tirx.all(*conditions), found, beyond)

    def point(self, row: Row, channel: Expr) -> Point:
        """Where a result is finished."""
        spatial = self._w.layout(self._w.group.anchor).spatial
        place = row.place if len(spatial) == len(row.place) and not self._c.whole else None
        return Point(row.n, place or (e.const(0, "int32"),) * len(spatial), channel)
