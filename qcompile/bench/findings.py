"""What a report found, in sentences: the headline, and the losses as plainly as the wins."""

from __future__ import annotations

from qcompile.bench.results import AGAIN, NOT_TRAINED, OURS, Engine, Report, Run, Time
from qcompile.bench.words import (
    ALIKE,
    FASTER,
    NOISY,
    SINGLE,
    SLOWER,
    accuracy,
    digits,
    first_run,
    judged,
    listed,
    own_time,
    ranked,
    seconds,
    setting,
    single,
    size,
    times,
)
from qcompile.program_summary import FLOAT_BITS

_FEW = 4  # bits: of less, weights that were not trained with their quantizers are noise


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


def _right(report: Report) -> str:
    ours, float32 = report.subject.accuracy.compiled, report.subject.accuracy.float32
    if ours is None:
        return "How many of its answers are right was not measured."
    if float32 is not None and ours < float32:
        return f"Accuracy falls from {accuracy(float32)} (float) to {accuracy(ours)}."
    text = f"{accuracy(ours)} of its answers are right"
    text = text if 0 <= ours <= 1 else f"Its accuracy, as the model file measures it, is {ours:.4g}"
    return f"{text}." if float32 is None else f"{text}; of the float network, {accuracy(float32)}."


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
    found += [
        f"Too noisy to tell from {listed(_where(report, noisy, ratios=False))}." if noisy else ""
    ]
    if not lost and not even and not noisy:
        found = [f"Faster than every engine beside it in {_all(len(report.runs))}."]
    return " ".join(filter(None, found))


def _all(runs: int) -> str:
    return "the one setting that was measured" if runs == 1 else f"all {runs} settings"


def _where(report: Report, pairs: list[tuple[Run, Time]], *, ratios: bool = True) -> list[str]:
    """ "OpenVINO int8 (batch 8, 2 threads: 0.87 times as fast)" for each engine, with all its runs."""
    found: dict[str, list[str]] = {}
    for run, time in pairs:
        place = setting(run) if len(report.runs) > 1 else ""
        ratio = f"{digits(time.speedup.median)} times as fast" if time.speedup and ratios else ""
        found.setdefault(time.engine, []).append(": ".join(filter(None, (place, ratio))))
    named = [(report.engine(key).name, "; ".join(filter(None, t))) for key, t in found.items()]
    return [f"{name} ({text})" if text else name for name, text in named]


def _untrained(report: Report) -> str:
    if report.subject.training != NOT_TRAINED:
        return ""
    if report.subject.bits is not None and min(report.subject.bits) < _FEW:
        return "Its weights were not trained: times and sizes hold, accuracy and SQNR say nothing."
    return "Its weights were not trained: accuracy says nothing. Times, sizes and SQNR hold."
