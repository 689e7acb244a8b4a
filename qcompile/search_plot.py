"""A search as a picture: what latency and size buy."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompile.bench.html.charts.placing import rising
from qcompile.errors import QCompileError
from qcompile.files import PathLike, write
from qcompile.search_points import Point, Search
from qcompile.sensitivity_analysis import decibels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")


def check(path: PathLike) -> None:
    """See that pictures of such a name can be made.

    Raises:
        QCompileError: they cannot.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise QCompileError(
            f"cannot draw a {Path(path).suffix or 'file without a suffix'}",
            where=str(path),
            hint=f"its name ends in {', '.join(SUFFIXES)}",
        )


def plot(found: Search, path: PathLike) -> None:
    """Draw the frontier, uniform widths and the choice; PNG, SVG or PDF by the file's name.

    Raises:
        QCompileError: it is of another kind, or cannot be written.
    """
    check(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not through pyplot, whose figures and backend are the user's.
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, found, "seconds", 1e3, "latency, ms", found.budget.seconds)
    _draw(right, found, "size", 1e-3, "size, kB", found.budget.bytes)
    left.set_ylabel(_label(found))
    right.legend(loc="lower right")
    figure.suptitle(f"{found.sensitivity.model}: bits for each layer")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:].lower(), dpi=150)
    write(path, buffer.getvalue(), what="the picture")


def _label(found: Search) -> str:
    if found.sensitivity.float_accuracy is not None:
        return "accuracy, not trained with its bits"
    return "signal to noise at the outputs, dB"


def _draw(
    axes: Axes, found: Search, attribute: str, unit: float, label: str, limit: float | None
) -> None:
    def at(point: Point) -> tuple[float, float]:
        return unit * float(getattr(point, attribute)), _height(found, point)

    points = sorted(map(at, found.points))
    [dots] = axes.plot(*_columns(points), "o", label="a width for each layer")
    axes.step(*_columns(rising(points)), where="post", color=dots.get_color(), alpha=0.5)
    uniform = [at(point) for point in found.uniform]
    axes.plot(*_columns(uniform), "s", label="one width for all")
    for point, place in zip(found.uniform, uniform, strict=True):
        name = point.title.partition(" ")[0]
        axes.annotate(name, place, textcoords="offset points", xytext=(5, -10))
    if found.chosen is not None:
        axes.plot(*_columns([at(found.chosen)]), "*", markersize=14, label="chosen, measured")
    if limit is not None:
        axes.axvline(unit * limit, linestyle="--", color="gray", label="budget")
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _height(found: Search, point: Point) -> float:
    """What the vertical axis shows; nothing where that is not finite."""
    value: Any = point.accuracy
    if found.sensitivity.float_accuracy is None:
        value = None if point.noise is None else decibels(point.noise)
    return value if value is not None and math.isfinite(value) else math.nan
