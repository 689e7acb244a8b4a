"""A product in tiles: a block computes some places of some channels, with both factors in shared memory.

units of patches and of weights, a step of the sum's columns -> registers -> shared memory, where there
are two buffers: one is read while the other one is filled

The lanes of a warp are neighbouring channels, so that signs are packed by a ballot, and every thread
has the same places of several times 32 channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.patches import Patches, Row, digits_of
from qcompile.codegen.cuda.products import STEP, Product, Totals
from qcompile.codegen.cuda.writer import WARP, CudaWriter, Grid, Here
from qcompile.codegen.expr import Expr

_WARPS = 8
_THREADS = _WARPS * WARP
_SUMS = 4  # of a thread, up to which a step is a long one: there is little to do while data comes
# Behind each column, so that threads that fill neighbouring columns do not meet in a bank; four
# places of a column are read as one.
_APART, _APART_WEIGHTS = 4, 2


@dataclass(frozen=True)
class Tile:
    """What a thread computes: so many places, of so many channels that are 32 apart."""

    places: int
    vectors: int

    @property
    def rows(self) -> int:
        """Places of a block."""
        return _WARPS * self.places

    @property
    def channels(self) -> int:
        """Channels of a block."""
        return self.vectors * WARP

    @property
    def depth(self) -> int:
        """Columns of a step."""
        return STEP if self.places * self.vectors <= _SUMS else STEP // 2

    def __str__(self) -> str:
        return f"{self.rows}x{self.channels}"


def tiled(product: Product, tile: Tile, w: CudaWriter) -> None:
    """Write the launch."""
    grid = Grid(
        math.prod(product.c.outputs),
        tile.rows,
        y=-(-product.channels // tile.channels),
        z=product.c.groups,
        threads=_THREADS,
    )
    with w.launch(grid) as t:
        _Tiled(w, product, tile, t).write()


class _Tiled:
    def __init__(self, w: CudaWriter, product: Product, tile: Tile, t: Here) -> None:
        self._w, self._product, self._tile, self._t = w, product, tile, t
        self._warp, self._lane = digits_of(t.thread, [WARP])
        self._first = e.bind(t.y * tile.channels)  # of the group's channels
        self._columns = _Columns(w, product, tile, t)
        self._weights = _Weights(w, product, tile, t, self._first)

    def write(self) -> None:
        steps = -(-self._product.units // self._tile.depth)
        sides = (self._columns, self._weights)
        totals = self._product.totals(self._w, self._tile.places * self._tile.vectors)

        def fill(step: Expr) -> None:
            for side in sides:
                side.put(tirx.floormod(step, 2))

        def fetch(step: Expr) -> None:
            for side in sides:
                side.fetch(step)

        zero = e.const(0, "int32")
        fetch(zero)
        fill(zero)
        self._w.barrier()
        with tb.serial(steps) as step:
            following = e.bind(step + 1)
            with tb.If(following < steps), tb.Then():
                fetch(following)
            self._add(tirx.floormod(step, 2), totals)
            with tb.If(following < steps), tb.Then():
                fill(following)
            self._w.barrier()
        self._finish(totals)

    def _add(self, half: Expr, totals: Totals) -> None:
        """Add the products of a step, two columns at a time."""
        tile, element = self._tile, self._product.element
        xs = self._w.registers(2 * tile.places, element)
        weights = self._w.registers(2 * tile.vectors, element)
        patches, its = self._columns.half(half), self._weights.half(half)
        with tb.unroll(tile.depth // 2) as pair:
            for c in range(2):
                column = pair * 2 + c
                with tb.unroll(tile.places) as i:
                    x = self._columns.read(patches, column, self._warp * tile.places + i)
                    tb.buffer_store(xs, x, [i * 2 + c])
                with tb.unroll(tile.vectors) as v:
                    weight = self._weights.read(its, column, self._lane + v * WARP)
                    tb.buffer_store(weights, weight, [v * 2 + c])
            with tb.unroll(tile.vectors) as v, tb.unroll(tile.places) as i:
                pairs = [(xs[i * 2 + c], weights[v * 2 + c]) for c in range(2)]
                totals.add(v * tile.places + i, pairs)

    def _finish(self, totals: Totals) -> None:
        w, product, tile = self._w, self._product, self._tile
        w.anchored, finish = product.finish(w)
        count = product.channels
        with tb.unroll(tile.vectors) as v, tb.unroll(tile.places) as i:
            channel = e.bind(self._first + v * WARP + self._lane)
            row = self._columns.row(self._warp * tile.places + i)
            valid = row.valid
            if count % tile.channels:
                valid = e.keep(tirx.all(valid, channel < count))
                channel = e.bind(tirx.min(channel, count - 1))
            total = e.keep(totals.total(e.bind(v * tile.places + i)))
            w.anchor = partial(finish, total)
            point = self._columns.patches.point(row, e.bind(self._t.z * count + channel))
            w.finish(point, valid)


class _Side:
    """A factor of the product, in two buffers of shared memory, column by column."""

    def __init__(self, w: CudaWriter, width: int, depth: int, element: str) -> None:
        self._width, self._depth = width, depth
        self._buffer = w.shared(2 * depth * width, element)

    def half(self, half: Expr) -> Expr:
        """Where one of the two buffers begins."""
        return e.bind(half * (self._depth * self._width))

    def read(self, start: Expr, column: Expr, at: Expr) -> Expr:
        return self._buffer[start + column * self._width + at]

    def _store(self, start: Expr, column: Expr, at: Expr, value: Expr) -> None:
        tb.buffer_store(self._buffer, value, [start + column * self._width + at])


class _Columns(_Side):
    """Columns of patches: each thread brings some units, which lie near those of its neighbours."""

    def __init__(self, w: CudaWriter, product: Product, tile: Tile, t: Here) -> None:
        super().__init__(w, tile.rows + _APART, tile.depth, product.element)
        self._w, self._product, self._tile, self._t = w, product, tile, t
        self.patches = Patches(w, product)
        layout = w.layout(product.c.source)
        along = (product.c.whole or layout.channels_last) and product.words > STEP // 4
        across = tile.depth if along else tile.rows
        other, one = digits_of(t.thread, [across])
        more = _THREADS // across
        wide = range(0, tile.rows, more) if along else range(0, tile.depth, more)
        several = [e.bind(other + i) for i in wide]
        self._at = several if along else [one]  # rows
        self._columns = [one] if along else several
        self._rows = [self.row(at) for at in self._at]
        self._held = w.registers(len(several), product.element)

    def row(self, at: Expr) -> Row:
        """A row of the block's tile."""
        pixels = math.prod(self._product.c.outputs)
        index = e.bind(self._t.x * self._tile.rows + at)
        valid = e.keep(index < self._w.n * pixels)
        n, place = digits_of(tirx.Select(valid, index, 0), [pixels])
        return self.patches.row(n, place, valid, self._t.z)

    def fetch(self, step: Expr) -> None:
        """Bring this thread's units of a step to registers."""
        product, kernel = self._product, self._product.c.kernel
        for c, column in enumerate(self._columns):
            k = e.bind(step * self._depth + column)
            number, word = digits_of(k, [product.words])
            tap = self.patches.tap(digits_of(number, kernel)[1:])
            for r, row in enumerate(self._rows):
                unit = self.patches.unit(row, tap, word, self.patches.inside(row, tap))
                if product.units % self._depth:
                    zero = e.const(0, product.element)
                    unit = tirx.if_then_else(k < product.units, unit, zero)
                tb.buffer_store(self._held, unit, [e.const(c + r, "int32")])

    def put(self, half: Expr) -> None:
        """Put them into a buffer."""
        start = self.half(half)
        for c, column in enumerate(self._columns):
            for r, at in enumerate(self._at):
                self._store(start, column, at, self._held[c + r])


class _Weights(_Side):
    """Columns of weights: each thread brings some words of neighbouring rows."""

    def __init__(self, w: CudaWriter, product: Product, tile: Tile, t: Here, first: Expr) -> None:
        super().__init__(w, tile.channels + _APART_WEIGHTS, tile.depth, product.element)
        self._product, self._first = product, first
        weights = product.folded()
        self._weights = w.weights(weights)
        self._each = tile.depth // product.fold  # words of a row in a step
        count = tile.channels * self._each
        slots = [e.bind(t.thread + i) for i in range(0, count, _THREADS)]
        self._few = t.thread < count if count < _THREADS else None
        self._slots = [digits_of(slot, [self._each]) for slot in slots]
        rows = [e.bind(tirx.min(first + at, product.channels - 1)) for at, _ in self._slots]
        length = weights.shape[1]
        self._starts = [
            e.bind((t.z * product.channels + row) * length + word)
            for row, (_, word) in zip(rows, self._slots, strict=True)
        ]
        self._held = w.registers(len(slots), weights.dtype)

    def fetch(self, step: Expr) -> None:
        for i, start in enumerate(self._starts):
            word = self._weights[start + step * self._each]
            tb.buffer_store(self._held, word, [e.const(i, "int32")])

    def put(self, half: Expr) -> None:
        start = self.half(half)
        if self._few is None:
            self._put(start)
            return
        with tb.If(self._few), tb.Then():
            self._put(start)

    def _put(self, start: Expr) -> None:
        fold = self._product.fold
        for i, (at, word) in enumerate(self._slots):
            for part, unit in enumerate(self._product.unfolded(self._held[i])):
                self._store(start, e.bind(word * fold + part), at, unit)
