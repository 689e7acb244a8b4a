"""How long a call takes: a panel for each number of samples and threads, a bar for each engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qcompile.bench.html.charts import words
from qcompile.bench.html.charts.rows import FOOT, HEAD, Rows, name_column, reach
from qcompile.bench.html.charts.sheet import Plan, Sheet, Style, elided
from qcompile.bench.results import AGAIN, OURS, Report, Run, Time
from qcompile.bench.words import ALIKE, LOUD, NOISY, SINGLE, SLOWER, is_loud, judged, single

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME, TITLE = "speed", "Time of a call"
_TINY = 100.0  # times that another panel reaches as far
_LOG = 200.0  # ratio from which bars from zero say nothing


def plan(report: Report) -> Plan | str:
    """Bars with whiskers, or why there are none."""
    runs = [r for r in report.runs if any(_seconds(t) for t in r.times if t.engine != AGAIN)]
    if not runs:
        return words.why(report, "runs", "No engine was timed.")
    keys = _ordered(report, runs)
    return Plan(_caption(report, runs), lambda style: _draw(report, runs, keys, style))


def _seconds(time: Time | None) -> float | None:
    found = time.seconds if time is not None else None
    return found.median if found and words.finite(found.median) and found.median > 0 else None


def _time(run: Run, key: str) -> Time | None:
    return next((time for time in run.times if time.engine == key), None)


def _ordered(report: Report, runs: Sequence[Run]) -> list[str]:
    """Ours, the others from fast to slow, then those that could not be had."""

    def rank(key: str) -> float:
        logs = []
        for run in runs:
            time, ours = _seconds(_time(run, key)), _seconds(_time(run, OURS))
            logs += [math.log(time / (ours or 1.0))] if time else []
        return sum(logs) / len(logs) if logs else math.inf

    known = [engine.key for engine in report.engines]
    timed = [time.engine for run in runs for time in run.times]
    keys = dict.fromkeys(key for key in (*known, *timed) if key not in (OURS, AGAIN))
    return [OURS, *sorted(keys, key=rank)]


def engine_name(report: Report, key: str) -> str:
    """For people; the key of one that the report does not list."""
    return next((words.clean(e.name) or key for e in report.engines if e.key == key), key)


def noise_share(run: Run) -> float | None:
    """What differences have to exceed, where it is known and no more than everything."""
    found = run.noise.share if run.noise is not None else None
    return found if words.finite(found) and 0 <= found <= LOUD else None


def condition(run: Run) -> str:
    """How it was run: "batch 8, 2 threads"."""
    return f"batch {run.batch:,}, {words.plural(run.threads, 'thread')}"


def _draw(report: Report, runs: Sequence[Run], keys: Sequence[str], style: Style) -> Sheet:
    names = [engine_name(report, key) for key in keys]
    narrow = style.form.narrow
    column = 0.0 if narrow else name_column(names, 22)
    across = 1 if narrow or len(runs) == 1 else 2
    start = column or 0.9
    width = (style.form.width - start - 1.5 - (across - 1) * 2.5) / across
    height = Rows(names, 0, 0, 1, column).height + HEAD + FOOT
    sheet = Sheet(style, height * math.ceil(len(runs) / across))
    ends = [_end(run) for run in runs]
    for number, run in enumerate(runs):
        # One unit for all panels, but for those whose numbers it would make tiny.
        unit = words.time_unit(ends if ends[number] * _TINY > max(ends) else [ends[number]])
        left = start + (number % across) * (width + 2.5)
        # Names stand once, left of the first panel.
        shown = names if narrow or number % across == 0 else [""] * len(names)
        rows = Rows(shown, left, HEAD + height * (number // across), width, column)
        share = noise_share(run)
        noise = "" if share is None else f"; noise ±{words.share(share)}"
        noise = "; too noisy to tell" if is_loud(run) else noise
        axes = rows.axes(sheet, condition(run) + noise, bold=(0,))
        _panel(sheet, axes, rows, report, run, keys, unit)
    return sheet


def _end(run: Run) -> float:
    """How far the bars and whiskers of a panel reach, in seconds."""
    return max(_quartiles(run, time.engine)[1] for time in run.times if time.engine != AGAIN)


def _panel(
    sheet: Sheet,
    axes: Axes,
    rows: Rows,
    report: Report,
    run: Run,
    keys: Sequence[str],
    scale: tuple[float, str],
) -> None:
    found = {key: s for key in keys if (s := _seconds(_time(run, key)))}
    log = max(found.values()) / min(found.values()) > _LOG
    unit, name = scale
    low = 10 ** (math.floor(math.log10(min(found.values()) / unit)) - 0.3) if log else 0.0
    texts = {key: _value(run, key, seconds) for key, seconds in found.items()}
    ends = [_quartiles(run, key)[1] / unit for key in found]
    high = reach(ends, [t for t, _ in texts.values()], rows.width, low if log else None)
    rows.scale(sheet, axes, low, high, "time of a call" + ("" if log else f", {name}"), log=log)
    if log:
        axes.xaxis.set_major_formatter(lambda value, _: words.tick_seconds(value * unit))
    share = noise_share(run)
    if share is not None and OURS in found:
        middle = found[OURS] / unit
        limits = max(middle * (1 - share), low), min(middle * (1 + share), high)
        band = axes.axvspan(*limits, color=sheet.colour("series-1"), alpha=0.25, linewidth=0)
        sheet.hover(band, f"noise: differences below {words.share(share)} say nothing")
    for row, key in enumerate(keys):
        at = rows.at(row)
        if key in found:
            _bar(sheet, axes, rows, at, (low, unit, log), run, key)
            text, colour = texts[key]
            beside = _quartiles(run, key)[1] / unit
            weight = "bold" if key == OURS or colour == "bad" else "normal"
            far = (0.75 if log else 0.45, 0.0)
            sheet.beside(axes, (beside, at), text, colour=colour, fontweight=weight, xytext=far)
        else:
            reason = _reason(report, run, key)
            shown = elided(reason, rows.width / 0.9 - 1)
            said = sheet.beside(axes, (low, at), shown, colour="muted", fontstyle="italic")
            sheet.hover(said, f"{engine_name(report, key)}: {reason}")


def _bar(
    sheet: Sheet,
    axes: Axes,
    rows: Rows,
    at: float,
    scale: tuple[float, float, bool],
    run: Run,
    key: str,
) -> None:
    low, unit, log = scale
    time = _time(run, key)
    median, (first, third) = (_seconds(time) or 0.0) / unit, _quartiles(run, key)
    colour = "series-1" if key == OURS else "series-8"
    samples = sum(map(len, time.samples)) if time else 0
    hover = (
        f"{condition(run)}: median {words.seconds(median * unit)}, quartiles "
        f"{words.seconds(first)} to {words.seconds(third)}, {words.plural(samples, 'sample')}"
    )
    if log:  # no bar: there is no zero that its length could count from
        sheet.line(axes, [low, median], [at, at], "grid", linewidth=1.2)
        size = sheet.points(0.7)
        sheet.line(axes, [median], [at], colour, hover, marker="o", linestyle="", markersize=size)
    else:
        sheet.bar(axes, at, (0.0, median), rows.thick, colour, hover)
    if third > first:
        ends = [first / unit, third / unit]
        cap = sheet.points(0.5)
        sheet.line(axes, ends, [at, at], "ink", linewidth=0.9, marker="|", markersize=cap)


def _quartiles(run: Run, key: str) -> tuple[float, float]:
    """In seconds; the median twice where there are none."""
    time = _time(run, key)
    median = _seconds(time) or 0.0
    if time is None or time.seconds is None:
        return median, median
    low, high = time.seconds.low, time.seconds.high
    return (
        low if words.finite(low) and 0 < low <= median else median,
        high if words.finite(high) and high >= median else median,
    )


def _ratio(run: Run, key: str) -> float | None:
    """Of which there is none where there is but one sample."""
    time = None if single(run) else _time(run, key)
    found = time.speedup.median if time is not None and time.speedup is not None else None
    return found if words.finite(found) and found > 0 else None


def _verdict(run: Run, key: str) -> str:
    """As the tables have it; "" where there is nothing to compare."""
    time = _time(run, key)
    if time is None or time.speedup is None or _ratio(run, key) is None:
        return ""
    return judged(run, time)


def _value(run: Run, key: str, seconds: float) -> tuple[str, str]:
    """What stands at a bar, and its colour."""
    ratio = _ratio(run, key)
    if key == OURS or ratio is None:
        return words.seconds(seconds), "ink"
    found = _verdict(run, key)
    text = f"{words.seconds(seconds)}, {words.times(ratio)}{' (noise)' if found in (ALIKE, NOISY) else ''}"
    return text, "bad" if found == SLOWER else "ink"


def _reason(report: Report, run: Run, key: str) -> str:
    time = _time(run, key)
    engine = next((e for e in report.engines if e.key == key), None)
    return words.clean(
        (time.reason if time is not None else "")
        or (engine.reason if engine is not None else "")
        or "not measured"
    )


def _caption(report: Report, runs: Sequence[Run]) -> str:
    run = runs[0]
    said = []
    ratios = {k: r for k in _ordered(report, runs)[1:] if (r := _ratio(run, k)) is not None}
    ours = _seconds(_time(run, OURS))
    if ours is not None:
        said.append(f"qcompile takes {words.seconds(ours)} a call at {condition(run)}")
    if ratios:
        nearest = min(ratios, key=lambda key: ratios[key])
        name, ratio = engine_name(report, nearest), ratios[nearest]
        said.append(
            f"the fastest of the others, {words.name(name)}, takes {words.digits(ratio)} times as long"
            if ratio >= 1
            else f"the fastest, {words.name(name)}, takes {words.share(ratio)} of that"
        )
    lost = _lost(report, runs)
    if lost:
        more = f" and {len(lost) - 4} more" if len(lost) > 4 else ""
        said.append(f"qcompile is slower than {', '.join(lost[:4])}{more}")
    if all(map(single, runs)):
        return " ".join(map(words.sentence, (*said, SINGLE)))
    said.append(
        "a number with × says how many times as fast qcompile is; bars are medians, whiskers "
        "quartiles, the band around qcompile's time is noise"
    )
    return " ".join(map(words.sentence, said))


def _lost(report: Report, runs: Sequence[Run]) -> list[str]:
    """The engines that are faster somewhere, by more than noise, and where most."""
    found = []
    for key in _ordered(report, runs)[1:]:
        ratios = [(ratio, run) for run in runs if (ratio := _ratio(run, key)) is not None]
        behind = [(ratio, run) for ratio, run in ratios if _verdict(run, key) == SLOWER]
        if behind:
            ratio, run = min(behind, key=lambda entry: entry[0])
            name = words.name(engine_name(report, key))
            found.append(f"{name} ({words.times(ratio)} at {condition(run)})")
    return found
