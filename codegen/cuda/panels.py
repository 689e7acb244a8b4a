"""A step's words on their way to shared memory: of a block's rows, and of its columns.

Rows and columns lie as `STEP` words each, in chunks of 16 bytes whose order is changed from row to row:
chunk c of row r is the (c ^ (r / 2 % 4))-th, so that eight rows of a chunk, as `ldmatrix` reads them,
lie in different banks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.matrices import BYTES, NOWHERE, STEP, Matrix
from qcompile.codegen.cuda.places import element
from qcompile.codegen.cuda.tiles import Tile
from qcompile.codegen.cuda.writer import CudaWriter, Grid, Here
from qcompile.codegen.expr import Expr
from qcompile.codegen.schedules.loops import split
from qcompile.codegen.writer import Point

CHUNK = 4  # words
CHUNKS = STEP // CHUNK  # of a row
PACKED = "packed"  # scratch memory: the source, as a matrix that is packed has it
_PACKING = 256  # threads of a block that packs
_ROWS = 8  # of a chunk that lie in different banks


def word_of(row: Expr, chunk: Expr) -> Expr:
    """Where a row's chunk lies, in words."""
    return row * STEP + tirx.bitwise_xor(chunk, tirx.shift_right(row, 1) & 3) * CHUNK


@contextmanager
def below(thread: Expr, count: int, threads: int) -> Iterator[None]:
    """Inside for the first `count` of a block's threads."""
    if count >= threads:
        yield
        return
    with tb.If(thread < count), tb.Then():
        yield


@dataclass(frozen=True)
class Rows:
    """Rows that a thread loads: where each begins in the source, and which taps it lacks.

    Attributes:
        start: int32 registers: elements of the source.
        missing: int32 registers; a bit for a tap's place in a dimension.
    """

    start: Any
    missing: Any


def _share_rows(
    w: CudaWriter, matrix: Matrix, tile: Tile, t: Here, group: Expr, shared: Any
) -> None:
    """Look at a block's rows, each once: beyond the batch's end, at its last one.

    Args:
        shared: receives two words of each row: its start and its mask, as `Rows` has them.
    """
    last = e.bind(w.n * matrix.pixels - 1)
    for first in range(0, tile.rows, tile.threads):
        with below(t.thread, tile.rows - first, tile.threads):
            row = e.bind(first + t.thread)
            index = t.x * tile.rows + row
            start, missing = _row(matrix, e.bind(tirx.max(tirx.min(index, last), 0)), group)
            tb.buffer_store(shared, start, [2 * row])
            tb.buffer_store(shared, missing, [2 * row + 1])
    w.barrier()


def _row(matrix: Matrix, index: Expr, group: Expr) -> tuple[Expr, Expr]:
    """Where a row begins, and its mask."""
    c = matrix.c
    n, *place = split(index, c.outputs)
    start = n * matrix.layout.size + group * matrix.run
    missing: Expr = e.const(NOWHERE, "int32")
    for d, stride in enumerate(matrix.spatial_strides()):
        first = e.bind(place[d] * c.stride[d] - c.padding[2 * d])
        start = start + first * stride
        if d in matrix.bordered:
            missing = _missing(matrix, d, first, missing)
    return start, missing


def _missing(matrix: Matrix, d: int, first: Expr, mask: Expr) -> Expr:
    """Add the bits of the taps that lie outside in a dimension."""
    for index in range(matrix.c.kernel[d]):
        at = first + index * matrix.c.dilation[d]
        bit = e.const(1 << matrix.bit(d, index), "int32")
        outside = tirx.any(at < 0, at >= matrix.c.inputs[d])
        mask = mask | e.select(outside, bit, e.const(0, "int32"))
    return mask


class RowLoader:
    """Copies of a block's rows, some words a thread.

    Threads take pieces so that neither shared memory's banks nor the source's lines are asked twice:
    whole chunks row by row, smaller pieces of the same chunk of eight rows.
    """

    def __init__(
        self, w: CudaWriter, matrix: Matrix, tile: Tile, t: Here, group: Expr, shared: Any
    ) -> None:
        """Find the rows, by way of the block's memory, of which the first words are written."""
        self._w, self._matrix, self._tile = w, matrix, tile
        self._source = w.scratch(PACKED) if matrix.packed else w.operands[matrix.c.source].flat
        self._piece = matrix.piece
        self._table = w.buffer(matrix.table())
        self._jobs = tile.rows * STEP // matrix.piece
        each = max(1, self._jobs // tile.threads)
        per_chunk = CHUNK // matrix.piece
        if per_chunk == 1:
            row, chunk, unit = t.thread // CHUNKS, t.thread % CHUNKS, e.const(0, "int32")
        else:
            unit, rest = t.thread % per_chunk, t.thread // per_chunk
            row = rest // (_ROWS * CHUNKS) * _ROWS + rest % _ROWS
            chunk = rest // _ROWS % CHUNKS
        row, self._thread = e.bind(row), t.thread
        self._apart = tile.threads * matrix.piece // STEP  # rows
        _share_rows(w, matrix, tile, t, group, shared)
        self._rows = Rows(w.registers(each, "int32"), w.registers(each, "int32"))
        for i in range(each):
            at = e.bind(2 * tirx.min(row + i * self._apart, tile.rows - 1))
            tb.buffer_store(self._rows.start, shared[at], [i])
            tb.buffer_store(self._rows.missing, shared[at + 1], [i])
        w.barrier()
        self._place = e.bind(word_of(row, chunk) + unit * matrix.piece)
        self._number = e.bind(chunk * per_chunk + unit)
        self._several = len(matrix.fills[0]) > 1
        fills = torch.tensor([word for one in matrix.fills[0] for word in one], dtype=torch.int32)
        self._beyond = w.buffer(fills) if matrix.may_miss else None
        self._width = 4 if self._several else 2
        self._entry = w.registers(self._width, "int32")

    def look(self, step: Expr) -> None:
        """Read where the pieces of a step lie: at least one step before they are copied."""
        at = (step * (STEP // self._piece) + self._number) * self._width
        entry, found = tirx.address_of(self._entry[0]), tirx.address_of(self._table[at])
        self._w.device(f"qc_move_{self._width * BYTES}", entry, found)

    def copy(self, shared: Any, at: Expr) -> None:
        """Copy what was looked for to shared memory, from a word on."""
        with below(self._thread, self._jobs, self._tile.threads):
            self._copy(shared, at)

    def _copy(self, shared: Any, at: Expr) -> None:
        name = f"qc_copy_{self._piece * BYTES}"
        entry, beyond = self._entry, self._beyond
        place = e.bind(at + self._place)
        for i in range(max(1, self._jobs // self._tile.threads)):
            target = tirx.address_of(shared[place + i * self._apart * STEP])
            source = tirx.address_of(self._source[self._rows.start[i] + entry[0]])
            if beyond is None:
                self._w.device(name, target, source)
                continue
            inside = tirx.EQ(self._rows.missing[i] & entry[1], e.const(0, "int32"))
            other = beyond[entry[2] * self._piece if self._several else 0]
            self._w.device(f"{name}_if", target, inside, source, tirx.address_of(other))


def column_loader(
    w: CudaWriter, matrix: Matrix, tile: Tile, t: Here, first: Expr, columns: int, group: Expr
) -> Callable[[Any, Expr, Expr], None]:
    """What copies the columns of a block: `(shared, at, step)`.

    Args:
        first: of the block, of the group's `columns`.
    """
    weights = w.weights(matrix.weights(columns))
    jobs = tile.columns * CHUNKS
    place = e.bind(word_of(t.thread // CHUNKS, t.thread % CHUNKS))
    start = e.bind(group * (matrix.steps * columns * STEP) + first * STEP + t.thread * CHUNK)

    def copies(shared: Any, at: Expr, step: Expr) -> None:
        for i in range(max(1, jobs // tile.threads)):
            target = shared[at + place + i * (tile.threads // CHUNKS * STEP)]
            source = weights[start + step * (columns * STEP) + i * tile.threads * CHUNK]
            w.device("qc_copy_16", tirx.address_of(target), tirx.address_of(source))

    def load(shared: Any, at: Expr, step: Expr) -> None:
        with below(t.thread, jobs, tile.threads):
            copies(shared, at, step)

    return load


def pack(w: CudaWriter, matrix: Matrix) -> None:
    """A launch: copy the source, a word a thread, filled with zeros where it has no channel."""
    c, spatial = matrix.c, matrix.layout.spatial
    source = w.operands[c.source]
    if c.whole:
        source = replace(source, layout=replace(source.layout, spatial=(), channels=c.channels))
    words = matrix.run // BYTES
    with w.launch(Grid(matrix.layout.size // BYTES, _PACKING, threads=_PACKING)) as t:
        index, valid = element(w.n * (matrix.layout.size // BYTES), t.x * _PACKING + t.thread)
        n, *place, group, word = split(index, [*spatial, matrix.groups, words])
        packed = w.registers(1, "uint32")
        tb.buffer_store(packed, e.const(0, "uint32"), [0])
        for i in range(BYTES):
            channel = e.bind(word * BYTES + i)
            with tb.If(channel < c.channels), tb.Then():
                at = Point(n, tuple(place), group * c.channels + channel)
                byte = e.cast(source.load(at), "uint32") & e.const(0xFF, "uint32")
                moved = tirx.shift_left(byte, e.const(8 * i, "uint32"))
                tb.buffer_store(packed, packed[0] | moved, [0])
        with tb.If(valid), tb.Then():
            to = tirx.address_of(w.scratch(PACKED)[index * BYTES])
            w.device("qc_move_4", to, tirx.address_of(packed[0]))
