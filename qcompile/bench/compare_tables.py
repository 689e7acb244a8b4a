"""A comparison for people: on a terminal and in Markdown, from the same cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qcompile.bench import words
from qcompile.bench.comparison import FASTER, MISSING, NOISY, SAME, SLOWER, Comparison, Machine, Row
from qcompile.bench.fitting import Fitting, Layout, notes, plain
from qcompile.bench.markdown import cell, table

VERDICTS = {
    SLOWER: ("SLOWER", "bold red"),
    FASTER: ("faster", "green"),
    SAME: ("no difference seen", ""),
    NOISY: ("too noisy to tell", "yellow"),
    MISSING: ("not compared", "yellow"),
}
HEAD = ("run", "A", "B", "B takes", "95 %", "seen from", "verdict", "")
_FACT_HEAD = ("", "A", "B", "")
_WORDS = 5  # the last column of numbers


def cells(row: Row) -> tuple[str, ...]:
    """Of one run, in the order of HEAD."""
    ratio = row.ratio
    return (
        row.setting,
        words.seconds(row.a),
        words.seconds(row.b),
        "–" if ratio is None else change(ratio.median),
        "–" if ratio is None else f"{change(ratio.low)} to {change(ratio.high)}",
        "–" if row.seen is None else _noise(row.seen),
        VERDICTS[row.verdict][0],
        row.reason,
    )


def change(ratio: float) -> str:
    """How much more: "+10.2 %", "-3.0 %"; twice and more as a number of times."""
    return (
        f"{words.digits(ratio)}x" if ratio >= 2 or ratio <= 0.5 else f"{100 * (ratio - 1):+.1f} %"
    )


def sentences(found: Comparison) -> Iterator[str]:
    """What else is to be known about the times."""
    for row in found.rows:
        if row.machine is not None:
            yield f"{row.setting}: {_machine(row.machine)}"
    if not any(row.machine for row in found.rows):
        yield (
            "No other engine is the same in both and ran the same network: a machine that became "
            "slower looks like a program that did. Measure one network with --against fp32."
        )
    stated = [s for row in found.rows for s in row.stated if s is not None]
    if stated:
        low, high = _noise(min(stated)), _noise(max(stated))
        span = low if low == high else f"{low} to {high}"
        yield (
            f"The reports state noise of {span} a run (A/A), of all calls. Verdicts do not use it: they "
            "follow from the lower quartile of each process, which what else runs changes less."
        )


def _noise(share: float) -> str:
    """More than LOUD says nothing but that."""
    return f"over {words.LOUD:.0%}" if share > words.LOUD else f"{share:.1%}"


def _machine(machine: Machine) -> str:
    engines, ratio = words.listed(list(machine.engines)), machine.ratio
    told = (
        f"{engines} took {change(ratio.median)} ({change(ratio.low)} to {change(ratio.high)}) in B"
    )
    if change(machine.taken) == change(1.0):
        return f"no change of the machine seen: {told}."
    word = "may have changed" if ratio.low <= 1 <= ratio.high else "itself changed"
    return f"the machine {word}: {told}; {change(machine.taken)} is taken out."


def summary(found: Comparison) -> str:
    """In a sentence."""
    slower, doubtful = found.having(SLOWER), found.having(NOISY, MISSING)
    if slower:
        runs = "; ".join(row.setting for row in slower)
        return f"REGRESSION: {found.b} is slower than {found.a}: {runs}."
    text = f"No regression of {found.threshold:.0%} or more seen"
    if not doubtful:
        return f"{text} in {words.plural(len(found.rows), 'run')}."
    runs = "; ".join(row.setting for row in doubtful)
    return f"{text}, but nothing can be said of: {runs}."


# --- terminal ------------------------------------------------------------------------------------


def tables(found: Comparison) -> RenderableType:
    """For a terminal."""
    parts: list[RenderableType] = [Text(f"A: {found.a}\nB: {found.b}"), _runs(found)]
    if any(row.others for row in found.rows):
        others = plain(_OTHER_HEAD, (2, 3, 4), "other engines, not judged")
        for line in _others(found):
            others.add_row(*map(Text, line))
        parts.append(others)
    if found.facts:
        facts = plain(_FACT_HEAD, title="what else")
        for fact in found.facts:
            style = "yellow" if fact.matters else ""
            facts.add_row(
                *(Text(c, style) for c in (fact.name, fact.a, fact.b, _mark(fact.matters)))
            )
        parts.append(facts)
    parts += [Text(sentence, "dim") for sentence in sentences(found)]
    style = "bold red" if found.having(SLOWER) else "bold"
    return Group(*parts, Text(summary(found), style))


def _mark(matters: bool) -> str:
    return "times may differ for it" if matters else ""


def _runs(found: Comparison) -> Fitting:
    """Reasons go below it first, then intervals go, then what would have been seen."""
    below = notes((row.setting, row.reason) for row in found.rows)
    taken = tuple(range(len(HEAD)))
    fewer = (taken[:-1], (0, 1, 2, 3, 5, 6), (0, 1, 2, 3, 6))
    layouts = [Layout(_columns(found, taken))]
    return Fitting([*layouts, *(Layout(_columns(found, some), below) for some in fewer)])


def _columns(found: Comparison, taken: Sequence[int]) -> Table:
    made = plain([HEAD[i] for i in taken], [at for at, i in enumerate(taken) if 0 < i <= _WORDS])
    for row in found.rows:
        shown, style = cells(row), VERDICTS[row.verdict][1]
        made.add_row(*(Text(shown[i], style if i == _WORDS + 1 else "") for i in taken))
    return made


_OTHER_HEAD = ("run", "engine", "A", "B", "B takes")


def _others(found: Comparison) -> Iterator[tuple[str, ...]]:
    for row in found.rows:
        for other in row.others:
            times = (words.seconds(other.a), words.seconds(other.b))
            ratio = "–" if other.ratio is None else change(other.ratio)
            yield (row.setting, other.engine, *times, ratio)


# --- Markdown ------------------------------------------------------------------------------------


def markdown(found: Comparison) -> str:
    """For a pull request."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Comparison) -> Iterator[str]:
    yield from (f"**{cell(summary(found))}**", "", f"A: {cell(found.a)}, B: {cell(found.b)}", "")
    yield from table(HEAD, map(cells, found.rows), right=range(1, _WORDS + 1))
    if any(row.others for row in found.rows):
        yield from ("", "Other engines, not judged:", "")
        yield from table(_OTHER_HEAD, _others(found), right=(2, 3, 4))
    if found.facts:
        yield ""
        facts = ((f.name, f.a, f.b, _mark(f.matters)) for f in found.facts)
        yield from table(_FACT_HEAD, facts)
    yield from ("", *(f"- {cell(sentence)}" for sentence in sentences(found)))


def to_json(found: Comparison) -> dict[str, Any]:
    """As plain values; times in seconds, ratios of B by A."""
    return msgspec.to_builtins(found) | {"regression": bool(found.having(SLOWER))}
