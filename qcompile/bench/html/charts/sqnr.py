"""What quantization costs each layer: signal over noise at its output, alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qcompile.bench.html.charts import words
from qcompile.bench.html.charts.rows import FOOT, Rows, name_column, reach
from qcompile.bench.html.charts.sheet import Plan, Sheet, Style
from qcompile.bench.results import Layer, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME, TITLE = "sqnr", "Signal to quantization noise by layer"
# Decibels, and noise power over signal power.
_GUIDES = {0: "100 %", 10: "10 %", 20: "1 %", 30: "0.1 %", 40: "0.01 %", 50: "0.001 %"}
_LITTLE = 10.0  # decibels from which down a bar is shown as a loss


def plan(report: Report) -> Plan | str:
    """Bars in dB, or why there are none."""
    layers = [layer for layer in report.layers if layer.sqnr_db is not None]
    if not layers:
        otherwise = "No layer's noise is known." if report.layers else ""
        return words.why(report, "layers", otherwise or "The layers were not looked at.")
    return Plan(_caption(report, layers), lambda style: _draw(layers, style))


def _draw(layers: Sequence[Layer], style: Style) -> Sheet:
    names = [words.clean(layer.path) for layer in layers]
    column = name_column(names, 11 if style.form.narrow else 20)
    top = 1.9 if len(names) <= 30 else 3.1
    rows = Rows(names, column, top, style.form.width - column - 1.6, column)
    sheet = Sheet(style, rows.top + rows.height + FOOT)
    axes = rows.axes(sheet)
    texts = [_value(layer) for layer in layers]
    ends = [layer.sqnr_db if words.finite(layer.sqnr_db) else 0.0 for layer in layers]
    low = 1.15 * min(0.0, *ends)
    high = max(reach([max(end, 0.0) for end in ends], texts, rows.width), 12.0)
    rows.scale(sheet, axes, low, high, "signal power over noise power, dB")
    _guides(sheet, axes, rows, low, high)
    for row, layer in enumerate(layers):
        at, end = rows.at(row), ends[row]
        colour = "series-2" if end < _LITTLE else "series-1"
        if end:
            what = f"{names[row]}: {texts[row]}, {words.bits(layer.bits) or layer.kind}"
            sheet.bar(axes, at, (0.0, end), 0.85 * rows.thick, colour, what)
        sheet.beside(axes, (max(end, 0.0), at), texts[row])
    return sheet


def _guides(sheet: Sheet, axes: Axes, rows: Rows, low: float, high: float) -> None:
    """Lines for a tenth of noise each, and what they mean, above."""
    width = rows.width / (high - low)
    small = sheet.points(0.85)
    step = 10 if 10 * width >= 4.6 else 20  # so that texts do not meet
    sheet.text(rows.left - 0.6, 0.8, "noise:", colour="muted", ha="right", fontsize=small)
    for decibels, text in _GUIDES.items():
        if decibels > high or decibels % step:
            continue
        axes.axvline(decibels, color=sheet.colour("grid"), linewidth=1.4, zorder=0.5)
        place = rows.left + (decibels - low) * width
        align = "left" if decibels == low else "center"
        sheet.text(place, 0.8, text, colour="muted", ha=align, fontsize=small)


def _value(layer: Layer) -> str:
    value = layer.sqnr_db
    if not words.finite(value):
        return "exact" if value == float("inf") else "not known"
    return f"{value:.1f} dB".replace("-", "−")


def _caption(report: Report, layers: Sequence[Layer]) -> str:
    known = [layer for layer in layers if words.finite(layer.sqnr_db)]
    said = []
    if known:
        worst = min(known, key=lambda layer: layer.sqnr_db or 0.0)
        said.append(
            f"the noisiest is {words.name(worst.path)} with {_value(worst)}: its noise is "
            f"{words.share(10 ** (-(worst.sqnr_db or 0.0) / 10))} of the signal's power"
        )
    bad = sum((layer.sqnr_db or 0.0) < _LITTLE for layer in known)
    if bad:
        said.append(f"{bad} of {words.plural(len(known), 'layer')} are below {_LITTLE:g} dB")
    said.append(
        "each layer's output alone, quantized beside float, given the same input; at 20 dB noise is "
        "1 % of the power, and 10 dB more is a tenth of it"
    )
    unknown = [layer for layer in report.layers if layer.bits and layer.sqnr_db is None]
    if unknown:
        said.append(f"not known of {words.named(unknown)}")
    return " ".join(map(words.sentence, said))
