"""Numbers and names as the charts write them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TypeGuard

from qcompile.bench import words
from qcompile.bench.results import Layer, Report
from qcompile.bench.words import UNITS, digits, plural, seconds, size
from qcompile.program_summary import FLOAT_BITS

__all__ = [
    "FLOAT_BITS",
    "bits",
    "clean",
    "digits",
    "finite",
    "name",
    "named",
    "plural",
    "rate",
    "seconds",
    "sentence",
    "share",
    "size",
    "tick_seconds",
    "tick_size",
    "time_unit",
    "times",
    "why",
]

_RATES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_SIZES = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
_LONG = 60


def finite(value: float | None) -> TypeGuard[float]:
    """Whether it is a number that can be drawn."""
    return value is not None and math.isfinite(value)


def clean(text: str) -> str:
    """The text in one line of characters that XML can hold."""
    text = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cn") else c for c in text)


def _scaled(value: float, steps: Sequence[tuple[float, str]]) -> tuple[float, str]:
    return next(((step, unit) for step, unit in steps if abs(value) >= step), steps[-1])


def time_unit(values: Iterable[float]) -> tuple[float, str]:
    """The unit in which the greatest of some times is at least one."""
    return _scaled(max((v for v in values if math.isfinite(v)), default=0.0) or 1.0, UNITS)


def rate(value: float, unit: str) -> str:
    """So many of something in a second, or at once: "1.2 TMAC/s"."""
    step, prefix = _scaled(value, _RATES)
    return (
        f"{value / step:.2g} {prefix}{unit}"
        if value < 99.5 * step
        else f"{value / step:.0f} {prefix}{unit}"
    )


def share(value: float) -> str:
    """A part of one: "40 %", "0.4 %", "<0.1 %"."""
    if not math.isfinite(value):
        return "not known"
    if 0 < value < 0.0005:
        return "<0.1 %"
    return f"{100 * value:.0f} %" if value >= 0.0095 or value == 0 else f"{100 * value:.1f} %"


def tick_seconds(value: float) -> str:
    """A time on a scale, whose numbers are round: "10 µs"."""
    step, unit = _scaled(value * 1.0001, UNITS)
    if value >= 1e6:
        return f"{value:.0e} {unit}"
    return f"{value / step:,.10g} {unit}" if value else "0"


def tick_size(value: float) -> str:
    """Bytes on a scale, whose numbers are round: "64 KiB"."""
    step, unit = _scaled(value, _SIZES)
    return f"{value / step:,.10g} {unit}"


def times(ratio: float) -> str:
    """A ratio: "40.8×"."""
    return f"{digits(ratio)}×"


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    text = text.strip()
    if not text:
        return ""
    start = text[0] if text.startswith("qcompile") else text[0].upper()
    return start + text[1:] + ("" if text[-1] in ".!?" else ".")


def why(report: Report, part: str, otherwise: str) -> str:
    """The sentence for a part of the report that is empty."""
    return sentence((report.absent or {}).get(part) or otherwise)


def name(text: str) -> str:
    """A name for a sentence, not too long; letters that run from right to left leave its order alone."""
    text = clean(text)
    if len(text) > _LONG:
        text = f"{text[: _LONG // 2]}…{text[-_LONG // 2 :]}"
    if any(unicodedata.bidirectional(letter) in ("R", "AL", "AN") for letter in text):
        return f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}"
    return text


def named(layers: Iterable[Layer], most: int = 3) -> str:
    """Paths of some layers, the first few: "conv1, conv2 and 4 more"."""
    paths = [name(layer.path) for layer in layers]
    more = len(paths) - most
    if more > 0:
        return f"{', '.join(paths[:most])} and {more} more"
    return " and ".join(filter(None, (", ".join(paths[:-1]), *paths[-1:])))


def bits(pair: tuple[int, int] | None) -> str:
    """Of weights and activations: "1/1 bits", "float"."""
    if pair is None:
        return ""
    text = words.bits(pair)
    return text if text == "float" else f"{text} bits"
