"""Tables for terminals: whole ones, whatever the width; columns give way where there is no room for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_UNBOUNDED = 10_000  # columns


@dataclass(frozen=True)
class Layout:
    """A table, and what stands in lines below it instead."""

    table: Table
    below: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fitting:
    """The first of some layouts, the widest first, whose table fits; else the last, whose cells wrap."""

    layouts: Sequence[Layout]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As rich asks for it."""
        free = options.update(max_width=_UNBOUNDED)
        fits = (
            layout
            for layout in self.layouts
            if Measurement.get(console, free, layout.table).maximum <= options.max_width
        )
        chosen = next(fits, self.layouts[-1])
        yield chosen.table
        for line in chosen.below:
            yield Text(line, "yellow")


def plain(head: Sequence[str], right: Iterable[int] = (), title: Text | str | None = None) -> Table:
    """An empty table; columns of numbers stand to the `right`."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, name in enumerate(head):
        made.add_column(name, justify="right" if i in right else "left", overflow="fold")
    return made


def notes(named: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Lines of names and what is to be said of each; equal ones in one line, empty ones in none."""
    found: dict[str, list[str]] = {}
    for name, note in named:
        found.setdefault(note, []).append(name)
    return tuple(f"{'; '.join(names)}: {note}" for note, names in found.items() if note)
