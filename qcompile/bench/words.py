"""Numbers of a report as people read them, and what may be said of a ratio and of noise."""

from __future__ import annotations

import statistics

from qcompile.bench.results import AGAIN, OURS, Engine, Report, Run, Spread, Time
from qcompile.program_summary import FLOAT_BITS, readable

FASTER, SLOWER, ALIKE, NOISY = "faster", "slower", "alike", "noisy"
WIDE = 10.0  # times either way: an interval that goes farther says nothing
LOUD = 1.0  # a noise that is more says nothing
SINGLE = "One sample tells nothing of the noise: these are times, no comparison."
STRETCHES = (
    "Of one process: intervals are of stretches of its rounds; another process may differ by more."
)
ALONE = "How large the noise is was not measured: the program was not measured beside itself."
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def seconds(value: float | None) -> str:
    """Three digits in the unit that suits: "12.1 µs"."""
    if value is None:
        return "–"
    scale, unit = next((u for u in UNITS if value >= 0.9995 * u[0]), UNITS[-1])
    return f"{digits(value / scale)} {unit}"


def digits(value: float) -> str:
    """Three digits, or all of those before the point: "0.87", "5.42", "21.3", "1,234"."""
    size = abs(value)
    if size and size < 0.0995:
        return f"{value:.2g}".replace("-", "−")
    return f"{value:,.{2 if size < 9.995 else 1 if size < 99.95 else 0}f}".replace("-", "−")


def times(value: float) -> str:
    """A ratio as it is spoken: "21", "5.4", "1.04"."""
    return f"{value:,.{0 if value >= 9.95 else 1 if value >= 1.1 else 2}f}"


def count(value: float | None) -> str:
    """A large number: "4.00 million", "583 thousand"."""
    if value is None:
        return "–"
    steps = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand"))
    scale, name = next((s for s in steps if value >= 0.9995 * s[0]), (1.0, ""))
    return f"{digits(value / scale)} {name}" if name else f"{value:,.0f}"


def percent(value: float | None, places: int = 2) -> str:
    """A share: "99.40 %"."""
    return "–" if value is None else f"{100 * value:.{places}f} %"


def size(value: float | None) -> str:
    """Bytes: "112.1 KiB"."""
    return "–" if value is None else readable(int(value))


def decibels(value: float | None) -> str:
    """ "9.1 dB"."""
    return "–" if value is None else f"{value:.1f} dB".replace("-", "−")


def bits(pair: tuple[int, int] | None) -> str:
    """Of weights and activations: "1/1", "8/float", "float"."""
    if pair is None:
        return "–"
    return "/".join(map(_width, pair)) if min(pair) < FLOAT_BITS else _width(FLOAT_BITS)


def _width(number: int) -> str:
    return "float" if number >= FLOAT_BITS else str(number)


def plural(number: int, one: str, many: str = "") -> str:
    """ "1 thread", "2 threads"."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def setting(run: Run) -> str:
    """ "batch 8, 2 threads"."""
    return f"batch {run.batch}, {plural(run.threads, 'thread')}"


def verdict(speedup: Spread, share: float = 0.0) -> str:
    """FASTER or SLOWER; ALIKE where the interval holds 1 or the difference is no larger than the noise.

    NOISY where the interval or the noise is so wide that being alike would not be seen either.
    """
    if wide(speedup):
        return NOISY
    if speedup.low > 1 and speedup.median > 1 + share:
        return FASTER
    if speedup.high < 1 and 1 / speedup.median > 1 + share:
        return SLOWER
    return NOISY if share > LOUD else ALIKE


def wide(ratio: Spread) -> bool:
    """Whether its interval says nothing."""
    return ratio.low * WIDE < ratio.median or ratio.high > WIDE * ratio.median


def interval(ratio: Spread, form: str = "{} – {}") -> str:
    """Of a ratio, in words where it is wide; "" where there is none."""
    if ratio.low >= ratio.high:
        return ""
    if wide(ratio):
        return f"more than {WIDE:.0f} times either way"
    return form.format(digits(ratio.low), digits(ratio.high))


def single(run: Run) -> bool:
    """Whether a run is of one sample, with which nothing can be compared."""
    return run.noise is None and all(sum(map(len, time.samples)) <= 1 for time in run.times)


def judged(run: Run, time: Time) -> str:
    """The verdict on the program beside an engine in a run; "" where there is nothing to compare."""
    if time.speedup is None or time.engine in (OURS, AGAIN) or single(run):
        return ""
    return verdict(time.speedup, run.noise.share if run.noise else 0.0)


def first_run(report: Report) -> Run | None:
    """The run with the fewest samples and threads, which the headline is about."""
    return min(report.runs, key=lambda run: (run.batch, run.threads), default=None)


def own_time(run: Run | None) -> Spread | None:
    """What a call of the program took in a run."""
    found = (t.seconds for t in run.times if t.engine == OURS) if run else iter(())
    return next(found, None)


def ranked(run: Run | None) -> list[tuple[Time, Spread]]:
    """The other engines that ran, the fastest first, with how many times as fast the program is."""
    found = [t for t in run.times if run and t.engine not in (OURS, AGAIN)] if run else []
    timed = [(t, t.speedup) for t in found if t.seconds and t.speedup]
    return sorted(timed, key=lambda pair: pair[0].seconds.median if pair[0].seconds else 0.0)


def engine_accuracy(report: Report, engine: Engine) -> float | None:
    """As it was measured beside other widths, where it was measured there alone."""
    found = (w.accuracy for w in report.widths if w.engine == engine.key != OURS)
    return next(found, None) if engine.accuracy is None else engine.accuracy


def accuracy(value: float | None) -> str:
    """By `evaluate`: a share, or as it is where it is none."""
    return percent(value) if value is None or 0 <= value <= 1 else f"{value:.4g}"


def noise(report: Report) -> str:
    """How small a difference may be that still says something."""
    shares = [run.noise.share for run in report.runs if run.noise and run.noise.share <= LOUD]
    found = [f"{sentence(setting(run))}: {loud(run)}" for run in report.runs if is_loud(run)]
    if shares:
        low, high = percent(min(shares), 1), percent(max(shares), 1)
        span = low if low == high else f"{low} to {high}, by setting,"
        text = f"Differences under {span} are noise, as the program beside itself shows (A/A)."
        found.insert(0, text)
    return " ".join(found) or (SINGLE if any(map(single, report.runs)) else ALONE)


def is_loud(run: Run | None) -> bool:
    """Whether the noise of a run is so large that its number says nothing."""
    return run is not None and run.noise is not None and run.noise.share > LOUD


def loud(run: Run) -> str:
    """How far the processes of such a run are apart."""
    own = [t for t in run.times if t.engine in (OURS, AGAIN)]
    medians = [[statistics.median(taken) for taken in t.samples if taken] for t in own]
    ratio = max((max(found) / min(found) for found in medians if found), default=1.0)
    number = max(map(len, medians), default=0)
    if number < 2:
        return (
            f"too noisy to tell: the program beside itself differs by more than {percent(LOUD, 0)}."
        )
    apart = f"by {percent(ratio - 1, 0)}" if ratio < 2 else f"{times(ratio)} times"
    return f"too noisy to tell: the {number} processes differ {apart}; take more processes."


def noise_share(run: Run | None) -> str:
    """Differences under which are noise, in a word or two."""
    if run is None or run.noise is None:
        return "–"
    return f"over {percent(LOUD, 0)}" if is_loud(run) else percent(run.noise.share, 1)


def processes(run: Run) -> int:
    """Those in which the program was measured."""
    return max((len(time.samples) for time in run.times if time.engine == OURS), default=0)


def stretches(run: Run) -> str:
    """What the intervals of a run of one process are; "" of another."""
    return STRETCHES if processes(run) == 1 and run.noise is not None else ""


def sentence(text: str) -> str:
    """Begun with a capital letter."""
    return text[:1].upper() + text[1:]


def missing(report: Report) -> list[Engine]:
    """Engines that could not be had."""
    return [engine for engine in report.engines if engine.reason]


def listed(texts: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))
