"""Is the program of report B slower than that of report A? Neither torch nor the compiler is needed.

A run is judged by Student's t on one number a process (`qcompile.bench.statistics.difference`), all runs
together by Holm's method, so that in all of them about ERROR is the chance of a false alarm. What is certain and less
than a threshold is no regression: clocks and neighbours change between two reports, which no process of either
can tell. Other engines can: by how much those changed that are the same in both is taken out, as far as it is no
chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qcompile.bench import statistics, words
from qcompile.bench.alike import Fact, check, facts, same_network
from qcompile.bench.results import AGAIN, OURS, Report, Run, Spread, Time
from qcompile.bench.statistics import Array, Difference

FORMAT, VERSION = "qcompile comparison", 1
SLOWER, FASTER, SAME, NOISY, MISSING = "slower", "faster", "same", "noisy", "missing"
THRESHOLD = 0.05
ERROR = 0.01  # chance that what is noise alone is called a difference, in any of the runs
BLUR = 2.0  # times the threshold: where only more than that would be certain, nothing can be said
PROCESSES = 2  # at least, of each report


@dataclass(frozen=True)
class Machine:
    """What engines that did not change tell of the machine itself.

    Attributes:
        engines: their keys.
        ratio: of their times, B by A, with its 95 % interval.
        taken: the part of that ratio which is no chance: it is taken out of the program's; 1 if all is.
    """

    engines: tuple[str, ...]
    ratio: Spread
    taken: float


@dataclass(frozen=True)
class Other:
    """Another engine in a run: shown, not judged; seconds and ratio as of the program, as measured."""

    engine: str
    a: float | None
    b: float | None
    ratio: float | None


@dataclass(frozen=True)
class Row:
    """The program in one run.

    Attributes:
        verdict: SLOWER, FASTER, SAME (no difference seen), NOISY (too noisy to tell) or MISSING.
        a, b: seconds of a call: what the quick quarter of the calls took at most, of typical processes.
        ratio: B by A, what the machine explains taken out, with its 95 % interval.
        chance: p-value, of all runs together: how often noise alone would look so much slower, or
            faster.
        seen: a slowdown of this share, or more, would have been called one.
        stated: noise that the reports state, A and B.
        reason: why nothing can be said, or what else to know.
    """

    batch: int
    threads: int
    verdict: str
    a: float | None = None
    b: float | None = None
    ratio: Spread | None = None
    chance: float | None = None
    seen: float | None = None
    machine: Machine | None = None
    stated: tuple[float | None, float | None] = (None, None)
    others: tuple[Other, ...] = ()
    reason: str = ""

    @property
    def setting(self) -> str:
        """ "batch 8, 2 threads"."""
        return words.setting(Run(self.batch, self.threads, ()))


@dataclass(frozen=True)
class Comparison:
    """Two reports beside each other.

    Attributes:
        a, b: their names.
        threshold: smaller differences are none, a share.
        facts: of programs and machines, what is to be seen beside the times; `Fact.matters` where it
            makes the comparison doubtful.
    """

    a: str
    b: str
    threshold: float
    rows: tuple[Row, ...]
    facts: tuple[Fact, ...]
    format: str = FORMAT
    version: int = VERSION

    def having(self, *verdicts: str) -> list[Row]:
        """The rows of these verdicts."""
        return [row for row in self.rows if row.verdict in verdicts]


def compare(
    a: Report,
    b: Report,
    names: tuple[str, str] = ("A", "B"),
    *,
    threshold: float = THRESHOLD,
    force: bool = False,
    across_machines: bool = False,
) -> Comparison:
    """Hold B against A.

    Args:
        threshold: a share.
        force: compare what is not alike.
        across_machines: compare times of different processors.

    Raises:
        QCompileError: they are one report, or not alike, or have no run in common.
    """
    check(a, b, force=force, across_machines=across_machines)
    steady = _steady(a, b) if a.machine.processor == b.machine.processor else ()
    runs_a, runs_b = ({(run.batch, run.threads): run for run in r.runs} for r in (a, b))
    rows = {}
    for place in sorted({*runs_a, *runs_b}):
        one, other = runs_a.get(place), runs_b.get(place)
        rows[place] = _beside(one, other, steady) if one and other else _lone(one, other)
    measured = {place: found for place, found in rows.items() if isinstance(found, _Measured)}
    judged = dict(zip(measured, _judged(list(measured.values()), threshold), strict=True))
    found = tuple(judged[p] if isinstance(r, _Measured) else r for p, r in rows.items())
    return Comparison(*names, threshold, found, tuple(facts(a, b)))


def _steady(a: Report, b: Report) -> tuple[str, ...]:
    """Engines that are the same in both, other than ours, and ran the same network."""
    if not same_network(a, b):
        return ()
    versions = {engine.key: (engine.version, engine.how) for engine in a.engines}
    return tuple(
        engine.key
        for engine in b.engines
        if engine.key not in (OURS, AGAIN)
        and engine.version
        and versions.get(engine.key) == (engine.version, engine.how)
    )


# --- a run ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measured:
    """A run that both reports have, of enough processes."""

    row: Row
    difference: Difference


def _lone(a: Run | None, b: Run | None) -> Row:
    """A run that one report lacks."""
    run = a or b
    assert run is not None
    reason = f"only {'A' if a else 'B'} has this run"
    return Row(run.batch, run.threads, MISSING, reason=reason)


def _beside(a: Run, b: Run, steady: Sequence[str]) -> _Measured | Row:
    times_a, times_b = ({t.engine: t for t in run.times if any(t.samples)} for run in (a, b))
    row = Row(a.batch, a.threads, NOISY, stated=(_stated(a), _stated(b)))
    row = replace(row, others=_others(times_a, times_b))
    for name, run, times in (("A", a, times_a), ("B", b, times_b)):
        if OURS not in times:
            why = next((t.reason for t in run.times if t.engine == OURS and t.reason), "no time")
            return replace(row, verdict=MISSING, reason=f"{name} has no time of ours: {why}")
    # Both halves of the A/A pair are the program: twice as much is known of it.
    both = [key for key in (OURS, AGAIN, *steady) if key in times_a and key in times_b]
    both = [key for key in both if _as_often(key, times_a, times_b)]
    own = [key for key in both if key in (OURS, AGAIN)]
    x, y = (_quickest(times, own) for times in (times_a, times_b))
    row = replace(row, a=statistics.typical(x), b=statistics.typical(y))
    if min(len(x), len(y)) < PROCESSES:
        few = words.listed([n for n, v in (("A", x), ("B", y)) if len(v) < PROCESSES])
        reason = f"{few}: one process does not tell how processes differ: --processes 5"
        return replace(row, reason=reason)
    found = statistics.difference(x, y)
    drift = _drift(times_a, times_b, both[len(own) :])
    if drift is None:
        return _Measured(row, found)
    taken = math.exp(drift.certain() * drift.log)
    machine = Machine(tuple(both[len(own) :]), drift.ratio(), taken)
    return _Measured(replace(row, machine=machine), found.less(drift))


def _stated(run: Run) -> float | None:
    return None if run.noise is None else run.noise.share


def _others(a: dict[str, Time], b: dict[str, Time]) -> tuple[Other, ...]:
    found = []
    for key in dict.fromkeys((*a, *b)):
        x, y = (
            statistics.typical(_levels(times, [key])) if key in times else None for times in (a, b)
        )
        if key not in (OURS, AGAIN):
            found.append(Other(key, x, y, y / x if x and y else None))
    return tuple(found)


def _quickest(times: dict[str, Time], keys: Sequence[str]) -> Array:
    """One number a process: of the program and itself once more, that which memory treats better."""
    return np.min([statistics.quick(times[key].samples) for key in keys], axis=0)


def _levels(times: dict[str, Time], keys: Sequence[str]) -> Array:
    """One number a process, the median of these engines': of two, the mean."""
    return np.median([statistics.quick(times[key].samples) for key in keys], axis=0)


def _as_often(key: str, *reports: dict[str, Time]) -> bool:
    """Whether that engine has as many processes as the program, in each report."""
    return all(len(times[key].samples) == len(times[OURS].samples) for times in reports)


def _drift(a: dict[str, Time], b: dict[str, Time], keys: Sequence[str]) -> Difference | None:
    """By how much the machine itself was slower in B, as these engines tell; None without any."""
    if not keys:
        return None
    found = statistics.difference(_levels(a, keys), _levels(b, keys))
    each = [statistics.difference(_levels(a, [key]), _levels(b, [key])).log for key in keys]
    apart = float(np.std(each, ddof=1)) / math.sqrt(len(keys)) if len(keys) > 1 else 0.0
    if apart > found.error:  # they disagree: it is them, not the machine
        return Difference(found.log, apart, len(keys) - 1)
    return found


# --- verdicts ------------------------------------------------------------------------------------


def _judged(found: Sequence[_Measured], threshold: float) -> Iterator[Row]:
    """The runs with their verdicts, in the same order."""
    slower = statistics.holm([one.difference.slower() for one in found])
    faster = statistics.holm([one.difference.faster() for one in found])
    for one, up, down in zip(found, slower, faster, strict=True):
        least = math.expm1(one.difference.least(ERROR / len(found)))
        row = replace(
            one.row,
            ratio=one.difference.ratio(),
            chance=min(up, down),
            seen=max(threshold, least),
        )
        yield _with_verdict(row, least, threshold)


def _with_verdict(row: Row, least: float, threshold: float) -> Row:
    assert row.ratio is not None
    assert row.chance is not None
    ratio, certain = row.ratio.median, row.chance < ERROR
    if certain and ratio >= 1 + threshold:
        return replace(row, verdict=SLOWER)
    if certain and 1 / ratio >= 1 + threshold:
        return replace(row, verdict=FASTER)
    if certain:
        word = "slower" if ratio > 1 else "faster"
        return replace(row, verdict=SAME, reason=f"{word}, but by less than {threshold:.0%}")
    if least > BLUR * threshold:
        reason = f"only from {least:.0%} on would a slowdown be certain"
        reason = "not even twice the time would be certain" if least > words.LOUD else reason
        return replace(row, verdict=NOISY, reason=reason)
    return replace(row, verdict=SAME)
