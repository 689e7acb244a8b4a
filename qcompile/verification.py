"""Is the program right? Every kernel against its reference, and the whole against the graph.

The program runs kernel by kernel, and what each stores is kept. Then the reference of each stored
value's ops runs on what was stored before it: so a value answers for itself alone, integers must be
equal, and a wrong one is named. The references together, the lowered graph, must give the bits of the
converted graph.

Code for GPUs runs on a GPU of this machine, or on an emulation of one by the CPU, which says so.

Float kernels may add in another order than the reference. Where such a value is quantized next, a
value within rounding of the boundary may get another level, though every kernel is right. Samples
in which that happened are counted and left out of the end-to-end error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from qcompile.emulation import Emulated
from qcompile.errors import QCompileError
from qcompile.fingerprint import fingerprint
from qcompile.ir.graph import stage_of
from qcompile.ir.stages import Stage
from qcompile.kernel_check import KernelChecker, Reference, float_error
from qcompile.machine import obstacle
from qcompile.passes.one_bit import Stays
from qcompile.pipelines import lower
from qcompile.program import Program
from qcompile.program_info import CUDA, ProgramInfo
from qcompile.verify_report import OutputReport, VerifyReport

__all__ = ["TOLERANCE", "VerifyReport", "verify"]

TOLERANCE = 1e-4  # of float values, relative to the largest value of the tensor or 1
TIE = 1e-6  # how near two classes must be, relative likewise, for either to be the largest
_CHUNK = 64  # samples whose intermediate values are kept at once


def verify(
    program: Program,
    converted: GraphModule,
    inputs: Any,
    *,
    tolerance: float = TOLERANCE,
    emulate: int | str | Sequence[int | str] | None = None,
    emulated_inputs: Any = None,
) -> VerifyReport:
    """Compare a program with the graph that it was compiled from: each variant that runs here.

    Args:
        converted: what `convert` gave and `compile` took.
        inputs: a tensor, or a tuple of them for a program of several inputs; or a list of such, one
            for each batch. Batches may have different sizes.
        tolerance: the largest error of a float result, relative to the largest value of that
            tensor, or to 1 if that is less.
        emulate: architectures (80 or "sm_80") as which the CPU emulates the code for GPUs, each by
            itself, in place of a GPU. Slow: a few samples of a small network take seconds.
        emulated_inputs: what these get; None: the same inputs.

    Raises:
        QCompileError: `converted` is not the graph of this program; this machine cannot run it, or
            cannot emulate a GPU; or the inputs do not fit or hold NaN, on which no comparison says
            anything.
    """
    _check_graph(program, converted)
    batches = _batches(inputs, len(program.info.inputs))
    graph = lower(converted, stays=_stayed(program.info))
    arches = (emulate,) if isinstance(emulate, int | str) else emulate or ()
    native, emulated = _compared(program, [Emulated.of(arch).arch for arch in arches])
    few = batches if emulated_inputs is None else _batches(emulated_inputs, len(batches[0]))
    reports = [
        *_reports(native, graph, converted, batches, tolerance),
        *_reports(emulated, graph, converted, few, tolerance),
    ]
    unverified = _unverified(program) if not emulated else _unverified(program, gpus=False)
    return replace(reports[0], others=tuple(reports[1:]), unverified=unverified)


def _compared(
    program: Program, emulate: Sequence[int]
) -> tuple[tuple[Program, ...], tuple[Program, ...]]:
    """The program as each variant that is compared: those that run as they are, and the emulated.

    Raises:
        QCompileError: this machine can run none; or it cannot emulate a GPU, or there is no code for it.
    """
    if not emulate or program.emulates is not None:
        return program.runnable(), ()
    variants = program.info.variants if program.arch is None else (program.variant,)
    emulated = tuple(
        program.as_variant(v.arch).emulated(arch)
        for v in variants
        if v.machine == CUDA
        for arch in emulate
        if v.arch in (CUDA, f"sm_{arch}")
    )
    if not emulated:
        names = ", ".join(f"sm_{arch}" for arch in emulate)
        held = ", ".join(v.arch for v in variants)
        raise QCompileError(
            f"the program {program.info.model} has no code for {names}, and none to emulate",
            hint=f'it holds {held}; target="cuda" is for all GPUs',
        )
    done = {one.variant.arch for one in emulated}
    native = (v for v in variants if v.arch not in done and not obstacle(v))
    return tuple(program.as_variant(v.arch) for v in native), emulated


def _reports(
    programs: Sequence[Program],
    graph: GraphModule,
    converted: GraphModule,
    batches: Sequence[tuple[Tensor, ...]],
    tolerance: float,
) -> list[VerifyReport]:
    """One for each program, all on the same samples."""
    if not programs:
        return []
    variants = [_Variant(one, graph, tolerance) for one in programs]
    samples = unlike = 0
    for number, batch in enumerate(batches):
        for variant in variants:
            variant.call(batch)  # says what is wrong with the inputs, if anything is
        _check_nan(batch, programs[0])
        size = batch[0].shape[0]
        for start in range(0, size, _CHUNK):
            chunk = [x.detach()[start : start + _CHUNK] for x in batch]
            reference = Reference(graph, chunk)
            expected = _tuple(_reference(converted, chunk))
            for variant in variants:
                variant.compare(reference, expected, number, start)
            unlike += _unlike(reference.results(), expected)
        samples += size
    return [v.report(samples, unlike, tolerance) for v in variants]


def _stayed(info: ProgramInfo) -> Stays:
    """Which layers of one-bit levels and weights were not packed when the program was compiled."""
    bytes_ = {
        layer.layer: layer.reason
        for layer in info.layers
        if layer.weight_bits == layer.activation_bits == 1
        and layer.kernel not in ("", "xnor-popcount")
    }
    return lambda node: bytes_.get(str(node.meta.get("layer")), "")


def _unverified(program: Program, gpus: bool = True) -> tuple[str, ...]:
    """The variants of a program that were not compared, each with the reason.

    Args:
        gpus: whether those for GPUs are among the variants.
    """
    if program.arch is not None:
        return ()
    variants = (v for v in program.info.variants if gpus or v.machine != CUDA)
    why = ((variant, obstacle(variant)) for variant in variants)
    return tuple(f"{variant.arch} {reason}" for variant, reason in why if reason)


def _check_graph(program: Program, converted: GraphModule) -> None:
    if not isinstance(program, Program) or not isinstance(converted, GraphModule):
        what = f"a {type(program).__name__} and a {type(converted).__name__}"
        raise QCompileError(f"verify got {what}", hint="verify(program, converted, inputs)")
    stage = stage_of(converted)
    if stage is not Stage.CONVERTED:
        raise QCompileError(
            f"verify takes the converted graph, this one is {stage.value}",
            hint="pass what qcompile.convert gave",
        )
    if fingerprint(converted) != program.info.fingerprint:
        raise QCompileError(
            f"the program {program.info.model} was not compiled from this graph",
            hint="pass the converted graph that qcompile.compile took, or compile this one",
        )


def _batches(inputs: Any, count: int) -> list[tuple[Tensor, ...]]:
    if isinstance(inputs, Tensor):
        inputs = [inputs]
    if not isinstance(inputs, (list, tuple)) or not inputs:
        what = "empty" if isinstance(inputs, (list, tuple)) else f"of type {type(inputs).__name__}"
        hint = "pass a tensor, a tuple of the program's inputs, or a list of such"
        raise QCompileError(f"inputs is {what}", hint=hint)
    tensors = all(isinstance(x, Tensor) for x in inputs)
    if tensors and count > 1:
        inputs = [inputs]
    batches = [tuple(b) if isinstance(b, (list, tuple)) else (b,) for b in inputs]
    for x in (x for batch in batches for x in batch if not isinstance(x, Tensor)):
        raise QCompileError(
            f"inputs holds something of type {type(x).__name__}", hint="verify takes torch tensors"
        )
    return batches


def _check_nan(batch: Sequence[Tensor], program: Program) -> None:
    for x, info in zip(batch, program.info.inputs, strict=True):
        if x.is_floating_point() and bool(torch.isnan(x).any()):
            raise QCompileError(
                f"input {info.name} holds NaN, which no comparison can be made on",
                hint="look for what made it: a division by zero, or a sample that is broken",
            )


def _reference(converted: GraphModule, batch: Sequence[Tensor]) -> Any:
    with torch.no_grad():
        return converted(*[x.detach() for x in batch])


def _unlike(lowered: Sequence[Tensor], expected: Sequence[Tensor]) -> int:
    """In how many samples two graphs do not give the same bits (any NaN is any other)."""
    wrong = torch.zeros(expected[0].shape[0], dtype=torch.bool)
    for a, b in zip(lowered, expected, strict=True):
        wrong |= ~((a == b) | (a.isnan() & b.isnan())).flatten(1).all(1)
    return int(wrong.sum())


def _tuple(value: Any) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


class _Variant:
    """One variant's comparison, summed over batches."""

    def __init__(self, program: Program, graph: GraphModule, tolerance: float) -> None:
        self._program = program
        self._checker = KernelChecker(program, graph, tolerance)
        self._totals = [_Total(info.name) for info in program.info.outputs]
        self._borderline = 0
        self._got: tuple[Tensor, ...] = ()

    def call(self, batch: Sequence[Tensor]) -> None:
        """Run the whole program, as a user does."""
        self._got = _tuple(self._program(*batch))

    def compare(
        self, reference: Reference, expected: Sequence[Tensor], number: int, start: int
    ) -> None:
        """Check a chunk of the batch that was run last."""
        steady = self._checker.run(reference, number, start)
        self._borderline += int((~steady).sum())
        for total, y, wanted in zip(self._totals, self._got, expected, strict=True):
            total.add(y[start : start + _CHUNK], wanted, steady)

    def report(self, samples: int, unlike: int, tolerance: float) -> VerifyReport:
        return VerifyReport(
            kernels=tuple(self._checker.reports()),
            outputs=tuple(total.report() for total in self._totals),
            samples=samples,
            borderline=self._borderline,
            unlike=unlike,
            tolerance=tolerance,
            variant=self._program.variant.arch,
            emulated=self._program.emulates,
        )


class _Total:
    """One output's comparison, summed over batches."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.error = 0.0
        self.relative = 0.0
        self.same = self.ranked = self.swapped = 0

    def add(self, got: Tensor, expected: Tensor, steady: Tensor) -> None:
        if got.dtype.is_floating_point:
            error, relative = float_error(got[steady], expected[steady])
        else:
            error = relative = float((got[steady] != expected[steady]).any())
        self.error, self.relative = max(self.error, error), max(self.relative, relative)
        if got.dim() == 2 and got.shape[1] > 1:
            same = got.argmax(1) == expected.argmax(1)
            self.same += int(same.sum())
            self.ranked += got.shape[0]
            self.swapped += int((~same & steady & ~_tied(got, expected)).sum())

    def report(self) -> OutputReport:
        agreement = self.same / self.ranked if self.ranked else None
        return OutputReport(self.name, self.error, self.relative, agreement, self.swapped)


def _tied(got: Tensor, expected: Tensor) -> Tensor:
    """Where the reference has the two best classes so near that the rounding of sums ranks them."""
    best, chosen = expected.amax(1), expected.gather(1, got.argmax(1, keepdim=True))[:, 0]
    return best - chosen <= TIE * best.abs().clamp(min=1.0)
