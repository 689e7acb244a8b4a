"""Rounded quotients by a known number without a division, which costs as much as ten additions."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_NEIGHBOURS = 4  # float32 values on each side of a step that are looked at
_NORMAL = float(np.finfo(np.float32).tiny)


@lru_cache(maxsize=4096)
def reciprocal(scale: float, low: int, high: int) -> tuple[float, float] | None:
    """1 / scale in two float32 parts that serve as well as the division, or None.

    round(fma(x, major, x * minor)) is round(x / scale), both clamped to [low, high], for every
    float32 x, infinities included. Proof: both parts are above 0, so both sides never fall while x
    rises; and they agree on all values around each place where the right side takes a step.

    Args:
        scale: above 0; its nearest float32 is what counts.
    """
    with np.errstate(all="ignore"):
        divisor = np.float32(scale)
        if not divisor > 0:
            return None
        exact = 1 / Fraction(float(divisor))
        major = np.float32(float(exact))
        if not _NORMAL <= major < np.inf:
            return None
        if Fraction(float(major)) > exact:
            major = np.nextafter(major, np.float32(0))
        # A power of two leaves nothing. A part so small changes no sum, and keeps infinity so.
        rest = float(exact - Fraction(float(major))) or float(major) * 2.0**-60
        minor = np.float32(rest)
        if minor < _NORMAL:
            return None
        steps = (np.arange(low, high, dtype=np.float64) + 0.5) * float(divisor)
        x = _around(steps.astype(np.float32))
        wanted = np.rint(x / divisor)
        got = np.rint(_fma(x, major, x * minor))
        level = np.arange(low, high)[:, None]
        stepped = bool((wanted[:, :1] <= level).all() and (wanted[:, -1:] > level).all())
        equal = np.array_equal(np.clip(wanted, low, high), np.clip(got, low, high))
    return (float(major), float(minor)) if stepped and equal else None


def _around(x: Floats) -> Floats:
    """`[n]` to `[n, 2 * _NEIGHBOURS + 1]`: each value between its neighbours, in order."""
    columns = [x]
    for _ in range(_NEIGHBOURS):
        columns.insert(0, np.nextafter(columns[0], np.float32(-np.inf)))
        columns.append(np.nextafter(columns[-1], np.float32(np.inf)))
    return np.stack(columns, 1)


def _fma(x: Floats, y: Any, z: Floats) -> Floats:
    """x * y + z, rounded once.

    The product is exact in float64. The sum is rounded to odd there, which with 53 bits for 24
    leaves the second rounding what it would be of the exact sum (Boldo and Melquiond 2008).
    """
    product, addend = x.astype(np.float64) * np.float64(y), z.astype(np.float64)
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    bits = total.view(np.int64)
    even = (error != 0) & (bits & 1 == 0)
    away = np.where((error > 0) == (total > 0), 1, -1)
    odd: NDArray[np.float64] = np.where(even, bits + away, bits).view(np.float64)
    return odd.astype(np.float32)
