"""Sums finished by the threads that have them, where that stores whole words or wide values."""

from __future__ import annotations

from collections.abc import Callable

from torch.fx import Node
from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.matrices import Matrix
from qcompile.codegen.cuda.mma import Sums
from qcompile.codegen.cuda.staging import differing
from qcompile.codegen.cuda.tiles import Tile
from qcompile.codegen.cuda.writer import CudaWriter
from qcompile.codegen.dots.floats import Finish
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import BITPACK
from qcompile.codegen.writer import Point
from qcompile.ir.ops import WORD

_PER_WORD = 4  # fragments of columns that make a word of signs
_WIDE = ("float32", "int32")


def stays(w: CudaWriter, tile: Tile) -> bool:
    """Whether sums are finished where they are.

    Not where a result is of bytes, or lies in torch's order: four lanes would store few of them.
    """
    if w.group.packs and tile.n % _PER_WORD:
        return False
    apart = [n for n in w.group.results if n.target is not BITPACK]
    return all(w.layout(n).channels_last and w.layout(n).dtype in _WIDE for n in apart)


class InPlace:
    """A block's sums where they are: each thread finishes its own, two neighbouring channels at a time.

    Four lanes have 32 neighbouring channels of a row between them, eight each: a word.
    """

    def __init__(
        self,
        w: CudaWriter,
        matrix: Matrix,
        tile: Tile,
        sums: Sums,
        point: Callable[[Expr, Expr], Point],
        value: Finish,
    ) -> None:
        """Take what follows: the point of a row and a channel, and the value of a sum there."""
        self._w, self._matrix, self._tile, self._sums = w, matrix, tile, sums
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
            value = differing(w, matrix, 1, self._sums, (value, in_block, channel))
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
