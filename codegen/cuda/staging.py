"""A block's sums on their way to the threads that finish them: through its shared memory, pass by pass."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.matrices import Matrix
from qcompile.codegen.cuda.mma import Sums
from qcompile.codegen.cuda.tiles import Division
from qcompile.codegen.cuda.writer import WARP, CudaWriter
from qcompile.codegen.expr import Expr

Store = Callable[[Expr, Expr, Expr, Expr], None]
"""Takes (value, row of the batch, channel, whether it is to be stored)."""


class Staging:
    """A block's sums, pass by pass through its shared memory.

    In a pass each warp stores some of its fragments of rows. Rows lie so far apart that the eight of a
    fragment begin in different banks.
    """

    def __init__(
        self,
        w: CudaWriter,
        matrix: Matrix,
        division: Division,
        sums: Sums,
        store: Store,
        *,
        along_rows: bool = False,
    ) -> None:
        """Find how much fits.

        Args:
            along_rows: neighbouring threads get neighbouring rows, not channels.
        """
        self._w, self._matrix, self._sums = w, matrix, sums
        self._tile, self._splits = division.tile, division.splits
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
