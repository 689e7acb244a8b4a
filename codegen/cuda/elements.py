"""A product with a thread for some places of one output channel: for few channels, and short sums.

Neighbouring threads have neighbouring channels, of all groups: they read neighbouring weights, and
mostly the same activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.patches import Patches, Row, digits_of
from qcompile.codegen.cuda.products import Product
from qcompile.codegen.cuda.writer import CudaWriter, Grid
from qcompile.codegen.expr import Expr
from qcompile.ir.ops import WORD

_THREADS = 128
_TOGETHER = 8  # units of a tap that are written out


def elements(product: Product, places: int, w: CudaWriter) -> None:
    """Write the launch; a thread computes so many places of the result."""
    _Elements(w, product, places).write()


class _Elements:
    def __init__(self, w: CudaWriter, product: Product, places: int) -> None:
        self._w, self._product, self._c = w, product, product.c
        self._outputs = self._c.groups * product.channels
        self._places = places
        self._patches = Patches(w, product)
        self._weights = w.weights(product.weights().permute(1, 0))

    def write(self) -> None:
        w, outputs = self._w, self._outputs
        width = -(-outputs // WORD) * WORD if w.group.packs else outputs
        pieces = -(-math.prod(self._c.outputs) // self._places)
        with w.launch(Grid(pieces * width, _THREADS, threads=_THREADS)) as t:
            index = e.bind(t.x * _THREADS + t.thread)
            valid = e.keep(index < w.n * (pieces * width))
            n, piece, channel = digits_of(tirx.Select(valid, index, 0), [pieces, width])
            if width > outputs:
                valid = e.keep(tirx.all(valid, channel < outputs))
                channel = e.bind(tirx.min(channel, outputs - 1))
            rows = self._rows(n, piece, channel, valid)
            self._finish(rows, channel, self._sums(rows, channel))

    def _rows(self, n: Expr, piece: Expr, channel: Expr, valid: Expr) -> list[Row]:
        pixels, rows = math.prod(self._c.outputs), []
        group = e.bind(tirx.floordiv(channel, self._product.channels))
        for i in range(self._places):
            place, own = piece * self._places + i, valid
            if pixels % self._places:
                own = e.keep(tirx.all(valid, place < pixels))
                place = tirx.min(place, pixels - 1)
            rows.append(self._patches.row(n, e.bind(place), own, group))
        return rows

    def _finish(self, rows: Sequence[Row], channel: Expr, totals: Sequence[Expr]) -> None:
        w = self._w
        w.anchored, finish = self._product.finish(w)
        for row, total in zip(rows, totals, strict=True):
            w.anchor = partial(finish, total)
            w.finish(self._patches.point(row, channel), row.valid)

    def _sums(self, rows: Sequence[Row], channel: Expr) -> list[Expr]:
        """The sums of a channel at each of the rows."""
        kernel, words = self._c.kernel, self._product.words
        totals = self._product.totals(self._w, len(rows))
        with ExitStack() as loops:
            zero = e.const(0, "int32")
            digits = [loops.enter_context(tb.serial(k)) if k > 1 else zero for k in kernel]
            number = zero
            for digit, size in zip(digits, kernel, strict=True):
                number = number * size + digit
            tap = self._patches.tap(digits)
            at = e.bind(number * (words * self._outputs) + channel)
            conditions = [_all(self._patches.inside(row, tap)) for row in rows]

            def add(first: Expr, count: int) -> None:
                """Units from one on, one or two."""
                units = [e.bind(first + i) for i in range(count)]
                weights = [
                    e.bind(self._product.weight(self._weights[at + unit * self._outputs]))
                    for unit in units
                ]
                for i, (row, inside) in enumerate(zip(rows, conditions, strict=True)):
                    xs = [e.bind(self._patches.unit(row, tap, unit, inside)) for unit in units]
                    totals.add(e.const(i, "int32"), list(zip(xs, weights, strict=True)))

            _each_two(words, add)
        return [e.keep(totals.total(e.const(i, "int32"))) for i in range(len(rows))]


def _all(conditions: Sequence[Expr]) -> list[Expr]:
    return [e.keep(tirx.all(*conditions))] if conditions else []


def _each_two(count: int, add: Callable[[Expr, int], None]) -> None:
    """Call `add(first, how many)` for pairs, some of them written out, and for an odd last one."""
    pairs = count // 2
    some = min(pairs, _TOGETHER // 2)
    whole, rest = divmod(pairs, some or 1)
    if whole:
        with tb.serial(whole) as part, tb.unroll(some) as pair:
            add(e.bind((part * some + pair) * 2), 2)
    if rest:
        with tb.unroll(rest) as pair:
            add(e.bind((whole * some + pair) * 2), 2)
    if count % 2:
        add(e.const(count - 1, "int32"), 1)
