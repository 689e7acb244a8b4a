"""Products of floats with integer levels, which become floats in registers, or when a program is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.dots.floats import Dot, Load, LoadWeight, Sums
from qcompile.codegen.expr import Expr
from qcompile.codegen.machine import Machine
from qcompile.codegen.writer import Writer
from qcompile.constants import Constant

_FAR = 1 << 22  # bytes of floats that do not stay in a core's second cache
_USES, _FAR_USES = 16, 64  # of a weight, up to which converting it is quicker than reading a float


@dataclass(frozen=True)
class LevelDot(Dot):
    """A float times weights that lie as int8 or int16: a quarter or a half of what is read of floats.

    A vector of weights is made floats once for all pixels of a tile: the conversions of a step are
    the same expression, which LLVM computes once.
    """

    def step(self, total: Expr, x: Expr, weight: Expr) -> Expr:
        return total + x * e.cast(e.cast(weight, "int32"), "float32")


@dataclass(frozen=True)
class WideLevelDot(Dot):
    """A float times levels that lie as floats: only in a program's file they are integers."""

    def pack(self, weight: Constant) -> Constant:
        return weight.cast("float32")


_WORD = 32
_ENTRIES = 16  # of a table in a register of 512 bits
_LOOKUP = "llvm.x86.avx512.permvar.sf.512"


class _CodeSums(Sums):
    """Sums of floats times weights that are looked up."""

    def __init__(self, dot: CodeDot, table: Expr, lanes: int, pixels: int, vectors: int) -> None:
        super().__init__(dot, lanes, pixels, vectors)
        self._table, self._width, self._unit = table, dot.width, dot.unit

    def add(self, count: int, x: Load, weight: LoadWeight) -> None:
        for i in range(count):
            words = [
                tirx.reinterpret(e.vector("int32", self.lanes), weight(v, i))
                for v in range(self.vectors)
            ]
            words = [e.bind(word) for word in words]
            activations = [x(p, i) for p in range(self.pixels)]
            for part in range(self._unit):
                weights = [e.bind(self._found(word, part)) for word in words]
                for activation, totals in zip(activations, self._totals, strict=True):
                    one = e.bind(tirx.Shuffle([activation], [part]))
                    for total, w in zip(totals, weights, strict=True):
                        total.set(total.value + one * w)

    def _found(self, word: Expr, part: int) -> Expr:
        """The weights whose codes are the lowest bits of each lane, once they are moved there."""
        shift = e.const(part * self._width, "int32")
        code = tirx.shift_right(word, e.splat(shift, self.lanes)) if part else word
        if self.lanes == _ENTRIES:
            return e.call(_LOOKUP, self._table, code)
        copies = _ENTRIES // self.lanes
        found = e.call(_LOOKUP, self._table, tirx.Shuffle([code] * copies, list(range(_ENTRIES))))
        return tirx.Shuffle([found], list(range(self.lanes)))


@dataclass(frozen=True)
class CodeDot(Dot):
    """A float times weights of at most 16 values: a lane of 32 bits holds the codes of several steps.

    `vpermps` looks up 16 lanes in a table of 16 by the lowest four bits of each; narrower codes find
    the table repeated.

    Attributes:
        table: the values, float32 `[16]`, by code.
        width: bits of a code, 2 or 4.
    """

    table: Tensor = field(default_factory=lambda: torch.zeros(_ENTRIES))
    width: int = 4
    live = 2  # codes, and what they stand for

    @property
    def unit(self) -> int:  # type: ignore[override]
        return _WORD // self.width

    def pack(self, weight: Constant) -> Constant:
        return weight.fields(self.width)

    def start(self, w: Writer, lanes: int, pixels: int, vectors: int) -> Sums:
        table = e.bind(w.constant(self.table, e.ramp(e.const(0, "int32"), 1, _ENTRIES)))
        return _CodeSums(self, table, lanes, pixels, vectors)


def product_of(weight: Tensor, machine: Machine) -> tuple[Tensor, Dot]:
    """How the weights `[O, K]` of a matrix product are stored, and the dot that reads them."""
    if machine.family == "x86_64" and "avx512f" in machine.features:
        codes, values = _coded(weight)
        width = 2 if values.numel() <= 4 else 4
        if values.numel() <= _ENTRIES and weight.shape[1] % (_WORD // width) == 0:
            rest = [0, (1 << width) - values.numel()]
            table = F.pad(values.to(torch.float32), rest).repeat(_ENTRIES >> width)
            return codes, CodeDot(table=table, width=width)
    return weight, LevelDot()


def _coded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers whose lowest bits are codes, and the values of the codes.

    Of levels that fit, the lowest bits themselves: then the stored numbers are those of any processor.
    """
    low, high = int(weight.min()), int(weight.max())
    for width in (2, 4):
        half = 1 << width - 1
        if -half <= low and high < half:
            codes = torch.arange(1 << width)
            return weight.to(torch.int8), torch.where(codes < half, codes, codes - 2 * half)
    values, indices = torch.unique(weight, return_inverse=True)
    return indices.to(torch.int16 if values.numel() > _ENTRIES else torch.int8), values


def level_dot(weights: int, positions: int) -> Dot:
    """The dot of a layer of so many weights, each used at so many positions of a sample."""
    few = _FAR_USES if 4 * weights > _FAR else _USES
    return LevelDot() if positions <= few else WideLevelDot()
