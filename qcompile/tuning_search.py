"""Tuning a network: what the cache knows is taken, the rest is measured, kernel by kernel."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch.fx import GraphModule

import qcompile
from qcompile import kernels
from qcompile.codegen.build import Choose, by_default
from qcompile.codegen.machine import Machine, machine_of
from qcompile.codegen.schedules.tile import Choice, Tile
from qcompile.codegen.tuning.remote import RemoteBench, Tracker
from qcompile.codegen.tuning.search import Budget, Found
from qcompile.codegen.tuning.sharing import Done, Task, search_here, search_there
from qcompile.codegen.tuning.space import Chooser, Workload, processor, workloads
from qcompile.errors import QCompileError
from qcompile.ir.target import Target, Targets, processors
from qcompile.kernels import Kernels
from qcompile.machine import obstacle
from qcompile.program_info import Variant
from qcompile.runtime import cores, default_threads, use_threads
from qcompile.tuning import Tuning
from qcompile.tuning_cache import Entry, Identity, TuningCache

if TYPE_CHECKING:
    from qcompile.steps import Step


@dataclass(frozen=True)
class TunedKernel:
    """What is known of the kernels of one shape.

    Attributes:
        layers: that run one, for each call.
        arch: LLVM's name of the processor.
        entry: what was found; None: nothing is known.
        how: the method and the tile, or "".
        is_default: whether that is what is compiled anyway.
    """

    layers: tuple[str, ...]
    arch: str
    entry: Entry | None
    how: str
    is_default: bool


@dataclass(frozen=True)
class Tuned:
    """What is known of a network's kernels, for `compile(..., tune=tuned)`.

    Attributes:
        choose: for the compiler: how a contraction is computed.
        kernels: those that there is a choice for.
        notes: what the user should know, a sentence each.
    """

    choose: Choose
    kernels: tuple[TunedKernel, ...]
    notes: tuple[str, ...]


def check(target: Targets, tuning: Tuning) -> None:
    """Find what is wrong before anything takes long.

    Raises:
        QCompileError: the cache cannot be read or written, the tracker does not answer, or this
            machine cannot run what it should measure.
    """
    _Search(Target.parse_all(target), tuning)


def tune(
    converted: GraphModule,
    target: Targets,
    tuning: Tuning,
    step: Step = nullcontext,
    interrupted: Callable[[], None] | None = None,
    kernel: Kernels = None,
) -> Tuned:
    """Measure what the cache does not know yet, as far as the budget goes.

    What is found is written to the cache, kernel by kernel: an interruption loses one at most.

    Args:
        step: entered around the search.
        interrupted: called where Ctrl-C ends the search, which is left with what was found; None
            lets KeyboardInterrupt pass.
        kernel: what is forced, as in `compile`.

    Raises:
        QCompileError: as in `check`; or all servers are lost, or the file cannot be written.
    """
    _, lowered = kernels.lower(converted, target, kernel)
    return _Search(Target.parse_all(target), tuning, interrupted).run(lowered, step)


def as_tuned(
    value: bool | int | Tuning | Tuned, gm: GraphModule, target: Targets, step: Step
) -> Tuned:
    """Do for a lowered graph what `compile(..., tune=value)` says.

    Raises:
        QCompileError: it says nothing; or see `tune`.
    """
    if isinstance(value, Tuned):
        return value
    if value is False:
        return Tuned(by_default, (), ())
    if isinstance(value, int):
        value = Tuning(None if value is True else value)
    if isinstance(value, Tuning):
        return _Search(Target.parse_all(target), value).run(gm, step)
    what = f"tune is {value!r}"
    raise QCompileError(what, hint="pass True, a number of trials, or a qcompile.Tuning")


@dataclass(frozen=True)
class _Known:
    """A workload on a processor, and what the cache has on it."""

    machine: Machine
    workload: Workload
    identity: Identity
    entry: Entry | None

    @property
    def choice(self) -> Choice | None:
        """The entry's, if it is one of the kernel's."""
        choice = None if self.entry is None else _choice(self.entry)
        return choice if choice in self.workload.choices else None

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to measure."""
        return self.choice is not None and self.entry is not None and self.entry.complete


@dataclass
class _Search:
    """One tuning, from the cache's entries to more of them."""

    targets: tuple[Target, ...]
    tuning: Tuning
    interrupted: Callable[[], None] | None = None
    notes: list[str] = field(default_factory=list)
    tracker: Tracker | None = None
    processors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        tuning = self.tuning
        self.threads = tuning.threads or default_threads()
        self.machines = tuple(machine_of(one) for one in processors(self.targets))
        if not self.machines:
            raise QCompileError(
                "tuning is for processors, and this program is for GPUs alone",
                hint="leave --tune and --tune-cache (tune=) out",
            )
        if any(target.is_gpu for target in self.targets):
            self.notes.append("Tuning is for the processors' code; that for GPUs is not tuned.")
        self.measured = self.machines  # those whose code is run, here or there
        self.cache = TuningCache(tuning.path)
        if self.cache.damaged:
            self.notes.append(f"{self.cache.damaged} damaged entries of {tuning.path} are ignored.")
        if not tuning.measures:
            if tuning.cache is not None and not tuning.path.exists():
                hint = "tune with a budget first: --tune, or tune=True, makes one"
                raise QCompileError("there is no such file", where=str(tuning.path), hint=hint)
            return
        self.cache.check_writable()
        if tuning.rpc is not None and tuning.key is not None:
            self.tracker = Tracker(tuning.rpc, tuning.key)
        else:
            self.measured = self._runnable()

    def _runnable(self) -> tuple[Machine, ...]:
        """The processors whose code runs here.

        Raises:
            QCompileError: there is none; or there are fewer cores than threads.
        """
        if self.threads > cores():
            what = f"kernels cannot be tuned for {self.threads} threads: there are {cores()} cores"
            raise QCompileError(what)
        variants = [Variant(m.family, m.arch, m.features, ()) for m in self.machines]
        obstacles = [obstacle(variant) for variant in variants]
        reasons = [
            f"the code for {machine.arch} is not tuned: it {why}"
            for machine, why in zip(self.machines, obstacles, strict=True)
            if why
        ]
        if len(reasons) == len(self.machines):
            hint = "tune on such a machine, or on one that a tracker knows: --tune-rpc HOST:PORT"
            raise QCompileError(reasons[0], hint=hint)
        self.notes += [f"{reason}." for reason in reasons]
        self.processors.add(machine_of(Target()).arch)
        pairs = zip(self.machines, obstacles, strict=True)
        return tuple(machine for machine, why in pairs if not why)

    def run(self, gm: GraphModule, step: Step) -> Tuned:
        """Measure, as far as the budget goes."""
        known = self._known(gm)
        wrong = sum(k.entry is not None and k.choice is None for k in known)
        if wrong:
            self.notes.append(
                f"{wrong} entries of {self.cache.path} do not fit their kernels, and are ignored."
            )
        open_ = [k for k in known if not k.settled and k.machine in self.measured]
        if self.tuning.measures and open_:
            self._measure(gm, sorted(open_, key=lambda k: -k.workload.work), step)
            known = self._known(gm)
        self._note_unknown([k for k in known if k.choice is None], len(known))
        choices = {
            (k.identity.processor, k.workload.text): k.choice for k in known if k.choice is not None
        }
        return Tuned(Chooser(choices), tuple(map(_report, known)), tuple(self.notes))

    def _known(self, gm: GraphModule) -> list[_Known]:
        """All kernels that there is a choice for."""
        found = []
        for machine in self.machines:
            for workload in workloads(gm, machine):
                identity = Identity(
                    workload.text,
                    processor(machine),
                    self.threads,
                    self.tuning.batch,
                    tuple(sorted(_versions().items())),
                )
                if len(workload.choices) > 1:
                    entry = self.cache.get(identity)
                    found.append(_Known(machine, workload, identity, entry))
        return found

    def _measure(self, gm: GraphModule, open_: list[_Known], step: Step) -> None:
        """Search, the largest kernels first."""
        tuning = self.tuning
        tasks = {Task(gm, k.workload, k.machine, tuning.batch): k.identity for k in open_}
        total = sum(len(k.workload.choices) - 1 for k in open_)
        total = total if tuning.trials is None else min(total, tuning.trials)
        budget = Budget(tuning.trials, tuning.seconds)

        def done(task: Task, found: Found) -> None:
            layer = task.workload.layers[0]
            self.notes += [f"{layer}: {refused}." for refused in found.refused]
            self.cache.add(_entry(tasks[task], found, len(task.workload.choices) - 1))

        with step("tune kernels") as advance:

            def tick() -> None:
                if callable(advance):
                    advance(budget.trials, total)

            try:
                self._search(tuple(tasks), budget, done, tick)
            except KeyboardInterrupt:
                if self.interrupted is None:
                    raise
                self.interrupted()
        self._note_processors()

    def _search(
        self, tasks: tuple[Task, ...], budget: Budget, done: Done, tick: Callable[[], None]
    ) -> None:
        if self.tracker is None:
            use_threads(self.threads)
            search_here(tasks, budget, done, tick)
        else:
            lost = search_there(tasks, self.tracker.servers, self._open, budget, done, tick)
            self.notes += [f"A server was lost, others did its work: {error}" for error in lost]

    def _open(self) -> RemoteBench:
        assert self.tracker is not None
        bench = self.tracker.open(self.threads)
        self.processors.add(bench.processor)
        return bench

    def _note_processors(self) -> None:
        wanted = {machine.arch for machine in self.measured}
        others = self.processors - wanted - {""}
        if others:
            self.notes.append(
                f"Code for {', '.join(sorted(wanted))} was measured on {', '.join(sorted(others))}."
            )

    def _note_unknown(self, unknown: list[_Known], of: int) -> None:
        if not unknown:
            return
        if self.tuning.measures:
            why = "were not measured"
        else:
            knows = self.cache.processors() - {machine.arch for machine in self.machines}
            some = f" (which knows kernels of {', '.join(sorted(knows))})" if knows else ""
            why = f"are not in {self.cache.path}{some}"
        self.notes.append(f"{len(unknown)} of {of} kernels {why}: they keep their defaults.")


def _versions() -> dict[str, str]:
    return {"qcompile": qcompile.__version__, "tvm": importlib.metadata.version("apache-tvm")}


def _choice(entry: Entry) -> Choice:
    return Choice(entry.method or None, Tile(entry.lanes, entry.vectors, entry.pixels))


def _entry(identity: Identity, found: Found, candidates: int) -> Entry:
    tile = found.choice.tile
    return Entry(
        kernel=identity.kernel,
        processor=identity.processor,
        threads=identity.threads,
        batch=identity.batch,
        versions=dict(identity.versions),
        method=found.choice.method or "",
        lanes=tile.lanes,
        vectors=tile.vectors,
        pixels=tile.pixels,
        tried=found.tried,
        candidates=candidates,
        seconds=found.seconds,
        default_seconds=found.default,
        ratio=found.ratio,
    )


def _report(known: _Known) -> TunedKernel:
    choice, arch = known.choice, known.machine.arch
    entry = known.entry if choice is not None else None
    default = choice in (None, known.workload.choices[0])
    return TunedKernel(known.workload.layers, arch, entry, str(choice or ""), default)
