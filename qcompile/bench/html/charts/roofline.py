"""Each layer beside what the machine can do: products a second over products a byte.

Williams, Waterman, Patterson: Roofline, an insightful visual performance model for multicore architectures, 2009.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompile.bench.html.charts import words
from qcompile.bench.html.charts.layer_time import total
from qcompile.bench.html.charts.legend import Key, height, legend
from qcompile.bench.html.charts.placing import Labels
from qcompile.bench.html.charts.rows import scale
from qcompile.bench.html.charts.sheet import Plan, Sheet, Style, elided, measure
from qcompile.bench.html.colours import SERIES
from qcompile.bench.results import Layer, Report, Roof

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME, TITLE = "roofline", "Roofline of the layers"
_MARKERS = "oDs^vPX*"
_ABOVE = 1.05  # of a roof: more than noise
_LABELLED = 3  # of the slowest layers
_NEAR = 1.6  # ratio of two slopes whose names would lie on one another


@dataclass(frozen=True)
class Point:
    """A layer: products a byte, products a second, and the least of the roofs above it."""

    layer: Layer
    intensity: float
    rate: float
    roof: float | None
    bound: str

    @property
    def share(self) -> float | None:
        """Of what its roof allows."""
        return self.rate / self.roof if self.roof else None


def plan(report: Report) -> Plan | str:
    """A point for each layer, or why there is none."""
    roofs = [roof for roof in report.roofs if words.finite(roof.rate) and roof.rate > 0]
    points = [p for layer in report.layers if (p := _point(layer, roofs)) is not None]
    if not points:
        if not report.layers:
            return words.why(report, "layers", "The layers were not looked at.")
        return "No layer with products was timed."
    return Plan(_caption(report, points, roofs), lambda style: _draw(points, roofs, style))


def _point(layer: Layer, roofs: Sequence[Roof]) -> Point | None:
    seconds = total(layer, "after")
    macs = layer.macs * layer.batch
    if seconds <= 0 or macs <= 0 or layer.moved <= 0:
        return None
    intensity = macs / layer.moved
    limits = [
        (roof.rate, roof.name)
        for roof in roofs
        if roof.kind == "macs" and layer.method.startswith(tuple(roof.methods) or ("\0",))
    ][:1]
    fastest = max((r for r in roofs if r.kind == "bytes"), key=lambda r: r.rate, default=None)
    if fastest is not None:
        limits.append((fastest.rate * intensity, f"{fastest.name} bandwidth"))
    roof, bound = min(limits, default=(None, ""))
    return Point(layer, intensity, macs / seconds, roof, bound)


def _draw(points: Sequence[Point], roofs: Sequence[Roof], style: Style) -> Sheet:
    narrow = style.form.narrow
    methods = list(dict.fromkeys(p.layer.method or "other" for p in points))
    left, width = 3.6, style.form.width - 4.8
    tall = 24.0 if narrow else 27.0
    keys = [Key(method, *_look(number)) for number, method in enumerate(methods)]
    top = 1.7 + height(keys, style.form.width - 1)
    sheet = Sheet(style, top + tall + 3.4)
    axes = sheet.axes(left, top, width, tall)
    limits = _limits(points, roofs)
    scale(axes, "x", *limits[0], log=True)
    scale(axes, "y", *limits[1], log=True)
    axes.yaxis.set_major_formatter(lambda value, _: words.rate(value, ""))
    axes.grid()
    small = sheet.points(0.9)
    axes.set_xlabel("multiply-accumulates a byte moved (logarithmic)", fontsize=small, loc="left")
    sheet.text(0.6, top - 0.9, "multiply-accumulates a second (logarithmic)", fontsize=small)
    labels = Labels(sheet, axes, [(p.intensity, p.rate) for p in points])
    _roofs(sheet, axes, labels, roofs, (width, tall))
    _marks(sheet, axes, points, methods)
    legend(sheet, 0.6, keys, style.form.width - 1)
    slowest = sorted(points, key=lambda p: -total(p.layer, "after"))[:_LABELLED]
    for point in slowest:
        labels.add((point.intensity, point.rate), elided(point.layer.path, 11 if narrow else 18))
    return sheet


def _limits(
    points: Sequence[Point], roofs: Sequence[Roof]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of both scales: all points, and the ridges near them."""
    xs = [p.intensity for p in points]
    ys = [p.rate for p in points] + [p.roof for p in points if p.roof]
    low, high = min(xs) / 4, max(xs) * 4
    used = [r.rate for r in roofs if r.kind == "macs" and any(_bounds(r, p) for p in points)]
    return (low, high), (min(ys) / 4, max([*ys, *used]) * 2.5)


def _bounds(roof: Roof, point: Point) -> bool:
    return bool(roof.methods) and point.layer.method.startswith(tuple(roof.methods))


def _roofs(
    sheet: Sheet, axes: Axes, labels: Labels, roofs: Sequence[Roof], size: tuple[float, float]
) -> None:
    """The lines, each with its name on it."""
    fastest = max((r.rate for r in roofs if r.kind == "bytes"), default=math.inf)
    peak = max((r.rate for r in roofs if r.kind == "macs"), default=math.inf)
    named: list[tuple[float, float]] = []  # rates of slopes, and how far along their names reach
    for roof in roofs:
        if roof.kind == "macs":
            _flat(sheet, axes, labels, roof, fastest, size[0])
        elif roof.kind == "bytes":
            near = [end for rate, end in named if 1 / _NEAR < roof.rate / rate < _NEAR]
            named.append(
                (roof.rate, _slope(sheet, axes, labels, roof, peak, size, max(near, default=0.0)))
            )


def _flat(
    sheet: Sheet, axes: Axes, labels: Labels, roof: Roof, fastest: float, width: float
) -> None:
    (low, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    left = max(low, roof.rate / fastest)
    if left >= right or not bottom < roof.rate < top:
        return
    text = f"{roof.name}, {words.rate(roof.rate, 'MAC/s')}"
    sheet.line(axes, [left, right], [roof.rate] * 2, "ink", text, linewidth=1)
    sheet.beside(axes, (right, roof.rate), text, xytext=(-0.3, 0.65), ha="right")
    labels.reserve((left, roof.rate), (right, roof.rate))
    named = right / (right / low) ** (measure(text) / width)
    labels.reserve((named, roof.rate), (right, roof.rate), above=1.3)


def _slope(
    sheet: Sheet,
    axes: Axes,
    labels: Labels,
    roof: Roof,
    peak: float,
    size: tuple[float, float],
    taken: float,
) -> float:
    """A bandwidth; its name begins `taken` ems along the line. Gives where it ends."""
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    left, right = max(low, bottom / roof.rate), min(high, peak / roof.rate, top / roof.rate)
    if left >= right:
        return taken
    ends = (left, roof.rate * left), (right, roof.rate * right)
    text = f"{roof.name}, {words.rate(roof.rate, 'B/s')}"
    xs, ys = zip(*ends, strict=True)
    sheet.line(axes, xs, ys, "muted", text, linewidth=1)
    labels.reserve(*ends, above=0.9)
    # Ems of a factor of ten along each scale, and along the line.
    across, up = size[0] / math.log10(high / low), size[1] / math.log10(top / bottom)
    along = math.hypot(across, up)
    end = taken + measure(text) + 1.5
    if along * math.log10(right / left) < end:
        return taken
    at = left * 10 ** ((taken + 0.7) / along)
    sheet.beside(
        axes,
        (at, roof.rate * at),
        text,
        colour="muted",
        xytext=(-0.2, 0.35),
        rotation=math.degrees(math.atan2(up, across)),
        rotation_mode="anchor",
        va="bottom",
    )
    return end


def _look(number: int) -> tuple[str, str]:
    """Colour and marker of a method."""
    return SERIES[number % len(SERIES)], _MARKERS[number % len(_MARKERS)]


def _marks(sheet: Sheet, axes: Axes, points: Sequence[Point], methods: Sequence[str]) -> None:
    for point in points:
        colour, marker = _look(methods.index(point.layer.method or "other"))
        share = point.share
        of = f", {words.share(share)} of its roof ({point.bound})" if share is not None else ""
        sheet.line(
            axes,
            [point.intensity],
            [point.rate],
            colour,
            f"{point.layer.path}: {words.rate(point.rate, 'MAC/s')}{of}, "
            f"{words.seconds(total(point.layer, 'after'))}, "
            f"{words.digits(point.intensity)} MAC a byte",
            marker=marker,
            linestyle="",
            markeredgecolor=sheet.colour("paper"),
            markeredgewidth=0.6,
            markersize=sheet.points(0.8),
        )


def _caption(report: Report, points: Sequence[Point], roofs: Sequence[Roof]) -> str:
    said = []
    slowest = max(points, key=lambda p: total(p.layer, "after"))
    name = words.name(slowest.layer.path)
    if slowest.share is not None:
        said.append(
            f"the slowest layer, {name}, reaches {words.share(slowest.share)} of its roof, "
            f"{slowest.bound}"
        )
    else:
        said.append(f"the slowest layer, {name}, makes {words.rate(slowest.rate, 'MAC/s')}")
    shares = sorted(p.share for p in points if p.share is not None)
    if len(shares) > 1:
        middle = shares[len(shares) // 2]
        said.append(f"half of the layers reach {words.share(middle)} or more of theirs")
    if shares and shares[-1] > _ABOVE:
        said.append("more than 100 % means that a roof is not the best that the machine can do")
    if not roofs:
        said.append(words.why(report, "roofs", "What the machine can do was not measured."))
    else:
        said.append(
            "a layer's roof is the rate of its kind of product, or that of the fastest cache where "
            "its bytes need longer; lines were measured on one core, names mark the slowest layers"
        )
    others = len([layer for layer in report.layers if layer.macs]) - len(points)
    if others:
        said.append(f"{words.plural(others, 'layer')} with products could not be placed")
    return " ".join(map(words.sentence, said))
