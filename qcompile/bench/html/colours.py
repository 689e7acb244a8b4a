"""The colours of the report: one place for its page and its pictures, on light paper and on dark.

Names become CSS custom properties: "series-1" is `--qc-series-1`.

- Text is `ink`, `muted`, `good` or `bad`: a contrast of 4.5 to 1 with the paper at least (WCAG 2.1, AA).
- Marks of `series-1` to `series-8`, of which 1 is ours, have 3 to 1. Each two of them, and each two of the parts of a
  layer (`pack`, `matmul`, `epilogue`, `other`), can be told apart with deuteranopia and protanopia too; the hues are
  near those of Okabe and Ito, moved until the least distance was largest.
- The parts differ in lightness, so that they do in grey print. Eight series cannot: labels and markers tell them.
"""

from __future__ import annotations

from collections.abc import Mapping

SERIES = tuple(f"series-{number}" for number in range(1, 9))
PARTS = ("pack", "matmul", "epilogue", "other")
TEXT = ("ink", "muted", "good", "bad")

LIGHT: Mapping[str, str] = {
    "paper": "#ffffff",
    "ink": "#1b1f24",
    "muted": "#5a6270",
    "grid": "#dde1e6",
    "series-1": "#0271dd",
    "series-2": "#953d00",
    "series-3": "#379655",
    "series-4": "#7c3f7d",
    "series-5": "#c28b03",
    "series-6": "#019fd5",
    "series-7": "#4b0910",
    "series-8": "#87949a",
    "pack": "#a789de",
    "matmul": "#002b53",
    "epilogue": "#dfaf27",
    "other": "#7a7d6f",
    "good": "#00627d",
    "bad": "#b23c00",
}
DARK: Mapping[str, str] = {
    "paper": "#14171c",
    "ink": "#e8ebef",
    "muted": "#a4adba",
    "grid": "#323944",
    "series-1": "#23a0fa",
    "series-2": "#c97f2e",
    "series-3": "#4ae19d",
    "series-4": "#bca0cd",
    "series-5": "#ffca3c",
    "series-6": "#dafcff",
    "series-7": "#8c6947",
    "series-8": "#666975",
    "pack": "#ceacda",
    "matmul": "#008bf4",
    "epilogue": "#f2d877",
    "other": "#656561",
    "good": "#49c6d8",
    "bad": "#ff8f5c",
}
NAMES = tuple(LIGHT)


def variable(name: str) -> str:
    """How a style refers to a colour: "var(--qc-ink)"."""
    return f"var(--qc-{name})"


def declarations(palette: Mapping[str, str]) -> str:
    """The custom properties of a palette, a CSS declaration a line."""
    return "\n".join(f"--qc-{name}: {value};" for name, value in palette.items())
