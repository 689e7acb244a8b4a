"""What the command line prints at the end: accuracy, speed, what was verified, where the file is."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from qcompile.baselines import Timing
from qcompile.verify_report import VerifyReport


def accuracy_table(*accuracies: float | None) -> RenderableType:
    """What `evaluate` gave for the float network, the quantized one, and the program."""
    table = Table(title="accuracy", title_justify="left")
    for column in ("float32", "fake-quant", "compiled"):
        table.add_column(column, justify="right")
    table.add_row(*map(_share, accuracies))
    return table


def _share(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2%}" if 0 <= value <= 1 else f"{value:.4g}"


def timing_table(timings: Sequence[Timing], threads: int) -> RenderableType:
    """Milliseconds a call of each rival, and how many times the program's that is.

    Args:
        timings: the first of each batch size is the program's.
    """
    batches = list(dict.fromkeys(t.batch for t in timings))
    plural = "s" if threads > 1 else ""
    table = Table(
        title=f"latency, median of a call, {threads} thread{plural}", title_justify="left"
    )
    table.add_column("")
    for batch in batches:
        table.add_column(f"batch {batch}", justify="right")
        table.add_column("times ours", justify="right")
    table.add_column("note")
    for name in dict.fromkeys(t.name for t in timings):
        row = [t for t in timings if t.name == name]
        cells = [cell for t in row for cell in _cells(t, _ours(timings, t.batch))]
        table.add_row(name, *cells, row[0].reason)
    return table


def _ours(timings: Sequence[Timing], batch: int) -> float | None:
    return next(t.seconds for t in timings if t.batch == batch)


def _cells(timing: Timing, ours: float | None) -> tuple[str, str]:
    if timing.seconds is None:
        return "-", "-"
    ratio = f"{timing.seconds / ours:.2f}" if ours else "-"
    return _milliseconds(timing.seconds), ratio


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"


def show(console: Console, *parts: RenderableType | None) -> None:
    """Print what there is, with a blank line before each."""
    for part in parts:
        if part is not None:
            console.print()
            console.print(part)


def verdict(found: VerifyReport) -> RenderableType:
    """One line if the program is right; all kernels if it is not."""
    return Text(found.verdict(), "bold green") if found.ok else found.__rich__()


def saved(path: str, size: int) -> RenderableType:
    """Where the program is."""
    return Text.assemble("wrote ", (path, "bold"), f", {size:,} bytes")
