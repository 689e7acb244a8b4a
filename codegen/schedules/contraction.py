"""A contraction on a CPU: a tile of pixels times vectors of output channels stays in registers.

weights    [groups, O / lanes, taps, lanes * unit]: a vector holds one tap of `lanes` channels
activations are broadcast, `unit` at a time
rows of the source that a row of the result needs are copied first, padded and converted, where
anything is to be padded or converted; the patches themselves never exist (implicit im2col)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor
from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.dots.floats import Accumulator
from qcompile.codegen.expr import Expr
from qcompile.codegen.kernels.contraction import Contraction
from qcompile.codegen.schedules.loops import chunks, each_task, split
from qcompile.codegen.schedules.rows import Rows, rows_of
from qcompile.codegen.schedules.tile import Tile
from qcompile.codegen.writer import Point, Writer

_TASKS = 16  # pieces of one sample, if it is large: enough for the threads of a desktop


def pack_weight(c: Contraction, lanes: int, *, merged: bool) -> Tensor:
    """The weights in the order in which the loops read them, flat; short vectors are filled with 0."""
    groups, outputs = c.weight.shape[:2]
    run = c.kernel[-1] * c.channels if merged else c.channels
    unit = c.dot.unit
    rows = c.weight.reshape(groups, outputs, -1, run)
    rows = F.pad(rows, [0, -run % unit, 0, 0, 0, -outputs % lanes])
    rows = rows.reshape(groups, -1, lanes, rows.shape[2], rows.shape[3] // unit, unit)
    return rows.permute(0, 1, 3, 4, 2, 5).contiguous()


def pieces_of(blocks: int, lines: int, work: int) -> int:
    """Into how many parts the channels of a line are divided, so that threads have enough to do."""
    wanted = min(-(-_TASKS // lines), max(1, work // (1 << 16)))
    return max((d for d in range(1, blocks + 1) if blocks % d == 0 and d <= wanted), default=1)


def schedule(w: Writer, c: Contraction, tile: Tile) -> None:
    """Write the whole contraction with what follows it."""
    lines = math.prod(c.outputs[:-1]) * c.groups
    work = c.steps * c.groups * c.weight.shape[1] * math.prod(c.outputs) // c.dot.unit
    pieces = pieces_of(c.weight.shape[1] // tile.channels, lines, work)
    body = _Body(w, c, tile, pieces)
    each_task(w, lines * pieces, work, body.task)


@dataclass(frozen=True)
class _Spot:
    """A tile's place: sample, line, group and first column, and how many columns from there."""

    n: Expr
    outer: tuple[Expr, ...]
    group: Expr
    rows: Rows
    column: Expr
    pixels: int


class _Body:
    """The loops of one contraction, from the outermost in."""

    def __init__(self, w: Writer, c: Contraction, tile: Tile, pieces: int) -> None:
        self._w, self._c, self._tile, self._pieces = w, c, tile, pieces
        self._rows = rows_of(w, c)
        packed = pack_weight(c, tile.lanes, merged=self._rows.merged)
        self._weights = w.buffer(packed)
        self._wide, self._taps, self._run = packed.shape[1:4]

    def task(self, index: Expr) -> None:
        """One piece of the channels of one line."""
        c, width = self._c, self._tile.pixels
        n, *outer, group, piece = split(index, [*c.outputs[:-1], c.groups, self._pieces])
        rows = self._rows.fill(n, tuple(outer), group)
        whole, rest = divmod(c.outputs[-1], width)
        if whole:
            with tb.serial(whole) as column:
                at = e.bind(column * width)
                self._blocks(_Spot(n, tuple(outer), group, rows, at, width), piece)
        if rest:
            at = e.const(whole * width, "int32")
            self._blocks(_Spot(n, tuple(outer), group, rows, at, rest), piece)

    def _blocks(self, spot: _Spot, piece: Expr) -> None:
        tile = self._tile
        blocks, rest = divmod(self._c.weight.shape[1], tile.channels)
        each = blocks // self._pieces
        if blocks:
            with tb.serial(each) as block:
                self._block(spot, e.bind(piece * each + block) * tile.vectors, tile.channels)
        if rest and self._pieces > 1:
            with tb.If(piece >= self._pieces - 1), tb.Then():
                self._block(spot, blocks * tile.vectors, rest)
        elif rest:
            self._block(spot, blocks * tile.vectors, rest)

    def _block(self, spot: _Spot, vector: Expr, channels: int) -> None:
        """A tile of sums, then what follows for each of its pixels; `vector` counts in lanes."""
        w, c, lanes = self._w, self._c, self._tile.lanes
        vectors = -(-channels // lanes)
        sums = self._sums(spot, vector, vectors)
        width = vectors * lanes
        scratch = tb.alloc_buffer((spot.pixels * width,), c.dot.sums, scope="global")
        for i, total in enumerate(sums):
            tb.buffer_store(scratch, total.total(), [tirx.Ramp(i * lanes, 1, lanes)])
        first = spot.group * c.weight.shape[1] + vector * lanes
        flat = not w.layout(w.group.anchor).spatial
        with tb.serial(spot.pixels) as pixel:
            at = () if flat else (*spot.outer, spot.column + pixel)
            for start, some in chunks(channels):
                total = scratch[e.ramp(pixel * width + start, 1, some)]
                w.anchor = partial(c.dot.finish, w, total)
                w.finish(Point(spot.n, at, first + start, some))

    def _sums(self, spot: _Spot, vector: Expr, vectors: int) -> list[Accumulator]:
        """The sums of a tile, pixel by pixel."""
        dot, tile = self._c.dot, self._tile
        sums = [dot.accumulator(tile.lanes) for _ in range(spot.pixels * vectors)]
        size = tile.lanes * dot.unit
        column_of_weights = self._taps * self._run * size
        block = e.bind((spot.group * self._wide + vector) * column_of_weights)

        def steps(tap: Expr, first: Expr, count: int) -> None:
            """Add `count` steps from one on."""
            at = e.bind(block + (tap * self._run + first) * size)
            weights = [
                [self._weight(at + v * column_of_weights + i * size) for i in range(count)]
                for v in range(vectors)
            ]
            for p in range(spot.pixels):
                column = spot.column + p
                xs = [
                    e.bind(spot.rows.load(tap, column, (first + i) * dot.unit))
                    for i in range(count)
                ]
                for words, total in zip(weights, sums[p * vectors :], strict=False):
                    total.add(xs, words)

        self._each_step(steps)
        return sums

    def _weight(self, start: Expr) -> Expr:
        return e.bind(self._weights[tirx.Ramp(start, 1, self._tile.lanes * self._c.dot.unit)])

    def _each_step(self, steps: Callable[[Expr, Expr, int], None]) -> None:
        """All taps and their runs, so many steps at once as the dot asks for."""
        together = min(self._c.dot.together, self._run)
        whole, rest = divmod(self._run, together)
        with tb.serial(self._taps) as tap:
            with tb.serial(whole) as part:
                steps(tap, e.bind(part * together), together)
            if rest:
                steps(tap, e.const(whole * together, "int32"), rest)
