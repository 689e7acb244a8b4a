"""The benchmark, from a model or a program to a report: `benchmark`, read from top to bottom."""

from __future__ import annotations

import datetime
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from qcompile import model_file, weights
from qcompile.bench import handing, machine_facts, parts, places, subject, words
from qcompile.bench.built import Built
from qcompile.bench.live import Progress
from qcompile.bench.measuring import Plan, measure
from qcompile.bench.results import (
    AGAIN,
    NOT_TRAINED,
    OURS,
    Accuracy,
    Engine,
    Machine,
    Report,
    Run,
    Settings,
    Subject,
)
from qcompile.bench.worker import CLOCKS
from qcompile.codegen.machine import machine_of
from qcompile.ir.target import Target
from qcompile.job import Job
from qcompile.steps import Steps

BUSY = 0.3  # load, in processors, from which on something else is at work
WIDE = 4  # bits, from which on a program's outputs are near its network's
_MOVED = (
    "The program's network was trained with its quantizers: SQNR beside the float network says how far "
    "training moved it, not how much noise its bits add. Accuracy is what counts."
)
UNRELATED = 3.0  # dB: at less, the difference has half of the signal's power and more
_NO_MODEL = "a program alone has no float network"
_GIVE_MODEL = "--model MODEL is the network that it was made of"


@dataclass(frozen=True)
class Asked:
    """What the options say.

    Attributes:
        job: of a model, which is compiled first; None of a program.
        model: of a program, the network that it was made of.
        engines: other than the program.
    """

    source: str
    command: str
    target: str
    arch: str | None
    job: Job | None
    train: bool
    model: str | None
    weights: Path | None
    input_shape: tuple[int, ...] | None
    engines: tuple[str, ...]
    batches: tuple[int, ...]
    threads: tuple[int, ...]
    settings: Settings
    parts: parts.Wanted


class Noted(Steps):
    """Steps whose notes are kept, for the report."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Say it, and keep it."""
        self.notes.append(text)
        super().note(text)


def benchmark(asked: Asked, err: Console) -> Report:
    """Build, measure, look into it; progress goes to `err`.

    Raises:
        QCompileError: something the user gave does not work, or the program itself cannot be run.
    """
    began, load = time.perf_counter(), machine_facts.load()
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    machine = machine_facts.facts(machine_of(Target()).arch)
    steps = Noted(err)
    torch.manual_seed(asked.settings.seed)
    built = _built(asked, steps)
    steps.notes += _busy(load, machine)
    accuracy, strangers = _accuracy(asked, built, steps), _strangers(asked, built)
    with tempfile.TemporaryDirectory(prefix="qcompile-bench-") as name:
        folder = Path(name)
        samples = max(asked.batches)
        handed = handing.hand_over(built, folder, samples, asked.settings.seed)
        steps.note(f"Inputs are {handed.told}.")
        engines, runs = _timed(asked, built, folder, steps)
        known = subject.describe(built, folder, asked.target)
    inputs = tuple(torch.from_numpy(x) for x in handed.inputs)
    found = parts.look(built, asked.parts, inputs, steps, CLOCKS[asked.settings.clock])
    steps.notes += _of_sqnr(asked, built, known, engines)
    report = Report(
        subject=replace(known, accuracy=accuracy),
        machine=replace(machine, load=(load, machine_facts.load())),
        settings=asked.settings,
        engines=tuple(_complete(engine, built, accuracy, strangers) for engine in engines),
        runs=runs,
        command=asked.command,
        date=date,
        duration=time.perf_counter() - began,
        versions=machine_facts.versions(),
        layers=found.layers,
        roofs=found.roofs,
        widths=found.widths,
        graphs=found.graphs,
        notes=tuple(steps.notes),
        absent=found.absent,
    )
    return places.told(report, None if built.file is None else str(built.file.path))


def _built(asked: Asked, steps: Steps) -> Built:
    if asked.job is not None:
        bits = asked.parts.widths if "widths" in asked.parts.names else ()
        return subject.from_model(asked.job, steps, train=asked.train, widths=bits)
    program = subject.from_program(asked.source, asked.arch)
    if asked.model is None:
        return Built(program, asked.source)
    file = model_file.read(asked.model, asked.input_shape)
    if asked.weights is not None:
        weights.load(file.model, asked.weights)
    file.model.eval()
    return subject.beside(program, asked.source, file)


def _busy(load: float, machine: Machine) -> list[str]:
    """What to know of a machine that works for others too."""
    notes = []
    if load > BUSY:
        notes.append(
            f"The machine was busy before anything was measured: load {load:.2f} on "
            f"{machine.processors} processors. Measure again when nothing else runs: with several threads, "
            "engines whose threads wait for one another in loops (OpenMP) may take a hundred times as long."
        )
    quota = machine_facts.quota()
    if quota is not None and quota < machine.processors:
        notes.append(
            f"This container may use {quota:g} of {machine.processors} processors' time: calls "
            "are held up when that is spent."
        )
    return notes


def _accuracy(asked: Asked, built: Built, steps: Noted) -> Accuracy:
    """What `evaluate` says, where the weights are worth it."""
    file = built.file
    if file is None or not file.has("evaluate"):
        why = "a program alone has none" if file is None else f"{file.path.name} has none"
        steps.notes.append(f"Accuracy is not known: it needs a model file's evaluate(), and {why}.")
        return Accuracy()
    if asked.job is not None and built.made is not None and built.made.trained == NOT_TRAINED:
        steps.notes.append(
            "Nothing was trained, and accuracy is not given: --train trains, --weights loads the "
            "float network's weights. Times do not depend on it; SQNR does."
        )
        return Accuracy()
    found = subject.accuracy(built, steps)
    if not _strangers(asked, built):
        return found
    steps.notes.append(
        "The float network has the model file's own weights, which nobody trained: its accuracy, and how "
        "far the program is from it, are not given. --weights loads those that the program was made of."
    )
    return replace(found, float32=None)


def _strangers(asked: Asked, built: Built) -> bool:
    """Whether a program that was given is beside a network with weights that nobody trained."""
    file = built.beside
    return file is not None and file.has("train") and asked.weights is None


def _timed(
    asked: Asked, built: Built, folder: Path, steps: Noted
) -> tuple[tuple[Engine, ...], tuple[Run, ...]]:
    model = asked.model if asked.job is None else asked.job.model
    plan = Plan(
        engines=asked.engines if model is not None else (),
        batches=asked.batches,
        threads=asked.threads,
        settings=asked.settings,
        model=model,
        input_shape=asked.input_shape,
        arch=built.program.arch,
    )
    names = {OURS: "qcompile"} | {key: key for key in (AGAIN, *plan.engines)}
    progress = Progress(steps.console, names, plan.places())
    with progress.shown():
        engines, runs = measure(plan, folder, progress)
    if model is None:
        absent = [Engine(key, key, reason=_NO_MODEL, hint=_GIVE_MODEL) for key in asked.engines]
        engines = (*engines, *absent)
    return engines, runs


def _of_sqnr(asked: Asked, built: Built, known: Subject, engines: Sequence[Engine]) -> list[str]:
    """What to know before the program's SQNR is read."""
    made = built.made
    if made is not None and made.recipe.mode == "qat":
        return [_MOVED]
    found = next((engine.sqnr_db for engine in engines if engine.key == OURS), None)
    bits = known.bits
    if found is None or bits is None or min(bits) < WIDE or found >= UNRELATED:
        return []
    if made is not None:
        why = "look at the ranges of its layers, and at its calibration data"
    elif asked.weights is None:
        why = "was --weights, which loads the weights that it was made of, forgotten?"
    else:
        why = f"was it made of other weights than {asked.weights.name}, or trained further?"
    return [
        f"At {words.decibels(found)} the program's outputs have nothing to do with the float network's: {why}"
    ]


def _complete(engine: Engine, built: Built, accuracy: Accuracy, strangers: bool) -> Engine:
    """With what only the program and the model file tell; beside a stranger it has no SQNR."""
    if engine.key == "fp32":
        return replace(engine, accuracy=accuracy.float32)
    if engine.key not in (OURS, AGAIN):
        return engine
    program = built.program
    variant = program.variant
    return replace(
        engine,
        name="qcompile" if engine.key == OURS else "qcompile, once more",
        version=program.info.versions.get("qcompile", ""),
        precision=_precision(built),
        how=f"compiled for {variant.arch}"
        if engine.key == OURS
        else "the same program, loaded a second time",
        instructions=" ".join(f for f in machine_facts.TELLING if f in variant.features),
        size=program.size,
        sqnr_db=None if strangers else engine.sqnr_db,
        accuracy=accuracy.compiled,
    )


def _precision(built: Built) -> str:
    """Bits of weights and activations: those that were asked for, or that most weights have."""
    bits = subject.bits_of(built.program.info)
    if built.made is not None and built.made.recipe.body_bits() in _kinds(built):
        bits = built.made.recipe.body_bits()
    if bits is None:
        return "float32"
    weight, activation = (f"{b}-bit" if b < 32 else "float" for b in bits)
    same = f"{weight} weights and activations"
    return same if weight == activation else f"{weight} weights, {activation} activations"


def _kinds(built: Built) -> set[tuple[int, int]]:
    return {(layer.weight_bits, layer.activation_bits) for layer in built.program.info.layers}
