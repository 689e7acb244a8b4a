"""1-bit weights times levels of a few bits: sums of four products, looked up in tables of 16.

The table is that of four neighbouring activations: what they add up to under each of the 16 patterns
of four signs. It is built once for all output channels, where activations are copied; `vpshufb` looks
up the patterns of 16, 32 or 64 channels at once. With levels u = a - low of 0 .. most, a product is

    a * (+1) = u + low            a * (-1) = (most - u) - high            (high = low + most)

so tables of u and of most - u hold no negative number, and what is left over is a constant of the
output channel. (Tables of activations for weights of few bits: Wei et al. 2024, T-MAC,
arXiv:2407.00088.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.dots.byte_counts import lookup, table_of
from qcompile.codegen.dots.floats import Dot, Load, LoadWeight, Register, Sums
from qcompile.codegen.dots.pair_totals import FOLD, MOST, PairTotals
from qcompile.codegen.expr import Expr
from qcompile.codegen.writer import Writer
from qcompile.constants import Constant

_UNIT = 4  # products to a table
_PATTERNS = 1 << _UNIT
_BYTE = 255
MOST_LEVEL = _BYTE // _UNIT  # of which a byte holds four


class _TableSums(Sums):
    """Sums in bytes, of as many tables as fit, added up in 16 bits, and those in 32 if they may."""

    def __init__(self, dot: TableDot, lanes: int, pixels: int, vectors: int) -> None:
        self.lanes, self.pixels, self.vectors = lanes, pixels, vectors
        self._neon = dot.neon
        most = _UNIT * dot.most
        self._in_bytes = min(_BYTE // most, dot.together)
        self._sums = self.each(lambda: PairTotals(lanes))
        self._flushed: list[list[list[Register]]] = []
        if dot.steps * most > MOST:
            self.capacity = MOST // most
            self._flushed = self.each(
                lambda: [Register("int32", lanes // FOLD) for _ in range(FOLD)]
            )

    def add(self, count: int, x: Load, weight: LoadWeight) -> None:
        for first in range(0, count, self._in_bytes):
            steps = range(first, min(first + self._in_bytes, count))
            patterns = [[weight(v, i) for i in steps] for v in range(self.vectors)]
            for p, row in enumerate(self._sums):
                tables = [self._everywhere(x(p, i)) for i in steps]
                for total, own in zip(row, patterns, strict=True):
                    found = [
                        lookup(t, at, neon=self._neon) for t, at in zip(tables, own, strict=True)
                    ]
                    total.add(sum(found[1:], found[0]))

    def _everywhere(self, table: Expr) -> Expr:
        """A table in every 16 bytes of a vector."""
        words = table
        if self.lanes > _PATTERNS:
            words = tirx.Shuffle(
                [table] * (self.lanes // _PATTERNS), list(range(self.lanes // _UNIT))
            )
        return e.keep(tirx.reinterpret(e.vector("uint8", self.lanes), words))

    def flush(self) -> None:
        for row, kept in zip(self._sums, self._flushed, strict=True):
            for total, registers in zip(row, kept, strict=True):
                for register, part in zip(registers, total.totals(), strict=True):
                    register.set(register.value + part)
                total.clear()

    def totals(self, pixel: int, vector: int) -> list[Expr]:
        parts = self._sums[pixel][vector].totals()
        if not self._flushed:
            return parts
        kept = self._flushed[pixel][vector]
        return [part + register.value for part, register in zip(parts, kept, strict=True)]


def _table_of(channels: int, up: int, most: int) -> list[int]:
    """The table of up to four times the same level."""
    ones = [(i % (1 << channels)).bit_count() for i in range(_PATTERNS)]
    return [n * up + (channels - n) * (most - up) for n in ones]


def tables_beyond(channels: int, up: int, most: int) -> Tensor:
    """int32: the words of a pixel whose channels are all `up` above the lowest level."""
    sizes = [min(_UNIT, channels - first) for first in range(0, channels, _UNIT)]
    tables = [_table_of(size, up, most) for size in sizes]
    return torch.tensor(tables, dtype=torch.uint8).flatten().view(torch.int32)


@dataclass(frozen=True)
class TableDot(Dot):
    """Levels `low .. low + most`, 16 bytes of table for four of them.

    `fill` is a level, or words where the channels of a pixel do not fill its tables.

    Attributes:
        steps: tables that a sum may add.
        neon: they are looked up by NEON's instruction, 16 bytes at a time.
    """

    low: int = 0
    most: int = MOST_LEVEL
    steps: int = 1
    neon: bool = False
    unit = _UNIT
    element = "int32"
    sums = "int32"
    registers = 2
    live = 2
    fold = FOLD
    abreast = 1  # a table takes the same time for each, and weights are shared by more pixels
    together = 8
    gathers = True

    @property
    def prepares(self) -> bool:
        return True

    def made(self, channels: int) -> int:
        return channels + -channels % _UNIT

    def prepare(self, x: Expr) -> Expr:
        """Tables of four activations each, of four words; what is missing in the last one adds 0."""
        given, count = e.lanes(x), self.made(e.lanes(x))
        low, most = (e.splat(e.const(v & _BYTE, "uint8"), given) for v in (self.low, self.most))
        up = e.keep(tirx.reinterpret(e.vector("uint8", given), x) - low)
        up, down = (_filled(v, count) for v in (up, e.keep(most - up)))
        kind = e.vector("int32", count // _UNIT)
        words = [e.keep(tirx.reinterpret(kind, v)) for v in (up, down)]
        parts, first = [], 0
        for tables in (1,) if self.neon else (4, 2, 1):
            while count // _UNIT - first >= tables:
                parts += _tables(words, first, tables, neon=self.neon)
                first += tables
        return tirx.Shuffle(parts, list(range(count))) if len(parts) > 1 else parts[0]

    def beyond(self, count: int) -> Expr:
        assert not isinstance(self.fill, Tensor)
        table = _table_of(_UNIT, int(self.fill) - self.low, self.most)
        return tirx.reinterpret(e.vector("int32", count), table_of(table, _UNIT * count))

    def start(self, w: Writer, lanes: int, pixels: int, vectors: int) -> Sums:
        return _TableSums(self, lanes, pixels, vectors)

    def pack(self, weight: Constant) -> Constant:
        """A byte for four weights; channel q * lanes / 4 + l lies in byte q of the lane l of 32 bits."""
        *outer, lanes, _ = weight.shape
        bits = (weight.value() > 0).astype(np.uint8) << np.arange(_UNIT, dtype=np.uint8)
        patterns = bits.sum(-1, dtype=np.uint8)
        at = len(outer)
        folded = Constant(patterns.reshape(-1)).reshape(*outer, FOLD, lanes // FOLD)
        return folded.permute(*range(at), at + 1, at).reshape(*outer, lanes, 1)


def _filled(x: Expr, count: int) -> Expr:
    """With zeros after it, so that there are `count` lanes."""
    given = e.lanes(x)
    if given == count:
        return x
    zero = e.const(0, "uint8")
    parts = [x, *[zero] * (count - given)]
    return e.keep(tirx.Shuffle(parts, list(range(count))))


def _tables(words: list[Expr], first: int, tables: int, *, neon: bool) -> list[Expr]:
    """So many tables from the first word on, of four levels each; in vectors of 4 words."""
    count = e.lanes(words[0])
    both = [i + v * count for i in range(first, first + tables) for v in (0, 1, 0, 1)]
    bytes_ = e.vector("uint8", _PATTERNS * tables)
    levels = e.keep(tirx.reinterpret(bytes_, tirx.Shuffle(words * 2, both)))
    total = None
    for bit in range(_UNIT):
        chosen = [bit if i >> bit & 1 else _UNIT + bit for i in range(_PATTERNS)]
        found = lookup(levels, table_of(chosen, _PATTERNS * tables), neon=neon)
        total = found if total is None else total + found
    return [e.keep(tirx.reinterpret(e.vector("int32", _UNIT * tables), total))]
