"""A contraction on a CPU: a tile of pixels times vectors of output channels stays in registers.

weights    [groups, O / lanes, taps, lanes * unit]: a vector holds one tap of `lanes` channels
activations are broadcast, `unit` at a time
rows of the source that a row of the result needs are copied first, padded and converted, where
anything is to be padded or converted; the patches themselves never exist (implicit im2col)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.kernels.contraction import Contraction
from qcompile.codegen.machine import Machine
from qcompile.codegen.schedules.loops import CHUNK, chunks, each_task, split
from qcompile.codegen.schedules.rows import Rows, rows_of
from qcompile.codegen.writer import Point, Writer

_STACK = 1024  # bytes: TVM gives a local buffer below that to LLVM as a stack slot
_TASKS = 16  # pieces of one sample, if it is large: enough for the threads of a desktop


@dataclass(frozen=True)
class Tile:
    """How much of the result is computed at a time.

    Attributes:
        lanes: output channels in a vector.
        vectors: vectors of them.
        pixels: neighbours in the last spatial dimension.
    """

    lanes: int
    vectors: int
    pixels: int

    @property
    def channels(self) -> int:
        return self.lanes * self.vectors


def tile_of(c: Contraction, machine: Machine, *, packs: bool, spare: int = 4) -> Tile:
    """A tile whose sums, weights and `spare` other values fit in the registers."""
    outputs, width = c.weight.shape[1], c.outputs[-1]
    lanes = next((n for n in (4, 8, 16) if n >= outputs or n == machine.lanes), 4)
    lanes = min(lanes, machine.lanes)
    wide = -(-outputs // lanes)
    if packs:
        vectors = CHUNK // lanes
    elif width == 1:
        vectors = min(wide, 8)  # a single pixel: as many independent sums as hide an addition
    else:
        vectors = min(wide, 2)
    most = min(
        max(1, (machine.registers - spare - vectors) // vectors),
        (_STACK - 1) // (4 * lanes * vectors),
    )
    tiles = -(-width // most)
    return Tile(lanes, vectors, -(-width // tiles))


def pack_weight(c: Contraction, lanes: int, *, merged: bool) -> Tensor:
    """The weights in the order in which the loops read them, flat; short vectors are filled with 0."""
    groups, outputs = c.weight.shape[:2]
    run = c.kernel[-1] * c.channels if merged else c.channels
    unit = c.dot.unit
    rows = c.weight.reshape(groups, outputs, -1, run)
    rows = F.pad(rows, [0, -run % unit, 0, 0, 0, -outputs % lanes])
    rows = rows.reshape(groups, -1, lanes, rows.shape[2], rows.shape[3] // unit, unit)
    return rows.permute(0, 1, 3, 4, 2, 5).contiguous()


@dataclass(frozen=True)
class _Task:
    """One row of the result, in one group: where it is, and where its activations lie."""

    n: Expr
    outer: tuple[Expr, ...]
    group: Expr
    rows: Rows


def schedule(w: Writer, c: Contraction, tile: Tile) -> None:
    """Write the whole contraction with what follows it."""
    rows = rows_of(w, c)
    packed = pack_weight(c, tile.lanes, merged=rows.merged)
    blocks = c.weight.shape[1] // tile.channels
    work = c.steps * c.weight.shape[0] * c.weight.shape[1] * math.prod(c.outputs)
    lines = math.prod(c.outputs[:-1])
    pieces = _pieces(blocks, lines * c.groups, work // c.dot.unit)

    def task(index: Expr) -> None:
        n, *outer, group, piece = split(index, [*c.outputs[:-1], c.groups, pieces])
        here = _Task(n, tuple(outer), group, rows.fill(n, tuple(outer), group))
        for first, count, pixels in _columns(c.outputs[-1], tile.pixels):
            with tb.serial(count) as column:
                at = e.bind(column * pixels + first)
                _blocks(w, c, tile, packed, here, at, pixels, piece, pieces)

    each_task(w, lines * c.groups * pieces, work // c.dot.unit, task)


def _pieces(blocks: int, lines: int, work: int) -> int:
    """Into how many parts the channels of a line are divided, so that threads have enough to do."""
    wanted = min(-(-_TASKS // lines), max(1, work // (1 << 16)))
    return max((d for d in range(1, blocks + 1) if blocks % d == 0 and d <= wanted), default=1)


def _columns(width: int, pixels: int) -> list[tuple[int, int, int]]:
    """(first column, how many tiles, their width): whole tiles, then the rest."""
    whole = width // pixels
    parts = [(0, whole, pixels)] if whole else []
    if width % pixels:
        parts.append((whole * pixels, 1, width % pixels))
    return parts


def _blocks(
    w: Writer,
    c: Contraction,
    tile: Tile,
    packed: Tensor,
    here: _Task,
    column: Expr,
    pixels: int,
    piece: Expr,
    pieces: int,
) -> None:
    outputs = c.weight.shape[1]
    blocks, rest = divmod(outputs, tile.channels)
    write = partial(_tile, w, c, tile.lanes, packed, here, column, pixels)
    if blocks:
        with tb.serial(blocks // pieces) as b:
            write(e.bind(piece * (blocks // pieces) + b) * tile.vectors, tile.channels)
    if rest and pieces > 1:
        with tb.If(piece >= pieces - 1), tb.Then():
            write(blocks * tile.vectors, rest)
    elif rest:
        write(blocks * tile.vectors, rest)


def _tile(
    w: Writer,
    c: Contraction,
    lanes: int,
    packed: Tensor,
    here: _Task,
    column: Expr,
    pixels: int,
    vector: Expr,
    channels: int,
) -> None:
    """`pixels` from `column` on, `channels` from `vector * lanes` on."""
    vectors = -(-channels // lanes)
    sums = _accumulate(w, c, lanes, packed, here, column, pixels, vector, vectors)
    width = vectors * lanes
    scratch = tb.alloc_buffer((pixels * width,), c.dot.sums, scope="global")
    for i, total in enumerate(sums):
        tb.buffer_store(scratch, total[tirx.Ramp(0, 1, lanes)], [tirx.Ramp(i * lanes, 1, lanes)])
    first = here.group * c.weight.shape[1] + vector * lanes
    spatial = (*here.outer, column) if w.layout(w.group.anchor).spatial else ()
    with tb.serial(pixels) as pixel:
        for start, some in chunks(channels):
            total = scratch[e.ramp(pixel * width + start, 1, some)]
            at = (*spatial[:-1], column + pixel) if spatial else ()
            point = Point(here.n, at, first + start, some)
            w.anchor = partial(c.dot.finish, w, total)
            w.finish(point)


def _accumulate(
    w: Writer,
    c: Contraction,
    lanes: int,
    packed: Tensor,
    here: _Task,
    column: Expr,
    pixels: int,
    vector: Expr,
    vectors: int,
) -> list[Any]:
    """The sums of a tile, pixel by pixel, each a vector in a buffer of its own: a register."""
    _, wide, taps, run, _, unit = packed.shape
    weights, size = w.buffer(packed), lanes * unit
    zero = e.splat(e.const(0, c.dot.sums), lanes)
    sums = [tb.alloc_buffer((lanes,), c.dot.sums, scope="global") for _ in range(pixels * vectors)]
    for total in sums:
        tb.buffer_store(total, zero, [tirx.Ramp(0, 1, lanes)])
    block = e.bind((here.group * wide + vector) * (taps * run * size))
    with tb.serial(taps) as tap, tb.serial(run) as r:
        at = e.bind(block + (tap * run + r) * size)
        loaded = [
            e.bind(weights[tirx.Ramp(at + v * (taps * run * size), 1, size)])
            for v in range(vectors)
        ]
        for p in range(pixels):
            x = e.bind(here.rows.load(tap, column + p, r * unit))
            for v in range(vectors):
                total = sums[p * vectors + v]
                new = c.dot.step(total[tirx.Ramp(0, 1, lanes)], x, loaded[v])
                tb.buffer_store(total, new, [tirx.Ramp(0, 1, lanes)])
    return sums
