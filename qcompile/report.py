"""What the command line prints at the end: accuracy, speed, what was verified, where the file is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from qcompile.latency import Rival, Timing
from qcompile.nvidia import find_tool
from qcompile.program_info import Variant
from qcompile.verify_report import VerifyReport

if TYPE_CHECKING:
    from qcompile.tuning_search import Tuned

TOOLS = ("nvdisasm", "cuobjdump")  # that read machine code
UNSTEADY = 2.0  # spread of a timing from which on it says little


def accuracy_table(*accuracies: float | None) -> RenderableType:
    """What `evaluate` gave for the float network, the quantized one, and the program."""
    table = Table(title="accuracy", title_justify="left")
    for column in ("float32", "fake-quant", "compiled"):
        table.add_column(column, justify="right")
    table.add_row(*map(share, accuracies))
    return table


def share(value: float | None) -> str:
    """Accuracy as a cell: "99.44%", or as it is where it is no share."""
    if value is None:
        return "-"
    return f"{value:.2%}" if 0 <= value <= 1 else f"{value:.4g}"


def timing_table(rivals: Sequence[Rival], timings: Sequence[Timing], where: str) -> RenderableType:
    """Size and milliseconds a call of each rival, and how many times the first one's that is.

    Args:
        timings: none, where nothing was timed.
        where: it was timed: "2 threads", the name of a GPU.
    """
    batches = list(dict.fromkeys(t.batch for t in timings))
    latency = f", and latency: median of a call, {where}" if timings else ""
    table = Table(
        title=f"size{latency}; ×: times ours",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("×", justify="right", no_wrap=True)
    for batch in batches:
        table.add_column(f"batch {batch}", justify="right", no_wrap=True)
        table.add_column("×", justify="right", no_wrap=True)
    table.add_column("note")
    for rival in rivals:
        cells = [_number(rival.size), _ratio(rival.size, rivals[0].size)]
        own = [t for t in timings if t.name == rival.name]
        for t in own:
            ours = next(other.seconds for other in timings if other.batch == t.batch)
            cells += [_milliseconds(t.seconds), _ratio(t.seconds, ours)]
        spread = max((t.spread for t in own), default=1.0)
        unsteady = f"unsteady, {spread:.1f} times" if spread > UNSTEADY else ""
        table.add_row(rival.name, *cells, rival.reason or unsteady)
    if any(t.spread > UNSTEADY for t in timings):
        table.caption = "the machine is busy: measure again when nothing else runs"
    return table


def tuning_table(tuned: Tuned) -> RenderableType | None:
    """What is computed in another way than by default, and how much faster; None if nothing is."""
    others = [k for k in tuned.kernels if k.entry is not None and not k.is_default]
    if not others:
        return None
    table = Table(
        title=f"tuned: {len(others)} of {len(tuned.kernels)} kernels, by themselves",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("layer")
    for column in ("default", "tuned", "×"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("how", no_wrap=True)
    for kernel in others:
        entry = kernel.entry
        assert entry is not None
        more = f" and {len(kernel.layers) - 1} more" if len(kernel.layers) > 1 else ""
        times = (_milliseconds(entry.default_seconds), _milliseconds(entry.seconds))
        row = (f"{kernel.layers[0]}{more}", *times, f"{1 / entry.ratio:.2f}", kernel.how)
        table.add_row(*map(Text, row))
    return table


def _ratio(theirs: float | None, ours: float | None) -> str:
    return f"{theirs / ours:.2f}" if theirs and ours else "-"


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.3f} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"


def show(console: Console, *parts: RenderableType | None) -> None:
    """Print what there is, with a blank line before each."""
    for part in parts:
        if part is not None:
            console.print()
            console.print(part)


def verdict(found: VerifyReport, *, fake_quant_equal: bool) -> RenderableType:
    """What was verified if the program is right; what is wrong if it is not."""
    if not fake_quant_equal:
        return Text("not verified: the converted graph differs from its fake-quant model", "red")
    if not found.ok:
        return found.__rich__()
    before = "before compilation: the fake-quant model and its integers are equal to the bit"
    return Text(f"{found.verdict()}\n{before}", "bold green")


def saved(path: str, size: int, how: str = "") -> RenderableType:
    """Where the program is, and how it was verified where that needs saying."""
    return Text.assemble("wrote ", (path, "bold"), f", {size:,} bytes", how and f"; {how}")


def how(native: Sequence[str], emulated: str) -> str:
    """How a program with code for GPUs that are not here was verified.

    Args:
        native: what its code ran on as it is.
        emulated: what ran the code for GPUs, "emulated on the CPU as sm_80"; "" for nothing.
    """
    if not native:
        return f"verified, {emulated}" if emulated else "NOT verified"
    rest = f"and the code for GPUs {emulated}" if emulated else "NOT verified for GPUs"
    return f"verified on {listed(native)}, {rest}"


def machine_code(variants: Sequence[Variant]) -> str:
    """What else there is to read, where a variant has machine code; else ""."""
    held = [f for v in variants for f in v.features if f.startswith("sm_")]
    if not held:
        return ""
    arch = "sm_80" if "sm_80" in held else held[0]
    lacking = [tool for tool in TOOLS if find_tool(tool) is None]
    takes = f' (takes {listed(lacking)}: pip install "qcompile[cuda]")' if lacking else ""
    return (
        " What its machine code tells without one: qcompile inspect PROGRAM --target cuda "
        f"--arch {arch}{takes}"
    )


def listed(names: Sequence[object]) -> str:
    """One or more: "a, b and c"."""
    *others, last = map(str, names)
    return f"{', '.join(others)} and {last}" if others else last
