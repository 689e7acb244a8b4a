"""How much times differ from process to process: what the noise of this benchmark is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from qcompile.bench.html.charts import words
from qcompile.bench.html.charts.rows import FOOT, HEAD, Rows, name_column
from qcompile.bench.html.charts.sheet import Plan, Sheet, Style
from qcompile.bench.html.charts.speed import condition, engine_name, noise_share
from qcompile.bench.results import OURS, Report, Run, Time

NAME, TITLE = "processes", "Differences between processes"
_GAP = 4.0  # between two panels, ems
_WIDER = 3.0  # times the greatest difference: as far as the scale goes to show the band


def plan(report: Report) -> Plan | str:
    """A dot for each process, or why there are none."""
    runs = [run for run in report.runs if any(_medians(time) for time in run.times)]
    if not runs:
        return (
            "Each run was measured by one process only, so nothing can be said of how much processes "
            "differ."
            if report.runs
            else "No engine was timed."
        )
    return Plan(_caption(report, runs), lambda style: _draw(report, runs, style))


def _medians(time: Time) -> list[float]:
    """Of each process, over the median of them; nothing of fewer than two."""
    found = [statistics.median(taken) for taken in time.samples if taken]
    found = [value for value in found if words.finite(value) and value > 0]
    middle = statistics.median(found) if len(found) > 1 else 0.0
    return [value / middle - 1 for value in found] if middle else []


def _draw(report: Report, runs: Sequence[Run], style: Style) -> Sheet:
    narrow = style.form.narrow
    keys = list(dict.fromkeys(t.engine for run in runs for t in run.times if _medians(t)))
    names = [engine_name(report, key) for key in keys]
    column = name_column(names, 13 if narrow else 22)
    across = 1 if narrow or len(runs) == 1 else 2
    width = (style.form.width - column - 0.8 - (across - 1) * _GAP) / across
    height = Rows(names, 0, 0, 1, column).height + HEAD + FOOT
    sheet = Sheet(style, height * math.ceil(len(runs) / across))
    shown = [abs(v) for run in runs for t in run.times for v in _medians(t)]
    data = max(*shown, 0.005)
    # The band may widen the scale, but not so that the dots fall together.
    band = min(max(noise_share(run) or 0.0 for run in runs), _WIDER * data)
    end = 100 * max(data, band) * 1.1
    for number, run in enumerate(runs):
        left = column + (number % across) * (width + _GAP)
        titles = names if number % across == 0 else [""] * len(names)
        rows = Rows(titles, left, HEAD + height * (number // across), width, column)
        _panel(sheet, rows, run, keys, end)
    return sheet


def _panel(sheet: Sheet, rows: Rows, run: Run, keys: Sequence[str], end: float) -> None:
    axes = rows.axes(sheet, condition(run), bold=[i for i, k in enumerate(keys) if k == OURS])
    rows.scale(sheet, axes, -end, end, "% from the median of all")
    share = noise_share(run)
    if share:
        ends = max(-100 * share, -end), min(100 * share, end)
        band = axes.axvspan(*ends, color=sheet.colour("series-1"), alpha=0.13, linewidth=0)
        sheet.hover(band, f"noise ±{words.share(share)}")
    axes.axvline(0, color=sheet.colour("muted"), linewidth=0.7)
    times = {time.engine: time for time in run.times}
    for row, key in enumerate(keys):
        if key not in times:
            continue
        for number, value in enumerate(_medians(times[key]), 1):
            sheet.line(
                axes,
                [100 * value],
                [rows.at(row)],
                "series-1" if key == OURS else "series-8",
                f"{condition(run)}, process {number}: {100 * value:+.1f} %",
                marker="o",
                linestyle="",
                markeredgecolor=sheet.colour("paper"),
                markeredgewidth=0.5,
                markersize=sheet.points(0.7),
            )


def _caption(report: Report, runs: Sequence[Run]) -> str:
    found = [
        (max(values) - min(values), time.engine, run)
        for run in runs
        for time in run.times
        if (values := _medians(time))
    ]
    width, key, run = max(found, key=lambda entry: entry[0])
    return (
        "Each dot is the median of one fresh process; differences within the band say nothing. The "
        f"processes differ most for {words.name(engine_name(report, key))} at {condition(run)}: by "
        f"{words.share(width)}."
    )
