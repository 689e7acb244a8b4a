"""What the command line says while it works: a bar for the step at hand, a line for each done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Advance = Callable[[int, int], None]
Step = Callable[[str], AbstractContextManager[object]]  # entered around work, with its title


def columns() -> tuple[ProgressColumn, ...]:
    """What a bar consists of."""
    return TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()


class Steps:
    """Shows the steps of a job on a console, terminal or not."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def __call__(self, title: str) -> Iterator[Advance]:
        """A bar while the block runs; what it gives moves the bar, as `advance(done, total)`."""
        start = time.perf_counter()
        silent = not self.console.is_terminal  # a log wants one line a step
        with Progress(*columns(), console=self.console, transient=True, disable=silent) as progress:
            task = progress.add_task(title, total=None)

            def advance(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

            yield advance
        seconds = time.perf_counter() - start
        self.console.print(Text.assemble(f"{title:<44}", (f"{seconds:7.1f} s", "dim")))

    def note(self, text: str) -> None:
        """Something that the user should know."""
        self.console.print(Text(text, "yellow"))
