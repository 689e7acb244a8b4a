"""Products of matrices on tensor cores: a block computes a tile of rows and columns.

A block's warps share its words in memory that holds several steps: while one is multiplied, those that
follow are on their way. Each warp multiplies some fragments of rows by some of columns, `qc_mma_*`; the
sums stay in its registers. What stands for single instructions is chosen by the prelude.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.matrices import MMA, STEP, Matrix
from qcompile.codegen.cuda.panels import CHUNK, CHUNKS, RowLoader, below, column_loader, word_of
from qcompile.codegen.cuda.tiles import Division, Tile
from qcompile.codegen.cuda.writer import WARP, CudaWriter, Grid, Here
from qcompile.codegen.expr import Expr

_PER_STEP = STEP // MMA


@dataclass(frozen=True)
class Sums:
    """What a block has computed, once its main loop is done.

    Attributes:
        sums: int32 registers of a thread: (fragment of rows, fragment of columns, 4).
        ones: of signs: what counts those of the block's rows.
        shared: the block's memory, free again.
        split: which part of the words it was.
        first: the block's first column, of the group's.
    """

    sums: Any
    ones: Ones | None
    shared: Any
    t: Here
    lane: Expr
    down: Expr
    across: Expr
    group: Expr
    first: Expr
    split: Expr


def grid_of(matrix: Matrix, division: Division) -> Grid:
    """The blocks of a product."""
    tile = division.tile
    y = -(-matrix.columns // tile.columns) * matrix.groups
    return Grid(matrix.pixels, tile.rows, y=y, z=division.splits, threads=tile.threads)


def multiply(
    w: CudaWriter,
    matrix: Matrix,
    division: Division,
    columns: int,
    then: Callable[[Sums], None],
) -> None:
    """Write a launch: the main loop, then what is to be done with the sums.

    Args:
        columns: of a group, as the weights lie: at least those of all its blocks.
    """
    tile = division.tile
    with w.launch(grid_of(matrix, division)) as t:
        blocks = -(-matrix.columns // tile.columns)
        group, block = e.bind(tirx.floordiv(t.y, blocks)), tirx.floormod(t.y, blocks)
        warp, lane = e.bind(tirx.floordiv(t.thread, WARP)), e.bind(tirx.floormod(t.thread, WARP))
        shared = w.shared(tile.stages * tile.stage, "int32")
        found = Sums(
            sums=_zeros(w, tile.m * tile.n * 4),
            ones=Ones(w, tile, shared, t.thread) if matrix.signs else None,
            shared=shared,
            t=t,
            lane=lane,
            down=e.bind(tirx.floordiv(warp, tile.across)),
            across=e.bind(tirx.floormod(warp, tile.across)),
            group=group,
            first=e.bind(block * tile.columns),
            split=t.z,
        )
        _Loop(w, matrix, division, found, columns).write()
        w.device("qc_copy_wait_0")
        w.barrier()
        then(found)


class _Loop:
    """The main loop of a block."""

    def __init__(
        self, w: CudaWriter, matrix: Matrix, division: Division, found: Sums, columns: int
    ) -> None:
        self._w, self._matrix, self._tile, self._found = w, matrix, division.tile, found
        t = found.t
        self._rows = RowLoader(w, matrix, self._tile, t, found.group, found.shared)
        self._columns = column_loader(w, matrix, self._tile, t, found.first, columns, found.group)
        each = -(-matrix.steps // division.splits)
        self._begin, self._count = e.const(0, "int32"), each
        if division.splits > 1:
            self._begin = e.bind(tirx.min(t.z * each, matrix.steps))
            self._count = e.bind(tirx.min(matrix.steps - self._begin, each))
        self._fragments = _Fragments(w, self._tile, found)

    def write(self) -> None:
        w, stages = self._w, self._tile.stages
        self._rows.look(self._begin)
        for stage in range(stages - 1):
            with tb.If(self._count > stage), tb.Then():
                self._load(e.const(stage, "int32"), stage * self._tile.stage)
            w.device("qc_copy_commit")
        free, full = w.registers(1, "int32"), w.registers(1, "int32")
        tb.buffer_store(free, (stages - 1) * self._tile.stage, [0])
        tb.buffer_store(full, 0, [0])
        with tb.serial(self._count) as i:
            w.device(f"qc_copy_wait_{stages - 2}")
            w.barrier()  # its words are there, and the stage that is loaded next was read by all
            with tb.If(i + (stages - 1) < self._count), tb.Then():
                self._load(i + (stages - 1), free[0])
            w.device("qc_copy_commit")
            self._multiply(i, full[0])
            for place in (free, full):
                following = place[0] + self._tile.stage
                over = following >= stages * self._tile.stage
                tb.buffer_store(place, e.select(over, e.const(0, "int32"), following), [0])

    def _load(self, step: Expr, at: Expr) -> None:
        shared, step = self._found.shared, e.bind(self._begin + step)
        self._rows.copy(shared, at)
        self._columns(shared, at + self._tile.rows * STEP, step)
        self._rows.look(step + 1)

    def _multiply(self, i: Expr, at: Expr) -> None:
        step, at = self._begin + i, e.bind(at)
        self._fragments.at(at)
        if self._found.ones is not None:
            self._found.ones.add(at)
        for half in range(_PER_STEP):
            number = step * _PER_STEP + half
            if half and self._matrix.mmas % _PER_STEP:
                with tb.If(number < self._matrix.mmas), tb.Then():
                    self._mma(number, half)
            else:
                self._mma(number, half)

    def _mma(self, number: Expr, half: int) -> None:
        w, tile, found = self._w, self._tile, self._found
        a, b = self._fragments.load(half)
        m, n = e.const(tile.m, "int32"), e.const(tile.n, "int32")
        sums, rows, columns = (tirx.address_of(x[0]) for x in (found.sums, a, b))
        if not self._matrix.signs:
            name = "qc_mma_s8" if self._matrix.signed else "qc_mma_u8"
            w.device(name, sums, rows, columns, m, n)
            return
        w.device("qc_mma_b1", sums, rows, columns, m, n)


class Ones:
    """Counts the ones of a block's rows, where tensor cores do not find differing bits: elsewhere it
    is nothing. Some neighbouring threads share a row, or a thread has several."""

    def __init__(self, w: CudaWriter, tile: Tile, shared: Any, thread: Expr) -> None:
        self._w, self._shared, self._thread, self._threads = w, shared, thread, tile.threads
        self._each = max(1, min(CHUNKS, tile.threads // tile.rows))
        self._active = tile.rows * self._each
        apart = tile.threads // self._each
        first = tirx.floordiv(thread, self._each)
        self._rows = [e.bind(first + row) for row in range(0, tile.rows, apart)]
        self._counts = _zeros(w, len(self._rows))

    def add(self, stage: Expr) -> None:
        """Count a step's words."""
        with below(self._thread, self._active, self._threads):
            for i, row in enumerate(self._rows):
                # Threads that read together are in different banks.
                first = tirx.bitwise_xor(self._thread % self._each, tirx.shift_right(row, 1))
                for chunk in range(0, CHUNKS, self._each):
                    place = row * STEP + tirx.bitwise_xor(first, chunk) % CHUNKS * CHUNK
                    count, words = self._counts[i], self._shared[stage + place]
                    self._w.device("qc_count", tirx.address_of(count), tirx.address_of(words))

    def store(self, at: Expr) -> None:
        """Store the counts of all rows in shared memory, from a word on."""
        lanes = e.const(self._each, "int32")
        with below(self._thread, self._active, self._threads):
            for i, row in enumerate(self._rows):
                place = tirx.address_of(self._shared[at + row])
                self._w.device("qc_store_count", place, self._counts[i], lanes)


class _Fragments:
    """A warp's fragments, from shared memory to registers."""

    def __init__(self, w: CudaWriter, tile: Tile, found: Sums) -> None:
        self._w, self._tile, self._shared = w, tile, found.shared
        lane = found.lane
        self._a = w.registers(tile.m * 4, "uint32")
        self._b = w.registers(tile.n * 2, "uint32")
        row = found.down * (tile.m * 16) + tirx.floormod(lane, 16)
        column = found.across * (tile.n * 8) + tirx.floordiv(lane, 16) * 8 + tirx.floormod(lane, 8)
        chunk_of_row, chunk_of_column = tirx.floordiv(lane, 16), tirx.floormod(lane // 8, 2)
        self._of_rows, self._of_columns = [], []
        for half in range(_PER_STEP):
            self._of_rows.append(e.bind(word_of(row, 2 * half + chunk_of_row)))
            at = tile.rows * STEP + word_of(column, 2 * half + chunk_of_column)
            self._of_columns.append(e.bind(at))

    def at(self, stage: Expr) -> None:
        """Read from a stage from here on."""
        self._stage = stage

    def load(self, half: int) -> tuple[Any, Any]:
        """The fragments of rows and of columns of one of a step's instructions."""
        rows = e.bind(self._stage + self._of_rows[half])
        columns = e.bind(self._stage + self._of_columns[half])
        for i in range(self._tile.m):
            self._matrix(self._a, 4 * i, rows + i * 16 * STEP)
        for j in range(self._tile.n // 2):
            self._matrix(self._b, 4 * j, columns + j * 16 * STEP)
        return self._a, self._b

    def _matrix(self, registers: Any, first: int, at: Expr) -> None:
        to, source = tirx.address_of(registers[first]), tirx.address_of(self._shared[at])
        self._w.device("qc_ldmatrix_x4", to, source)


def _zeros(w: CudaWriter, count: int) -> Any:
    found = w.registers(count, "int32")
    with tb.unroll(count) as i:
        tb.buffer_store(found, e.const(0, "int32"), [i])
    return found
