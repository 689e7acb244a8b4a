"""Measure: a fresh process for each number of threads and each repetition, all engines in it by turns."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from qcompile.bench import statistics, words
from qcompile.bench.messages import Measured, Message, Prepared, Task, Waits
from qcompile.bench.process import Process
from qcompile.bench.results import AGAIN, OURS, Engine, Run, Settings, Spread, Time
from qcompile.errors import QCompileError

TOGETHER = 2  # processes that prepare at a time: each has the network in its memory for each engine
_ONE = Spread(1.0, 1.0, 1.0)
Place = tuple[int, int]  # of a run: its batch, its threads


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        engines: other than the program, in the order of the report.
        model: as the user named it; None for a program alone, which runs nowhere else.
        arch: the variant to run, None for the best.
    """

    engines: tuple[str, ...]
    batches: tuple[int, ...]
    threads: tuple[int, ...]
    settings: Settings
    model: str | None = None
    input_shape: tuple[int, ...] | None = None
    arch: str | None = None

    def places(self) -> list[Place]:
        """Of all runs, in the order of the report."""
        return [(batch, threads) for batch in self.batches for threads in self.threads]

    def task(self, engines: Sequence[str], batches: Sequence[int], threads: int) -> Task:
        """For one process: of these engines, the program's own among them, and these batches."""
        own = self.settings
        return Task(
            model=self.model,
            input_shape=self.input_shape,
            engines=tuple(engines),
            batches=tuple(batches),
            threads=threads,
            seconds=own.seconds / own.processes,
            rounds=own.rounds,
            clock=own.clock,
            seed=own.seed,
            arch=self.arch,
        )


class Watch(Protocol):
    """Who wants to know how far it is."""

    def process(self, number: int, of: int, threads: int) -> None:
        """A process begins."""

    def message(self, message: Message, threads: int) -> None:
        """It tells something."""

    def lost(self, engine: str, reason: str) -> None:
        """It died, and goes on without that engine."""


def measure(plan: Plan, folder: Path, watch: Watch) -> tuple[tuple[Engine, ...], tuple[Run, ...]]:
    """Measure everything; of engines, what only they know is filled in.

    Args:
        folder: holds what `qcompile.bench.messages` names.

    Raises:
        QCompileError: the network does not load, or the program itself cannot be run.
    """
    found = _Found(plan)
    total, number = plan.settings.processes * len(plan.threads), 0
    for _ in range(plan.settings.processes):
        for first in range(0, len(plan.threads), TOGETHER):
            with ExitStack() as stack:
                team = []
                for threads in plan.threads[first : first + TOGETHER]:
                    number += 1
                    watch.process(number, total, threads)
                    team.append(stack.enter_context(_Member(plan, threads, folder, found, watch)))
                _take_turns(team, plan.batches)
    runs = found.runs()
    return found.engines(runs), runs


def _take_turns(team: Sequence[_Member], batches: Sequence[int]) -> None:
    """Preparing is done by all at a time, most of it on one processor; one measures, and the others wait."""
    for batch in batches:
        for member in team:
            member.begin(batch)
        for member in team:
            member.prepared(batch)
        for member in team:
            member.measured(batch)


def order(engines: Sequence[str]) -> tuple[str, ...]:
    """In which they take turns: the program first, and again in the middle, after other work."""
    half = (len(engines) + 1) // 2
    return (OURS, *engines[:half], AGAIN, *engines[half:])


class _Member(ExitStack):
    """A process of a team; where an engine takes it along, another one without that engine."""

    def __init__(self, plan: Plan, threads: int, folder: Path, found: _Found, watch: Watch) -> None:
        super().__init__()
        self._plan, self._threads, self._folder = plan, threads, folder
        self._found, self._watch = found, watch
        self._process: Process | None = None

    def begin(self, batch: int) -> None:
        """Let it prepare a batch."""
        self._at(batch).prepare()

    def prepared(self, batch: int) -> None:
        """Wait until it has prepared that.

        Raises:
            QCompileError: the program itself, or what the user gave, does not work.
        """
        while not self._told(batch, Waits):
            self.begin(batch)

    def measured(self, batch: int) -> None:
        """Let it measure that, and wait until it has.

        Raises:
            QCompileError: the program itself does not work.
        """
        self._at(batch).measure()
        while not self._told(batch, Measured):
            self.begin(batch)
            self.prepared(batch)
            self._at(batch).measure()

    def _at(self, batch: int) -> Process:
        """Its process; where there is none, one that begins with that batch."""
        if self._process is None:
            gone = {*self._found.lost, *self._found.refused()}
            keys = order([key for key in self._plan.engines if key not in gone])
            batches = self._plan.batches[self._plan.batches.index(batch) :]
            task = self._plan.task(keys, batches, self._threads)
            self._process = self.enter_context(Process(task, self._folder))
        return self._process

    def _told(self, batch: int, kind: type[Message]) -> bool:
        """Listen until it tells that; False where it died at an engine."""
        process = self._at(batch)
        for message in process.until(kind):
            self._watch.message(message, self._threads)
            self._found.add(message, self._threads)
        if not process.reason:
            return True
        if process.engine in ("", OURS, AGAIN):
            what = f"the process that measures died: {process.reason}"
            where = f"{process.doing}, {words.plural(self._threads, 'thread')}"
            raise QCompileError(what, where=where)
        if process.engine not in self._found.lost:
            self._found.lost[process.engine] = f"it took its process with it: {process.reason}"
            self._watch.lost(process.engine, process.reason)
        self.close()
        self._process = None
        return False


# --- what is found -------------------------------------------------------------------------------


@dataclass
class _Found:
    """What processes told so far.

    Attributes:
        lost: engines that took a process with them, and why.
    """

    plan: Plan
    lost: dict[str, str] = field(default_factory=dict)
    _engines: dict[str, Engine] = field(default_factory=dict)
    _samples: dict[Place, dict[str, list[tuple[float, ...]]]] = field(default_factory=dict)
    _reasons: dict[tuple[Place, str], str] = field(default_factory=dict)

    def add(self, message: Message, threads: int) -> None:
        """Keep what there is to keep of a message."""
        if isinstance(message, Measured):
            taken = self._samples.setdefault((message.batch, threads), {})
            for key, samples in message.samples.items():
                taken.setdefault(key, []).append(tuple(samples))
        elif isinstance(message, Prepared):
            self._prepared(message, threads)

    def _prepared(self, message: Prepared, threads: int) -> None:
        engine = message.engine
        if engine.reason:
            self._reasons[(message.batch, threads), engine.key] = engine.reason
        known = self._engines.get(engine.key)
        # The outputs of the largest batch are the most, and say the most.
        largest = message.batch == max(self.plan.batches)
        if known is None or (not engine.reason and (known.reason or largest)):
            self._engines[engine.key] = engine

    def refused(self) -> set[str]:
        """Engines that refused every batch: other processes need not try."""
        batches, threads = self.plan.batches, self.plan.threads
        return {
            key
            for key in self.plan.engines
            if any(all(((b, t), key) in self._reasons for b in batches) for t in threads)
        }

    def engines(self, runs: Sequence[Run]) -> tuple[Engine, ...]:
        """In the order of the report; one that has no time at all has the reason itself."""
        timed = {time.engine for run in runs for time in run.times if time.seconds}
        return tuple(self._engine(key, key in timed) for key in (OURS, AGAIN, *self.plan.engines))

    def _engine(self, key: str, timed: bool) -> Engine:
        engine = self._engines.get(key, Engine(key, key))
        if timed:
            return replace(engine, reason="", hint="")
        if key in self.lost:
            return replace(engine, reason=self.lost[key], hint=f"leave {key} out of --against")
        return engine

    def runs(self) -> tuple[Run, ...]:
        """With statistics."""
        return tuple(self._run(place) for place in self.plan.places())

    def _run(self, place: Place) -> Run:
        taken = self._samples.get(place, {})
        own = taken[OURS]
        times = [self._time(place, key, taken) for key in (OURS, AGAIN, *self.plan.engines)]
        return Run(*place, tuple(times), statistics.noise(own, taken[AGAIN]))

    def _time(self, place: Place, key: str, taken: dict[str, list[tuple[float, ...]]]) -> Time:
        samples, own = taken.get(key, []), taken[OURS]
        if len(samples) < len(own):  # ratios are of the same rounds
            return Time(key, reason=self._reason(place, key))
        speedup = _ONE if key == OURS else statistics.ratio_spread(own, samples)
        return Time(key, tuple(samples), statistics.spread(samples), speedup)

    def _reason(self, place: Place, key: str) -> str:
        """Why there is no time; one that was not tried again has the reason of another place."""
        found = self.lost.get(key) or self._reasons.get((place, key))
        return found or self._engine(key, False).reason or "it was not measured"
