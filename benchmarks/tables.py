"""Tables on the terminal and in Markdown, from the same cells; results as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 150


@dataclass(frozen=True)
class Sheet:
    """One table: a title, names of columns, and rows of text; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __rich__(self) -> Table:
        table = Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD)
        for i, column in enumerate(self.columns):
            table.add_column(column, justify="right" if 0 < i < len(self.columns) - 1 else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """The table in Markdown, under a heading."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        text = ("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines)
        return "\n".join([f"## {self.title}", "", *text, ""])


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def milliseconds(seconds: float | None) -> str:
    """Milliseconds of a time, with three digits that count."""
    if seconds is None:
        return "-"
    value = seconds * 1e3
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def progress(text: str) -> None:
    """Say on the error stream what is being measured."""
    Console(stderr=True).print(text, style="dim", highlight=False)


def publish(
    sheets: Sequence[Sheet],
    results: Mapping[str, Any],
    *,
    json_file: Path | None = None,
    markdown_file: Path | None = None,
) -> None:
    """Print tables, and write what was asked for; `results["machine"]` stands above them."""
    console = Console(width=WIDTH)
    facts = [f"{key}: {value}" for key, value in results["machine"].items()]
    console.print("\n".join(facts), highlight=False)
    for sheet in sheets:
        console.print(sheet)
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if markdown_file is not None:
        parts = ["\n".join(f"- {fact}" for fact in facts) + "\n", *(s.markdown() for s in sheets)]
        markdown_file.write_text("\n".join(parts), encoding="utf-8")
