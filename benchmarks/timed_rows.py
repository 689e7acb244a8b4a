"""Rows of a comparison: entrants that took turns, and how their times compare."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from qcompile.bench.worker import CLOCKS, PAUSE
from qcompile.rivals.entrant import Call, Entrant, Unavailable
from qcompile.rivals.turns import take_turns


@dataclass(frozen=True)
class Settings:
    """How long is measured, and how.

    Attributes:
        seconds: for each entrant, about.
        clock: "wall", or "cpu": the process's own time, which is right for one thread only.
    """

    threads: int = 1
    seconds: float = 3.0
    rounds: int = 200
    clock: str = "wall"

    def take_turns(self, calls: Sequence[Call]) -> list[list[float]]:
        """Seconds of each function in each round."""
        with torch.no_grad():
            return take_turns(
                calls,
                seconds=self.seconds,
                rounds=self.rounds,
                clock=CLOCKS[self.clock],
                pause=PAUSE if self.threads > 1 else 0.0,
            )


@dataclass(frozen=True)
class Row:
    """One entrant's time.

    Attributes:
        size: of the network, in bytes; None where nothing tells it.
        seconds: of a call, the median of the rounds; None where it cannot be had.
        best: the least of the rounds.
        spread: the slow quarter's time over the fast quarter's: 1 on a quiet machine.
        reason: why it cannot be had.
        times: by the name of another row, how many times faster than that one this is: the median
            over rounds of the two times' ratio.
    """

    name: str
    size: int | None = None
    seconds: float | None = None
    best: float | None = None
    spread: float = 1.0
    reason: str = ""
    note: str = ""
    times: tuple[tuple[str, float], ...] = ()

    def faster_than(self, name: str) -> float | None:
        """How many times faster than that row; None where one of the two cannot be had."""
        return dict(self.times).get(name)

    def to_json(self) -> dict[str, Any]:
        """As plain values; times in milliseconds."""
        values = asdict(self) | {"times": dict(self.times)}
        for key in ("seconds", "best"):
            value = values.pop(key)
            values[f"{key}_ms".replace("seconds_", "")] = None if value is None else value * 1e3
        return values


def prepared(entrants: Sequence[Entrant], x: Tensor) -> tuple[list[Row], list[Call | None]]:
    """Make all ready for an input.

    Returns:
        A row for each, without times, and its function, or None and a reason in the row.
    """
    rows: list[Row] = []
    calls: list[Call | None] = []
    for entrant in entrants:
        row = Row(entrant.name, note=entrant.how)
        call: Call | None = None
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what frameworks find deprecated in themselves
                ready = entrant.prepare((x,))
            row, call = replace(row, size=ready.size), ready.call
        except Unavailable as error:
            row = replace(row, reason=error.reason)
        rows.append(row)
        calls.append(call)
    return rows, calls


def timed(
    rows: Sequence[Row], samples: Sequence[Sequence[float] | None], against: Sequence[str]
) -> list[Row]:
    """Fill in the times of rows, and how they compare with some of them, by name."""
    known = {row.name: s for row, s in zip(rows, samples, strict=True) if s is not None}
    return [_timed(row, known, against) if row.name in known else row for row in rows]


def _timed(row: Row, known: dict[str, Sequence[float]], against: Sequence[str]) -> Row:
    own = known[row.name]
    fast, _, slow = quantiles(own, n=4)
    times = [
        (name, median(other / mine for other, mine in zip(known[name], own, strict=True)))
        for name in against
        if name in known
    ]
    return replace(row, seconds=median(own), best=min(own), spread=slow / fast, times=tuple(times))


def compare(
    entrants: Sequence[Entrant], x: Tensor, settings: Settings, against: Sequence[str]
) -> list[Row]:
    """Make all ready for an input, let them take turns, and compare."""
    rows, calls = prepared(entrants, x)
    taken = iter(settings.take_turns([c for c in calls if c is not None]))
    return timed(rows, [None if c is None else next(taken) for c in calls], against)


def fastest(rows: Sequence[Row], names: Sequence[str]) -> str | None:
    """The name of the fastest of some rows; None where none of them can be had."""
    own = {row.name: row.seconds for row in rows if row.name in names and row.seconds is not None}
    return min(own, key=own.__getitem__, default=None)
