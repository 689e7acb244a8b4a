"""What the machine code of a program's kernels says of their speed on a GPU, without one.

Every time here is a bound: the GPU cannot be faster. Nothing is measured.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompile.constants import places
from qcompile.cuda.launches import Launch
from qcompile.errors import QCompileError
from qcompile.nvidia import ARCHITECTURES
from qcompile.program_file import Archive
from qcompile.program_info import CUDA, KernelInfo, Variant
from qcompile.static.bound import Bound, Job, bound
from qcompile.static.gpus import Gpu, gpu_of
from qcompile.static.sass import functions, pointers_read
from qcompile.static.tools import disassembled, extracted, resources

if TYPE_CHECKING:
    from rich.console import RenderableType

LABEL = "static bound, not measured"
COLUMNS = (
    *("layer", "kernel", "blocks", "threads", "regs", "spills", "shared", "occupancy"),
    *("bound by", "µs ≥", "peak ≤"),
)
_NAME = re.compile(r"sm_(\d+)")
_POINTER = 8  # bytes


@dataclass(frozen=True)
class Row:
    """A launch: what it belongs to, and what bounds it."""

    kernel: KernelInfo
    launch: Launch
    job: Job
    bound: Bound

    def cells(self) -> tuple[str, ...]:
        """In the order of COLUMNS."""
        found, job = self.bound, self.job
        return (
            self.kernel.layer,
            " ".join(filter(None, (self.kernel.kind, self.kernel.method))),
            "x".join(str(size) for size in job.grid if size > 1) or "1",
            str(job.threads),
            str(found.resources.registers),
            str(found.spills),
            f"{found.resources.shared:,}",
            f"{found.occupancy.share:.0%}",
            found.limit + ("" if found.exact else ", loops of unknown length"),
            f"{found.seconds * 1e6:.2f}",
            f"{found.peak:.0%} of {found.kind}" if found.kind else "",
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "layer": self.kernel.layer,
            "kind": self.kernel.kind,
            "method": self.kernel.method,
            "symbol": self.launch.symbol,
            "job": dataclasses.asdict(self.job),
            **dataclasses.asdict(self.bound),
            "limit": self.bound.limit,
            "seconds": self.bound.seconds,
        }


@dataclass(frozen=True)
class Report:
    """The launches of a batch on a GPU, in their order."""

    model: str
    gpu: Gpu
    samples: int
    rows: tuple[Row, ...]

    @property
    def seconds(self) -> float:
        """The least time of all of them."""
        return sum(row.bound.seconds for row in self.rows)

    def title(self) -> str:
        """The first line."""
        gpu = f"{self.gpu.name} (sm_{self.gpu.arch})"
        samples = f"{self.samples} sample{'s' * (self.samples > 1)}"
        return f"{self.model} on {gpu}, {samples}: {LABEL}"

    def total(self) -> str:
        """The last lines."""
        rate = self.samples / self.seconds
        sources = "; ".join(self.gpu.sources)
        return (
            f"{len(self.rows)} launches take {self.seconds * 1e6:.1f} µs at least: at most "
            f"{rate:,.0f} samples a second, what launching costs left out ({LABEL}).\n"
            f"The GPU: {sources}."
        )

    def json(self) -> str:
        """Everything, as JSON."""
        told = {
            "what": LABEL,
            "model": self.model,
            "gpu": dataclasses.asdict(self.gpu),
            "samples": self.samples,
            "seconds": self.seconds,
            "launches": [row.to_json() for row in self.rows],
        }
        return json.dumps(told, indent=1)

    def __rich__(self) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.title()), title_justify="left", box=box.SIMPLE_HEAD)
        for number, name in enumerate(COLUMNS):
            table.add_column(name, justify="left" if number < 2 else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row.cells()))
        return Group(table, Text(self.total()))


def report(archive: Archive, arch: str | None = None, samples: int = 1) -> Report:
    """What can be said of a program's launches for a batch.

    Args:
        arch: the architecture, "sm_80"; None for the program's, or sm_80 if it is for all.
        samples: of the batch.

    Raises:
        QCompileError: the program is not for that architecture, or no figures are known of it; a
            tool is missing; the batch is empty or does not run at once.
    """
    variant = _variant(archive, arch)
    number = _number(arch or (variant.arch if variant.arch != CUDA else "sm_80"))
    gpu = gpu_of(number)
    if not 1 <= samples <= variant.samples:
        raise QCompileError(
            f"{samples} samples do not run at once", hint=f"from 1 to {variant.samples} do"
        )
    code = _machine_code(archive, variant, number)
    kernels, taken = functions(disassembled(code)), resources(code, number)
    sizes = _Sizes.of(archive, variant)
    rows = []
    for launch in variant.launches:
        if launch.runs(samples):
            kernel = kernels[launch.symbol]
            used = pointers_read(kernel, number, len(launch.arguments))
            job = _job(launch, samples, sizes.moved(launch, used, samples))
            found = bound(kernel, taken[launch.symbol], job, gpu)
            rows.append(Row(variant.kernels[launch.kernel], launch, job, found))
    return Report(archive.info.model, gpu, samples, tuple(rows))


def _job(launch: Launch, samples: int, size: int) -> Job:
    return Job(
        grid=launch.grid(samples),
        threads=launch.threads,
        parameters=_POINTER * len(launch.arguments),
        samples=samples,
        macs=launch.macs * samples,
        bytes=size,
    )


def _number(arch: str) -> int:
    match = _NAME.fullmatch(arch)
    if match is None or int(match[1]) not in ARCHITECTURES:
        known = ", ".join(f"sm_{number}" for number in ARCHITECTURES)
        raise QCompileError(f"unknown architecture {arch!r}", hint=f"architectures: {known}")
    return int(match[1])


def _variant(archive: Archive, arch: str | None) -> Variant:
    """The variant for an architecture: its own, or the one for all GPUs."""
    gpus = [v for v in archive.info.variants if v.machine == CUDA]
    if not gpus:
        held = ", ".join(v.arch for v in archive.info.variants)
        raise QCompileError(
            f"the program has no code for GPUs, but for {held}",
            where=archive.where,
            hint='compile it for target="cuda"',
        )
    if arch is None:
        return gpus[0]
    _number(arch)
    for variant in sorted(gpus, key=lambda v: v.arch == CUDA):
        if variant.arch in (arch, CUDA):
            return variant
    held = ", ".join(v.arch for v in gpus)
    raise QCompileError(
        f"the program has no code for {arch}, but for {held}",
        where=archive.where,
        hint=f'compile it for target="cuda", or "cuda:{arch}"',
    )


def _machine_code(archive: Archive, variant: Variant, arch: int) -> bytes:
    """From the program's file; compiled from its source if it holds none for the architecture."""
    if f"sm_{arch}" in variant.features:
        code = extracted(archive.library(variant), arch)
        if code is not None:
            return code
    from qcompile.codegen.cuda.nvcc import cubin

    return cubin(archive.source(variant), arch)


@dataclass(frozen=True)
class _Sizes:
    """Bytes of what launches take: of samples of inputs and outputs, of places of the workspace by
    kernel, and of constants by where they begin."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stored: tuple[Mapping[int, int], ...]
    constants: Mapping[int, int]

    @staticmethod
    def of(archive: Archive, variant: Variant) -> _Sizes:
        values = (archive.info.inputs, archive.info.outputs)
        inputs, outputs = (
            tuple(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in some)
            for some in values
        )
        constants = [constant.form.nbytes for constant in archive.constants(variant)]
        stored: list[dict[int, int]] = []
        known: dict[int, int] = {}
        for kernel in variant.kernels:  # what is stored last at a place is what is read there
            written = {r.offset: r.size for r in kernel.results if r.output < 0}
            stored.append(known | written)
            known = stored[-1]
        starts = places(constants)
        return _Sizes(inputs, outputs, tuple(stored), dict(zip(starts, constants, strict=False)))

    def moved(self, launch: Launch, used: Iterable[int], samples: int) -> int:
        """Bytes that a launch has to read or write, each once: those of the arguments that it uses;
        what lies between launches of a kernel is left out."""
        total = 0
        for argument in (launch.arguments[number] for number in used):
            if argument.kind == "constants":
                total += self.constants.get(argument.at, 0)
            elif argument.kind == "workspace":
                total += samples * self.stored[launch.kernel].get(argument.at, 0)
            else:
                own = self.inputs if argument.kind == "input" else self.outputs
                total += samples * own[argument.at]
        return total
