"""What the terminal shows: a table that fills while it is measured, and the tables of the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median

from rich import progress
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qcompile.bench import rows, words
from qcompile.bench.fitting import Fitting, Layout, notes, plain
from qcompile.bench.messages import At, Measured, Message, Prepared
from qcompile.bench.results import AGAIN, OURS, Report, Run
from qcompile.steps import columns

_STYLES = {
    OURS: "bold",
    words.FASTER: "green",
    words.SLOWER: "bold red",
    words.ALIKE: "yellow",
    words.NOISY: "yellow",
    "": "dim",
}
REFRESHED = 4  # times a second
Place = tuple[int, int]  # of a run: its batch, its threads


class Progress:
    """Shows how far a measurement is: on a terminal a table, elsewhere a line a process and batch.

    Its bar moves while nothing happens, a few times a second: each time takes a processor milliseconds,
    which meets all engines, as they take turns.
    """

    def __init__(self, console: Console, names: Mapping[str, str], places: Sequence[Place]) -> None:
        """`names`: of engines, by key, in the order of the table."""
        self._console, self._names, self._places = console, dict(names), places
        self._times: dict[tuple[str, Place], str] = {}
        self._where: dict[int, str] = {}  # by the number of threads
        self._began = time.perf_counter()
        self._bar = progress.Progress(
            progress.SpinnerColumn(), *columns(), console=console, auto_refresh=False
        )
        self._task = self._bar.add_task("start", total=None)
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """While this lasts."""
        if not self._console.is_terminal:
            yield
            return
        live = Live(
            console=self._console,
            get_renderable=self._table,
            refresh_per_second=REFRESHED,
            transient=True,
        )
        with live:
            self._live = live
            yield

    def process(self, number: int, of: int, threads: int) -> None:
        """A process begins."""
        self._where[threads] = f"process {number} of {of}, {words.plural(threads, 'thread')}"
        batches = {batch for batch, _ in self._places}
        self._bar.update(self._task, total=of * len(batches))
        self._begin("start", threads)

    def message(self, message: Message, threads: int) -> None:
        """It tells something."""
        if isinstance(message, At):
            name = self._names.get(message.engine, message.engine)
            batch = f", batch {message.batch}" if message.batch else ""
            self._begin(f"{message.doing} {name}".strip() + batch, threads)
        elif isinstance(message, Prepared):
            engine = message.engine
            self._names[engine.key] = engine.name or self._names[engine.key]
            if engine.reason:
                self._keep(engine.key, (message.batch, threads), "-")
        elif isinstance(message, Measured):
            self._measured(message, threads)

    def lost(self, engine: str, reason: str) -> None:
        """A process died, and goes on without that engine."""
        name = self._names.get(engine, engine)
        self._console.print(Text(f"{name} took its process with it: {reason}", "yellow"))

    def _measured(self, message: Measured, threads: int) -> None:
        for key, samples in message.samples.items():
            shown = rows.milliseconds(median(samples))
            self._keep(key, (message.batch, threads), shown)
        if self._live is None:
            seconds = time.perf_counter() - self._began
            title = f"{self._where[threads]}, batch {message.batch}"
            self._console.print(Text.assemble(f"{title:<44}", (f"{seconds:7.1f} s", "dim")))
            self._began = time.perf_counter()
        self._bar.advance(self._task)
        self._draw()

    def _keep(self, key: str, place: Place, shown: str) -> None:
        self._times[key, place] = shown

    def _begin(self, doing: str, threads: int) -> None:
        self._bar.update(self._task, description=f"{self._where[threads]}: {doing}")
        self._draw()

    def _draw(self) -> None:
        if self._live is not None:
            self._live.refresh()

    def _table(self) -> RenderableType:
        places = [words.setting(Run(batch, threads, ())) for batch, threads in self._places]
        table = plain(("ms", *places), range(1, len(places) + 1))
        for key, name in self._names.items():
            if key != AGAIN:
                cells = [self._times.get((key, place), "") for place in self._places]
                table.add_row(*map(Text, (name, *cells)))
        return Group(table, self._bar)


def tables(report: Report) -> RenderableType:
    """The report for a terminal: facts, a table a run, notes."""
    facts = Table.grid(padding=(0, 2))
    for name, value in rows.facts(report):
        facts.add_row(Text(name, "dim"), Text(value))
    parts: list[RenderableType] = [facts]
    for run in report.runs:
        parts += [Text(), _run_table(report, run), Text(rows.noise_line(run), "dim")]
    parts += [Text(), _engines_table(report)]
    remarks = [Text(note, "yellow") for note in rows.remarks(report)]
    return Group(*parts, *([Text()] if remarks else []), *remarks)


def _run_table(report: Report, run: Run) -> Fitting:
    """Notes go below it first, then quartiles go, then intervals."""
    whole, brief = rows.rows(report, run), rows.rows(report, run, brief=True)
    below = notes((row.cells[0], row.cells[-1]) for row in whole)
    title = Text(words.setting(run), "bold")
    return Fitting(
        [
            Layout(_columns(title, whole, (0, 1, 2, 3, 4))),
            Layout(_columns(title, whole, (0, 1, 2, 3)), below),
            Layout(_columns(title, whole, (0, 1, 3)), below),
            Layout(_columns(title, brief, (0, 1, 3)), below),
        ]
    )


def _columns(title: Text, shown: Sequence[rows.Row], taken: Sequence[int]) -> Table:
    right = [at for at, i in enumerate(taken) if i in rows.RIGHT]
    table = plain([rows.HEAD[i] for i in taken], right, title)
    for row in shown:
        style = _STYLES[row.kind]
        table.add_row(*(Text(row.cells[i], style if i in (0, 3) else "") for i in taken))
    return table


def _engines_table(report: Report) -> Fitting:
    """Versions go first, which stand above too, then precisions."""
    layouts = []
    for taken in ((0, 1, 2, 3, 4, 5), (0, 2, 3, 4, 5), (0, 3, 4, 5)):
        right = [at for at, i in enumerate(taken) if i in rows.ENGINES_RIGHT]
        table = plain([rows.ENGINES[i] for i in taken], right)
        for cells in rows.engines(report):
            table.add_row(*(Text(cells[i]) for i in taken))
        layouts.append(Layout(table))
    return Fitting(layouts)
