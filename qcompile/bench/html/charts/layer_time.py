"""Where the time goes: each layer before, in PyTorch, and after, in parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qcompile.bench.html.charts import words
from qcompile.bench.html.charts.legend import Key, height, legend
from qcompile.bench.html.charts.rows import FOOT, HEAD, Rows, name_column, reach
from qcompile.bench.html.charts.sheet import Plan, Sheet, Style
from qcompile.bench.html.colours import PARTS
from qcompile.bench.results import Layer, Parts, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME, TITLE = "layer-time", "Time by layer"
_GAP = 2.0
_TITLES = {"before": "before: PyTorch, float32", "after": "after: qcompile"}
_MEANING = {
    "pack": "pack: prepare the input",
    "matmul": "matmul: products",
    "epilogue": "epilogue: scale, threshold, pool",
    "other": "other",
}


def plan(report: Report) -> Plan | str:
    """Stacked bars before and after, or why there are none."""
    layers = [layer for layer in report.layers if any(total(layer, s) for s in _TITLES)]
    sides = [side for side in _TITLES if any(total(layer, side) for layer in layers)]
    if not sides:
        return words.why(report, "layers", "No layer was timed.")
    return Plan(_caption(layers, sides), lambda style: _draw(layers, sides, style))


def parts(layer: Layer, side: str) -> dict[str, float]:
    """Seconds by part, of those that take some."""
    found: Parts | None = layer.before if side == "before" else layer.after
    if found is None:
        return {}
    values = {name: float(getattr(found, name)) for name in PARTS}
    return {name: value for name, value in values.items() if words.finite(value) and value > 0}


def total(layer: Layer, side: str) -> float:
    """Seconds of a layer, 0 where that is not known."""
    return sum(parts(layer, side).values())


def _draw(layers: Sequence[Layer], sides: Sequence[str], style: Style) -> Sheet:
    names = [words.clean(layer.path) for layer in layers]
    narrow = style.form.narrow
    column = name_column(names, 11 if narrow else 20)
    across = 1 if narrow else len(sides)
    width = (style.form.width - column - 0.4 - (across - 1) * _GAP) / across
    used = [p for p in PARTS if any(p in parts(layer, s) for layer in layers for s in sides)]
    keys = [Key(part if narrow else _MEANING[part], part) for part in used]
    start = 0.6 if narrow else column
    space = 0.4 + height(keys, style.form.width - start)
    block = Rows(names, 0, 0, width, column).height + HEAD + FOOT
    block += 1.6 if len(names) > 30 else 0.0
    sheet = Sheet(style, space + block * (len(sides) // across))
    legend(sheet, start, keys, style.form.width - start)
    for number, side in enumerate(sides):
        left = column + (number % across) * (width + _GAP)
        top = (
            space + block * (number // across) + block - FOOT - Rows(names, 0, 0, 1, column).height
        )
        shown = names if number % across == 0 else [""] * len(names)
        rows = Rows(shown, left, top, width, column)
        _panel(sheet, rows.axes(sheet, _TITLES[side]), rows, layers, side)
    return sheet


def _panel(sheet: Sheet, axes: Axes, rows: Rows, layers: Sequence[Layer], side: str) -> None:
    totals = [total(layer, side) for layer in layers]
    unit, name = words.time_unit(totals)
    whole = sum(totals)
    texts = [_value(layer, side, whole) for layer in layers]
    high = reach([t / unit for t in totals], [t for t, _ in texts], rows.width)
    batch = max(layer.batch for layer in layers)
    note = f" of a call of {words.plural(batch, 'sample')}" if batch > 1 else " of a call"
    rows.scale(sheet, axes, 0, high, f"time{note}, {name}")
    for row, layer in enumerate(layers):
        done = 0.0
        for part, seconds in parts(layer, side).items():
            ends = done / unit, (done + seconds) / unit
            what = f"{layer.path}, {part}: {words.seconds(seconds)}"
            what += f", {words.share(seconds / totals[row])} of the layer"
            edge = 0.4 if (ends[1] - ends[0]) / high * rows.width > 0.4 else 0.0
            paper = sheet.colour("paper")
            sheet.bar(
                axes, rows.at(row), ends, rows.thick, part, what, edgecolor=paper, linewidth=edge
            )
            done += seconds
        text, colour = texts[row]
        sheet.beside(axes, (done / unit, rows.at(row)), text, colour=colour)


def _value(layer: Layer, side: str, whole: float) -> tuple[str, str]:
    seconds = total(layer, side)
    if not seconds:
        given = layer.before if side == "before" else layer.after
        return ("0 s" if given is not None else "not known"), "muted"
    text = f"{words.seconds(seconds)}, {words.share(seconds / whole)}"
    if side == "after" and _slower(layer):
        return f"{text}, slower", "bad"
    return text, "ink"


def _slower(layer: Layer) -> bool:
    before = total(layer, "before")
    return 0 < before < total(layer, "after")


def _caption(layers: Sequence[Layer], sides: Sequence[str]) -> str:
    said = []
    if "after" in sides:
        whole = sum(total(layer, "after") for layer in layers)
        top = max(layers, key=lambda layer: total(layer, "after"))
        taken = words.share(total(top, "after") / whole)
        said.append(f"after, {words.name(top.path)} takes {taken} of the time")
        sums = {p: sum(parts(layer, "after").get(p, 0.0) for layer in layers) for p in PARTS}
        most = max(sums, key=lambda part: sums[part])
        said[0] += f", and of all of it {words.share(sums[most] / whole)} is {most}"
    if len(sides) == 2:
        slower = [layer for layer in layers if _slower(layer)]
        if slower:
            said.append(f"slower than in PyTorch: {words.named(slower)}")
        said.append("the two scales differ")
    else:
        said.append(f"only the times {sides[0]} are known")
    said.append(
        "layers are in the order in which they run, each timed by itself on one thread; "
        "percentages are of the sum of the column"
    )
    return " ".join(map(words.sentence, said))
