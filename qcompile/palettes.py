"""Arrays of few distinct values, in 1 to 8 bits an element: the values once, then numbers of them.

    palette [colours], then for each field of 4, 2 and 1 bits of a number, the highest first:
    the field of all elements, one after another, from the lowest bits of each byte on

A number of 8 bits is one field. Anything else is stored as it is: colours is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompile.constants import DTYPES, ConstantError

_MOST = 256  # colours
_LOOK = 1 << 12  # elements that are looked at before all are sorted

Array = NDArray[Any]


@dataclass(frozen=True)
class Stored:
    """An array in a file.

    Attributes:
        dtype: of its elements.
        size: how many it has.
        colours: how many distinct values the palette has; 0 if there is none.
    """

    dtype: str
    size: int
    colours: int = 0

    @property
    def bits(self) -> int:
        """Of an element, beside the palette."""
        if not self.colours:
            return 8 * np.dtype(self.dtype).itemsize
        return max(1, (self.colours - 1).bit_length())

    @property
    def nbytes(self) -> int:
        """In the file, palette included."""
        palette = self.colours * np.dtype(self.dtype).itemsize
        fields = _fields(self.bits) if self.colours else (self.bits,)
        return palette + sum(-(-self.size * bits // 8) for bits in fields)

    def check(self) -> None:
        """Make sure that there is such an array.

        Raises:
            ConstantError: there is none.
        """
        if self.dtype not in DTYPES:
            raise ConstantError(f"a constant has the dtype {self.dtype!r}")
        if not 0 <= self.size < 1 << 48:
            raise ConstantError(f"a constant has {self.size} elements")
        if not 0 <= self.colours <= _MOST:
            raise ConstantError(f"a constant has {self.colours} distinct values")


def _fields(bits: int) -> Sequence[int]:
    """The widths, which divide 8, that a number is divided into; the highest first."""
    return [width for width in (8, 4, 2, 1) if bits & width]


# --- writing -------------------------------------------------------------------------------------


def stored(values: Array) -> Stored:
    """How an array is stored."""
    dtype, size = str(values.dtype), values.size
    colours = _palette(values)
    raw = Stored(dtype, size)
    if colours is None or not size:
        return raw
    packed = Stored(dtype, size, colours.size)
    return packed if packed.nbytes < raw.nbytes else raw


def store(values: Array) -> tuple[Stored, bytes]:
    """How an array is stored, and its bytes."""
    values = np.ascontiguousarray(values).reshape(-1)
    how = stored(values)
    if not how.colours:
        return how, values.tobytes()
    patterns = _patterns(values)
    palette, numbers = np.unique(patterns, return_inverse=True)
    numbers = numbers.astype(np.uint8)
    parts, left = [palette.tobytes()], how.bits
    for width in _fields(how.bits):
        left -= width
        parts.append(_packed(numbers >> left & ((1 << width) - 1), width).tobytes())
    return how, b"".join(parts)


def _patterns(values: Array) -> Array:
    """The elements as unsigned integers: so zeros of two signs are two values."""
    return values.view(f"u{values.itemsize}")


def _palette(values: Array) -> Array | None:
    """The distinct elements, or None if there are too many."""
    patterns = _patterns(np.ascontiguousarray(values).reshape(-1))
    for some in (patterns[:_LOOK], patterns):
        found: Array = np.unique(some)
        if found.size > _MOST:
            return None
    return found


def _packed(fields: Array, width: int) -> Array:
    """Fields of so many bits, in bytes."""
    each = 8 // width
    filled = np.zeros(-(-fields.size // each) * each, np.uint8)
    filled[: fields.size] = fields
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    total: Array = np.bitwise_or.reduce(filled.reshape(-1, each) << shifts, axis=1)
    return total


# --- reading -------------------------------------------------------------------------------------


def restore(how: Stored, data: bytes | memoryview) -> Array:
    """The inverse of `store`: read-only, flat.

    Raises:
        ConstantError: the bytes are not those of such an array.
    """
    if len(data) != how.nbytes:
        raise ConstantError(f"a constant of {how.nbytes} bytes has {len(data)}")
    if not how.colours:
        return np.frombuffer(data, how.dtype)
    palette = np.frombuffer(data, how.dtype, how.colours)
    at = palette.nbytes
    fields = _fields(how.bits)
    if len(fields) == 1:
        return _looked_up(np.frombuffer(data, np.uint8, offset=at), palette, fields[0], how.size)
    numbers = np.zeros(how.size, np.uint8)
    left = how.bits
    for width in fields:
        left -= width
        count = -(-how.size * width // 8)
        values = np.arange(1 << width, dtype=np.uint8) << left
        packed = np.frombuffer(data, np.uint8, count, at)
        numbers |= _looked_up(packed, values, width, how.size)
        at += count
    return _looked_up(numbers, palette, 8, how.size)


def _looked_up(packed: Array, palette: Array, width: int, size: int) -> Array:
    """The values of fields of so many bits: all those of a byte at once."""
    if width == 8:
        _check(packed.max(initial=0) < palette.size, palette)
        filled: Array = np.zeros(256, palette.dtype)
        filled[: palette.size] = palette
        return filled[packed]
    numbers = np.arange(256)[:, None] >> np.arange(0, 8, width) & ((1 << width) - 1)
    highest = numbers.max(axis=1)
    if palette.size < 1 << width:
        _check(not (highest >= palette.size)[packed].any(), palette)
    table = palette[np.minimum(numbers, palette.size - 1)]
    rows = table.view(f"V{table.shape[1] * table.itemsize}").reshape(-1)
    found: Array = rows[packed].view(palette.dtype)[:size]
    return found


def _check(holds: Any, palette: Array) -> None:
    if not holds:
        what = f"a constant of {palette.size} distinct values has a number beyond them"
        raise ConstantError(what)
