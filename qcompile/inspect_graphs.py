"""What each pass made of a graph: texts, a list of passes, differences between two of them."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch.fx import GraphModule

from qcompile.dump import describe
from qcompile.errors import QCompileError
from qcompile.ir import graph
from qcompile.ir.stages import Stage
from qcompile.passes.base import Pass, Result

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}
_HEADS = ("---", "+++")  # of a unified diff


@dataclass(frozen=True)
class Snapshot:
    """A graph after a pass.

    Attributes:
        number: of the pass, from 1; 0 is the graph before the first.
        name: of the pass; "traced" before the first.
        stage: of the graph.
        text: what the pass did, the graph, and the Python that it runs.
        lines: the graph, a line a node, which has the same name in all of them.
        rewrote: layers, once for each node that was rewritten.
        declined: layer to reason.
    """

    number: int
    name: str
    stage: Stage
    text: str
    lines: tuple[str, ...]
    rewrote: tuple[str, ...] = ()
    declined: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """As files of `--dump-dir` are called."""
        return f"{self.number:02}-{self.name}"


class Snapshots:
    """The callback between passes that keeps what they gave, as text."""

    def __init__(self, traced: GraphModule) -> None:
        self.all = [_snapshot(0, "traced", traced)]

    def __call__(self, pass_: Pass, result: Result) -> None:
        """Keep the graph that a pass gave."""
        self.all.append(_snapshot(len(self.all), pass_.name, result.graph, result))

    def find(self, word: str) -> Snapshot:
        """The one that is meant by a number, a pass's name, or a stage: the last of that stage.

        Raises:
            QCompileError: there is none, or several passes have the name.
        """
        if word.isdecimal() and int(word) < len(self.all):
            return self.all[int(word)]
        found = [one for one in self.all if word in (one.name, one.title)]
        found = found or [one for one in self.all if one.stage.value == word][-1:]
        if len(found) == 1:
            return found[0]
        if found:
            titles = ", ".join(one.title for one in found)
            raise QCompileError(
                f"{len(found)} passes are called {word!r}", hint=f"say which: {titles}"
            )
        last = f"0 to {len(self.all) - 1}"
        if word.isdecimal():
            raise QCompileError(f"there is no pass {word}", hint=f"they are numbered {last}")
        names = dict.fromkeys([*(one.name for one in self.all), *(stage.value for stage in Stage)])
        near = difflib.get_close_matches(word, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"--passes lists them: {last}"
        raise QCompileError(f"no pass is called {word!r}", hint=hint)

    def table(self) -> RenderableType:
        """A row a pass: how many nodes it rewrote, and what it declined and why."""
        made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name in ("#", "pass", "gives", "nodes", "rewrote", "lines +", "lines -"):
            made.add_column(name, justify="left" if name in ("pass", "gives") else "right")
        for before, one in zip([self.all[0], *self.all], self.all, strict=False):
            added, removed = changed(before, one)
            numbers = (len(one.lines) - 1, len(one.rewrote), added, removed)  # `return` is no node
            cells = (one.number, one.name, one.stage.value, *(n or "" for n in numbers))
            made.add_row(*(Text(str(cell)) for cell in cells))
        return Group(made, *map(Text, self.declined()))

    def declined(self) -> list[str]:
        """What passes left alone, a line each."""
        return [
            f"{one.title} declined {layer}: {reason}"
            for one in self.all
            for layer, reason in one.declined.items()
        ]


def _snapshot(number: int, name: str, gm: GraphModule, result: Result | None = None) -> Snapshot:
    lines = tuple(graph.text(gm, named=True).splitlines())
    text, stage = describe(gm, result), graph.stage_of(gm)
    if result is None:
        return Snapshot(number, name, stage, text, lines)
    return Snapshot(number, name, stage, text, lines, tuple(result.rewrote), result.declined)


def changed(before: Snapshot, after: Snapshot) -> tuple[int, int]:
    """How many lines of the one are not in the other: added, removed."""
    one, other = Counter(before.lines), Counter(after.lines)
    return (other - one).total(), (one - other).total()


def difference(before: Snapshot, after: Snapshot) -> list[str]:
    """A unified diff of two graphs; nothing where they read the same."""
    titles = (before.title, after.title)
    return list(difflib.unified_diff(before.lines, after.lines, *titles, lineterm=""))


def coloured(lines: Sequence[str]) -> Text:
    """A unified diff for a terminal."""
    text = Text()
    for i, line in enumerate(lines):
        style = "bold" if line.startswith(_HEADS) and i < 2 else _COLOURS.get(line[:1], "")
        text.append("\n" * bool(i)).append(line, style)
    return text
