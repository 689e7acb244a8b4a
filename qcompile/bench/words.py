"""Numbers of a report as people read them, and what the report found, in sentences."""

from __future__ import annotations

import statistics

from qcompile.bench.results import AGAIN, NOT_TRAINED, OURS, Engine, Report, Run, Spread, Time
from qcompile.program_summary import FLOAT_BITS, readable

FASTER, SLOWER, ALIKE, NOISY = "faster", "slower", "alike", "noisy"
WIDE = 10.0  # times either way: an interval that goes farther says nothing
LOUD = 1.0  # a noise that is more says nothing
SINGLE = "One sample tells nothing of the noise: these are times, no comparison."
STRETCHES = (
    "Of one process: intervals are of stretches of its rounds; another process may differ by more."
)
ALONE = "How large the noise is was not measured: the program was not measured beside itself."
_FEW = 4  # bits: of less, weights that were not trained with their quantizers are noise
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


def subject(report: Report) -> str:
    """What it is about: "1-bit lenet"."""
    name, bits = report.subject.name, report.subject.bits
    if bits is None:
        return name
    weights, activations = bits
    if weights == activations:
        return f"{'float' if weights >= FLOAT_BITS else f'{weights}-bit'} {name}"
    beside = "float" if activations >= FLOAT_BITS else f"{activations}-bit"
    return f"{name} with {weights}-bit weights and {beside} activations"


def headline(report: Report) -> str:
    """The main result: beside the fastest of the others, and beside the float network's size."""
    found = [_speed(report), _smaller(report)]
    return f"{subject(report)}: {', '.join(filter(None, found))}"


def _speed(report: Report) -> str:
    run = first_run(report)
    others, ours = ranked(run), own_time(run)
    if run and ours and others and single(run):
        return f"one sample of {seconds(ours.median)} a call"
    if run and others:
        time, speedup = others[0]
        name = report.engine(time.engine).name
        return {
            FASTER: f"{times(speedup.median)} times as fast as {name}",
            SLOWER: f"slower than {name}, which is {times(1 / speedup.median)} times as fast",
            ALIKE: f"no certain difference from {name}",
            NOISY: f"too noisy to tell from {name}",
        }[judged(run, time)]
    return f"{seconds(ours.median)} a call" if ours else "not timed"


def _smaller(report: Report) -> str:
    before, after = report.subject.size_before, report.subject.size
    if not before or not after:
        return ""
    least, larger = _smallest(report), ""
    if least is not None and least.size and least.size < min(before, after):
        larger = f"{times(after / least.size)} times the size of {least.name}"
    if before > after:
        text = f"{times(before / after)} times smaller than float32"
        return " but ".join(filter(None, (text, larger)))
    text = f"{times(after / before)} times the size of float32"
    return " and ".join(filter(None, (text, larger)))


def _smallest(report: Report) -> Engine | None:
    """The other engine whose network takes the fewest bytes."""
    others = [e for e in report.engines if e.size and e.key not in (OURS, AGAIN)]
    return min(others, key=lambda engine: engine.size or 0, default=None)


def sentences(report: Report) -> list[str]:
    """What else was found, the losses as plainly as the wins."""
    right = [_right(report)]
    own = report.subject.accuracy
    falls = None not in (own.float32, own.compiled) and (own.compiled or 0) < (own.float32 or 0)
    found = [*(right if falls else []), _call(report), _larger(report), _slower(report)]
    found += [*([] if falls else right), _untrained(report)]
    return [sentence for sentence in found if sentence]


def _call(report: Report) -> str:
    run = first_run(report)
    ours = own_time(run)
    if run is None or ours is None:
        return "The program was not timed."
    text = f"A call takes {seconds(ours.median)} ({setting(run)})"
    beside = [
        f"{times(speedup.median)} times as fast as {report.engine(time.engine).name}"
        for time, speedup in ranked(run)
        if judged(run, time) == FASTER
    ]
    return f"{text}: {listed(beside)}." if beside else f"{text}."


def _slower(report: Report) -> str:
    pairs = [(run, time) for run in report.runs for time, _ in ranked(run)]
    lost = [(run, time) for run, time in pairs if judged(run, time) == SLOWER]
    even = [(run, time) for run, time in pairs if judged(run, time) == ALIKE]
    noisy = [(run, time) for run, time in pairs if judged(run, time) == NOISY]
    if not pairs:
        return "No other engine was measured."
    if all(map(single, report.runs)):
        return SINGLE
    found = [f"Slower than {listed(_where(report, lost))}." if lost else ""]
    found += [f"No certain difference from {listed(_where(report, even))}." if even else ""]
    found += [f"Too noisy to tell from {listed(_where(report, noisy))}." if noisy else ""]
    if not lost and not even and not noisy:
        found = [f"Faster than every engine beside it in {_all(len(report.runs))}."]
    return " ".join(filter(None, found))


def _all(runs: int) -> str:
    return "the one setting that was measured" if runs == 1 else f"all {runs} settings"


def _where(report: Report, pairs: list[tuple[Run, Time]]) -> list[str]:
    """ "OpenVINO int8 (batch 8, 2 threads: 0.87 times as fast)" for each engine, with all its runs."""
    found: dict[str, list[str]] = {}
    for run, time in pairs:
        if time.speedup:
            place = f"{setting(run)}: " if len(report.runs) > 1 else ""
            text = f"{place}{digits(time.speedup.median)} times as fast"
            found.setdefault(time.engine, []).append(text)
    return [f"{report.engine(key).name} ({'; '.join(texts)})" for key, texts in found.items()]


def _larger(report: Report) -> str:
    """The engines whose network takes fewer bytes, or by how much the smallest takes more."""
    ours, least = report.subject.size, _smallest(report)
    if least is None or not least.size or not ours:
        return ""
    if least.size >= ours:
        ratio = times(least.size / ours)
        return (
            f"The program is {ratio} times smaller than the smallest of the others, {least.name}."
        )
    smaller = [e for e in report.engines if e.size and e.size < ours and e.key not in (OURS, AGAIN)]
    told = [f"{e.name} ({size(e.size)})" for e in sorted(smaller, key=lambda e: e.size or 0)]
    return f"The program of {size(ours)} is larger than {listed(told)}."


def engine_accuracy(report: Report, engine: Engine) -> float | None:
    """As it was measured beside other widths, where it was measured there alone."""
    found = (w.accuracy for w in report.widths if w.engine == engine.key != OURS)
    return next(found, None) if engine.accuracy is None else engine.accuracy


def _right(report: Report) -> str:
    ours, float32 = report.subject.accuracy.compiled, report.subject.accuracy.float32
    if ours is None:
        return "How many of its answers are right was not measured."
    if float32 is not None and ours < float32:
        return f"Accuracy falls from {accuracy(float32)} (float) to {accuracy(ours)}."
    text = f"{accuracy(ours)} of its answers are right"
    text = text if 0 <= ours <= 1 else f"Its accuracy, as the model file measures it, is {ours:.4g}"
    return f"{text}." if float32 is None else f"{text}; of the float network, {accuracy(float32)}."


def accuracy(value: float | None) -> str:
    """By `evaluate`: a share, or as it is where it is none."""
    return percent(value) if value is None or 0 <= value <= 1 else f"{value:.4g}"


def _untrained(report: Report) -> str:
    if report.subject.training != NOT_TRAINED:
        return ""
    if report.subject.bits is not None and min(report.subject.bits) < _FEW:
        return "Its weights were not trained: times and sizes hold, accuracy and SQNR say nothing."
    return "Its weights were not trained: accuracy says nothing. Times, sizes and SQNR hold."


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
