"""How an Explanation is shown, and kept: a tree for a terminal, JSON for programs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from qcompile.explanation import Explanation, Item
from qcompile.program_summary import bits, readable

FORMAT, VERSION = "qcompile explanation", 1
_GUIDE = 4  # columns that a level of the tree takes
_HEADS = ("layer", "kind", "bits w/a", "kernel", "time", "weights", "why")


@dataclass
class _Branch:
    """A module: the item of that path, if there is one, and what is below it."""

    item: Item | None = None
    below: dict[str, _Branch] = field(default_factory=dict)


def tree(found: Explanation) -> RenderableType:
    """The network as a tree of modules, a line each, with reasons below."""
    root = _Branch()
    for item in found.items:
        branch = root
        for name in item.path.split("."):
            branch = branch.below.setdefault(name, _Branch())
        branch.item = item
    rows = {item.path: _cells(found, item) for item in found.items}
    widths = [max(map(len, column)) for column in zip(_HEADS[1:], *rows.values(), strict=True)]
    width = max(_GUIDE + len(_HEADS[0]), *map(_name_width, found.items))
    shown = Tree(Text(_line(_HEADS[0], _HEADS[1:], width, widths), "bold"))
    _grow(shown, root, rows, width - _GUIDE, widths)
    texts = [found.basis, *found.notes]
    return Group(Text(title(found), "bold"), shown, *(Text(text, "dim") for text in texts))


def title(found: Explanation) -> str:
    """The first line: what is explained, and what comes of it."""
    asked = "/".join("float" if b == 32 else str(b) for b in found.bits)
    parts = [f"{found.model}, {asked} bits, {found.mode}, for {found.target} ({found.arch})"]
    if found.seconds is not None:
        parts.append(f"about {found.seconds * 1e3:.3g} ms a sample on one thread")
    before = sum(layer.bytes_before for layer in found.layers)
    after = sum(layer.bytes_after for layer in found.layers)
    if before:
        parts.append(f"weights {readable(before)} -> {readable(after)}")
    return "; ".join(parts)


def _name_width(item: Item) -> int:
    return max(_GUIDE * (depth + 1) + len(name) for depth, name in enumerate(item.path.split(".")))


def _cells(found: Explanation, item: Item) -> tuple[str, ...]:
    """What stands behind a name, in the order of _HEADS."""
    layer, share = item.layer, found.share(item)
    time = "" if share is None else f"{share:.1%}"
    if layer is None:
        return "", "", " + ".join(item.kinds), time, "", ""
    others = [kind for kind in item.kinds if kind != layer.kernel]
    kernel = " + ".join(filter(None, (layer.kernel, *others)))
    weights = f"{readable(layer.bytes_before)} -> {readable(layer.bytes_after)}"
    return layer.kind, bits(layer), kernel, time, weights, layer.why


def _line(name: str, cells: tuple[str, ...], width: int, widths: list[int]) -> str:
    padded = [name.ljust(width)]
    padded += [cell.ljust(w) for cell, w in zip(cells, widths, strict=True)]
    return "  ".join(padded).rstrip()


def _grow(
    shown: Tree, branch: _Branch, rows: dict[str, tuple[str, ...]], width: int, widths: list[int]
) -> None:
    for name, below in branch.below.items():
        item = below.item
        if item is None:
            grown = shown.add(Text(name))
        else:
            line = Text(_line(name, rows[item.path], width, widths))
            for reason in _reasons(item):
                line.append("\n").append(reason)
            grown = shown.add(line)
        _grow(grown, below, rows, width - _GUIDE, widths)


def _reasons(item: Item) -> list[Text]:
    """Why it is as it is, a line each."""
    found = []
    line = f" ({Path(item.where).name})" if item.where else ""
    for note in item.notes:
        text = Text(f"{note.what}{line}", "yellow")
        found.append(text.append(f": {note.change}" if note.change else "", "dim"))
    return found


def to_json(found: Explanation) -> dict[str, Any]:
    """Everything as plain values; times in seconds of a sample."""
    items = [dataclasses.asdict(item) | {"share": found.share(item)} for item in found.items]
    about = {k: v for k, v in dataclasses.asdict(found).items() if k != "items"}
    return {
        "format": FORMAT,
        "version": VERSION,
        **about,
        "seconds": found.seconds,
        "bytes_before": sum(layer.bytes_before for layer in found.layers),
        "bytes_after": sum(layer.bytes_after for layer in found.layers),
        "items": items,
    }
