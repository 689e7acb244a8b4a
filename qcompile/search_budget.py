"""What a network may take: a time for a call, a size for its file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from qcompile.errors import QCompileError

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\W\d_]*)")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_BYTES = {
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}


@dataclass(frozen=True)
class Budget:
    """Upper limits; None is no limit.

    Attributes:
        seconds: of a call.
        bytes: of the program's file.

    Raises:
        QCompileError: a limit is not a number above zero.
    """

    seconds: float | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("latency", self.seconds), ("size", self.bytes)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and math.isfinite(value) and value > 0):
                raise QCompileError(f"the largest {name} is {value!r}", hint="a number above zero")

    @property
    def given(self) -> bool:
        """Whether there is any limit."""
        return self.seconds is not None or self.bytes is not None

    def __str__(self) -> str:
        limits = []
        if self.seconds is not None:
            limits.append(milliseconds(self.seconds))
        if self.bytes is not None:
            limits.append(f"{self.bytes:,} bytes")
        return " and ".join(limits) or "no limit"


def budget(latency: str | float | None = None, size: str | float | None = None) -> Budget:
    """Limits as users write them: "0.5ms" or seconds, "60KB" or bytes.

    Raises:
        QCompileError: one is no time, or no size.
    """
    seconds, room = latency, size
    if isinstance(latency, str):
        seconds = _with_unit(latency, _SECONDS, "time", "0.5ms, 200us or 1s")
    if isinstance(size, str):
        room = _with_unit(size, _BYTES, "size", "60KB, 512KiB, 1.5MB or 300000B")
    whole = math.floor(room) if isinstance(room, float) and math.isfinite(room) else room
    return Budget(seconds, whole)  # type: ignore[arg-type] # it looks


def _with_unit(text: str, units: dict[str, float] | dict[str, int], what: str, as_in: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    hint = f"as in {as_in}"
    if match is None:
        raise QCompileError(f"{text!r} is no {what}", hint=hint)
    number, unit = match.groups()
    if unit.lower() not in units:
        missing = "without a unit" if not unit else f"of unknown unit {unit!r}"
        raise QCompileError(f"{text!r} is a {what} {missing}", hint=hint)
    value = float(number) * units[unit.lower()]
    if not (math.isfinite(value) and value > 0):
        raise QCompileError(f"the {what} {text!r} is not above zero, or too large", hint=hint)
    return value


def milliseconds(seconds: float) -> str:
    """A time as it is shown."""
    return f"{seconds * 1e3:.4g} ms"
