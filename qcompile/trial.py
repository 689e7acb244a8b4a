"""The last part of the main job: what a program is worth. Accuracy, verification, latency.

Code for a GPU that this machine lacks is verified all the same: the CPU emulates one. That is slow, so it
gets fewer samples than the rest, and it says nothing about time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from rich.console import Console
from torch import nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from qcompile import emulator, latency, report
from qcompile.cuda.diagnosis import diagnose
from qcompile.errors import QCompileError
from qcompile.machine import choose, obstacle, runnable
from qcompile.model_file import Inputs, ModelFile
from qcompile.program import Program
from qcompile.program_info import CUDA, Variant
from qcompile.recording import Recording
from qcompile.report import listed
from qcompile.steps import Steps
from qcompile.verification import verify
from qcompile.verify_report import samples

CALIBRATION = 32  # batches of calibration data that are used at most
SHORT, LONG = 0.5, 3.0  # seconds that each rival's calls are timed, without and with --benchmark
BATCHES = (1, 64)
# The GPUs that are emulated, the most telling first: each computes products of bits in another way.
EMULATED = (80, 90, 75, 100)
EMULATION_SECONDS = 60.0  # that emulation may take; one sample on one GPU is always emulated
EMULATED_SAMPLES = 16  # or more, where kernels are for larger batches


def calibration_of(file: ModelFile) -> Iterable[Inputs]:
    """What a prepared network is calibrated on: the file's data, or its example inputs."""
    if file.has("calibration_data"):
        return islice(file.calibration_data(), CALIBRATION)
    return [file.example_inputs]


def evaluate(file: ModelFile, model: nn.Module, title: str, steps: Steps) -> float | None:
    """What the file's `evaluate` says of a model; None if it has none."""
    if not file.has("evaluate"):
        return None
    model.eval()
    with steps(title):
        return file.evaluate(model)


@dataclass(frozen=True)
class Emulation:
    """How code for GPUs is verified without one.

    Attributes:
        arches: what is emulated, 80 for sm_80.
        sizes: of the batches that are compared on each.
    """

    arches: tuple[int, ...]
    sizes: tuple[int, ...]

    def __str__(self) -> str:
        return f"emulated on the CPU as {listed([f'sm_{arch}' for arch in self.arches])}"


@dataclass(frozen=True)
class Trial:
    """One program's.

    Attributes:
        prepared, converted: what it was made of.
        before: accuracy of the float network and of the prepared one, where `evaluate` gave it.
        seen: inputs that `evaluate` fed the prepared one.
        threads: that the program may use; None: as many as it has by itself.
        verified: whether it is to be verified.
        long: whether to take longer over its latency.
    """

    file: ModelFile
    prepared: GraphModule
    converted: GraphModule
    before: tuple[float | None, float | None]
    seen: Sequence[Inputs]
    threads: int | None
    verified: bool
    long: bool
    steps: Steps
    out: Console

    def run(self, program: Program) -> str | None:
        """Evaluate, verify and time a program.

        Returns:
            How it was verified if that needs saying, "" if not; None if it is wrong.
        """
        lacking = [v for v in program.info.variants if v.machine == CUDA and obstacle(v)]
        here = bool(runnable(program.info))
        if self.threads is not None:
            program.num_threads = self.threads
        batches = self._evaluate(program, here)
        emulation = self._emulation(program, lacking, batches) if self.verified else None
        if self.verified and not here and emulation is None:
            self._say_why(program)
        elif self.verified and not self._verify(program, batches, emulation):
            return None
        self._time(program, here, lacking)
        if not self.verified:
            return "NOT verified: --no-verify"
        if not lacking:
            return ""
        gpus = [v for v in runnable(program.info) if v.machine == CUDA and emulation is None]
        cpus = [v for v in runnable(program.info) if v.machine != CUDA]
        native = ["this processor"] * bool(cpus) + ["this GPU"] * bool(gpus)
        no_gpu = "no GPU here" if diagnose() else "no such GPU here"
        return f"{report.how(native, str(emulation or ''))}: {no_gpu}"

    def _evaluate(self, program: Program, here: bool) -> Sequence[Inputs]:
        """Show the program's accuracy if it runs here; gives what it is to be verified on."""
        accuracy, seen = None, self.seen
        if here:
            recording = Recording(program)
            accuracy = evaluate(self.file, recording, "evaluate the program", self.steps)
            seen = recording.batches
        if self.file.has("evaluate") and (here or self.verified):
            report.show(self.out, report.accuracy_table(*self.before, accuracy))
        return seen or list(calibration_of(self.file))

    def _say_why(self, program: Program) -> None:
        """Where this machine cannot run the program at all."""
        try:
            choose(program.info)
        except QCompileError as error:
            self.steps.note(
                f"Not verified, since this machine cannot run it: {_without_reason(error.what)}."
            )

    # --- right? ----------------------------------------------------------------------------------

    def _emulation(
        self, program: Program, lacking: Sequence[Variant], batches: Sequence[Inputs]
    ) -> Emulation | None:
        """How code for GPUs is verified where there is none; None where it need or can not be."""
        if not lacking:
            return None
        if why := emulator.obstacle():
            self.steps.note(f"{_no_gpu(lacking)} None can be emulated: {why}.")
            return None
        total = sum(batch[0].shape[0] for batch in batches)
        with self.steps("build the emulation of a GPU"):
            found = _affordable(program, lacking, tuple(x[:1] for x in batches[0]), total)
        sizes = f"{'a batch' if len(found.sizes) == 1 else 'batches'} of {listed(found.sizes)}"
        left_out = [f"sm_{arch}" for arch in _arches(lacking) if arch not in found.arches]
        beyond = [n for n in _needed(lacking) if n not in found.sizes]
        if beyond:
            left_out.append(f"what runs in batches of {beyond[0]} and more alone")
        self.steps.note(
            f"{_no_gpu(lacking)} The CPU emulates one, for {sizes} of {samples(total)}."
            + (f" Left out, for want of time or samples: {listed(left_out)}." if left_out else "")
        )
        return found

    def _verify(
        self, program: Program, batches: Sequence[Inputs], emulation: Emulation | None
    ) -> bool:
        with self.steps("verify"):
            same = self._equal_on(batches)
            found = verify(
                program,
                self.converted,
                list(batches),
                emulate=emulation.arches if emulation else None,
                emulated_inputs=_of_sizes(batches, emulation.sizes) if emulation else None,
            )
        found = replace(found, unverified=tuple(map(_without_reason, found.unverified)))
        report.show(self.out, report.verdict(found, fake_quant_equal=same))
        return same and found.ok

    @torch.no_grad()
    def _equal_on(self, batches: Iterable[Inputs]) -> bool:
        """Whether the fake-quant model in eval mode and its integers give the same bits."""
        self.prepared.eval()
        return all(
            torch.equal(a, b)
            for x in batches
            for a, b in zip(
                tree_leaves(self.prepared(*x)), tree_leaves(self.converted(*x)), strict=True
            )
        )

    # --- fast? -----------------------------------------------------------------------------------

    def _time(self, program: Program, here: bool, lacking: Sequence[Variant]) -> None:
        """The program beside the float network in PyTorch."""
        if here:
            self._measure(program)
        elif lacking:
            sizes = latency.sizes(program, self.file.model)
            report.show(self.out, report.timing_table(sizes, [], ""))
        if lacking:
            self.steps.note("Nothing was timed on a GPU." + report.machine_code(lacking))

    def _measure(self, program: Program) -> None:
        """On a GPU in float32 and float16, on the CPU in float32 and in 8 bits."""
        model, inputs = self.file.model, self.file.example_inputs
        torch.set_num_threads(program.num_threads)
        with self.steps("measure latency"):
            if program.variant.machine == CUDA:
                entrants, where = latency.on_gpu(program, model), latency.gpu_name()
            else:
                calibration = list(islice(calibration_of(self.file), 4))
                entrants = latency.on_cpu(program, model, calibration)
                where = f"{program.num_threads} thread{'s' * (program.num_threads > 1)}"
            rivals, timings = latency.measure(
                entrants, inputs, BATCHES, seconds=LONG if self.long else SHORT
            )
        report.show(self.out, report.timing_table(rivals, timings, where))


def _no_gpu(lacking: Sequence[Variant]) -> str:
    """Why this machine cannot run code for GPUs, in a sentence."""
    why = diagnose()
    if why:
        return f"No GPU here: {why}."
    return f"The code for {lacking[0].arch} {obstacle(lacking[0])}."


def _without_reason(text: str) -> str:
    """What code for GPUs lacks, without why there is none: that was said before, at length."""
    why = diagnose()
    return text.replace(f", and {why}", "") if why else text


def _affordable(
    program: Program, variants: Sequence[Variant], sample: Inputs, total: int
) -> Emulation:
    """As much as goes into EMULATION_SECONDS, found by one sample; it is built and run twice.

    Each sample is run twice where a program is verified: as a whole, and kernel by kernel.

    Args:
        total: samples that there are.
    """
    arches, own = _arches(variants), sum(v.arch != CUDA for v in variants)
    emulated = program.as_variant(variants[0].arch).emulated(arches[0])
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        emulated(*sample)
        seconds.append(time.perf_counter() - start)
    building, running = max(0.0, seconds[0] - seconds[1]), 2 * max(seconds[1], 1e-3)
    arches = arches[: max(1, own, int(EMULATION_SECONDS / (building + running)))]
    affordable = max(1, int((EMULATION_SECONDS / len(arches) - building) / running))
    needed = _needed(variants)
    return Emulation(
        arches, _sizes(needed, min(affordable, total, max(EMULATED_SAMPLES, sum(needed))))
    )


def _needed(variants: Sequence[Variant]) -> list[int]:
    """Sizes of batches in which, between them, everything is launched that there is."""
    return sorted({launch.least for v in variants for launch in v.launches} | {1})


def _sizes(needed: Sequence[int], samples: int) -> tuple[int, ...]:
    """As many of the batches as go into so many samples, the smallest first; and one of the rest."""
    found: list[int] = []
    for size in needed:
        if sum(found) + size <= samples:
            found.append(size)
    rest = samples - sum(found)
    return (*found, rest) if rest else tuple(found)


def _of_sizes(batches: Sequence[Inputs], sizes: Sequence[int]) -> list[Inputs]:
    """The first samples of the batches, in batches of these sizes; there are as many."""
    whole = [torch.cat(column)[: sum(sizes)] for column in zip(*batches, strict=True)]
    return list(zip(*(x.split(list(sizes)) for x in whole), strict=True))


def _arches(variants: Sequence[Variant]) -> tuple[int, ...]:
    """What is emulated for variants, the most telling first."""
    own = [int(v.arch.removeprefix("sm_")) for v in variants if v.arch != CUDA]
    return (*dict.fromkeys(own), *(EMULATED if len(own) < len(variants) else ()))
