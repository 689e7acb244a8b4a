"""What values reach each layer, and what of them its quantizer can represent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qcompile.bench.html.charts import words
from qcompile.bench.html.charts.legend import Key, height, legend
from qcompile.bench.html.charts.rows import FOOT, Rows, name_column
from qcompile.bench.html.charts.sheet import Plan, Sheet, Style
from qcompile.bench.results import Layer, Range, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME, TITLE = "ranges", "Ranges of activations"
_BENT = 30.0  # greatest value over the middle one from which the scale is bent
_KEYS = (
    Key("least to greatest", "series-8", "_"),
    Key("99 of 100 values", "series-1"),
    Key("what the quantizer represents", "series-2", "|"),
)


def plan(report: Report) -> Plan | str:
    """A line with a thick middle for each layer, or why there are none."""
    layers = [layer for layer in report.layers if _known(layer.activations)]
    if not layers:
        otherwise = "No layer's activations are known." if report.layers else ""
        return words.why(report, "layers", otherwise or "The layers were not looked at.")
    return Plan(_caption(layers), lambda style: _draw(layers, style))


def _known(found: Range | None) -> bool:
    return found is not None and all(map(words.finite, (found.low, found.high, *found.middle)))


def _limits(found: Range) -> tuple[float, float] | None:
    """Of the quantizer, where they are numbers."""
    if found.quantized is None or not all(map(words.finite, found.quantized)):
        return None
    return found.quantized


def _ranges(layers: Sequence[Layer]) -> list[Range]:
    return [layer.activations for layer in layers if layer.activations is not None]


def _draw(layers: Sequence[Layer], style: Style) -> Sheet:
    names = [words.clean(layer.path) for layer in layers]
    narrow = style.form.narrow
    column = name_column(names, 11 if narrow else 20)
    start = 0.6 if narrow else column
    lines = 0.3 + height(_KEYS, style.form.width - start)
    above = 1.7 if len(names) > 30 else 0.0
    rows = Rows(names, column, lines + above, style.form.width - column - 0.6, column)
    sheet = Sheet(style, rows.top + rows.height + FOOT)
    legend(sheet, start, _KEYS, style.form.width - start)
    axes = rows.axes(sheet)
    ends = [v for r in _ranges(layers) for v in (r.low, r.high, *(_limits(r) or ()))]
    low, high = min(ends), max(ends)
    room = 0.03 * (high - low) or 1.0
    rows.scale(sheet, axes, low - room, high + room, "value")
    _bend(sheet, axes, layers, narrow)
    axes.axvline(0, color=sheet.colour("muted"), linewidth=0.7)
    for row, found in enumerate(_ranges(layers)):
        _row(sheet, axes, rows.at(row), names[row], found)
    return sheet


def _bend(sheet: Sheet, axes: Axes, layers: Sequence[Layer], narrow: bool) -> None:
    """A logarithmic scale outside of the middle, where some layers are far wider than most."""
    from matplotlib.ticker import SymmetricalLogLocator

    sizes = sorted(max(map(abs, found.middle)) for found in _ranges(layers))
    largest = max(max(abs(found.low), abs(found.high)) for found in _ranges(layers))
    middle = sizes[len(sizes) // 2]
    if middle <= 0 or largest / middle <= _BENT:
        return
    form = axes.xaxis.get_major_formatter()
    start = 10.0 ** round(math.log10(middle))
    axes.set_xscale("symlog", linthresh=start)
    locator = SymmetricalLogLocator(base=10, linthresh=start)
    locator.set_params(numticks=5 if narrow else 9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(form)
    axes.set_xlabel(
        f"value (logarithmic outside of ±{start:g})", fontsize=sheet.points(0.9), loc="left"
    )


def _row(sheet: Sheet, axes: Axes, at: float, name: str, found: Range) -> None:
    whole = f"{name}: from {found.low:.3g} to {found.high:.3g}"
    sheet.line(
        axes, [found.low, found.high], [at, at], "series-8", whole, linewidth=1.2, zorder=0.8
    )
    first, last = found.middle
    if last > first:
        what = f"{name}: 99 of 100 values from {first:.3g} to {last:.3g}"
        sheet.bar(axes, at, (first, last), 0.4, "series-1", what)
    limits = _limits(found)
    if limits:
        sheet.line(
            axes,
            limits,
            [at, at],
            "series-2",
            f"{name}: its quantizer represents {limits[0]:.3g} to {limits[1]:.3g}",
            marker="|",
            linestyle="",
            markersize=sheet.points(1.15),
            markeredgewidth=1.8,
            clip_on=False,
        )


def _cut(layer: Layer) -> float:
    """How far the quantizer's limits are inside of 99 of 100 values, as a share of their width."""
    found = layer.activations
    limits = _limits(found) if found is not None else None
    if found is None or limits is None or found.middle[1] <= found.middle[0]:
        return 0.0
    first, last = found.middle
    inside = max(limits[0] - first, 0.0) + max(last - limits[1], 0.0)
    return min(inside / (last - first), 1.0)


def _caption(layers: Sequence[Layer]) -> str:
    fixed = [layer for layer in layers if layer.activations and _limits(layer.activations)]
    cut = [layer for layer in fixed if _cut(layer) > 0.005]
    if cut:
        most = max(cut, key=_cut)
        said = (
            f"In {len(cut)} of {words.plural(len(fixed), 'quantized layer')} the quantizer ends within "
            f"the middle 99 % of the values, furthest in {words.name(most.path)}: "
            f"{words.share(_cut(most))} of that range is beyond it."
        )
    elif fixed:
        said = "Every quantizer represents the middle 99 % of the values that reach its layer."
    else:
        said = "No layer here has a quantizer with fixed limits."
    return (
        f"{said} Over the calibration data; values outside of the marks are clipped, which is how "
        "1-bit layers work."
    )
