"""Charts with a row for each thing: names on the left or above, values along a scale below."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcompile.bench.html.charts import words
from qcompile.bench.html.charts.sheet import Sheet, elided, measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEAD, FOOT = 2.0, 3.2  # ems above the rows and below
THICK = 0.95  # ems of a bar
_ROOM = 0.9  # ems around a value
_MANY = 30  # rows from which the scale is repeated above


@dataclass(frozen=True)
class Rows:
    """Where rows are, in ems.

    Attributes:
        left, top, width: of the scale; names stand left of it.
        column: width of the names; 0 puts them above their rows.
        behind: width of values behind names that stand above.
    """

    names: Sequence[str]
    left: float
    top: float
    width: float
    column: float
    behind: float = 0.0

    @property
    def pitch(self) -> float:
        """From row to row."""
        return 1.55 if self.column else 2.75

    @property
    def height(self) -> float:
        """Of all rows."""
        return self.pitch * len(self.names)

    @property
    def thick(self) -> float:
        """Of a bar, as a share of a row."""
        return THICK / self.pitch

    @property
    def shift(self) -> float:
        """Where bars are in their rows, which end half a row below their number."""
        return 0.0 if self.column else 0.22

    def at(self, row: int) -> float:
        """The vertical coordinate of a row's bars."""
        return row + self.shift

    def axes(self, sheet: Sheet, title: str = "", *, bold: Iterable[int] = ()) -> Axes:
        """The axes, with names and a title."""
        axes = sheet.axes(self.left, self.top, self.width, self.height)
        axes.set_ylim(len(self.names) - 0.5, -0.5)
        axes.set_yticks([])
        axes.spines[["bottom", "left"]].set_visible(False)
        strong = set(bold)
        for row, name in enumerate(self.names):
            weight = "bold" if row in strong else "normal"
            self._name(sheet, row, name, weight)
        if title:
            sheet.text(self.left, self.top - 0.75 - self._above * 1.2, title, fontweight="bold")
        return axes

    @property
    def _above(self) -> bool:
        return len(self.names) > _MANY

    def _name(self, sheet: Sheet, row: int, name: str, weight: str) -> None:
        middle = self.top + (row + 0.5) * self.pitch
        small = 0.92
        if self.column:
            shown = elided(name, (self.column - 0.8) / small / (1.08 if weight == "bold" else 1))
            place, align = (self.left - 0.6, middle), "right"
        else:
            shown = elided(name, (self.width - self.behind) / small)
            place, align = (self.left, middle - 0.62), "left"
        text = sheet.text(*place, shown, ha=align, fontsize=sheet.points(small), fontweight=weight)
        if shown != name:
            sheet.hover(text, name)

    def value(self, sheet: Sheet, row: int, text: str, *, colour: str, fontweight: str) -> None:
        """A text at the right, behind the scale or behind the name."""
        middle = self.top + (row + 0.5) * self.pitch - (0.0 if self.column else 0.62)
        right = sheet.width - 0.6
        small = sheet.points(0.9)
        sheet.text(
            right, middle, text, colour=colour, ha="right", fontsize=small, fontweight=fontweight
        )

    def scale(
        self, sheet: Sheet, axes: Axes, low: float, high: float, label: str, *, log: bool = False
    ) -> None:
        """The values' scale: limits, lines and numbers, and what they are."""
        scale(axes, "x", low, high, log=log, most=max(3, int(self.width / 6)))
        axes.grid(axis="x")
        axes.tick_params(axis="x", labeltop=self._above, pad=sheet.points(0.25))
        axes.set_xlabel(
            label + (" (logarithmic)" if log else ""),
            fontsize=sheet.points(0.9),
            labelpad=sheet.points(0.2),
            loc="left",
        )


def scale(
    axes: Axes, which: str, low: float, high: float, *, log: bool = False, most: int = 5
) -> None:
    """Limits and at most about so many numbers of one scale, without exponents or mathematical text."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axis: Any = axes.xaxis if which == "x" else axes.yaxis
    if log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        few = math.log10(high / low) < 2.2
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=max(most, 3)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}".replace("-", "−")))


def doublings(axes: Axes, width: float) -> None:
    """Numbers of bytes on a logarithmic scale that is so many ems wide: powers of two."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    low, high = axes.get_xlim()
    octaves = math.ceil(math.log2(high / low) / (width / 6))
    axes.xaxis.set_major_locator(LogLocator(2.0**octaves, numticks=99))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.tick_size(value)))


def reach(
    values: Sequence[float], texts: Sequence[str], width: float, low: float | None = None
) -> float:
    """The end of a scale on which every value leaves room for its text to its right.

    Args:
        width: of the scale, ems.
        low: where a logarithmic scale begins; None is a linear one from 0.
    """
    ends = [0.0]
    for value, text in zip(values, texts, strict=True):
        free = max(width - measure(text) - _ROOM, 0.25 * width)
        at = value if low is None else math.log10(value / low)
        ends.append(at * width / free)
    end = max(ends)
    if low is None:
        return end or 1.0
    return float(low * 10 ** (end or 1.0))


def name_column(names: Sequence[str], most: float) -> float:
    """How wide a column of names has to be, up to a limit, in ems."""
    return min(max(map(measure, names), default=0.0) * 0.92 * 1.08 + 1.0, most)
