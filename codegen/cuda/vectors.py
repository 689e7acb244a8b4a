"""A matrix product for few samples: a warp adds up rows of weights times the samples.

What takes the time is to read the weights: each once, neighbouring threads neighbouring words. A block
computes neighbouring outputs of a few samples; then a warp finishes each sample's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.patches import Patches, Row, digits_of
from qcompile.codegen.cuda.products import Product, Totals
from qcompile.codegen.cuda.teams import joined_lanes
from qcompile.codegen.cuda.writer import MOST_BLOCKS, WARP, CudaWriter, Grid
from qcompile.codegen.expr import Expr
from qcompile.codegen.kernels.reduction import add

WARPS = 4  # of a block, and at most so many samples
_ABREAST = 2  # outputs of a warp, where nothing else decides
_AHEAD = 4  # words of weights that a thread asks for at once


def outputs_of(product: Product, *, packs: bool) -> int:
    """Outputs of a block: few, so that many blocks read weights; 32 where a warp makes a word of them."""
    few = WARPS * _ABREAST
    return WARP if packs or product.channels > few * MOST_BLOCKS else few


def vectors(product: Product, samples: int, w: CudaWriter) -> None:
    """Write the launch, for a product with whole samples; a block takes so many of them."""
    _Vectors(w, product, samples).write()


class _Vectors:
    def __init__(self, w: CudaWriter, product: Product, samples: int) -> None:
        self._w, self._product, self._samples = w, product, samples
        self._each = outputs_of(product, packs=w.group.packs) // WARPS  # outputs of a warp
        self._patches = Patches(w, product)
        weights = product.folded()
        self._words = -(-product.units // product.fold)
        self._length = weights.shape[1]
        self._weights = w.weights(weights)

    def write(self) -> None:
        outputs, some = self._product.channels, self._each * WARPS
        grid = Grid(1, self._samples, y=-(-outputs // some), threads=WARPS * WARP)
        with self._w.launch(grid) as t:
            warp, lane = digits_of(t.thread, [WARP])
            rows = [self._row(t.x * self._samples + i) for i in range(self._samples)]
            first = e.bind(t.y * some)
            totals = self._sums(rows, e.bind(first + warp * self._each), lane)
            found = self._w.shared(self._samples * some, self._product.sums)
            self._store(found, e.bind(warp * self._each), lane, totals)
            self._w.barrier()
            with tb.If(warp < self._samples), tb.Then():
                row = self._row(t.x * self._samples + warp)
                total = found[warp * some + tirx.min(lane, some - 1)]
                valid = tirx.all(row.valid, lane < some, first + lane < outputs)
                channel = e.bind(tirx.min(first + lane, outputs - 1))
                self._finish(row, channel, e.keep(total), e.keep(valid))

    def _row(self, n: Expr) -> Row:
        n, zero = e.bind(n), e.const(0, "int32")
        valid = e.keep(n < self._w.n)
        return self._patches.row(e.bind(tirx.Select(valid, n, 0)), zero, valid, zero)

    def _finish(self, row: Row, channel: Expr, total: Expr, valid: Expr) -> None:
        w = self._w
        w.anchored, finish = self._product.finish(w)
        w.anchor = partial(finish, total)
        w.finish(self._patches.point(row, channel), valid)

    def _sums(self, rows: Sequence[Row], first: Expr, lane: Expr) -> Totals:
        """This thread's share of the sums of some outputs, `[samples][outputs]`."""
        product, words = self._product, self._words
        totals = product.totals(self._w, len(rows) * self._each)
        starts = self._w.registers(self._each, "int32")
        with tb.unroll(self._each) as i:
            row = tirx.min(first + i, product.channels - 1)
            tb.buffer_store(starts, row * self._length, [i])
        each = WARP * _AHEAD
        whole, rest = divmod(words, each)
        if whole:
            with tb.serial(whole) as step, tb.unroll(_AHEAD) as ahead:
                self._add(rows, starts, e.bind(step * each + ahead * WARP + lane), totals)
        if rest:
            with tb.serial(-(-rest // WARP)) as step:
                word = e.bind(whole * each + step * WARP + lane)
                with tb.If(word < words), tb.Then():
                    self._add(rows, starts, word, totals)
        return totals

    def _add(self, rows: Sequence[Row], starts: Any, word: Expr, totals: Totals) -> None:
        """Add the products with a word of each output's weights."""
        product, fold = self._product, self._product.fold
        stored = self._w.registers(self._each, self._weights.dtype)
        with tb.unroll(self._each) as i:
            tb.buffer_store(stored, self._weights[starts[i] + word], [i])
        xs = self._w.registers(len(rows) * fold, product.element)
        tap = self._patches.tap([e.const(0, "int32")] * len(product.c.kernel))
        with tb.unroll(fold) as i:
            unit = e.bind(word * fold + i)
            inside = [unit < product.units] if product.units % fold else []
            for r, row in enumerate(rows):
                x = self._patches.unit(row, tap, unit, inside)
                tb.buffer_store(xs, x, [i + r * fold])
        with tb.unroll(self._each) as output:
            units = [e.bind(unit) for unit in product.unfolded(stored[output])]
            with tb.unroll(len(rows)) as r:
                for i, weight in enumerate(units):
                    totals.add(r * self._each + output, [(xs[r * fold + i], weight)])

    def _store(self, found: Any, first: Expr, lane: Expr, totals: Totals) -> None:
        """Put the sums of all lanes where they are finished: `[samples][outputs]`."""
        with tb.unroll(self._samples) as sample, tb.unroll(self._each) as i:
            total = e.keep(totals.total(sample * self._each + i))
            total = joined_lanes(self._w, total, add)
            with tb.If(tirx.EQ(lane, 0)), tb.Then():
                tb.buffer_store(found, total, [sample * self._each * WARPS + first + i])
