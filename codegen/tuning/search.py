"""The search: every way to compute a contraction against the default one, side by side.

heats   each candidate against the default in turns, nine pairs of samples; hopeless ones fewer
final   the best three and the default, 31 rounds, measured afresh: who won the heats by luck loses
winner  the one with the smallest median of the ratios to the default in the same round; it must be
        3 % faster in the median, and faster in three of four rounds. Else the default stays.

Samples of one round lie close together in time, so their ratio holds on a busy machine too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from torch.fx import GraphModule

from qcompile.codegen.machine import Machine
from qcompile.codegen.schedules.tile import Choice
from qcompile.codegen.tuning.space import Workload
from qcompile.codegen.tuning.trial import Array, Bench, Contestant, problem

HEAT, FINAL = 9, 31  # rounds
FINALISTS = 3
MARGIN = 0.97  # of the default's time: a winner takes less
MOST = 0.75  # of the rounds: a winner is faster in that many
_LOOK, _HOPELESS = 3, 1.2  # after so many rounds, a candidate this much slower is given up


class Budget:
    """How much may be measured. Threads may share one.

    Attributes:
        trials: candidates that were measured.
    """

    def __init__(self, trials: int | None = None, seconds: float | None = None) -> None:
        self.trials = 0
        self._most = trials
        self._end = None if seconds is None else time.monotonic() + seconds
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Nothing more is to be measured."""
        self._stopped.set()

    def left(self) -> bool:
        """Whether another candidate may be measured."""
        late = self._end is not None and time.monotonic() >= self._end
        return not late and not self._stopped.is_set() and self.trials != self._most

    def take(self) -> bool:
        """Use up one trial, if there is one left."""
        with self._lock:
            if not self.left():
                return False
            self.trials += 1
            return True


@dataclass(frozen=True)
class Found:
    """What a search found for one workload.

    Attributes:
        choice: the winner, or the default.
        seconds: median of the winner's samples, for one call.
        default: the same of the default's.
        ratio: median of the ratios in the same round; 1.0 where the default won.
        tried: how many of the candidates were measured, the default not counted.
        refused: candidates that do not build, or whose result is not the default's, with the reason.
    """

    choice: Choice
    seconds: float
    default: float
    ratio: float
    tried: int
    refused: tuple[str, ...] = ()


def tune(
    gm: GraphModule,
    workload: Workload,
    machine: Machine,
    bench: Bench,
    batch: int,
    budget: Budget,
    tick: Callable[[], None] = lambda: None,
) -> Found | None:
    """Search for one workload; None if the budget allows no candidate at all.

    Args:
        batch: how many samples the kernel is given.
        tick: called after each candidate.

    Raises:
        QCompileError: there is no linker, or it fails.
        RuntimeError: the bench is lost.
    """
    if not budget.left():
        return None
    given = problem(gm, workload.group, machine, batch)
    default = Contestant(given, workload.choices[0], bench)
    expected = default.results()
    good: list[tuple[float, Contestant]] = []
    refused: list[str] = []
    tried = 0
    for choice in workload.choices[1:]:
        if not budget.take():
            break
        tried += 1
        try:
            contestant = Contestant(given, choice, bench)
        except RuntimeError as error:
            refused.append(f"{choice} does not build: {_first_line(error)}")
        else:
            if same_bits(contestant.results(), expected):
                good.append((_heat(default, contestant), contestant))
                good = sorted(good, key=lambda pair: pair[0])[:FINALISTS]
            else:
                refused.append(f"{choice} gives other numbers than {default.choice}")
        tick()
    if not tried:
        return None
    finalists = [contestant for ratio, contestant in good if ratio < 1]
    return _final(default, finalists, tried, tuple(refused))


def same_bits(got: Sequence[Array], expected: Sequence[Array]) -> bool:
    """Whether results are equal, bit for bit, floats and NaN too."""
    pairs = zip(got, expected, strict=True)
    return all(np.array_equal(a.view(np.uint8), b.view(np.uint8)) for a, b in pairs)


def _first_line(error: RuntimeError) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _heat(default: Contestant, contestant: Contestant) -> float:
    """Median ratio of a candidate's time to the default's."""
    ratios: list[float] = []
    while len(ratios) < HEAT:
        first, second = _round([default, contestant], len(ratios))
        ratios.append(second / first)
        if len(ratios) == _LOOK and median(ratios) > _HOPELESS:
            break
    return median(ratios)


def _round(contestants: Sequence[Contestant], number: int) -> list[float]:
    """A sample of each, every other round in the opposite order."""
    order = contestants if number % 2 == 0 else contestants[::-1]
    samples = [contestant.seconds() for contestant in order]
    return samples if number % 2 == 0 else samples[::-1]


def _final(
    default: Contestant, finalists: Sequence[Contestant], tried: int, refused: tuple[str, ...]
) -> Found:
    entrants = [default, *finalists]
    rounds = [_round(entrants, i) for i in range(FINAL if finalists else HEAT)]
    times = [[samples[i] for samples in rounds] for i in range(len(entrants))]
    best = winner(times)
    ratios = [mine / its for mine, its in zip(times[best], times[0], strict=True)]
    return Found(
        entrants[best].choice,
        median(times[best]),
        median(times[0]),
        median(ratios),
        tried,
        refused,
    )


def winner(times: Sequence[Sequence[float]]) -> int:
    """Which entrant of a final wins: its number, 0 being the default.

    Args:
        times: seconds of each entrant in each round.
    """
    best, least = 0, MARGIN
    for i, samples in enumerate(times[1:], start=1):
        ratios = [mine / its for mine, its in zip(samples, times[0], strict=True)]
        often = sum(ratio < 1 for ratio in ratios) >= MOST * len(ratios)
        if often and median(ratios) < least:
            best, least = i, median(ratios)
    return best
