"""What colours and markers mean: a line, or a few, above a chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qcompile.bench.html.charts.sheet import Sheet, measure

LINE = 1.4  # ems
_SMALL = 0.9


@dataclass(frozen=True)
class Key:
    """One entry.

    Attributes:
        colour: its name.
        marker: as matplotlib names it; a square stands for bars.
        filled: or only its outline.
    """

    name: str
    colour: str
    marker: str = "s"
    filled: bool = True


def height(keys: Sequence[Key], width: float) -> float:
    """Of a legend of that width, in ems."""
    return LINE * (1 + max((line for line, _, _ in _placed(keys, width)), default=-1))


def legend(sheet: Sheet, left: float, keys: Sequence[Key], width: float) -> None:
    """Draw it at the top of the sheet."""
    from matplotlib.lines import Line2D

    for line, x, key in _placed(keys, width):
        y = 0.8 + LINE * line
        colour = sheet.colour(key.colour)
        mark = Line2D(
            [(left + x + 0.4) / sheet.width],
            [1 - y / sheet.height],
            marker=key.marker,
            linestyle="",
            markerfacecolor=colour if key.filled else sheet.colour("paper"),
            markeredgecolor=colour,
            markeredgewidth=1.3,
            markersize=sheet.points(0.65),
            transform=sheet.figure.transFigure,
        )
        sheet.figure.add_artist(mark)
        sheet.text(left + x + 1.2, y, key.name, fontsize=sheet.points(_SMALL))


def _placed(keys: Sequence[Key], width: float) -> Iterator[tuple[int, float, Key]]:
    """Line and place in it of each."""
    line, x = 0, 0.0
    for key in keys:
        needed = 2.6 + _SMALL * measure(key.name)
        if x > 0 and x + needed - 1.2 > width:
            line, x = line + 1, 0.0
        yield line, x, key
        x += needed
