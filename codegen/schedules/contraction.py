"""A contraction on a CPU: a tile of pixels times vectors of output channels stays in registers.

weights    [groups, O / lanes, taps, lanes * unit]: a vector holds one tap of `lanes` channels
activations are broadcast, `unit` at a time
rows of the source that a row of the result needs are copied first, padded and converted, where
anything is to be padded or converted; the patches themselves never exist (implicit im2col)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen import laps
from qcompile.codegen.constants import constant_from, words_from
from qcompile.codegen.dots.floats import Sums
from qcompile.codegen.dots.signs import XnorDot
from qcompile.codegen.expr import Expr
from qcompile.codegen.kernels.contraction import Contraction
from qcompile.codegen.schedules.ahead import ahead_of
from qcompile.codegen.schedules.loops import chunks, each_task, split
from qcompile.codegen.schedules.rows import Rows, rows_of, rows_read
from qcompile.codegen.schedules.tile import Tile, tile_of
from qcompile.codegen.writer import Point, Writer
from qcompile.constants import Constant

_TASKS = 16  # pieces of one sample, if it is large: enough for the threads of a desktop
_BAND = 1 << 16  # bytes of activations that a task reads: they stay in a core's second cache
_TABLE_TASKS = 8  # where what is read is so dear to convert that few rows shall be converted twice
_NEAR = 1 << 18  # bytes of it, read in order from a core's second cache
_CACHED = 1 << 20  # bytes of weights that stay in a core's second cache, beside activations
_BATCHED_FROM = 1 << 14  # steps of a matrix product that is worth code of its own for batches
_MANY = 1 << 10  # samples, more than any tile has


def pack_weight(c: Contraction, lanes: int, *, merged: bool) -> Constant:
    """The weights in the order in which the loops read them; short vectors are filled with 0."""
    groups, outputs = c.weight.shape[:2]
    run = c.kernel[-1] * c.channels if merged else c.channels
    unit = c.dot.unit
    values = (words_from if isinstance(c.dot, XnorDot) else constant_from)(c.weight)
    rows = values.reshape(groups, outputs, -1, run)
    rows = rows.pad(0, -outputs % lanes, 0, -run % unit)
    rows = rows.reshape(groups, -1, lanes, rows.shape[2], rows.shape[3] // unit, unit)
    return c.dot.pack(rows.permute(0, 1, 3, 4, 2, 5))


def band_of(c: Contraction, rows: Rows, blocks: int) -> int:
    """How many rows of the result a task computes: all of them read the same weights, from a cache.

    There are tasks enough for the threads.
    """
    if len(c.outputs) < 2:
        return 1
    lines = math.prod(c.outputs[:-2]) * c.groups
    # Where rows are converted, the tasks are bands, so that no two of them convert the same ones.
    wanted, bytes_ = (_TABLE_TASKS, _NEAR) if c.dot.gathers else (_TASKS, _BAND)
    tasks = -(-wanted // (lines * (1 if c.dot.prepares else blocks)))
    most = max(1, c.outputs[-2] // tasks)
    row = math.prod(c.kernel[:-2]) * rows.width * c.channels * np.dtype(c.dot.element).itemsize
    while most > 1 and rows_read(c, most) * row > bytes_:
        most -= 1
    return -(-c.outputs[-2] // -(-c.outputs[-2] // most))


def pieces_of(blocks: int, lines: int, work: int, weight_bytes: int = 0) -> int:
    """Into how many parts the channels are divided.

    Threads shall have enough to do, and the weights of a part stay in the cache from line to line.
    """
    wanted = min(-(-_TASKS // lines), max(1, work // (1 << 16)))
    wanted = max(wanted, -(-weight_bytes // _CACHED))
    return max((d for d in range(1, blocks + 1) if blocks % d == 0 and d <= wanted), default=1)


def schedule(w: Writer, c: Contraction, tile: Tile) -> None:
    """Write the whole contraction with what follows it."""
    work = c.steps * c.groups * c.weight.shape[1] * math.prod(c.outputs) // c.dot.unit
    if not c.whole or work < _BATCHED_FROM:
        Body(w, c, tile, work).write()
        return
    width = tile_of(_of_batch(c, _MANY), w.machine, packs=w.group.packs).pixels
    _matrix(w, c, tile, work, [width, -(-width // 2)])


def _of_batch(c: Contraction, samples: int) -> Contraction:
    """A matrix product of several samples: they lie one after another, as the pixels of a line."""
    return replace(c, inputs=(samples,), outputs=(samples,))


def _matrix(w: Writer, c: Contraction, tile: Tile, work: int, widths: list[int]) -> None:
    """A product with each weight used for several samples, where there are so many."""
    if not widths:
        Body(w, c, tile, work).write()
        return
    width, *narrower = widths
    wide = _of_batch(c, width)
    body = Body(w, wide, tile_of(wide, w.machine, packs=w.group.packs), width * work)
    # The last tile begins early enough to be full. Twice the width: what it repeats is not much.
    with tb.If(w.n >= (2 * width if narrower else width)):
        with tb.Then():
            body.write(samples=width)
        with tb.Else():
            _matrix(w, c, tile, work, narrower)


@dataclass(frozen=True)
class _Spot:
    """A tile's place: sample, line, group and first column, and how many columns from there.

    Attributes:
        number: of the tiles that multiply the same weights, from 0.
    """

    n: Expr
    outer: tuple[Expr, ...]
    group: Expr
    rows: Rows
    column: Expr
    pixels: int
    number: Expr


class Body:
    """The loops of one contraction, from the outermost in."""

    def __init__(
        self, w: Writer, c: Contraction, tile: Tile, work: int, *, single: bool = False
    ) -> None:
        """Prepare the weights.

        Args:
            work: scalar operations of a sample, or of as many as the contraction spans.
            single: rows are computed one by one, all channels of each.
        """
        self._w, self._c, self._tile, self._work = w, c, tile, work
        rows = rows_of(w, c)
        blocks = c.weight.shape[1] // tile.channels
        self._rows = rows if single else replace(rows, band=band_of(c, rows, max(1, blocks)))
        packed = pack_weight(c, tile.lanes, merged=rows.merged)
        self._weights = w.weights(packed)
        self._wide, self._taps, self._run = packed.shape[1:4]
        self._step = math.prod(packed.shape[4:])
        self._outer = list(c.outputs[:-1])
        if self._rows.band > 1:
            self._outer[-1] = -(-self._outer[-1] // self._rows.band)
        self._lines = math.prod(self._outer) * c.groups
        size = packed.form.nbytes
        self._pieces = 1 if single else pieces_of(blocks, self._lines, work, size)
        self._heavy = size > _CACHED
        tiles = self._rows.band * -(-c.outputs[-1] // tile.pixels)
        # On AArch64 its addresses would push others to the stack.
        self._ahead = ahead_of(size, tiles, tile.vectors) if w.machine.family == "x86_64" else None

    def write(self, samples: int = 1) -> None:
        """All lines of all samples, so many samples at once; the batch has at least so many."""
        count = self._w.n if samples == 1 else tirx.floordiv(self._w.n + (samples - 1), samples)
        held = self._rows.allocated()
        kept = tb.alloc_buffer((1,), "int64", scope="global")  # the line whose rows are there
        tb.buffer_store(kept, e.const(-1, "int64"), [0])

        def task(index: Expr) -> None:
            """One piece of the channels of one line.

            Pieces come first where all weights together would leave the cache. Else lines do: then a
            thread has the same rows in kernel after kernel, and finds what it wrote in its own cache.
            """
            piece: Expr = e.const(0, "int32")
            if self._pieces > 1 and self._heavy:
                lines = e.bind(count * self._lines)
                piece, index = e.bind(tirx.floordiv(index, lines)), tirx.floormod(index, lines)
            elif self._pieces > 1:
                piece = e.bind(tirx.floormod(index, self._pieces))
                index = tirx.floordiv(index, self._pieces)
            line = e.bind(index)
            n, *outer, group = split(line, [*self._outer, self._c.groups])
            if samples > 1:
                n = e.bind(tirx.min(n * samples, self._w.n - samples))
            if self._rows.band > 1:
                last = (
                    self._c.outputs[-2] - self._rows.band
                )  # the last band begins early: it is full
                outer[-1] = e.bind(tirx.min(outer[-1] * self._rows.band, last))
            rows = held.starting(n, tuple(outer))
            if rows.copied:
                with tb.If(tirx.NE(kept[0], line)), tb.Then():
                    self._w.lap(laps.OTHER)
                    rows.fill(n, tuple(outer), group)
                    self._w.lap(laps.PACK)
                    tb.buffer_store(kept, e.cast(line, "int64"), [0])
            self._blocks(rows, n, tuple(outer), group, piece)

        each_task(self._w, self._lines * self._pieces, self._work, task, count)

    def band(self, n: Expr, outer: tuple[Expr, ...]) -> None:
        """Some rows of the result, all channels."""
        rows = self._rows.allocated().starting(n, outer)
        self._w.lap(laps.OTHER)
        rows.fill(n, outer, 0)
        self._w.lap(laps.PACK)
        self._blocks(rows, n, outer, 0, 0)

    def _blocks(
        self, rows: Rows, n: Expr, outer: tuple[Expr, ...], group: Expr, piece: Expr
    ) -> None:
        """All rows of a block of channels, then the next block."""
        c, tile = self._c, self._tile
        size = tile.pixels * tile.channels
        self._scratch = tb.alloc_buffer((size,), c.dot.sums, scope="global")
        blocks, rest = divmod(c.weight.shape[1], tile.channels)
        each = blocks // self._pieces
        tiles = -(-c.outputs[-1] // tile.pixels)

        def block(vector: Expr, channels: int) -> None:
            with tb.serial(rows.band) as row:
                at = (*outer[:-1], e.bind(outer[-1] + row)) if outer else ()
                spot = _Spot(n, at, group, rows.at_row(row), 0, 0, e.bind(row * tiles))
                self._row(spot, vector, channels)

        if blocks:
            with tb.serial(each) as number:
                block(e.bind((piece * each + number) * tile.vectors), tile.channels)
        if rest and self._pieces > 1:
            with tb.If(piece >= self._pieces - 1), tb.Then():
                block(blocks * tile.vectors, rest)
        elif rest:
            block(blocks * tile.vectors, rest)

    def _row(self, spot: _Spot, vector: Expr, channels: int) -> None:
        width = self._tile.pixels
        whole, rest = divmod(self._c.outputs[-1], width)
        if whole:
            with tb.serial(whole) as column:
                at, number = e.bind(column * width), e.bind(spot.number + column)
                tile = replace(spot, column=at, pixels=width, number=number)
                self._block(tile, vector, channels)
        if rest:
            at, number = e.const(whole * width, "int32"), e.bind(spot.number + whole)
            tile = replace(spot, column=at, pixels=rest, number=number)
            self._block(tile, vector, channels)

    def _block(self, spot: _Spot, vector: Expr, channels: int) -> None:
        """A tile of sums, then what follows for each of its pixels; `vector` counts in lanes."""
        w, c, lanes = self._w, self._c, self._tile.lanes
        w.anchored, finish = c.dot.finish(w)
        vectors = -(-channels // lanes)
        sums = self._sums(spot, vector, vectors)
        width = vectors * lanes
        scratch = self._scratch
        for p, v in itertools.product(range(spot.pixels), range(vectors)):
            at = p * width + v * lanes
            for total in sums.totals(p, v):
                tb.buffer_store(scratch, total, [tirx.Ramp(at, 1, e.lanes(total))])
                at += e.lanes(total)
        w.lap(laps.MATMUL)
        first = spot.group * c.weight.shape[1] + vector * lanes
        origin = (e.const(0, "int32"),) * len(w.layout(w.group.anchor).spatial)
        with tb.serial(spot.pixels) as pixel:
            column = spot.column + pixel
            n, place = spot.n, (*spot.outer, column)
            if c.whole:
                n, place = spot.n + column, origin
            for start, some in chunks(channels):
                total = scratch[e.ramp(pixel * width + start, 1, some)]
                w.anchor = partial(finish, total)
                w.finish(Point(n, place, first + start, some))
        w.lap(laps.EPILOGUE)

    def _sums(self, spot: _Spot, start: Expr, vectors: int) -> Sums:
        """The sums of a tile."""
        dot, lanes = self._c.dot, self._tile.lanes
        sums = dot.start(self._w, lanes, spot.pixels, vectors)
        size = self._step
        column_of_weights = self._taps * self._run * size
        block = e.bind((spot.group * self._wide + start) * column_of_weights)

        fetch = None
        if self._ahead:
            following, count = block + vectors * column_of_weights, self._taps * self._run
            fetch = self._ahead.fetch(self._weights, following, spot.number, count, size)

        def steps(tap: Expr, first: Expr, count: int) -> None:
            """Add so many steps from one of a tap on, perhaps with those of the taps that follow."""
            if fetch:
                fetch(tap * self._run + first, count)
            at = e.bind(block + (tap * self._run + first) * size)

            def x(p: int, i: int) -> Expr:
                over, r = divmod(i, self._run) if count > self._run else (0, i)
                offset = (first + r) * dot.unit
                return e.bind(spot.rows.load(tap + over, spot.column + p, offset))

            def weight(vector: int, step: int, part: int = 0, parts: int = 1) -> Expr:
                place = at + (vector * column_of_weights + step * size + part * size // parts)
                return e.bind(self._weights[tirx.Ramp(place, 1, size // parts)])

            sums.add(count, x, weight)

        self._each_step(steps, sums)
        return sums

    def _each_step(self, steps: Callable[[Expr, Expr, int], None], sums: Sums) -> None:
        """All taps and their runs, so many steps at once as the dot asks for.

        Small counters are emptied wherever the next steps might overflow them.
        """
        zero, taps, run = e.const(0, "int32"), self._taps, self._run
        capacity = sums.capacity or taps * run
        together = max(self._c.dot.together, self._ahead.every if self._ahead else 1)
        together = min(together, capacity)
        if taps * run <= together:
            steps(zero, zero, taps * run)
            return
        together = -(-run // -(-run // together))
        together += together % 2 if together < run else 0  # two at least
        # Steps of a tap between two flushes; all of them, if there is nothing to flush.
        most = run if sums.capacity is None else capacity // together * together
        per_flush = max(1, capacity // run) if run <= most else 1  # taps between two flushes

        def part_of(tap: Expr, first: Expr, count: int) -> None:
            whole, rest = divmod(count, together)
            with tb.serial(whole) as part:
                steps(tap, e.bind(part * together + first), together)
            if rest:
                steps(tap, e.bind(first + whole * together), rest)

        def tap_of(tap: Expr) -> None:
            if run <= most:
                part_of(tap, zero, run)
                return
            whole, rest = divmod(run, most)
            with tb.serial(whole) as portion:
                part_of(tap, e.bind(portion * most), most)
                sums.flush()
            if rest:
                part_of(tap, e.const(whole * most, "int32"), rest)

        def taps_of(first: Expr, count: int) -> None:
            with tb.serial(count) as tap:
                tap_of(e.bind(first + tap))

        whole, rest = divmod(taps, per_flush)
        if whole == 1 and not rest:
            taps_of(zero, taps)
            return
        with tb.serial(whole) as portion:
            taps_of(e.bind(portion * per_flush), per_flush)
            sums.flush()
        if rest:
            taps_of(e.const(whole * per_flush, "int32"), rest)
