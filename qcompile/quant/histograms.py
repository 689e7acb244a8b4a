"""Observers that know how values are distributed, and clip the rare ones.

A histogram has BINS bins of one width over [-2^e, 2^e), e the least that holds all values. When e
grows, bins are merged whole: what was counted does not depend on the order of the batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from qcompile.errors import QCompileError
from qcompile.ir.qparams import QParams, QScheme, qparams_of_range
from qcompile.quant.observers import Observer

BINS = 8192
LEAST_EXPONENT = -100  # from here on 2^-e is a float32, and a bin's width a normal one
CHUNK = 2**20  # values that are counted at once: each takes an int64 index


class _Distribution(Observer):
    """Base of those that make their range from a histogram; `low` and `high` stay the full one."""

    counts: Tensor
    exponent: Tensor

    def __init__(self, axis: int | None = None, channels: int = 1, *, layer: str = "") -> None:
        super().__init__(axis, channels, layer=layer)
        rows = 1 if axis is None else channels
        self.register_buffer("counts", torch.zeros(rows, BINS, dtype=torch.int64))
        self.register_buffer("exponent", torch.full((rows,), LEAST_EXPONENT, dtype=torch.int32))
        self._latest: _Latest | None = None

    def estimate(self, bits: int, qscheme: QScheme) -> QParams:
        if isinstance(self.low.clone(), FakeTensor):
            return super().estimate(bits, qscheme)  # of which only the shapes matter
        if self.counts.is_inference():  # made in torch.inference_mode: it has no version
            return self._searched(bits, qscheme)
        key = (self.counts._version, bits, qscheme)
        latest = self._latest
        if latest is None or latest.counts is not self.counts or latest.key != key:
            self._latest = latest = _Latest(self.counts, key, self._searched(bits, qscheme))
        return latest.qparams

    @torch.inference_mode(False)  # what is kept may be needed by a backward
    def _searched(self, bits: int, qscheme: QScheme) -> QParams:
        low, high = (bound.reshape(self.low.shape) for bound in self._clipped(bits, qscheme))
        return qparams_of_range(low, high, bits, qscheme, self.axis)

    def __getstate__(self) -> dict[str, Any]:
        # The counts of a copy are at a version of their own.
        return {**self.__dict__, "_latest": None}

    def _clipped(self, bits: int, qscheme: QScheme) -> tuple[Tensor, Tensor]:
        """The range to quantize, `[rows]` each."""
        raise NotImplementedError

    def _record(self, x: Tensor) -> None:
        super()._record(x)
        # `low` and `high` remember what is not finite.
        rows = torch.nan_to_num(self._rows(x), nan=0.0, posinf=0.0, neginf=0.0)
        exponent = torch.frexp(rows.abs().amax(1)).exponent
        exponent = torch.maximum(exponent.clamp(min=LEAST_EXPONENT), self.exponent)
        grown = (exponent - self.exponent).clamp(max=BINS.bit_length()).unsqueeze(1)
        half = BINS // 2
        merged = torch.bitwise_right_shift(_bin_numbers(x), grown) + half
        counts = torch.zeros_like(self.counts).scatter_add_(1, merged, self.counts)
        per_unit = torch.ldexp(torch.full_like(rows[:, 0], half), -exponent).unsqueeze(1)
        for some in rows.split(CHUNK, dim=1):
            bins = torch.floor(some * per_unit).to(torch.int64) + half
            counts.scatter_add_(1, bins, torch.ones_like(bins[:, :1]).expand_as(bins))
        self.counts.copy_(counts)
        self.exponent.copy_(exponent)


def _bin_numbers(like: Tensor) -> Tensor:
    """-BINS / 2 .. BINS / 2 - 1, of which 0 is the bin from 0 on."""
    return torch.arange(-BINS // 2, BINS // 2, device=like.device)


@dataclass(frozen=True)
class _Latest:
    """What was last estimated, and of which counts."""

    counts: Tensor
    key: tuple[int, int, QScheme]
    qparams: QParams


class HistogramObserver(_Distribution):
    """The range whose quantization leaves the least squared error of all that was seen.

    It is searched for each width: first how far both bounds may shrink together, then each alone.
    """

    def _clipped(self, bits: int, qscheme: QScheme) -> tuple[Tensor, Tensor]:
        # In units of 2^e, which is exact: squares neither overflow nor vanish.
        low = torch.ldexp(self.low.reshape(-1), -self.exponent).clamp(max=0.0)
        high = torch.ldexp(self.high.reshape(-1), -self.exponent).clamp(min=0.0)
        search = _Search(self.counts.to(torch.float32), bits, qscheme)
        low, high = search.best(low, high, _COARSE, _COARSE)
        for factors in (_COARSE, _FINE, _FINE):
            low, high = search.best(low, high, _ONE * len(factors), factors)
            low, high = search.best(low, high, factors, _ONE * len(factors))
        return torch.ldexp(low, self.exponent), torch.ldexp(high, self.exponent)


_ONE = (1.0,)
_COARSE = tuple(2 ** (-i / 3) for i in range(1, 17))  # down to a fortieth: one outlier of many
_FINE = tuple(2 ** (i / 24) for i in range(-4, 5) if i)


class _Search:
    """Compares ranges by the squared error that their quantization leaves, row by row."""

    def __init__(self, counts: Tensor, bits: int, qscheme: QScheme) -> None:
        self._values = (_bin_numbers(counts) + 0.5) / (BINS // 2)
        self._counts = counts
        self._bits = bits
        self._qscheme = qscheme

    def best(
        self,
        low: Tensor,
        high: Tensor,
        low_factors: tuple[float, ...],
        high_factors: tuple[float, ...],
    ) -> tuple[Tensor, Tensor]:
        """`(low, high)`, or its product with the pair of factors that leaves less error than it."""
        least, found = self._error(low, high), (low, high)
        for low_factor, high_factor in zip(low_factors, high_factors, strict=True):
            tried = (low * low_factor, high * high_factor)
            error = self._error(*tried)
            better = error < least
            least = torch.where(better, error, least)
            found = (
                torch.where(better, tried[0], found[0]),
                torch.where(better, tried[1], found[1]),
            )
        return found

    def _error(self, low: Tensor, high: Tensor) -> Tensor:
        p = qparams_of_range(low, high, self._bits, self._qscheme)
        scale, zero_point = p.scale.unsqueeze(1), p.zero_point.unsqueeze(1)
        levels = torch.round(self._values / scale).add_(zero_point).clamp_(p.qmin, p.qmax)
        error = levels.sub_(zero_point).mul_(scale).sub_(self._values)
        return error.square_().mul_(self._counts).sum(1)


class PercentileObserver(_Distribution):
    """The range without the rarest values at each end, to the width of a bin.

    Args:
        percentile: how many percent of the values lie below the upper bound, and above the lower.

    Raises:
        QCompileError: a percentile that is not above 50 and up to 100.
    """

    def __init__(
        self,
        axis: int | None = None,
        channels: int = 1,
        *,
        percentile: float = 99.99,
        layer: str = "",
    ) -> None:
        super().__init__(axis, channels, layer=layer)
        if not 50 < percentile <= 100:
            raise QCompileError(
                f"percentile is {percentile!r}, it must be above 50 and no more than 100",
                hint="99.99 leaves out one value of 10,000 at each end",
            )
        self.percentile = percentile

    def _clipped(self, bits: int, qscheme: QScheme) -> tuple[Tensor, Tensor]:
        return self.bounds()

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The range without the rarest values, float32 `[rows]` each, whatever it is quantized to."""
        kept = self.counts.sum(1, keepdim=True) * (self.percentile / 100)
        lower = BINS - 1 - (self.counts.flip(1).cumsum(1) < kept).sum(1)
        upper = (self.counts.cumsum(1) < kept).sum(1) + 1
        low, high = (
            torch.ldexp((bins - BINS // 2) * (2.0 / BINS), self.exponent) for bins in (lower, upper)
        )
        low = torch.maximum(low, self.low.reshape(-1))
        return low, torch.minimum(high, self.high.reshape(-1))
