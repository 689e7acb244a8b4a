"""Contractions as products of matrices of 32-bit words, as tensor cores take them.

rows      places of a batch's result: patches of the source, which never exist as a whole
columns   output channels of a group
words     of 32 signs or 4 bytes, tap by tap, filled with zeros to whole steps

A step of the main loop takes `STEP` words of each row and column. They are copied in pieces, each of
one tap. Where a tap's bytes lie apart in the source, or are no whole words, they are packed first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from qcompile.codegen.constants import constant_from, words_from
from qcompile.codegen.cuda.writer import CudaWriter
from qcompile.codegen.dots.floats import Dot, Finish
from qcompile.codegen.dots.integers import SingleDot
from qcompile.codegen.dots.signs import XnorDot
from qcompile.codegen.groups import INTEGER_CONTRACTIONS
from qcompile.codegen.kernels.contraction import Contraction, contraction_of
from qcompile.codegen.layout import Layout, is_outside
from qcompile.constants import Constant

STEP = 16  # words of a row that a step of the main loop multiplies
MMA = 8  # words that one instruction multiplies
BYTES = 4  # of a word
_PIECES = (4, 2, 1)  # words that are copied at once
# Words of a row whose ones int32 holds 128-fold, as products of bytes count them.
_COUNTED = 2**31 // (128 * 32) - 1
_BITS = 31  # taps that a row's mask tells of; the last bit stands for what no row has
NOWHERE = -1 << _BITS


@dataclass(frozen=True)
class Matrix:
    """A contraction's matrices.

    Attributes:
        c: the contraction; its dot is an XnorDot or a SingleDot.
        layout: of what is copied, channels last: the source, of which a whole sample is one pixel
            where the contraction says so, or what is packed of it.
        piece: words that are copied at once.
        packed: whether the source is packed first.
        planes: of which plane each of a tap's equal parts of words is, of weights; () where there is
            one plane.
    """

    c: Contraction
    layout: Layout
    piece: int
    packed: bool
    planes: tuple[int, ...] = ()

    @property
    def signed(self) -> bool:
        """Whether activations are signed bytes."""
        return self.layout.dtype == "int8"

    @property
    def signs(self) -> bool:
        return isinstance(self.c.dot, XnorDot)

    @property
    def groups(self) -> int:
        return self.c.groups

    @property
    def columns(self) -> int:
        """Output channels of a group."""
        return self.c.weight.shape[1]

    @property
    def pixels(self) -> int:
        """Rows of a sample."""
        return math.prod(self.c.outputs)

    @property
    def per_word(self) -> int:
        """Elements of the source in a word."""
        return 1 if self.signs else BYTES

    @property
    def run(self) -> int:
        """Elements of a tap."""
        return self.layout.channels // self.groups

    @property
    def words(self) -> int:
        """Words of a row, but for those that fill it."""
        return -(-math.prod(self.c.kernel) * self.run // self.per_word)

    @property
    def mmas(self) -> int:
        """Instructions for all words of a row."""
        return -(-self.words // MMA)

    @property
    def steps(self) -> int:
        """Of the main loop."""
        return -(-self.words // STEP)

    @property
    def bordered(self) -> list[int]:
        """Dimensions in which taps may lie outside."""
        pairs = zip(self.c.padding[::2], self.c.padding[1::2], strict=True)
        return [d for d, pair in enumerate(pairs) if any(pair)]

    def spatial_strides(self) -> tuple[int, ...]:
        """Elements from a place of the source to the next, in each dimension."""
        return self.layout.strides[0] if self.layout.spatial else (0,) * len(self.c.kernel)

    # --- what the host lays out ------------------------------------------------------------------

    def weights(self, columns: int) -> Constant:
        """Words `[groups, steps, columns, STEP]`: a block copies its columns of a step as they lie."""
        values = self._words() if self.signs else constant_from(self.c.weight)
        groups, outputs = self.c.weight.shape[:2]
        taps = values.reshape(groups, outputs, -1, self.c.channels)
        rows = taps.pad(0, 0, 0, self.run - self.c.channels).reshape(groups, outputs, -1)
        step = STEP * self.per_word
        rows = rows.pad(0, columns - outputs, self.steps * step - rows.shape[2])
        ordered = rows.reshape(groups, columns, self.steps, step).permute(0, 2, 1, 3)
        return (ordered if self.signs else ordered.view("int32")).reshape(-1)

    def _words(self) -> Constant:
        """The words of signs; a plane that stands several times is stored once."""
        if not self.planes:
            return words_from(self.c.weight)
        parts = self.c.weight.unflatten(-1, (len(self.planes), -1))
        first = [self.planes.index(plane) for plane in range(max(self.planes) + 1)]
        stored = words_from(parts[..., first, :].contiguous())
        by_word = stored.reshape(-1, len(first), parts.shape[-1]).permute(0, 2, 1)
        return by_word.take(*self.planes).permute(0, 2, 1).reshape(-1)

    def ones(self, splits: int) -> Tensor:
        """How many bits are 1 in each column, `[splits * groups * columns]`: of a part of the words."""
        words = self.c.weight.reshape(self.groups * self.columns, -1).numpy().view(np.uint32)
        counts = np.unpackbits(words.view(np.uint8), axis=1).reshape(*words.shape, 32).sum(2)
        each = -(-self.steps // splits) * STEP
        parts = [counts[:, i * each : (i + 1) * each].sum(1) for i in range(splits)]
        return torch.from_numpy(np.concatenate(parts).astype(np.int32))

    @cached_property
    def fills(self) -> tuple[list[tuple[int, ...]], list[int]]:
        """Pieces that stand where the source has nothing: the different ones; of each piece, which."""
        unit = self.piece * self.per_word
        count = self.steps * STEP // self.piece
        real = math.prod(self.c.kernel) * self.run // unit
        if not self.signs:  # weights are 0 beyond the last tap: anything is right there
            return [(self.fill_word,) * self.piece], [0] * count
        zeros, of_run = (0,) * self.piece, self._fill_of_run()
        wanted = [zeros] * count
        if self.bordered:
            wanted[:real] = [of_run[i % len(of_run)] for i in range(real)]
        different = list(dict.fromkeys(wanted))
        return different, [different.index(one) for one in wanted]

    def _fill_of_run(self) -> list[tuple[int, ...]]:
        """The pieces of signs of a tap beyond the border."""
        assert isinstance(self.c.dot.fill, Tensor)
        words = self.c.dot.fill[: self.run].tolist()
        return [tuple(words[i : i + self.piece]) for i in range(0, self.run, self.piece)]

    @property
    def fill_word(self) -> int:
        """Four bytes beyond the border."""
        dot = self.c.dot
        assert isinstance(dot, SingleDot)
        assert not isinstance(dot.fill, Tensor)
        byte = (dot.zero_point + int(dot.fill)) & 0xFF
        return int.from_bytes(bytes([byte] * BYTES), "little", signed=True)

    def table(self) -> Tensor:
        """Where the pieces of a row lie; a step more than there are.

        Returns:
            int32 `[pieces, 2 or 4]`: elements from the row's start; the bits of the taps that must not
            be missing; where pieces beyond the border differ, the number of the one that stands there.
        """
        unit = self.piece * self.per_word
        count = (self.steps + 1) * STEP // self.piece
        real = math.prod(self.c.kernel) * self.run // unit
        taps = list(self._taps())
        rows = []
        for i in range(count):
            tap, first = divmod(i * unit, self.run)
            offset, bits = taps[tap] if i < real else (0, NOWHERE)
            rows.append([offset + first if i < real else 0, bits])
        values = np.array(rows, np.int64)
        if len(self.fills[0]) > 1:
            numbers = np.zeros((count, 2), np.int64)
            numbers[: len(self.fills[1]), 0] = self.fills[1]
            values = np.concatenate([values, numbers], axis=1)
        return torch.from_numpy(values.astype(np.int32))

    def _taps(self) -> list[tuple[int, int]]:
        """Of each tap: elements from a row's start, and its bits in a row's mask."""
        strides, found = self.spatial_strides(), []
        for digits in itertools.product(*map(range, self.c.kernel)):
            places = zip(digits, self.c.dilation, strides, strict=True)
            bits = sum(1 << self.bit(d, digits[d]) for d in self.bordered)
            found.append((sum(i * d * s for i, d, s in places), bits))
        return found

    def bit(self, dimension: int, index: int) -> int:
        """The bit of a row's mask that tells whether a tap's place in a dimension is missing."""
        before = [d for d in self.bordered if d < dimension]
        return sum(self.c.kernel[d] for d in before) + index

    @property
    def may_miss(self) -> bool:
        """Whether there are pieces that the source does not have."""
        return bool(self.bordered or self.words % STEP)

    # --- what follows ----------------------------------------------------------------------------

    def finish(self, w: CudaWriter) -> tuple[Node, Finish]:
        """Which node's value is found of the sums, and how."""
        dot = self.c.dot
        if self.signs:
            return dot.finish(w)
        assert isinstance(dot, SingleDot)
        rows = self.c.weight.flatten(2).flatten(0, 1).to(torch.int64)
        taken_back = (-dot.zero_point * rows.sum(1)).to(torch.int32)
        return Dot(bias=taken_back if dot.zero_point else None).finish(w)


def matrix_of(w: CudaWriter) -> Matrix | None:
    """The matrices of a group's contraction; None if tensor cores cannot take them."""
    c = contraction_of(
        w, w.machine, "int8" if w.group.anchor.target in INTEGER_CONTRACTIONS else None
    )
    layout = w.layout(c.source)
    if c.whole:
        layout = Layout((), layout.size, layout.dtype)
    piece = _piece(c, layout)
    matrix = Matrix(c, layout, piece, False) if piece else _packed(c, layout)
    if not _can_tell(matrix):
        return None
    if matrix.signs:
        return matrix if matrix.words <= _COUNTED else None
    assert isinstance(c.dot, SingleDot)
    assert not isinstance(c.dot.fill, Tensor)
    least, beyond = -128 if matrix.signed else 0, c.dot.zero_point + int(c.dot.fill)
    fits = c.weight.dtype is torch.int8 and least <= beyond <= least + 255
    return matrix if fits else None


def sign_matrix(c: Contraction, layout: Layout, planes: tuple[int, ...]) -> Matrix | None:
    """The matrices of a contraction of signs that are packed first, as in `layout`, words; None if
    tensor cores cannot take them."""
    piece = next(p for p in _PIECES if layout.channels % p == 0)
    matrix = Matrix(c, layout, piece, True, planes)
    return matrix if _can_tell(matrix) else None


def _can_tell(matrix: Matrix) -> bool:
    """Whether a row's mask has a bit for each tap's place at a border."""
    return sum(matrix.c.kernel[d] for d in matrix.bordered) <= _BITS


def _piece(c: Contraction, layout: Layout) -> int:
    """How many words of a tap can be copied at once; 0 if no word lies together and aligned."""
    per_word = 1 if isinstance(c.dot, XnorDot) else BYTES
    if per_word > 1 and (layout.strides[1] != 1 or is_outside(c.source)):
        return 0
    pieces: Sequence[int] = _PIECES[-1:] if is_outside(c.source) else _PIECES
    sizes = (c.channels, layout.channels)
    whole = (p for p in pieces if not any(size % (p * per_word) for size in sizes))
    return next(whole, 0)


def _packed(c: Contraction, layout: Layout) -> Matrix:
    """With a tap's bytes filled to whole pieces, as large ones as do not make it much longer."""
    sizes = [-(-c.channels // (p * BYTES)) * p * BYTES for p in _PIECES]
    found = next(i for i, size in enumerate(sizes) if 3 * size <= 4 * sizes[-1])
    lying = replace(layout, channels=sizes[found] * c.groups, torch_order=False)
    return Matrix(c, lying, _PIECES[found], True)
