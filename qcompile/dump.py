"""What each pass made of the graph: printed, or saved as `03-lower-binary-conv.txt`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch.fx import GraphModule

from qcompile.errors import QCompileError
from qcompile.ir import graph
from qcompile.passes.base import Pass, Result


class Dump:
    """The callback between passes: numbers them, and passes their graphs on.

    Args:
        folder: where a file for each pass goes, or None.
        show: what is called with the text of each, or None.
    """

    def __init__(self, folder: Path | None, show: Callable[[str], None] | None = None) -> None:
        self._folder = folder
        self._show = show
        self._count = 0

    @property
    def wanted(self) -> bool:
        """Whether anybody looks."""
        return self._folder is not None or self._show is not None

    def traced(self, gm: GraphModule) -> None:
        """Begin afresh, with the graph before the first pass."""
        self._count = 0
        self._keep("traced", describe(gm))

    def __call__(self, pass_: Pass, result: Result) -> None:
        """Keep the graph that a pass gave."""
        if not self.wanted:
            return
        self._count += 1
        self._keep(pass_.name, describe(result.graph, result))

    def _keep(self, name: str, text: str) -> None:
        title = f"{self._count:02}-{name}"
        if self._folder is not None:
            _write(self._folder / f"{title}.txt", text)
        if self._show is not None:
            self._show(f"--- {title}\n{text}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise QCompileError(f"cannot write the graph: {error}", where=str(path)) from error


def make_folder(folder: Path) -> None:
    """Make the folder for a dump.

    Raises:
        QCompileError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QCompileError(f"cannot make the folder: {error}", where=str(folder)) from error


def describe(gm: GraphModule, result: Result | None = None) -> str:
    """A graph as text: what the pass did, the graph a line a node, and the Python that it runs."""
    head = []
    if result is not None:
        head.append(f"rewrote: {', '.join(result.rewrote) or 'nothing'}")
        head += [f"declined: {layer}: {reason}" for layer, reason in result.declined.items()]
    return "\n".join([*head, graph.text(gm), "", gm.code.strip(), ""])
