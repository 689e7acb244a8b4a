"""What follows a product on tensor cores: sums from fragments to points of the group's results.

Threads have sums of scattered places: they go through shared memory, some fragments of rows of all
warps at a time, and come back so that neighbouring threads have neighbouring channels; or neighbouring
rows, where results lie in torch's order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.fx import Node
from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.matrices import Matrix
from qcompile.codegen.cuda.mma import Sums
from qcompile.codegen.cuda.places import each_place
from qcompile.codegen.cuda.tiles import Division, Tile
from qcompile.codegen.cuda.writer import WARP, CudaWriter
from qcompile.codegen.dots.floats import Finish
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import BITPACK, activations
from qcompile.codegen.schedules.loops import split
from qcompile.codegen.writer import Point
from qcompile.ir.ops import WORD

PARTIAL = "sums"  # of parts, `[splits, n * pixels, groups * columns]`
_dialect = torch.ops.qcompile
# They read by place, or by sample.
_PLACED = frozenset(
    {
        _dialect.border_correction.default,
        _dialect.dynamic_quantize.default,
        _dialect.dynamic_scale_shift.default,
    }
)
_PER_WORD = 4  # fragments of columns that make a word of signs
_WIDE = ("float32", "int32")
Store = Callable[[Expr, Expr, Expr, Expr], None]
"""Takes (value, row of the batch, channel, whether it is to be stored)."""


@dataclass(frozen=True)
class Epilogue:
    """Of a product that is divided in some way."""

    w: CudaWriter
    matrix: Matrix
    division: Division

    def finish(self, sums: Sums) -> None:
        """Finish the group at each row and channel."""
        w = self.w
        w.anchored, value = self.matrix.finish(w)
        point = _points(w, self.matrix)
        if _stays(w, self.division.tile):
            _InPlace(self, sums, point, value).write()
            return

        def store(total: Expr, row: Expr, channel: Expr, valid: Expr) -> None:
            w.anchor = lambda p: value(total, p)
            w.finish(point(row, channel), valid)

        _Staging(self, sums, _along_rows(w), store).write()

    def keep(self, sums: Sums) -> None:
        """Store the sums of a part."""
        w, width = self.w, self.matrix.groups * self.matrix.columns
        rows = e.bind(w.n * self.matrix.pixels)

        def store(total: Expr, row: Expr, channel: Expr, valid: Expr) -> None:
            with tb.If(valid), tb.Then():
                at = (sums.split * rows + row) * width + channel
                tb.buffer_store(w.scratch(PARTIAL), total, [at])

        _Staging(self, sums, False, store).write()


def total(w: CudaWriter, matrix: Matrix, splits: int) -> None:
    """A launch: add what parts have stored, and finish the group."""
    w.anchored, value = matrix.finish(w)
    layout = w.layout(w.group.anchor)
    width = matrix.groups * matrix.columns

    def anchor(p: Point) -> Expr:
        rows = e.bind(w.n * matrix.pixels)
        row = p.n
        for index, size in zip(p.spatial, layout.spatial, strict=True):
            row = row * size + index
        at = e.bind(row * width + p.channel)
        sums = [w.scratch(PARTIAL)[i * (rows * width) + at] for i in range(splits)]
        found = sums[0]
        for one in sums[1:]:
            found = found + one
        return value(e.keep(found), p)

    with each_place(w, layout, along_rows=_along_rows(w)) as (p, valid):
        w.anchor = anchor
        w.finish(p, valid)


class _InPlace:
    """A block's sums where they are: each thread finishes its own, two neighbouring channels at a time.

    Four lanes have 32 neighbouring channels of a row between them, eight each: a word.
    """

    def __init__(
        self, epilogue: Epilogue, sums: Sums, point: Callable[[Expr, Expr], Point], value: Finish
    ) -> None:
        self._w, self._matrix, self._sums = epilogue.w, epilogue.matrix, sums
        self._tile, self._splits = epilogue.division.tile, epilogue.division.splits
        self._point, self._value = point, value
        self._packed = [n for n in self._w.group.results if n.target is BITPACK]
        self._words = max(1, self._tile.n // _PER_WORD)

    def write(self) -> None:
        w, sums, tile = self._w, self._sums, self._tile
        if sums.ones is not None:
            sums.ones.store(e.const(0, "int32"))
            w.barrier()
        with tb.unroll(tile.m) as i, tb.unroll(2) as half:
            in_block = sums.down * (tile.m * 16) + i * 16 + half * 8 + tirx.floordiv(sums.lane, 4)
            self._row(e.bind(in_block), i * tile.n * 4 + half * 2)

    def _row(self, in_block: Expr, first: Expr) -> None:
        """A row's sums of this thread, the first of which is so many on."""
        w, tile, sums = self._w, self._tile, self._sums
        row, count = e.bind(sums.t.x * tile.rows + in_block), w.n * self._matrix.pixels
        inside, given = e.keep(row < count), e.bind(tirx.min(row, count - 1))
        words = w.registers(max(1, len(self._packed) * self._words), "uint32")
        with tb.unroll(len(self._packed) * self._words) as i:
            tb.buffer_store(words, e.const(0, "uint32"), [i])
        start = sums.across * (tile.n * 8) + tirx.floormod(sums.lane, 4) * 2
        with tb.unroll(tile.n) as j, tb.unroll(2) as k:
            column = e.bind(start + j * 8 + k)
            value = sums.sums[first + j * 4 + k]
            bits = self._one(value, in_block, given, column, inside)
            place = e.cast(tirx.floormod(j, _PER_WORD) * 8 + column % 8, "uint32")
            for number, bit in enumerate(bits):
                at = number * self._words + tirx.floordiv(j, _PER_WORD)
                one = tirx.shift_left(e.cast(bit, "uint32"), place)
                tb.buffer_store(words, words[at] | one, [at])
        for number, node in enumerate(self._packed):
            for i in range(self._words):
                word = w.value_of("qc_or_of_4", "uint32", words[number * self._words + i])
                column = e.bind(sums.across * (tile.n * 8) + i * WORD)
                self._store_word(node, word, given, column, inside)

    def _one(self, value: Expr, in_block: Expr, row: Expr, column: Expr, valid: Expr) -> list[Expr]:
        """Finish a sum; the bits of what is packed there."""
        matrix, w = self._matrix, self._w
        of_group = self._sums.first + column
        if matrix.columns % self._tile.columns:
            valid = tirx.all(valid, of_group < matrix.columns)
            of_group = tirx.min(of_group, matrix.columns - 1)
        channel = e.bind(self._sums.group * matrix.columns + of_group)
        if matrix.signs:
            value = differing(w, matrix, self._splits, self._sums, (value, in_block, channel))
        w.anchor = lambda p: self._value(value, p)
        return w.bits(self._point(row, channel), e.keep(valid))

    def _store_word(self, node: Node, word: Expr, row: Expr, column: Expr, inside: Expr) -> None:
        matrix, sums = self._matrix, self._sums
        of_group = sums.first + column
        own = tirx.all(inside, tirx.EQ(tirx.floormod(sums.lane, 4), 0), of_group < matrix.columns)
        with tb.If(own), tb.Then():
            channel = sums.group * matrix.columns + of_group
            p = self._point(row, tirx.floordiv(channel, WORD))
            self._w.operands[node].store(p, e.cast(word, "int32"))


class _Staging:
    """A block's sums, pass by pass through its shared memory.

    In a pass each warp stores some of its fragments of rows. Rows lie so far apart that the eight of a
    fragment begin in different banks.
    """

    def __init__(self, epilogue: Epilogue, sums: Sums, along_rows: bool, store: Store) -> None:
        self._w, self._matrix, self._sums = epilogue.w, epilogue.matrix, sums
        self._tile, self._splits = epilogue.division.tile, epilogue.division.splits
        self._along_rows, self._store = along_rows, store
        tile = self._tile
        self._apart = tile.columns + (1 if along_rows else 8)
        self._counts = tile.rows if self._matrix.signs else 0  # words
        room = tile.stages * tile.stage - self._counts
        wanted = (d for d in range(tile.m, 0, -1) if tile.m % d == 0)
        self._each = next(d for d in wanted if self._rows_of(d) * self._apart <= room)

    def _rows_of(self, fragments: int) -> int:
        return self._tile.down * 16 * fragments

    def write(self) -> None:
        w, sums, tile = self._w, self._sums, self._tile
        if sums.ones is not None:
            sums.ones.store(e.const(self._counts_at, "int32"))
        passes = tile.m // self._each
        if passes == 1:
            self._stage(0)
            w.barrier()
            self._walk(e.const(0, "int32"))
            return
        with tb.serial(passes) as number:
            for i in range(passes):
                with tb.If(tirx.EQ(number, i)), tb.Then():
                    self._stage(i)
            w.barrier()
            self._walk(number)
            w.barrier()

    @property
    def _counts_at(self) -> int:
        return self._tile.stages * self._tile.stage - self._counts

    def _stage(self, number: int) -> None:
        """Store a pass's fragments."""
        tile, sums = self._tile, self._sums
        row = sums.down * (self._each * 16) + tirx.floordiv(sums.lane, 4)
        column = sums.across * (tile.n * 8) + tirx.floormod(sums.lane, 4) * 2
        place = e.bind(row * self._apart + column)
        for i in range(self._each):
            for j in range(tile.n):
                first = ((number * self._each + i) * tile.n + j) * 4
                for half in range(2):
                    at = place + ((i * 16 + half * 8) * self._apart + j * 8)
                    self._pair(at, first + 2 * half)

    def _pair(self, at: Expr, first: int) -> None:
        sums, shared = self._sums.sums, self._sums.shared
        if self._along_rows:  # pairs are not aligned
            for i in range(2):
                tb.buffer_store(shared, sums[first + i], [at + i])
        else:
            to, pair = tirx.address_of(shared[at]), tirx.address_of(sums[first])
            self._w.device("qc_move_8", to, pair)

    def _walk(self, number: Expr) -> None:
        """Give each staged sum to a thread."""
        rows, columns, thread = self._rows_of(self._each), self._tile.columns, self._sums.t.thread
        if self._along_rows:
            width = min(WARP, rows)
            lane, rest = tirx.floormod(thread, width), tirx.floordiv(thread, width)
            across = self._tile.threads // width
            with tb.serial(-(-rows // width)) as i, tb.serial(columns // across) as j:
                self._one(number, e.bind(i * width + lane), e.bind(j * across + rest))
            return
        width = WARP if columns >= WARP or self._w.group.packs else columns
        lane, rest = tirx.floormod(thread, width), tirx.floordiv(thread, width)
        down = self._tile.threads // width
        with tb.serial(-(-columns // width)) as j, tb.serial(rows // down) as i:
            self._one(number, e.bind(i * down + rest), e.bind(j * width + lane))

    def _one(self, number: Expr, staged: Expr, column: Expr) -> None:
        matrix, tile, sums = self._matrix, self._tile, self._sums
        each = self._each * 16
        inner = number * each + tirx.floormod(staged, each)
        in_block = e.bind(tirx.floordiv(staged, each) * (tile.m * 16) + inner)
        row, count = e.bind(sums.t.x * tile.rows + in_block), self._w.n * matrix.pixels
        valid = row < count
        given = e.bind(tirx.min(row, count - 1))
        of_group, inside = sums.first + column, column
        if matrix.columns % tile.columns or tile.columns < WARP:
            valid = tirx.all(valid, of_group < matrix.columns)
            of_group = tirx.min(of_group, matrix.columns - 1)
            inside = tirx.min(column, tile.columns - 1)
        channel = e.bind(sums.group * matrix.columns + of_group)
        value = e.keep(sums.shared[staged * self._apart + inside])
        if matrix.signs:
            place = (value, in_block, channel)
            value = differing(self._w, matrix, self._splits, sums, place, self._counts_at)
        self._store(value, given, channel, e.keep(valid))


def differing(
    w: CudaWriter,
    matrix: Matrix,
    splits: int,
    sums: Sums,
    place: tuple[Expr, Expr, Expr],
    at: int = 0,
) -> Expr:
    """How many signs differ, of a sum.

    Args:
        place: the sum, its row in the block, and its channel.
        at: where the counts of the block's rows begin in shared memory, in words.
    """
    total, row, channel = place
    of_row, width = sums.shared[at + row], matrix.groups * matrix.columns
    of_column = w.buffer(matrix.ones(splits))[sums.split * width + channel]
    return w.value_of("qc_differing", "int32", total, of_row, of_column)


def _points(w: CudaWriter, matrix: Matrix) -> Callable[[Expr, Expr], Point]:
    """A row of the batch and a channel, as a point of the results."""
    spatial, zero = w.layout(w.group.anchor).spatial, e.const(0, "int32")
    long = [d for d, size in enumerate(spatial) if size > 1]
    if not long:
        return lambda row, channel: Point(row, (zero,) * len(spatial), channel)
    if _by_row(w):
        # Rows follow one another as those of the last dimension that has several.
        return lambda row, channel: Point(
            zero, tuple(row if d == long[-1] else zero for d in range(len(spatial))), channel
        )

    def point(row: Expr, channel: Expr) -> Point:
        # The bound tells TVM that no index is negative.
        n, *place = split(tirx.max(row, 0), spatial)
        return Point(n, tuple(place), channel)

    return point


def _by_row(w: CudaWriter) -> bool:
    """Whether a row of the batch, taken for a column of its first sample, finds every value's place.

    All that is read or stored lies as the results do, and nothing asks for the place itself.
    """
    group, spatial = w.group, w.layout(w.group.anchor).spatial
    others = [v for n in group.nodes[1:] for v in activations(n) if v not in group.nodes]
    lie_so = all(
        not (layout := w.layout(n)).torch_order and layout.spatial == spatial
        for n in (*group.results, *others)
    )
    return lie_so and not any(n.target in _PLACED or _reads_tensors(n) for n in group.nodes[1:])


def _reads_tensors(node: Node) -> bool:
    """Whether it is one of torch's, and reads a constant that may have places of its own."""
    own = str(node.target).startswith("qcompile") or node.target is torch.ops.aten.prelu.default
    return not own and any(v.op == "get_attr" for v in node.all_input_nodes)


def _along_rows(w: CudaWriter) -> bool:
    results = w.group.results
    return not w.group.packs and any(not w.layout(n).channels_last for n in results)


def _stays(w: CudaWriter, tile: Tile) -> bool:
    """Whether sums are finished where they are.

    Not where a result is of bytes, or lies in torch's order: four lanes would store few of them.
    """
    if w.group.packs and tile.n % _PER_WORD:
        return False
    apart = [n for n in w.group.results if n.target is not BITPACK]
    return all(w.layout(n).channels_last and w.layout(n).dtype in _WIDE for n in apart)
