"""The rows of a run's table, as text: what the terminal and Markdown show alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qcompile.bench import words
from qcompile.bench.results import AGAIN, OURS, Engine, Machine, Report, Run, Spread, Time
from qcompile.program_summary import readable

UNSTEADY = 1.5  # times that the slow quarter of the calls took as long as the fast one
_VERDICTS = {
    words.FASTER: "faster",
    words.SLOWER: "SLOWER",
    words.ALIKE: "no certain difference",
    words.NOISY: "too noisy to tell",
}
HEAD = ("", "ms", "quartiles", "qcompile is", "note")
RIGHT = (1, 2)  # of those cells
ENGINES = ("", "version", "precision", "bytes", "SQNR dB", "accuracy", "how", "runs on")
ENGINES_RIGHT = (3, 4, 5)


@dataclass(frozen=True)
class Row:
    """One engine in one run; cells in the order of HEAD.

    Attributes:
        kind: OURS, a verdict of `words`, or "" where there is no time.
    """

    kind: str
    cells: tuple[str, ...]


def rows(report: Report, run: Run, *, brief: bool = False) -> list[Row]:
    """All engines, but the program the second time, which the noise tells of.

    Args:
        brief: without the intervals.
    """
    return [_row(report.engine(t.engine), t, run, brief) for t in run.times if t.engine != AGAIN]


def _row(engine: Engine, time: Time, run: Run, brief: bool) -> Row:
    kind = OURS if time.engine == OURS else words.judged(run, time)
    name = engine.name or engine.key
    if time.seconds is None:
        return Row(kind, (name, "-", "", "", _why(engine, time)))
    own = time.seconds
    several = own.low < own.high
    quartiles = f"{milliseconds(own.low)} - {milliseconds(own.high)}" if several else ""
    note = "unsteady" if unsteady(own) else ""
    return Row(kind, (name, milliseconds(own.median), quartiles, _verdict(time, kind, brief), note))


def engines(report: Report) -> Iterator[tuple[str, ...]]:
    """What is known of the engines that ran, in the order of ENGINES."""
    for engine in report.engines:
        if engine.key != AGAIN and not engine.reason:
            yield (
                engine.name or engine.key,
                engine.version,
                engine.precision,
                "" if engine.size is None else f"{engine.size:,}",
                "" if engine.sqnr_db is None else f"{engine.sqnr_db:.1f}",
                ""
                if (found := words.engine_accuracy(report, engine)) is None
                else words.accuracy(found),
                engine.how,
                engine.instructions,
            )


def _why(engine: Engine, time: Time) -> str:
    reason = time.reason or engine.reason
    return f"{reason}: {engine.hint}" if engine.hint and engine.reason else reason


def _verdict(time: Time, kind: str, brief: bool) -> str:
    if kind not in _VERDICTS or time.speedup is None:
        return ""
    ratio = time.speedup
    between = "" if brief else words.interval(ratio, "{} - {}")
    return f"{words.digits(ratio.median)}x{f' ({between})' if between else ''} {_VERDICTS[kind]}"


def unsteady(seconds: Spread) -> bool:
    """Whether samples lie so far apart that the median says little."""
    return seconds.high > UNSTEADY * seconds.low


def milliseconds(seconds: float) -> str:
    """Three figures or more: "0.0123", "1.23", "12.3", "1234"."""
    value = seconds * 1e3
    digits = 4 if value < 0.1 else 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def noise_line(run: Run) -> str:
    """What the program beside itself shows, in a sentence."""
    noise = run.noise
    if noise is None:
        return words.SINGLE if words.single(run) else words.ALONE
    if words.is_loud(run):
        return words.sentence(words.loud(run))
    ratio = noise.ratio
    line = (
        f"Noise: the program beside itself is {ratio.median:.3f}x as fast "
        f"({ratio.low:.3f} - {ratio.high:.3f}); differences below {noise.share:.1%} say nothing."
    )
    return " ".join(filter(None, (line, words.stretches(run))))


def facts(report: Report) -> Iterator[tuple[str, str]]:
    """What stands on top: names and values; those that are not known are left out."""
    own = report.subject
    bits = "" if own.bits is None else f"bits {words.bits(own.bits)}"
    how = ", ".join(filter(None, (bits, own.mode, own.method, own.training)))
    yield "model", f"{own.name} ({own.source}){': ' + how if how else ''}"
    yield "input", ", ".join(own.inputs)
    before = "" if own.size_before is None else f", float32 {readable(own.size_before)}"
    counts = "" if own.parameters is None else f", {own.parameters:,} parameters"
    yield "size", f"{readable(own.size)}{before}{counts}, {own.macs:,} MACs a sample"
    yield "target", f"{own.target}, runs as {own.arch}"
    if own.accuracy.compiled is not None:
        yield "accuracy", _accuracy(own.accuracy.float32, own.accuracy.compiled)
    yield from machine_facts(report.machine)
    yield "measured", _measured(report)
    yield "versions", ", ".join(f"{k} {v}" for k, v in report.versions.items())
    yield "command", report.command


def _accuracy(before: float | None, after: float) -> str:
    shown = f"compiled {words.accuracy(after)}"
    return shown if before is None else f"float32 {words.accuracy(before)}, {shown}"


def machine_facts(machine: Machine) -> Iterator[tuple[str, str]]:
    """Names and values."""
    count = words.plural(machine.processors, "processor")
    memory = "" if machine.memory is None else f"{machine.memory / 2**30:.1f} GiB"
    virtual = f"under {machine.hypervisor}" if machine.hypervisor else ""
    governor = f"governor {machine.governor}" if machine.governor else ""
    parts = (machine.processor, count, virtual, *machine.caches, memory, governor)
    yield "machine", ", ".join(filter(None, parts))
    if machine.instructions:
        yield "instructions", " ".join(machine.instructions)
    if machine.system:
        yield "system", machine.system
    if machine.load is not None:
        before, after = machine.load
        yield "load", f"{before:.2f} before, {after:.2f} after"


def _measured(report: Report) -> str:
    own = report.settings
    clock = "" if own.clock == "wall" else ", processor time"
    return (
        f"{report.date}, in {report.duration:.0f} s; {own.seconds:g} s an engine and run at most, in "
        f"{words.plural(own.processes, 'process', 'processes')}{clock}; medians"
    )


def remarks(report: Report) -> Sequence[str]:
    """Notes, and why parts are absent."""
    absent = [f"No {part}: {why}" for part, why in (report.absent or {}).items()]
    return (*report.notes, *absent)
