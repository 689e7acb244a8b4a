"""1-bit activations times weights of two bits or three levels: signs, plane by plane.

Weights of few levels are sums of signs, times powers of two:

    -3, -1, 1, 3:  w = s0 + 2 s1        -1, 0, 1:  w = (s0 + s1) / 2, or a sign where a mask has a bit

Of a sum of products of bits b (0 and 1) with signs s, the positive signs are left when the places that
differ are counted, as for products of signs: sum(b s) = (positive s) - (differing). With activations
low + gain * b this gives, up to a constant of the output channel (and of the place, at the border),

    sum(a w) = constant - gain * (differing in plane 0 + 2 * differing in plane 1)

(XNOR-Net, Rastegari et al. 2016, arXiv:1603.05279; DoReFa-Net, Zhou et al. 2016, arXiv:1606.06160.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import Node
from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.dots.floats import Dot, Finish, Load, LoadWeight, Sums
from qcompile.codegen.dots.signs import XnorDot
from qcompile.codegen.expr import Expr
from qcompile.codegen.kernels.elementwise import of_class
from qcompile.codegen.writer import Point, Writer
from qcompile.constants import Constant
from qcompile.ir.ops import WORD, pack_words

_STEPS = 2
_HALVES = (1, 1)


@dataclass(frozen=True)
class Planes:
    """Weights as words of bits.

    Attributes:
        bits: of each plane, `[..., C]`; a masked plane's mask comes second.
        powers: what each plane counts for; the sum of two that count the same is halved.
    """

    bits: tuple[Tensor, ...]
    powers: tuple[int, ...]

    @property
    def words(self) -> Tensor:
        """`[..., words]`: int32, or int64 with the first plane in the low half."""
        words = torch.stack([pack_words(~bits) for bits in self.bits], -1)
        return words.view(torch.int64).squeeze(-1) if len(self.bits) > 1 else words.squeeze(-1)

    @property
    def masked(self) -> bool:
        return len(self.bits) > len(self.powers)

    @property
    def halved(self) -> int:
        return 2 if self.powers == _HALVES else 1

    @property
    def positive(self) -> Tensor:
        """How many signs are positive in each row of the weights, times what they count for."""
        counted = [
            power * bits.flatten(2).flatten(0, 1).sum(1)
            for power, bits in zip(self.powers, self.bits, strict=False)
        ]
        return torch.stack(counted).sum(0)


def planes_of(weight: Tensor, *, mask: bool) -> Planes | None:
    """The planes of weights of two to four levels around 0; None if there are more.

    Args:
        mask: zeros are to be masked, rather than sums of two signs.
    """
    found = set(weight.unique().tolist())
    if found <= {-1, 1}:
        return Planes((weight > 0,), (1,))
    if found <= {-3, -1, 1, 3}:
        level = (weight + 3) // 2
        return Planes((level & 1 > 0, level > 1), (1, 2))
    if not found <= {-1, 0, 1}:
        return None
    return (
        Planes((weight > 0, weight != 0), (1,))
        if mask
        else Planes((weight > 0, weight >= 0), _HALVES)
    )


class _PlaneSums(Sums):
    """The counts of each plane, by the sums of a machine's best way to count."""

    def __init__(self, dot: PlaneDot, start: Callable[[], Sums], pixels: int, vectors: int) -> None:
        self.pixels, self.vectors = pixels, vectors
        self._powers, self._each = dot.powers, dot.counts.together if dot.counts.settles else _STEPS
        self._planes = [start() for _ in dot.powers]
        self.lanes, self.capacity = self._planes[0].lanes, self._planes[0].capacity

    def add(self, count: int, x: Load, weight: LoadWeight) -> None:
        # Few steps at a time: what is read for one plane is still there for the next.
        for first in range(0, count, self._each):
            some = min(self._each, count - first)
            words = {(p, i): x(p, first + i) for i in range(some) for p in range(self.pixels)}
            for plane, sums in enumerate(self._planes):
                own = self._plane_of(weight, first, plane)
                sums.add(some, lambda pixel, step, words=words: words[pixel, step], own)  # type: ignore[misc]

    def _plane_of(self, weight: LoadWeight, first: int, plane: int) -> LoadWeight:
        planes = len(self._planes)

        def load(vector: int, step: int, part: int = 0, parts: int = 1) -> Expr:
            return weight(vector, first + step, plane * parts + part, planes * parts)

        return load

    def flush(self) -> None:
        for sums in self._planes:
            sums.flush()

    def totals(self, pixel: int, vector: int) -> list[Expr]:
        total, *others = (sums.totals(pixel, vector) for sums in self._planes)
        for power, more in zip(self._powers[1:], others, strict=True):
            factor = e.const(power, "int32")
            total = [a + b * e.splat(factor, e.lanes(b)) for a, b in zip(total, more, strict=True)]
        return total


class _MaskedSums(Sums):
    """Counts under a mask: one function of three bits, and a count of ones."""

    def add(self, count: int, x: Load, weight: LoadWeight) -> None:
        for i in range(count):
            loaded = [[weight(v, i, part, 2) for part in range(2)] for v in range(self.vectors)]
            for p, totals in enumerate(self._totals):
                word = e.splat(x(p, i), self.lanes)
                for total, (sign, mask) in zip(totals, loaded, strict=True):
                    total.set(total.value + tirx.popcount((word ^ sign) & mask))


@dataclass(frozen=True)
class PlaneDot(Dot):
    """Words of activations, times words of planes of weights.

    `bias` is `[O]`, or `[O, *classes]` where `classes` says of which class a place is.

    Attributes:
        counts: how a plane is counted.
        powers: what each plane counts for.
        low, gain: activations are low + gain * bit.
        classes: of each place, in each spatial dimension.
    """

    counts: XnorDot = field(default_factory=XnorDot)
    powers: tuple[int, ...] = (1,)
    low: int = 0
    gain: int = 1
    classes: Sequence[Tensor] = ()
    element = "int32"
    sums = "int32"
    gathers = True

    @property
    def registers(self) -> int:  # type: ignore[override]
        return self.counts.registers * len(self.powers)

    @property
    def live(self) -> int:  # type: ignore[override]
        return self.counts.live * len(self.powers)

    @property
    def fold(self) -> int:  # type: ignore[override]
        return self.counts.fold

    @property
    def together(self) -> int:  # type: ignore[override]
        return self.counts.together

    @property
    def prepares(self) -> bool:
        return True

    def prepare(self, x: Expr) -> Expr:
        """A word of at most 32 activations."""
        return e.bits_of(x > e.splat(e.const(self.low, e.dtype(x)), e.lanes(x)))

    def made(self, channels: int) -> int:
        return -(-channels // WORD)

    def start(self, w: Writer, lanes: int, pixels: int, vectors: int) -> Sums:
        counts = self.counts
        return _PlaneSums(self, lambda: counts.start(w, lanes, pixels, vectors), pixels, vectors)

    def pack(self, weight: Constant) -> Constant:
        """Plane by plane, each as it is counted."""
        *outer, lanes, _ = weight.shape
        at = len(outer)
        words = weight.view("int32").permute(*range(at), at + 1, at)
        return self.counts.pack(words.reshape(*outer, -1, lanes, 1))

    def finish(self, w: Writer) -> tuple[Node, Finish]:
        bias = self.bias
        assert bias is not None

        def value(total: Expr, p: Point) -> Expr:
            gained = total * e.splat(e.const(self.gain, "int32"), e.lanes(total))
            left = of_class(w, self.classes, bias, p) - gained
            if self.powers != _HALVES:
                return left
            return tirx.shift_right(left, e.splat(e.const(1, "int32"), e.lanes(left)))

        return w.group.anchor, value


@dataclass(frozen=True)
class MaskedDot(PlaneDot):
    """One plane, with a mask of what is not 0, where an instruction counts ones."""

    live = 2

    def start(self, w: Writer, lanes: int, pixels: int, vectors: int) -> Sums:
        return _MaskedSums(self, lanes, pixels, vectors)
