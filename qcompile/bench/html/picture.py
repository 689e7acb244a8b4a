"""The graphs of a report, before and after, as a fragment of HTML: SVG that one can zoom into, and that prints whole.

A script makes it live (`SCRIPT`); without it the pictures scroll, and each node's facts are its tooltip.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qcompile.bench.html.layout import Box, Drawing, Point, layout
from qcompile.bench.html.templates import HERE, environment
from qcompile.bench.results import Graph, Node
from qcompile.errors import QCompileError

SCRIPT = (HERE / "graph.js").read_text(encoding="utf-8")
STYLE = (HERE / "graph.css").read_text(encoding="utf-8")
CATEGORIES = {
    "input": "input, output",
    "output": "input, output",
    "float": "float",
    "int8": "8-bit integers",
    "low-bit": "low-bit",
    "move": "moves data only",
}
MARGIN = 14.0  # around a drawing
# Widths of characters, generous, of the two lines in a box and of an edge's label: sizes are in graph.css.
_LABEL, _LAYER, _EDGE = 7.4, 5.8, 5.3
_LEAST, _MOST, _PADDING = 104.0, 196.0, 18.0
_TALL, _LOW = 40.0, 26.0
_LONGEST = 18  # characters of an edge's label
_ARROW = 4.5
_VALUE = re.compile(r"([\w-]+)\[N((?:, \d+)*)\]")
# Paper, in CSS pixels: what is narrower than Letter and lower than A4 less their margins.
_PAGE_WIDTH, _PAGE_HEIGHT = 660.0, 850.0
_PAGE_GAP = 8.0  # beside each column
_PRINTED, _SMALL = 0.75, 0.62  # scales: the usual one, and the least for the sake of another column


@dataclass(frozen=True)
class _Shape:
    """A node as it is drawn.

    Attributes:
        lines: everything that is known of it: its label, then "name: value".
        layers: paths and names by which it is found in the other graph, as JSON.
        shape: its category, which is a class of the style sheet.
    """

    id: str
    box: Box
    label: str
    layer: str
    shape: str
    lines: tuple[str, ...]
    layers: str
    bar: float
    percent: str


@dataclass(frozen=True)
class _Line:
    """An edge as it is drawn: the numbers of its ends, its path, and where its label stands, if it does."""

    source: int
    target: int
    path: str
    title: str
    text: str = ""
    at: Point = (0.0, 0.0)


@dataclass(frozen=True)
class _Slice:
    """A part of a drawing that fits a column of a printed page, in the drawing's units and on paper."""

    top: float
    height: float
    scale: float


@dataclass(frozen=True)
class _Picture:
    id: str
    graph: Graph
    shapes: tuple[_Shape, ...]
    lines: tuple[_Line, ...]
    width: float
    height: float
    slices: tuple[_Slice, ...]


def picture(graphs: Sequence[Graph]) -> str:
    """Draw the graphs of a report beside one another.

    Returns:
        HTML that needs `STYLE` and `SCRIPT`; "" where there are no graphs. What comes from the report
        is escaped.

    Raises:
        QCompileError: a graph has two nodes of one id, an edge to none, or one against their order.
    """
    drawn = [_drawn(f"qc-g{i}", graph) for i, graph in enumerate(graphs) if graph.nodes]
    if not drawn:
        return ""
    nodes = [node for graph in graphs for node in graph.nodes]
    present = dict.fromkeys(node.category for node in nodes)
    legend = {name: kind for kind, name in CATEGORIES.items() if kind in present}
    templates = environment()
    templates.filters["n"] = _number
    timed = any(node.share is not None for node in nodes)
    template = templates.get_template("picture.html.j2")
    return template.render(pictures=drawn, legend=legend, timed=timed, margin=MARGIN)


def _number(value: float) -> str:
    """With a digit after the point, if need be."""
    return f"{value:.1f}".removesuffix(".0")


def _drawn(id_: str, graph: Graph) -> _Picture:
    width = _box_width(graph)
    sizes = {node.id: (width, _TALL if node.layer else _LOW) for node in graph.nodes}
    if len(sizes) < len(graph.nodes):
        raise QCompileError("two nodes of the graph have the same id", where=graph.title)
    try:
        drawing = layout(sizes, [(edge.source, edge.target) for edge in graph.edges])
    except QCompileError as error:
        raise QCompileError(error.what, where=graph.title, hint=error.hint) from error
    values = _values(graph)
    shapes = [
        _shape(f"{id_}-{i}", node, drawing.boxes[node.id], values[node.id])
        for i, node in enumerate(graph.nodes)
    ]
    lines = tuple(_lines(graph, drawing))
    return _Picture(
        id_, graph, tuple(shapes), lines, drawing.width, drawing.height, _slices(drawing)
    )


def _box_width(graph: Graph) -> float:
    """That all boxes of a graph have: columns of equal boxes are easier to follow.

    Edges' labels stand below the left half of a box, the right one being for what goes around others.
    """
    widths = [max(_LABEL * len(_title(node)), _LAYER * len(node.layer)) for node in graph.nodes]
    widths += [2 * _EDGE * len(_short(edge.label)) for edge in graph.edges]
    return min(_MOST, max(_LEAST, max(widths) + _PADDING))


def _title(node: Node) -> str:
    """The first line in a box, with room for its share of the time."""
    return node.label + " " * (0 if node.share is None else 6)


def _shape(id_: str, node: Node, box: Box, values: list[str]) -> _Shape:
    room = box.width - _PADDING
    label = _cut(node.label, int((room - (0 if node.share is None else 36)) / _LABEL))
    layer = _cut(node.layer, int(room / _LAYER), end=True)
    lines = [node.label, *([f"layer: {node.layer}"] if node.layer else [])]
    lines += [f"{name}: {value}" for name, value in node.facts]
    lines += [f"with it: {', '.join(node.also)}"] if node.also else []
    share = min(1.0, max(0.0, node.share or 0.0))
    return _Shape(
        id_,
        box,
        label,
        layer,
        node.category if node.category in CATEGORIES else "float",
        tuple(" ".join(line.split()) for line in (*lines, *values)),
        json.dumps(list(filter(None, (node.layer, *node.also)))),
        share * box.width,
        "" if node.share is None else f"{100 * share:.{0 if share >= 0.0995 else 1}f} %",
    )


def _cut(text: str, most: int, *, end: bool = False) -> str:
    if len(text) <= most:
        return text
    return f"…{text[1 - most :]}" if end else f"{text[: most - 1]}…"


def _values(graph: Graph) -> dict[str, list[str]]:
    """What each node reads, and what it gives; of edges without a label nothing is known."""
    names = {node.id: node.layer or node.label for node in graph.nodes}
    reads: dict[str, list[str]] = {node.id: [] for node in graph.nodes}
    gives: dict[str, dict[str, None]] = {node.id: {} for node in graph.nodes}
    for edge in graph.edges:
        if edge.label:
            reads[edge.target].append(f"reads: {edge.label}, from {names[edge.source]}")
            gives[edge.source][f"gives: {edge.label}"] = None
    return {id_: [*lines, *gives[id_]] for id_, lines in reads.items()}


# --- edges ----------------------------------------------------------------------------------------


def _lines(graph: Graph, drawing: Drawing) -> Iterator[_Line]:
    number = {node.id: i for i, node in enumerate(graph.nodes)}
    labels: dict[tuple[str, str], list[str]] = {}
    for edge in graph.edges:
        labels.setdefault((edge.source, edge.target), []).append(edge.label)
    for ends, points in drawing.routes.items():
        title = "; ".join(dict.fromkeys(filter(None, labels[ends])))
        (x, y), (end, bottom) = points[0], points[-1]
        straight = all(point[0] == x for point in points)
        near = straight and len(points) == 2 and x == end
        yield _Line(
            number[ends[0]],
            number[ends[1]],
            _path(points),
            title,
            _short(title) if near else "",
            (x - 5, (y + bottom) / 2 + 2),
        )


def _short(label: str) -> str:
    """An edge's label as it is drawn: "64×56×56 float32"."""
    found = _VALUE.match(label)
    if found is None:
        return _cut(label, _LONGEST)
    sizes = "×".join(filter(None, found[2].split(", ")))
    return _cut(f"{sizes} {found[1]}".strip(), _LONGEST)


def _path(points: Sequence[Point]) -> str:
    """Down each column, from one to the next in a curve, and an open arrowhead."""
    x, y = points[0]
    parts = [f"M{_number(x)} {_number(y)}"]
    for (x, y), (end, bottom) in itertools.pairwise(points):
        if x != end:
            middle = _number((y + bottom) / 2)
            parts.append(
                f"C{_number(x)} {middle} {_number(end)} {middle} {_number(end)} {_number(bottom)}"
            )
        elif parts[-1].startswith("V"):
            parts[-1] = f"V{_number(bottom)}"
        else:
            parts.append(f"V{_number(bottom)}")
    x, y = points[-1]
    left, right, top = _number(x - _ARROW), _number(x + _ARROW), _number(y - 1.6 * _ARROW)
    return "".join(
        [*parts, f"M{left} {top}L{_number(x)} {_number(y)}L{right} {top}"],
    )


# --- paper ----------------------------------------------------------------------------------------


def _slices(drawing: Drawing) -> tuple[_Slice, ...]:
    """A long drawing in columns beside one another, cut between rows, about equally long."""
    scale = _scale(drawing.width + 2 * MARGIN)
    whole = drawing.height + 2 * MARGIN
    count = math.ceil(whole * scale / _PAGE_HEIGHT)
    tops = [-MARGIN]
    for i in range(1, count):
        wanted = -MARGIN + whole * i / count
        cut = min(drawing.cuts, key=lambda y: abs(y - wanted))
        if cut > tops[-1]:
            tops.append(cut)
    bottoms = [*tops[1:], drawing.height + MARGIN]
    return tuple(_Slice(a, b - a, scale) for a, b in zip(tops, bottoms, strict=True))


def _scale(width: float) -> float:
    """Smaller than usual where one column more fits so, and readable still; or where not even one does."""
    columns = int(_PAGE_WIDTH / (_SMALL * width + _PAGE_GAP))
    return min(_PRINTED, (_PAGE_WIDTH / max(1, columns) - _PAGE_GAP) / width)
