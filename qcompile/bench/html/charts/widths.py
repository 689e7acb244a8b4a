"""What accuracy costs in time and memory: each width of ours, and the other engines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qcompile.bench.html.charts import words
from qcompile.bench.html.charts.legend import Key, legend
from qcompile.bench.html.charts.placing import Labels, rising
from qcompile.bench.html.charts.rows import doublings, scale
from qcompile.bench.html.charts.sheet import Plan, Sheet, Style, elided
from qcompile.bench.html.colours import SERIES
from qcompile.bench.results import OURS, Report, Width
from qcompile.bench.words import accuracy, decibels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME, TITLE = "widths", "Accuracy, time and size"
_MARKERS = "sD^vPX*p<>"
_LOG = 8.0
Value = Callable[[Width], float | None]


def plan(report: Report) -> Plan | str:
    """Points in two panels, or why there are none."""
    known = [w for w in report.widths if _positive(w.seconds) or _positive(w.size)]
    accurate = any(words.finite(w.accuracy) for w in known)
    points = [w for w in known if _height(w, accurate) is not None]
    if not points:
        otherwise = "No width was tried, and no engine beside one."
        if known:
            otherwise = "Neither accuracy nor noise is known of any width."
        return words.why(report, "widths", otherwise)
    return Plan(
        _caption(report, points, accurate), lambda style: _draw(known, points, accurate, style)
    )


def _positive(value: float | None) -> bool:
    return words.finite(value) and value > 0


def _height(width: Width, accurate: bool) -> float | None:
    value = width.accuracy if accurate else width.sqnr_db
    if not words.finite(value):
        return None
    return 100 * value if accurate and _is_share(value) else value


def _is_share(value: float | None) -> bool:
    """Whether an accuracy is one; model files may measure otherwise."""
    return value is not None and 0 <= value <= 1


def _reading(width: Width, accurate: bool) -> str:
    return accuracy(width.accuracy) if accurate else decibels(width.sqnr_db)


def _seconds(width: Width) -> float | None:
    return width.seconds if _positive(width.seconds) else None


def _size(width: Width) -> float | None:
    return float(width.size) if width.size is not None and width.size > 0 else None


def _draw(known: Sequence[Width], points: Sequence[Width], accurate: bool, style: Style) -> Sheet:
    narrow = style.form.narrow
    values = [v for v in (_seconds, _size) if any(v(w) for w in points)]
    across = 1 if narrow else len(values)
    left, gap = 3.9, 2.5
    width = (style.form.width - left - 1.2 - gap * (across - 1)) / across
    height = 17.0 if narrow else 20.0
    block = height + 5.2
    sheet = Sheet(style, 1.2 + block * (len(values) // across))
    legend(sheet, 0.6, _keys(points), style.form.width)
    for number, value in enumerate(values):
        place = left + (number % across) * (width + gap)
        axes = sheet.axes(place, 3.2 + block * (number // across), width, height)
        _panel(sheet, axes, known, points, value, accurate)
        if number % across == 0:
            shares = all(_is_share(w.accuracy) for w in points)
            unit = "%" if shares else "as the model file measures it"
            what = f"accuracy, {unit}" if accurate else "signal over noise at the output, dB"
            sheet.text(0.6, 2.3 + block * (number // across), what, fontsize=sheet.points(0.9))
        else:
            axes.set_yticklabels([])
    return sheet


def _panel(
    sheet: Sheet,
    axes: Axes,
    known: Sequence[Width],
    points: Sequence[Width],
    value: Value,
    accurate: bool,
) -> None:
    places = {w: (x, _height(w, accurate) or 0.0) for w in points if (x := value(w)) is not None}
    limits = _scales(sheet, axes, known, points, value, accurate)
    best = rising(places.values())
    ends = [*best, (limits[1], best[-1][1])]
    xs, ys = zip(*ends, strict=True)
    sheet.line(axes, xs, ys, "muted", drawstyle="steps-post", linewidth=0.9, zorder=1.5)
    labels = Labels(sheet, axes, list(places.values()))
    for (x, y), (right, top) in itertools.pairwise(ends):
        labels.reserve((x, y), (right, y))
        labels.reserve((right, y), (right, top))
    for width in known:  # of which only the horizontal place is known, as of the exact one
        at = value(width)
        if width not in places and at is not None and min(width.bits) >= words.FLOAT_BITS:
            _reference(sheet, axes, labels, width, at)
    for width, place in places.items():
        _mark(sheet, axes, width, place, _marker(points, width), accurate)
    for width, place in places.items():
        labels.add(place, elided(width.name, 12))


def _scales(
    sheet: Sheet,
    axes: Axes,
    known: Sequence[Width],
    points: Sequence[Width],
    value: Value,
    accurate: bool,
) -> tuple[float, float]:
    """Set both, and give the limits of the horizontal one."""
    xs = [x for x in map(value, known) if x is not None]
    log = value is _size or max(xs) / min(xs) > _LOG
    limits = (min(xs) / 1.6, max(xs) * 2.2) if log else (0.0, max(xs) * 1.25)
    width = axes.get_position().width * sheet.width
    scale(axes, "x", *limits, log=log, most=int(width / 5))
    if value is _size:
        doublings(axes, width)
    else:
        axes.xaxis.set_major_formatter(lambda at, _: words.tick_seconds(at))
    what = "time of a call of one sample" if value is _seconds else "size"
    note = " (logarithmic)" if log else ""
    axes.set_xlabel(f"{what}{note}", fontsize=sheet.points(0.9), loc="left")
    heights = [_height(w, accurate) or 0.0 for w in points]
    room = 0.12 * (max(heights) - min(heights)) or max(0.02 * abs(heights[0]), 1.0)
    scale(axes, "y", min(heights) - room, max(heights) + room)
    axes.grid()
    return limits


def _marker(points: Sequence[Width], width: Width) -> tuple[str, str]:
    """Shape and colour: ours alike, another for each other engine."""
    if width.engine == OURS:
        return "o", SERIES[0]
    others = list(dict.fromkeys(w.engine for w in points if w.engine != OURS))
    number = others.index(width.engine)
    return _MARKERS[number % len(_MARKERS)], SERIES[1 + number % (len(SERIES) - 1)]


def _mark(
    sheet: Sheet,
    axes: Axes,
    width: Width,
    place: tuple[float, float],
    marker: tuple[str, str],
    accurate: bool,
) -> None:
    filled = width.trained or width.engine != OURS
    facts = [
        f"{'accuracy ' if accurate else ''}{_reading(width, accurate)}",
        words.seconds(width.seconds) if _seconds(width) else "",
        words.size(width.size) if width.size else "",
        "" if width.engine != OURS else "trained" if width.trained else "not trained",
    ]
    shape, colour = marker
    sheet.line(
        axes,
        [place[0]],
        [place[1]],
        colour,
        f"{width.name}: {', '.join(filter(None, facts))}",
        marker=shape,
        linestyle="",
        markerfacecolor=sheet.colour(colour if filled else "paper"),
        markeredgewidth=1.3,
        markersize=sheet.points(0.85),
    )


def _reference(sheet: Sheet, axes: Axes, labels: Labels, width: Width, x: float) -> None:
    line = axes.axvline(x, color=sheet.colour("muted"), linewidth=0.9, linestyle=(0, (3, 3)))
    sheet.hover(line, f"{width.name}: exact")
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    labels.reserve((x, low), (x, high))
    text = f"{elided(width.name, 14)} (exact)"
    ahead = labels.share(x) < 0.5  # of the line, where there is more room
    align, far = ("left", 0.3) if ahead else ("right", -0.3)
    sheet.beside(axes, (x, high), text, colour="muted", ha=align, xytext=(far, -0.7))
    labels.reserve(
        (x if ahead else left, high), (right if ahead else x, high), above=0.0, below=1.3
    )


def _keys(points: Sequence[Width]) -> list[Key]:
    ours = {width.trained for width in points if width.engine == OURS}
    told = {True: "qcompile, trained", False: "qcompile, not trained"}
    return [Key(told[trained], SERIES[0], "o", trained) for trained in told if trained in ours]


def _caption(report: Report, points: Sequence[Width], accurate: bool) -> str:
    said = (
        [] if accurate else ["there is no accuracy: the scale is signal over noise at the output"]
    )
    ours = [w for w in points if w.engine == OURS and _seconds(w)]
    if ours:
        fastest = min(ours, key=lambda w: w.seconds or math.inf)
        best = max(ours, key=lambda w: _height(w, accurate) or -math.inf)
        said.append(
            f"the fastest of qcompile's, {words.name(fastest.name)}, {_told(fastest, accurate)}"
        )
        if best != fastest:
            said.append(f"the most accurate, {words.name(best.name)}, {_told(best, accurate)}")
    if any(not w.trained for w in points if w.engine == OURS):
        said.append("widths that are not trained would gain by training, 1 bit most")
    said.append("no point lies left of the line and above it")
    missing = [w for w in report.widths if w not in points]
    untold = [w for w in missing if not w.reason and (accurate or min(w.bits) < words.FLOAT_BITS)]
    if untold:
        what = "accuracy" if accurate else "noise"
        said.append(f"of unknown {what}: {', '.join(words.name(w.name) for w in untold)}")
    said += [
        f"not there: {words.name(w.name)} ({words.clean(w.reason)})" for w in missing if w.reason
    ]
    return " ".join(map(words.sentence, said))


def _told(width: Width, accurate: bool) -> str:
    reached = f"reaches {_reading(width, accurate)}"
    facts = [words.seconds(width.seconds)] if _seconds(width) else []
    facts += [words.size(width.size)] if width.size else []
    return f"{reached} in {' and '.join(facts)}" if facts else reached
