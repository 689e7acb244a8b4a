"""Memory of weights: what each layer takes as float and as it is packed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qcompile.bench.html.charts import words
from qcompile.bench.html.charts.legend import Key, legend
from qcompile.bench.html.charts.rows import FOOT, Rows, doublings, name_column
from qcompile.bench.html.charts.sheet import Plan, Sheet, Style, measure
from qcompile.bench.results import Layer, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME, TITLE = "weights", "Memory of weights"
_LOG = 50.0  # ratio of sizes from which a linear scale hides the small ones
_ALL = "all layers"
_UNITS = ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB"))
# Colour, marker, its size in ems, and what it is.
_MARKS = (("series-8", "o", 0.72, "before: float"), ("series-1", "D", 0.6, "after: packed"))


def plan(report: Report) -> Plan | str:
    """From before to after for each layer, or why not."""
    layers = [layer for layer in report.layers if layer.weights_before > 0]
    if not layers:
        otherwise = "No layer has weights whose size is known." if report.layers else ""
        return words.why(report, "layers", otherwise or "The layers were not looked at.")
    return Plan(_caption(layers), lambda style: _draw(layers, style))


def _totals(layers: Sequence[Layer]) -> tuple[int, int]:
    return sum(w.weights_before for w in layers), sum(w.weights_after for w in layers)


def _draw(layers: Sequence[Layer], style: Style) -> Sheet:
    pairs = [_totals(layers)] + [(w.weights_before, w.weights_after) for w in layers]
    names = [_ALL, *(words.clean(layer.path) for layer in layers)]
    texts = [_value(*pair) for pair in pairs]
    narrow = style.form.narrow
    column = 0.0 if narrow else name_column(names, 20)
    start, values = column or 1.9, max(map(measure, texts)) + 1.0
    top = 1.8 + (1.6 if len(names) > 30 else 0.0)
    # Values stand in a column of their own, or behind the names.
    width = style.form.width - start - (1.9 if narrow else values + 0.8)
    rows = Rows(names, start, top, width, column, values if narrow else 0.0)
    sheet = Sheet(style, rows.top + rows.height + FOOT)
    keys = [Key(told, colour, marker) for colour, marker, _, told in _MARKS]
    legend(sheet, start, keys, style.form.width)
    axes = rows.axes(sheet, bold=(0,))
    unit, low = _scale(sheet, axes, rows, [size for pair in pairs for size in pair if size > 0])
    for row, (before, after) in enumerate(pairs):
        ends = [max(size / unit, low) for size in (before, after)]
        thick = sheet.points(0.28)
        sheet.line(axes, ends, [rows.at(row)] * 2, "grid", linewidth=thick)
        for value, size, (colour, marker, large, when) in zip(
            ends, (before, after), _MARKS, strict=True
        ):
            sheet.line(
                axes,
                [value],
                [rows.at(row)],
                colour,
                f"{names[row]}, {when}: {size:,} bytes",
                marker=marker,
                linestyle="",
                markersize=sheet.points(large),
                clip_on=False,
            )
        rows.value(
            sheet,
            row,
            texts[row],
            colour="bad" if after > before else "ink",
            fontweight="bold" if row == 0 else "normal",
        )
    return sheet


def _scale(sheet: Sheet, axes: Axes, rows: Rows, sizes: Sequence[int]) -> tuple[float, float]:
    """Linear or logarithmic, as the sizes ask for; gives the unit and where it begins."""
    if max(sizes) / min(sizes) <= _LOG:
        unit, name = _unit(max(sizes))
        rows.scale(sheet, axes, 0.0, 1.06 * max(sizes) / unit, f"weights, {name}")
        return unit, 0.0
    low, high = 2.0 ** math.floor(math.log2(min(sizes)) - 0.5), 1.5 * max(sizes)
    rows.scale(sheet, axes, low, high, "weights", log=True)
    doublings(axes, rows.width)
    return 1.0, low


def _unit(largest: int) -> tuple[float, str]:
    return next(((2.0**bits, unit) for bits, unit in _UNITS if largest >> bits), (1.0, "bytes"))


def _value(before: int, after: int) -> str:
    sizes = f"{words.size(before)} → {words.size(after)}"
    return f"{sizes}, 1/{before / after:.3g}" if 0 < after < before else sizes


def _caption(layers: Sequence[Layer]) -> str:
    before, after = _totals(layers)
    said = [
        f"the weights of all layers take {words.size(before)} as float and {words.size(after)} packed"
    ]
    if after:
        top = max(layers, key=lambda layer: layer.weights_after)
        part = words.share(top.weights_after / after)
        bits = words.bits(top.bits)
        said[0] += f"; {part} of these are in {words.name(top.path)}"
        said[0] += f" ({bits})" if bits else ""
    larger = [layer for layer in layers if layer.weights_after > layer.weights_before]
    if larger:
        said.append(f"larger than before: {words.named(larger)}")
    return " ".join(map(words.sentence, said))
