"""How what a search found is shown, and kept: tables for a terminal, JSON for programs."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qcompile import recipe_file
from qcompile.report import share
from qcompile.search_budget import milliseconds
from qcompile.search_frontier import brief
from qcompile.search_points import Point, Search
from qcompile.sensitivity_report import finite, in_decibels, note
from qcompile.sensitivity_report import to_json as sensitivity_json

FORMAT, VERSION = "qcompile search", 1
SEVERAL = 8  # layers up to which a row names the width of each


def tables(found: Search) -> RenderableType:
    """The frontier, uniform widths beside it, and what was chosen: predicted and measured."""
    layers = found.sensitivity.layers_measured
    order = f" Widths are of {', '.join(layers)}." if len(layers) <= SEVERAL else ""
    parts: list[RenderableType] = [
        Text(
            f"Frontier of latency, size and {_metric(found)}; latency and size are sums over the "
            f"layers, the rest is measured.{order}"
        ),
        _points(found),
    ]
    if found.chosen is not None:
        parts += [Text(f"chosen for {found.budget}"), _chosen(found), _layers(found)]
    return Group(*parts)


def _metric(found: Search) -> str:
    return "noise" if found.metric == "sqnr" else "accuracy lost"


def _points(found: Search) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    accuracy = found.sensitivity.float_accuracy is not None
    table.add_column("", no_wrap=True)
    for title in ("latency", "bytes", "SQNR, dB", *(("accuracy",) if accuracy else ())):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("widths w/a", overflow="fold")
    chosen = None if found.predicted is None else found.predicted.widths
    for point in found.points:
        mark = "chosen" if point.widths == chosen else ""
        table.add_row(*map(Text, (mark, *_cells(point, accuracy), _widths(point))))
    table.add_section()
    for point in found.uniform:
        table.add_row(*map(Text, (point.title, *_cells(point, accuracy), "")))
    return table


def _cells(point: Point, accuracy: bool) -> tuple[str, ...]:
    noise = "-" if point.noise is None else in_decibels(point.noise)
    cells = (milliseconds(point.seconds), f"{point.size:,.0f}", noise)
    return (*cells, share(point.accuracy)) if accuracy else cells


def _widths(point: Point) -> str:
    if len(point.widths) <= SEVERAL:
        return "  ".join(map(str, point.widths.values()))
    counts: dict[str, int] = {}
    for width in map(str, point.widths.values()):
        counts[width] = counts.get(width, 0) + 1
    return "  ".join(f"{count} x {width}" for width, count in counts.items())


def _chosen(found: Search) -> Table:
    """Prediction beside measurement."""
    predicted, chosen = found.predicted, found.chosen
    assert predicted is not None
    assert chosen is not None
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("", "latency", "bytes", "SQNR, dB"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    before = found.sensitivity.float_accuracy
    if before is not None:
        table.add_column("accuracy", justify="right", no_wrap=True)
    of_noise = found.metric == "sqnr"
    noise = predicted.error if of_noise else None
    accuracy = None if of_noise or before is None else before - predicted.error
    expected = dataclasses.replace(predicted, noise=noise, accuracy=accuracy)
    for name, point in (("predicted", expected), ("measured", chosen)):
        table.add_row(*map(Text, (name, *_cells(point, before is not None))))
    return table


def _layers(found: Search) -> Table:
    """The assignment, a layer a row."""
    assert found.chosen is not None
    assert found.program is not None
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("layer", "kind", "weights", "bits w/a", "kernel"):
        justify = "right" if title in ("weights", "bits w/a") else "left"
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("", overflow="fold")
    kernels = {layer.layer: layer.kernel for layer in found.program.info.layers}
    for plan in found.sensitivity.layers:
        width = found.chosen.widths.get(plan.layer)
        kernel = kernels.get(plan.layer, "")
        cells = (f"{plan.weights:,}", str(width or "float"), kernel, note(plan))
        table.add_row(*map(Text, (plan.layer, plan.kind, *cells)))
    return table


def how_missed(found: Search) -> str:
    """What to say where the chosen program, as measured, does not keep the budget."""
    assert found.chosen is not None
    took = f"{milliseconds(found.chosen.seconds)} and {found.chosen.size:,.0f} bytes"
    return (
        f"The budget, {found.budget}, is missed as measured: {took}, with "
        f"{brief(found.chosen.widths)}. Timings differ from run to run where other programs run; "
        "give it more room, or the search more widths."
    )


# --- JSON ----------------------------------------------------------------------------------------


def to_json(found: Search) -> dict[str, Any]:
    """What `json.dumps` takes; docs/accuracy.md has the schema."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": found.sensitivity.model,
        "metric": found.metric,
        "budget": {"seconds": found.budget.seconds, "bytes": found.budget.bytes},
        "within_budget": None if found.chosen is None else found.within_budget,
        "frontier": [_point(point) for point in found.points],
        "uniform": [_point(point) for point in found.uniform],
        "predicted": None if found.predicted is None else _point(found.predicted),
        "chosen": None if found.chosen is None else _point(found.chosen),
        "recipe": None if found.recipe is None else recipe_file.to_json(found.recipe),
        "sensitivity": sensitivity_json(found.sensitivity),
    }


def _point(point: Point) -> dict[str, Any]:
    return {
        "title": point.title,
        "measured": point.measured,
        "seconds": point.seconds,
        "bytes": point.size,
        "error": finite(point.error),
        "noise": None if point.noise is None else finite(point.noise),
        "accuracy": point.accuracy,
        "widths": {layer: str(width) for layer, width in point.widths.items()},
    }
