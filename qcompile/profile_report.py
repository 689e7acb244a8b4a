"""How long each kernel of a program takes: as a table, as JSON, as a trace for a browser."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from qcompile.files import PathLike, write
from qcompile.program_info import KernelInfo

if TYPE_CHECKING:
    from rich.console import RenderableType

FORMAT, VERSION = "qcompile profile", 1
UNEXPLAINED = 0.1  # share of a call from which on a profile is not to be trusted
BUSY = 1.2  # times its processor time that a call takes on the clock where something else runs
COLUMNS = ("layer", "kind", "method", "µs", "quartiles", "share", "MMAC", "GMAC/s")
_LEFT = 3  # columns of words
_CALLING = "calling"
_REST = "not explained"


@dataclass(frozen=True)
class Spread:
    """Seconds, measured many times: the median, and the quartiles around it."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class KernelTime:
    """One kernel of a call.

    Attributes:
        name: its symbol in the library.
        nodes: of the lowered graph, that it computes.
        layer: the user's layer that it stands for, or "".
        kind: "xnor-popcount", "int8", "pool", ...; method: how it is computed, or "".
        seconds: of all samples of the call.
        macs: multiply-accumulates of all samples, 0 if it is no product.
    """

    name: str
    nodes: tuple[str, ...]
    layer: str
    kind: str
    method: str
    seconds: Spread
    macs: int

    @staticmethod
    def of(kernel: KernelInfo, seconds: Spread, samples: int) -> KernelTime:
        """A kernel of a variant."""
        macs = samples * kernel.macs
        return KernelTime(
            kernel.name, kernel.nodes, kernel.layer, kernel.kind, kernel.method, seconds, macs
        )

    @property
    def rate(self) -> float:
        """Multiply-accumulates in a second; 0 if it is no product."""
        return self.macs / self.seconds.median if self.seconds.median else 0.0


@dataclass(frozen=True)
class Profile:
    """Where the time of a call goes, on one thread.

    All times are processor time of that thread: what else the machine did meanwhile is left out.

    Attributes:
        arch: the variant that ran.
        batch: samples of the call.
        rounds: how often everything was measured.
        call: a whole call, measured as such.
        clock: median seconds of a whole call on the clock on the wall.
        calling: a call without its kernels: its arguments are checked, its results allocated.
        kernels: in the order in which they run; copies of results at the end.
    """

    model: str
    arch: str
    batch: int
    rounds: int
    call: Spread
    clock: float
    calling: Spread
    kernels: tuple[KernelTime, ...]

    @cached_property
    def explained(self) -> float:
        """Seconds of all kernels and of calling them: near `call.median` if all went well."""
        return self.calling.median + sum(kernel.seconds.median for kernel in self.kernels)

    @property
    def unexplained(self) -> float:
        """The share of a call that is neither; negative where the parts are more than the whole."""
        return 1 - self.explained / self.call.median

    def title(self) -> str:
        """The first line: what was measured, and how."""
        what = f"{self.model} for {self.arch}, batch {self.batch}, one thread"
        return f"{what}: {self.call.median * 1e6:,.1f} µs a call"

    def notes(self) -> tuple[str, ...]:
        """What to know before the numbers are believed, a sentence each."""
        found = [f"Processor time, medians of {self.rounds:,} rounds."]
        if self.clock > BUSY * self.call.median:
            found.append(
                f"The machine is busy: on the clock, a call took {self.clock * 1e6:,.1f} µs."
            )
        if abs(self.unexplained) > UNEXPLAINED:
            found.append(
                f"The parts add up to {self.explained / self.call.median:.0%} of the whole: measure "
                "longer, or when nothing else runs."
            )
        return tuple(found)

    def rows(self) -> list[tuple[str, ...]]:
        """One row a kernel, in the order of COLUMNS."""
        return [
            (k.layer, k.kind, k.method, *self._cells(k.seconds), *_products(k))
            for k in self.kernels
        ]

    def _cells(self, seconds: Spread) -> tuple[str, str, str]:
        quartiles = f"{seconds.low * 1e6:,.2f} - {seconds.high * 1e6:,.2f}"
        return _micro(seconds.median), quartiles, f"{seconds.median / self.call.median:.1%}"

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=140)
        console.print(self)
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]

    def __rich__(self) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.title()), title_justify="left", box=box.SIMPLE_HEAD)
        for number, name in enumerate(COLUMNS):
            words = number < _LEFT
            table.add_column(name, justify="left" if words else "right", no_wrap=not words)
        for row in self.rows():
            table.add_row(*map(Text, row))
        table.add_section()
        table.add_row(_CALLING, "", "", *self._cells(self.calling))
        rest = self.unexplained
        table.add_row(_REST, "", "", _micro(rest * self.call.median), "", f"{rest:.1%}")
        return Group(table, *map(Text, self.notes()))

    # --- files -----------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values; times in seconds."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    def save(self, path: PathLike) -> None:
        """Write all numbers to a file, as JSON.

        Raises:
            QCompileError: it cannot be written.
        """
        _write(path, self.to_json(), "the profile")

    def trace(self) -> dict[str, Any]:
        """One call in the format of Chrome's traces, times in microseconds.

        It is no recording: the medians of the parts, one after another, beside that of the whole.
        """
        events: list[dict[str, Any]] = [_name("process_name", 0, self.model)]
        events += [_name("thread_name", i, name) for i, name in enumerate(("call", "kernels"))]
        events.append(_event(f"call, batch {self.batch}", 0, 0.0, self.call))
        at = 0.0
        for name, seconds, facts in self._parts():
            share = {"share": seconds.median / self.call.median}
            events.append(_event(name, 1, at, seconds, **share, **facts))
            at += seconds.median
        about = {
            "model": self.model,
            "variant": self.arch,
            "batch": self.batch,
            "threads": 1,
            "rounds": self.rounds,
            "unexplained": self.unexplained,
            "what": "medians of processor time, one after another",
        }
        return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": about}

    def _parts(self) -> list[tuple[str, Spread, dict[str, Any]]]:
        found: list[tuple[str, Spread, dict[str, Any]]] = [(_CALLING, self.calling, {})]
        for kernel in self.kernels:
            facts: dict[str, Any] = {
                "kind": kernel.kind,
                "symbol": kernel.name,
                "nodes": ", ".join(kernel.nodes),
            }
            if kernel.method:
                facts["method"] = kernel.method
            if kernel.macs:
                facts |= {"macs": kernel.macs, "GMAC/s": kernel.rate / 1e9}
            name = " ".join(filter(None, (kernel.layer, kernel.kind)))
            found.append((name or kernel.name, kernel.seconds, facts))
        return found

    def chrome_trace(self, path: PathLike) -> None:
        """Write `trace` to a file that chrome://tracing and Perfetto open.

        Raises:
            QCompileError: it cannot be written.
        """
        _write(path, self.trace(), "the trace")


def _products(kernel: KernelTime) -> tuple[str, str]:
    if not kernel.macs:
        return "", ""
    return f"{kernel.macs / 1e6:,.2f}", f"{kernel.rate / 1e9:,.0f}"


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:,.2f}"


def _to_ns(seconds: float) -> float:
    """Microseconds, to the nanosecond, which is what clocks tell."""
    return round(seconds * 1e6, 3)


def _name(kind: str, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": 0, "tid": thread, "args": {"name": name}}


def _event(name: str, thread: int, at: float, seconds: Spread, **facts: Any) -> dict[str, Any]:
    times = {"ts": _to_ns(at), "dur": _to_ns(seconds.median)}
    quartiles = {"low_us": _to_ns(seconds.low), "high_us": _to_ns(seconds.high)}
    return {"ph": "X", "name": name, "pid": 0, "tid": thread, **times, "args": quartiles | facts}


def _write(path: PathLike, value: dict[str, Any], what: str) -> None:
    write(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode(), what=what)
