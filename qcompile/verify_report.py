"""What verification found, as data and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qcompile.errors import QCompileError

if TYPE_CHECKING:
    from rich.console import RenderableType

COLUMNS = ("layer", "kernel", "integers", "max error", "")


def samples(count: int) -> str:
    """So many: "1 sample", "1,000 samples"."""
    return f"{count:,} sample{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Mismatch:
    """Integers that are not equal.

    Attributes:
        batch: number of the batch among the inputs.
        index: of the first wrong element in that batch, in torch's order of dimensions.
        expected, got: the first wrong element.
        count: how many elements are wrong, in all batches.
        total: of how many, from the first batch with a wrong one on.
    """

    batch: int
    index: tuple[int, ...]
    expected: int
    got: int
    count: int
    total: int

    def plus(self, count: int, total: int) -> Mismatch:
        """The same with more elements counted."""
        return replace(self, count=self.count + count, total=self.total + total)

    def __str__(self) -> str:
        at = f"{list(self.index)}" + (f" of batch {self.batch}" if self.batch else "")
        return (
            f"{self.count:,} of {self.total:,} differ, first at {at}: "
            f"{self.got} instead of {self.expected}"
        )


@dataclass(frozen=True)
class KernelReport:
    """One kernel against the reference of its nodes, on its actual inputs.

    Attributes:
        layer: the user's layer.
        kernel: its name.
        nodes: of the lowered graph.
        equal: whether all integers are equal; None where it gives floats.
        mismatch: the first wrong integer, or None.
        max_error: largest absolute error of a float; None where it gives integers.
        ok: equal, or within the tolerance.
    """

    layer: str
    kernel: str
    nodes: tuple[str, ...]
    equal: bool | None
    mismatch: Mismatch | None
    max_error: float | None
    ok: bool

    def __str__(self) -> str:
        where = f"{self.layer} ({self.kernel})" if self.layer else self.kernel
        if self.mismatch is not None:
            return f"{where}: {self.mismatch}"
        return f"{where}: " + ("equal" if self.equal else f"max error {self.max_error:.3g}")


@dataclass(frozen=True)
class OutputReport:
    """One output of the whole program against the converted graph.

    Attributes:
        name: of the output.
        max_error: largest absolute error.
        relative_error: the same over the output's largest value, or 1 if that is less.
        top1_agreement: share of samples with the same largest class; None where the output is not
            `[N, classes]`.
        swapped: samples whose largest class is another, though no rounding can decide it.
    """

    name: str
    max_error: float
    relative_error: float
    top1_agreement: float | None
    swapped: int = 0

    def __str__(self) -> str:
        top1 = self.top1_agreement
        return f"{self.name}: max error {self.max_error:.3g}" + (
            "" if top1 is None else f", same top-1 in {100 * top1:.2f} %"
        )


@dataclass(frozen=True)
class VerifyReport:
    """Everything that verification found.

    Attributes:
        kernels: in the order in which they run.
        outputs: of the program.
        samples: how many were compared.
        borderline: in how many of them a float value within rounding of a quantizer's boundary got
            another level than in the reference; they do not count for the outputs' errors.
        unlike: in how many samples the lowered graph, whose ops the kernels are compared with, does
            not give the bits of the converted graph.
        tolerance: of float values.
        variant: the variant of the program that all this is about.
        emulated: the architecture (80 for sm_80) of the GPU that the CPU emulated; None where the
            code ran on what it is for.
        others: the reports of the other variants that this machine runs.
        unverified: the variants that it cannot run, each with the reason.
    """

    kernels: tuple[KernelReport, ...]
    outputs: tuple[OutputReport, ...]
    samples: int
    borderline: int
    unlike: int
    tolerance: float
    variant: str = ""
    others: tuple[VerifyReport, ...] = ()
    unverified: tuple[str, ...] = ()
    emulated: int | None = None

    @property
    def ok(self) -> bool:
        """All integers equal, all floats within the tolerance, the same class the largest.

        In every variant that was compared.
        """
        return not self.failures()

    def _within(self, output: OutputReport) -> bool:
        return output.relative_error <= self.tolerance and output.swapped == 0

    @property
    def max_error(self) -> float:
        """Largest absolute error of any output."""
        return max(o.max_error for report in self._each() for o in report.outputs)

    @property
    def top1_agreement(self) -> float | None:
        """The lowest of the outputs', None where no output ranks classes."""
        shares = [o.top1_agreement for report in self._each() for o in report.outputs]
        return min((share for share in shares if share is not None), default=None)

    @property
    def name(self) -> str:
        """The variant, and how it was run: "haswell", "cuda, emulated on the CPU as sm_80"."""
        return self.variant + self._how()

    def _how(self) -> str:
        return "" if self.emulated is None else f", emulated on the CPU as sm_{self.emulated}"

    def _each(self) -> tuple[VerifyReport, ...]:
        return (self, *self.others)

    def failures(self) -> list[str]:
        """What is wrong, a line each."""
        lines = [str(kernel) for kernel in self.kernels if not kernel.ok]
        if self.unlike:
            lines.append(f"lowering: {self.unlike:,} of {samples(self.samples)} with other bits")
        lines += [str(output) for output in self.outputs if not self._within(output)]
        return lines + [f"{o.name}: {line}" for o in self.others for line in o.failures()]

    def raise_if_failed(self) -> None:
        """Do nothing if all is well.

        Raises:
            QCompileError: naming what is wrong.
        """
        if self.ok:
            return
        lines = self.failures()
        rest = f"\n  and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise QCompileError(
            "the program does not compute what its graph does:\n  " + "\n  ".join(lines[:5]) + rest,
            hint="this is a fault of the compiler, or of a damaged program: compile it again",
        )

    def verdict(self) -> str:
        """The last lines: what was verified, and on how much; and what was not."""
        several = bool(self.unverified) or len({r.variant for r in self._each()}) > 1
        lines = [report._own_verdict(named=several) for report in self._each()]
        if self.unverified:
            lines += ["unverified, as this machine cannot run them:", *self.unverified]
        return "\n".join(lines)

    def _own_verdict(self, named: bool) -> str:
        own = replace(self, others=())
        word = "verified" if own.ok else "NOT VERIFIED"
        word += f" as {self.name}" if named else self._how()
        text = f"{word}: {samples(self.samples)}, {self._equal()}"
        text += "".join(f"; {output}" for output in self.outputs)
        if self.unlike:
            text += f"; lowering changes the bits of {self.unlike:,}"
        if self.borderline:
            verb = "has" if self.borderline == 1 else "have"
            text += f"; {self.borderline:,} {verb} a level that rounding decides, outputs left out"
        return text

    def _equal(self) -> str:
        """How many integer kernels are equal; where there are none, how many others are right."""
        exact = [kernel for kernel in self.kernels if kernel.equal is not None]
        some = exact or self.kernels
        share = f"{sum(kernel.ok for kernel in some)} of {len(some)}"
        noun = "kernel" if len(some) == 1 else "kernels"
        if exact:
            return f"{share} integer {noun} equal"
        return f"no integer kernels, {share} float {noun} within the tolerance"

    def rows(self) -> list[tuple[str, ...]]:
        """One row a kernel, in the order of COLUMNS."""
        return [_row(kernel) for kernel in self.kernels]

    def _tables(self) -> tuple[VerifyReport, ...]:
        """The reports whose kernels are worth a table."""
        return (self, *(report for report in self.others if not report.ok))

    def __str__(self) -> str:
        return "\n".join([*(_text(report) for report in self._tables()), self.verdict()])

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        verdict = Text(self.verdict(), style="bold green" if self.ok else "bold red")
        return Group(*(_rich(report) for report in self._tables()), verdict)


def _text(report: VerifyReport) -> str:
    table: list[Sequence[str]] = [COLUMNS, *report.rows()]
    widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _rich(report: VerifyReport) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(*COLUMNS)
    for row, kernel in zip(report.rows(), report.kernels, strict=True):
        table.add_row(*map(Text, row), style=None if kernel.ok else "red")
    return table


def _row(kernel: KernelReport) -> tuple[str, ...]:
    integers = {None: "", True: "equal", False: "WRONG"}[kernel.equal]
    error = "" if kernel.max_error is None else f"{kernel.max_error:.2e}"
    note = str(kernel.mismatch) if kernel.mismatch else "" if kernel.ok else "over the tolerance"
    return kernel.layer, kernel.kernel, integers, error, note
