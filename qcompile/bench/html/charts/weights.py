"""Memory of weights: what each layer takes as float and as it is packed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qcompile.bench.html.charts import words
from qcompile.bench.html.charts.rows import FOOT, Rows, name_column, reach
from qcompile.bench.html.charts.sheet import Plan, Sheet, Style
from qcompile.bench.results import Layer, Report

NAME, TITLE = "weights", "Memory of weights"
_LOG = 50.0  # ratio of sizes from which a linear scale hides the small ones
_ALL = "all layers"


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
    from matplotlib.ticker import FuncFormatter, LogLocator

    pairs = [_totals(layers)] + [(w.weights_before, w.weights_after) for w in layers]
    names = [_ALL, *(words.clean(layer.path) for layer in layers)]
    column = 0.0 if style.form.narrow else name_column(names, 20)
    start = column or 1.9
    above = 1.2 if len(names) > 30 else 0.0
    rows = Rows(names, start, 1.6 + above, style.form.width - start - 0.6, column)
    sheet = Sheet(style, rows.top + rows.height + FOOT)
    sheet.legend(start, 0.8, [("series-8", "before: float"), ("series-1", "after: packed")], 99)
    axes = rows.axes(sheet, bold=(0,))
    sizes = [size for pair in pairs for size in pair if size > 0]
    log = max(sizes) / min(sizes) > _LOG
    unit, name = (1.0, "bytes") if log else _unit(max(sizes))
    low = float(2 ** math.floor(math.log2(min(sizes)) - 0.5)) if log else 0.0
    texts = [_value(*pair) for pair in pairs]
    ends = [max(max(pair) / unit, low) for pair in pairs]
    high = reach(ends, texts, rows.width, low if log else None)
    rows.scale(sheet, axes, low, high, f"weights, {name}", log=log)
    if log:
        octaves = math.ceil(math.log2(high / low) / (rows.width / 6))
        axes.xaxis.set_major_locator(LogLocator(2.0**octaves))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.size(value)))
    for row, (before, after) in enumerate(pairs):
        at, ends_ = rows.at(row), [max(size / unit, low) for size in (before, after)]
        axes.plot(ends_, [at, at], color=sheet.colour("grid"), linewidth=sheet.points(0.28))
        for value, size, colour, marker in (
            (ends_[0], before, "series-8", "o"),
            (ends_[1], after, "series-1", "D"),
        ):
            [dot] = axes.plot(
                [value],
                [at],
                marker,
                color=sheet.colour(colour),
                markersize=sheet.points(0.72 if marker == "o" else 0.6),
                clip_on=False,
            )
            when = "before" if marker == "o" else "after"
            sheet.hover(dot, f"{names[row]}, {when}: {size:,} bytes")
        weight = "bold" if row == 0 else "normal"
        colour = "bad" if after > before else "ink"
        place = (max(ends_), at)
        sheet.beside(axes, place, texts[row], colour=colour, fontweight=weight, xytext=(0.75, 0))
    return sheet


def _unit(largest: int) -> tuple[float, str]:
    unit = words.size(largest).partition(" ")[2]
    return {"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}[unit], unit


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
        said[0] += f"; {part} of these are in {words.clean(top.path)}"
        said[0] += f" ({bits})" if bits else ""
    larger = [layer for layer in layers if layer.weights_after > layer.weights_before]
    if larger:
        said.append(f"larger than before: {words.named(larger)}")
    return " ".join(map(words.sentence, said))
