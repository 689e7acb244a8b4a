"""Widths that a layer may get: how they are written, and which there are."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass

from qcompile.errors import QCompileError
from qcompile.ir.plan import FLOAT_BITS
from qcompile.quant.overrides import KINDS, Override

_HINT = "as in 8, or 1/4 for 1-bit weights and 4-bit activations; 1 to 8 bits, or float"


@dataclass(frozen=True)
class Width:
    """Bits of a layer's weights and activations, 1 to 8, or 32 for float.

    Raises:
        QCompileError: there are no such bits, or float weights would meet integer activations.
    """

    weight_bits: int
    activation_bits: int

    def __post_init__(self) -> None:
        for bits in (self.weight_bits, self.activation_bits):
            if type(bits) is not int or not (1 <= bits <= 8 or bits == FLOAT_BITS):
                raise QCompileError(f"there is no width of {bits!r} bits", hint=_HINT)
        if self.weight_bits == FLOAT_BITS > self.activation_bits:
            raise QCompileError(f"width {self}: the weights are float", hint=_HINT)

    def __str__(self) -> str:
        bits = (self.weight_bits, self.activation_bits)
        return "float" if min(bits) == FLOAT_BITS else f"{bits[0]}/{bits[1]}"

    @property
    def override(self) -> Override:
        """What a Recipe's overrides call it."""
        if self == FLOAT:
            return "float"
        return {"weight_bits": self.weight_bits, "activation_bits": self.activation_bits}


FLOAT = Width(FLOAT_BITS, FLOAT_BITS)
DEFAULT = (Width(8, 8), Width(4, 4), Width(2, 2), Width(1, 4), Width(1, 1))


def parse(text: str) -> Width:
    """A width as the command line spells it: "8", "1/4", "4/32", "float".

    Raises:
        QCompileError: it is none.
    """
    parts = text.strip().split("/")
    if parts == ["float"]:
        return FLOAT
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise QCompileError(f"{text!r} is no width", hint=_HINT)
    return Width(int(parts[0]), int(parts[-1]))


def widths_of(values: Iterable[object] | int | Width) -> tuple[Width, ...]:
    """Widths, each once, or one; each a Width, a number of bits, a pair of them, or as `parse` takes it.

    Raises:
        QCompileError: one of them is none, or there is none.
    """
    if isinstance(values, (int, Width)):
        values = (values,)
    items = values.split(",") if isinstance(values, str) else list(values)
    if not items:
        raise QCompileError("there is no width to try", hint=_HINT)
    return tuple(dict.fromkeys(map(_width, items)))


def _width(value: object) -> Width:
    if isinstance(value, Width):
        return value
    if isinstance(value, str):
        return parse(value)
    if isinstance(value, tuple) and len(value) == 2:
        return Width(*value)
    return Width(value, value)  # type: ignore[arg-type] # it looks


def pattern_of(path: str) -> str:
    """The key of a Recipe's overrides that matches this layer alone."""
    if path in KINDS:
        return f"[{path[0]}]{path[1:]}"
    return glob.escape(path)
