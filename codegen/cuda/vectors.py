"""A matrix product for few samples: a warp adds up a row of weights times a sample.

Weights are read once each, neighbouring threads reading neighbouring words: what takes the time where
samples are few. A block computes neighbouring outputs of one sample; its first warp finishes them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.patches import Patches, Row, digits_of
from qcompile.codegen.cuda.products import Product, Totals
from qcompile.codegen.cuda.writer import WARP, CudaWriter, Grid
from qcompile.codegen.expr import Expr

_WARPS = 4  # of a block
_ALL_LANES = 0xFFFFFFFF
_ABREAST = 2  # outputs of a warp, where nothing else decides
_AHEAD = 4  # words of weights that a thread asks for at once


def vectors(product: Product, w: CudaWriter) -> None:
    """Write the launch, for a product with whole samples."""
    _Vectors(w, product).write()


class _Vectors:
    def __init__(self, w: CudaWriter, product: Product) -> None:
        self._w, self._product = w, product
        self._each = (WARP if w.group.packs else _WARPS * _ABREAST) // _WARPS
        self._patches = Patches(w, product)
        weights = product.folded(product.fold)
        self._words = weights.shape[1]
        self._weights = w.weights(weights)

    def write(self) -> None:
        w, outputs, some = self._w, self._product.channels, self._each * _WARPS
        blocks = -(-outputs // some)
        with w.launch(Grid(blocks, 1, threads=_WARPS * WARP)) as t:
            warp, lane = digits_of(t.thread, [WARP])
            n, block = digits_of(t.x, [blocks])
            zero = e.const(0, "int32")
            row = self._patches.row(n, zero, e.const(1, "bool"), zero)
            first = e.bind(block * some + warp * self._each)
            found = w.shared(some, self._product.sums)
            self._store(found, warp * self._each, lane, self._sums(row, first, lane))
            w.barrier()
            with tb.If(t.thread < WARP), tb.Then():
                channel = e.bind(block * some + lane)
                valid = e.keep(tirx.all(lane < some, channel < outputs))
                total = e.keep(found[tirx.min(lane, some - 1)])
                w.anchored, finish = self._product.finish(w)
                w.anchor = partial(finish, total)
                w.finish(self._patches.point(row, e.bind(tirx.min(channel, outputs - 1))), valid)

    def _sums(self, row: Row, first: Expr, lane: Expr) -> Totals:
        """This thread's share of the sums of some outputs."""
        product, words = self._product, self._words
        totals = product.totals(self._w, self._each)
        rows = [
            e.bind(tirx.min(first + i, product.channels - 1) * words) for i in range(self._each)
        ]
        each = WARP * _AHEAD
        whole = words // each
        if whole:
            with tb.serial(whole) as step, tb.unroll(_AHEAD) as ahead:
                self._step(row, rows, e.bind(step * each + ahead * WARP + lane), totals)
        for start in range(whole * each, words, WARP):
            word = e.bind(start + lane)
            if words - start >= WARP:
                self._step(row, rows, word, totals)
                continue
            with tb.If(word < words), tb.Then():
                self._step(row, rows, word, totals)
        return totals

    def _step(self, row: Row, rows: list[Expr], word: Expr, totals: Totals) -> None:
        """Add the products with a word of each row."""
        product, patches = self._product, self._patches
        tap = patches.tap([e.const(0, "int32")] * len(product.c.kernel))
        xs = []
        for i in range(product.fold):
            unit = e.bind(word * product.fold + i)
            inside = [unit < product.units] if product.units % product.fold and i else []
            xs.append(e.bind(patches.unit(row, tap, unit, inside)))
        for i, start in enumerate(rows):
            units = product.unfolded(e.bind(self._weights[start + word]))
            for x, weight in zip(xs, units, strict=True):
                totals.add(e.const(i, "int32"), [(x, weight)])

    def _store(self, found: Any, first: Expr, lane: Expr, totals: Totals) -> None:
        """Put the sums of all lanes where the first warp finds them."""
        w, lanes = self._w, e.const(_ALL_LANES, "uint32")
        for i in range(self._each):
            value = e.keep(totals.total(e.const(i, "int32")))
            for apart in (16, 8, 4, 2, 1):
                steps = e.const(apart, "int32")
                other = w.value_of("__shfl_xor_sync", self._product.sums, lanes, value, steps)
                value = e.keep(value + other)
            with tb.If(tirx.EQ(lane, 0)), tb.Then():
                tb.buffer_store(found, value, [e.bind(first + i)])
