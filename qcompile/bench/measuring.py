"""Measure: a fresh process for each number of threads and each repetition, all engines in it by turns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import msgspec

import qcompile
from qcompile.bench import statistics, words
from qcompile.bench.messages import (
    TASK,
    TURN,
    At,
    Measured,
    Message,
    Prepared,
    Refused,
    Task,
)
from qcompile.bench.results import AGAIN, OURS, Engine, Run, Settings, Spread, Time
from qcompile.bench.worker import environment
from qcompile.errors import QCompileError

COMMAND = (sys.executable, "-m", "qcompile.bench.worker")
_MESSAGES = msgspec.json.Decoder(Message)
_TAIL = 4096  # bytes of what a process wrote to stderr that are looked at
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
        folder: holds what `qcompile.bench.messages` names, but for the task.

    Raises:
        QCompileError: the network does not load, or the program itself cannot be run.
    """
    found = _Found(plan)
    total = plan.settings.processes * len(plan.threads)
    for repetition in range(plan.settings.processes):
        for i, threads in enumerate(plan.threads):
            watch.process(repetition * len(plan.threads) + i + 1, total, threads)
            _repeat(plan, threads, folder, found, watch)
    runs = found.runs()
    return found.engines(runs), runs


def order(engines: Sequence[str]) -> tuple[str, ...]:
    """In which they take turns: the program first, and again in the middle, after other work."""
    half = (len(engines) + 1) // 2
    return (OURS, *engines[:half], AGAIN, *engines[half:])


def _repeat(plan: Plan, threads: int, folder: Path, found: _Found, watch: Watch) -> None:
    """All batches once; where an engine takes its process with it, again without that engine."""
    batches = list(plan.batches)
    while batches:
        keys = order([key for key in plan.engines if key not in found.lost])
        died = _Process(plan.task(keys, batches, threads), folder)
        with closing(
            died.messages()
        ) as messages:  # whatever happens here, it does not outlive that
            for message in messages:
                watch.message(message, threads)
                found.add(message, threads)
                if isinstance(message, Measured):
                    batches.remove(message.batch)
        if not died.reason:
            return
        if died.engine in ("", OURS, AGAIN):
            what = f"the process that measures died: {died.reason}"
            raise QCompileError(what, where=f"{died.doing}, {words.plural(threads, 'thread')}")
        found.lost[died.engine] = f"it took its process with it: {died.reason}"
        watch.lost(died.engine, died.reason)


class _Process:
    """One process, and how it ended.

    Attributes:
        reason: why it died, "" where it did not.
        engine: at which, or "".
        doing: what, in words.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        self.reason, self.engine, self.doing = "", "", "start"
        self._task, self._folder = task, folder

    def messages(self) -> Generator[Message, None, None]:
        """Run it, and give what it tells as it tells it.

        Raises:
            QCompileError: it says that something the user gave does not work.
        """
        folder = self._folder
        (folder / TASK).write_bytes(msgspec.json.encode(self._task))
        (folder / TURN).unlink(missing_ok=True)
        with tempfile.TemporaryFile(dir=folder) as errors:
            process = subprocess.Popen(
                [*COMMAND, str(folder)],
                env=_environment(self._task.threads),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            assert process.stdout is not None
            with process, process.stdout:
                try:
                    for line in process.stdout:
                        if line.endswith(b"\n"):  # not one that it died at
                            yield self._heard(_MESSAGES.decode(line))
                    code = process.wait()
                finally:
                    process.kill()
            if code:
                self._died(code, _tail(errors.fileno()))

    def _heard(self, message: Message) -> Message:
        if isinstance(message, Refused):
            raise QCompileError(message.what, where=message.where, hint=message.hint)
        if isinstance(message, At):
            self.engine, self.doing = message.engine, message.doing
        return message

    def _died(self, code: int, errors: str) -> None:
        if self.doing == "measure" and (self._folder / TURN).exists():
            self.engine = (self._folder / TURN).read_text().strip()
        lines = errors.strip().splitlines()
        if code > 0:
            self.reason = lines[-1] if lines else f"exit code {code}"
            return
        name = signal.Signals(-code).name
        memory = ", as Linux does where memory is short" if -code == signal.SIGKILL else ""
        self.reason = f"killed by {name}{memory}"


def _environment(threads: int) -> dict[str, str]:
    """The parent's; that this package is found, and a file beside the user's shadows no module."""
    home = str(Path(qcompile.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    return {**os.environ, **environment(threads), "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _tail(handle: int) -> str:
    size = os.fstat(handle).st_size
    data = os.pread(handle, _TAIL, max(0, size - _TAIL))
    return data.decode(errors="replace")


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
            reason = self.lost.get(key) or self._reasons.get((place, key), "it was not measured")
            return Time(key, reason=reason)
        speedup = _ONE if key == OURS else statistics.ratio_spread(own, samples)
        return Time(key, tuple(samples), statistics.spread(samples), speedup)
