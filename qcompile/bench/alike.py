"""Whether two reports can be held against each other, and in what else they differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qcompile.bench import words
from qcompile.bench.results import Report, Subject
from qcompile.errors import QCompileError

_BUSY = 0.5  # load a processor from which on a machine was busy before it was measured


@dataclass(frozen=True)
class Fact:
    """One thing that the reports say, other than times.

    Attributes:
        matters: it differs, and times may differ for it.
    """

    name: str
    a: str
    b: str
    matters: bool = False


def check(a: Report, b: Report, *, force: bool, across_machines: bool) -> None:
    """See that B can be held against A.

    Args:
        force: other networks and clocks are all right.
        across_machines: other processors are.

    Raises:
        QCompileError: it cannot.
    """
    if a == b:
        raise QCompileError(
            "both are one and the same report, down to the last sample",
            hint="measure twice: `qcompile bench ... --json a.json`, then `... --json b.json`",
        )
    if not force:
        _check_subjects(a, b)
    if a.machine.processor != b.machine.processor and not across_machines:
        raise QCompileError(
            f"measured on other processors: {a.machine.processor}, and {b.machine.processor}",
            hint="no program's fault shows so; to compare the times all the same: --across-machines",
        )
    places = [{(run.batch, run.threads) for run in report.runs} for report in (a, b)]
    if not places[0] & places[1]:
        told = ["; ".join(map(words.setting, r.runs)) or "nothing" for r in (a, b)]
        raise QCompileError(
            f"there is no run in common: one is of {told[0]}, the other of {told[1]}",
            hint="measure both with the same --batch and --threads",
        )


def _check_subjects(a: Report, b: Report) -> None:
    for name, x, y in (
        ("networks", a.subject.name, b.subject.name),
        ("inputs", ", ".join(a.subject.inputs), ", ".join(b.subject.inputs)),
        ("bits", _bits(a), _bits(b)),
        ("clocks", a.settings.clock, b.settings.clock),
    ):
        if x != y and x and y:
            raise QCompileError(
                f"of other {name}: {x}, and {y}", hint="to compare them all the same: --force"
            )


def _bits(report: Report) -> str:
    """Weights/activations; "" where it is not known."""
    bits = report.subject.bits
    return "" if bits is None else words.bits(bits)


def same_network(a: Report, b: Report) -> bool:
    """Whether other engines ran the same float network, as far as the reports know it."""
    return all(
        x == y or x is None or y is None
        for x, y in zip(*(_network(report.subject) for report in (a, b)), strict=True)
    )


def _network(subject: Subject) -> tuple[object, ...]:
    sizes = subject.macs, subject.parameters, subject.size_before
    return subject.name, subject.inputs, *sizes


def facts(a: Report, b: Report) -> Iterator[Fact]:
    """The size and the accuracy; of all else, what differs."""
    yield Fact("size", words.size(a.subject.size), words.size(b.subject.size))
    if any(report.subject.accuracy.compiled is not None for report in (a, b)):
        x, y = (words.accuracy(report.subject.accuracy.compiled) for report in (a, b))
        yield Fact("accuracy", x, y)
    for name, x, y in zip(_NAMES, _told(a), _told(b), strict=True):
        if x != y:
            yield Fact(name, x or "–", y or "–", matters=bool(x and y) and name in _MATTER)
    for package in sorted({*a.versions, *b.versions}):
        x, y = (report.versions.get(package, "–") for report in (a, b))
        if x != y:
            yield Fact(package, x, y)
    busy = [_load(report) > _BUSY * report.machine.processors for report in (a, b)]
    if any(busy):
        yield Fact("load before", f"{_load(a):.1f}", f"{_load(b):.1f}", matters=True)


_NAMES = (
    *("model", "inputs", "bits", "mode", "method", "weights", "target", "variant"),
    *("processor", "processors", "instructions", "caches", "system", "hypervisor", "governor"),
    *("seconds an engine", "processes", "clock", "seed"),
)
_MATTER = (
    *("model", "inputs", "bits", "mode", "method", "variant", "processor", "processors"),
    *("instructions", "caches", "hypervisor", "governor", "clock"),
)


def _told(report: Report) -> tuple[str, ...]:
    """In the order of the names."""
    subject, machine, settings = report.subject, report.machine, report.settings
    return (
        subject.name,
        ", ".join(subject.inputs),
        _bits(report),
        subject.mode,
        subject.method,
        subject.training,
        subject.target,
        subject.arch,
        machine.processor,
        str(machine.processors),
        " ".join(machine.instructions),
        ", ".join(machine.caches),
        machine.system,
        machine.hypervisor,
        machine.governor,
        f"{settings.seconds:g}",
        str(settings.processes),
        settings.clock,
        str(settings.seed),
    )


def _load(report: Report) -> float:
    return report.machine.load[0] if report.machine.load else 0.0
