"""A figure whose parts are placed in ems from its upper left corner, so that it fits any width and font size.

The user's matplotlib stays as it is: no pyplot, no rcParams of theirs read or changed.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qcompile.bench.html.charts.words import clean

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.text import Text

_FALLBACKS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
)
_MARGIN = 1.04  # other fonts may be a little wider than the one that is measured


@dataclass(frozen=True)
class Form:
    """What a picture is made for.

    Attributes:
        inches: its width.
        points: the size of its letters.
    """

    name: str
    inches: float
    points: float

    @property
    def width(self) -> float:
        """In ems."""
        return self.inches * 72 / self.points

    @property
    def narrow(self) -> bool:
        """Whether two panels do not fit side by side."""
        return self.width < 50


WIDE, NARROW = Form("wide", 9.5, 9), Form("narrow", 4.0, 9)
PAPER, COLUMN = Form("paper", 7.0, 7.5), Form("column", 3.5, 7.5)


@dataclass(frozen=True)
class Style:
    """A form, and the colours by name as `colours.NAMES` has them."""

    form: Form
    colours: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """A chart that can be drawn."""

    caption: str
    draw: Callable[[Style], Sheet]


@contextmanager
def own_settings(style: Style) -> Iterator[None]:
    """Matplotlib's own defaults and ours instead of the user's, until the end of the block."""
    import matplotlib
    from matplotlib.font_manager import fontManager

    ink, muted, grid = (style.colours[name] for name in ("ink", "muted", "grid"))
    installed = {font.name for font in fontManager.ttflist}
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A letter that no font here has is drawn by the page's.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "text.parse_math": False,  # "$" is a letter of names
                "text.color": ink,
                "axes.edgecolor": muted,
                "axes.labelcolor": ink,
                "xtick.color": muted,
                "ytick.color": muted,
                "grid.color": grid,
                "grid.linewidth": 0.6,
                "axes.linewidth": 0.6,
                "hatch.color": ink,
                "hatch.linewidth": 0.6,
                "font.size": style.form.points,
                "font.family": ["DejaVu Sans", *(f for f in _FALLBACKS if f in installed)],
                "svg.hashsalt": "qcompile",
                "pdf.fonttype": 42,
            }
        )
        yield


class Sheet:
    """A figure of the form's width and so many ems of height; use it within `own_settings`."""

    def __init__(self, style: Style, height: float) -> None:
        from matplotlib.figure import Figure

        self.style, self.height = style, height
        self.width = style.form.width
        em = style.form.points / 72
        self.figure = Figure(figsize=(style.form.inches, height * em))
        self.figure.patch.set_visible(False)
        self.hovers: dict[str, str] = {}

    def colour(self, name: str) -> str:
        """By its name."""
        return self.style.colours[name]

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Empty axes there, with a horizontal scale at the bottom and no ticks."""
        box = (
            left / self.width,
            1 - (top + height) / self.height,
            width / self.width,
            height / self.height,
        )
        axes = self.figure.add_axes(box)
        axes.patch.set_visible(False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", bottom=False, left=False, labelsize=self.points(0.88))
        axes.set_axisbelow(True)
        axes.minorticks_off()
        return axes

    def points(self, ems: float) -> float:
        """Ems as points."""
        return ems * self.style.form.points

    def text(self, x: float, y: float, text: str, *, colour: str = "ink", **more: Any) -> Text:
        """A text in the middle of the line at `y`."""
        more.setdefault("va", "center")
        return self.figure.text(
            x / self.width,
            1 - y / self.height,
            clean(text),
            color=self.colour(colour),
            **more,
        )

    def beside(
        self, axes: Axes, at: tuple[float, float], text: str, *, colour: str = "ink", **more: Any
    ) -> Text:
        """A text to the right of a place in the axes, or as `xytext`, in ems, says."""
        x, y = more.pop("xytext", (0.45, 0.0))
        more.setdefault("va", "center")
        more.setdefault("fontsize", self.points(0.9))
        return axes.annotate(
            clean(text),
            at,
            xytext=(self.points(x), self.points(y)),
            textcoords="offset points",
            color=self.colour(colour),
            annotation_clip=False,
            **more,
        )

    def line(
        self,
        axes: Axes,
        xs: Sequence[float],
        ys: Sequence[float],
        colour: str,
        hover: str = "",
        **more: Any,
    ) -> None:
        """A line, or markers alone with `linestyle=""`; matplotlib's `plot` takes five times as long."""
        from matplotlib.lines import Line2D

        line = Line2D(xs, ys, color=self.colour(colour), **more)
        axes.add_artist(line)
        if hover:
            self.hover(line, hover)

    def bar(
        self,
        axes: Axes,
        at: float,
        ends: tuple[float, float],
        thick: float,
        colour: str,
        hover: str = "",
        **more: Any,
    ) -> None:
        """A horizontal bar in the middle of which `at` is."""
        from matplotlib.patches import Rectangle

        left, right = ends
        more.setdefault("linewidth", 0)
        place = (left, at - thick / 2)
        bar = Rectangle(place, right - left, thick, facecolor=self.colour(colour), **more)
        axes.add_artist(bar)
        if hover:
            self.hover(bar, hover)

    def hover(self, artist: Artist, text: str) -> None:
        """Say what a mark is, for whoever points at it."""
        name = f"mark-{len(self.hovers)}"
        artist.set_gid(name)
        self.hovers[name] = clean(text)


@lru_cache(maxsize=4096)
def _advance(letter: str) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    if unicodedata.east_asian_width(letter) in "WF":
        return 1.0
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0.0
    font = FontProperties(family="DejaVu Sans", size=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        width, _, _ = text_to_path.get_text_width_height_descent(letter, font, ismath=False)
    return float(width) / 100


def measure(text: str) -> float:
    """How wide a text is, in ems."""
    return _MARGIN * sum(map(_advance, clean(text)))


def elided(text: str, most: float) -> str:
    """The text, with its middle left out if it is wider than so many ems."""
    text = clean(text)
    if measure(text) <= most:
        return text
    head, tail = 1, 1
    while head + tail < len(text):
        longer = (head + 1, tail) if head < tail else (head, tail + 1)
        if measure(text[: longer[0]] + "…" + text[-longer[1] :]) > most:
            break
        head, tail = longer
    return f"{text[:head]}…{text[-tail:]}"
