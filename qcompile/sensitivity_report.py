"""How a Sensitivity is shown, and kept: tables for a terminal, JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qcompile.ir.plan import LayerPlan
from qcompile.report import share
from qcompile.sensitivity_analysis import Measured, Sensitivity, decibels

FORMAT, VERSION = "qcompile sensitivity", 1


def tables(found: Sensitivity, order: str = "network") -> RenderableType:
    """A table for each thing that was measured, one row a layer, one column a width.

    Raises:
        QCompileError: there is no such order.
    """
    layers = found.sorted(order)
    samples = f"in dB ({found.samples} samples)"
    parts: list[RenderableType] = [
        Text("Each layer is quantized alone, after training; all others stay float."),
        Text(f"\nnetwork's output, signal to noise {samples}"),
        _table(found, layers, _output, noted=True),
        Text(f"layer's own result, signal to noise {samples}"),
        _table(found, layers, _own),
    ]
    if found.float_accuracy is not None:
        parts.append(Text(f"accuracy, points lost (float: {share(found.float_accuracy)})"))
        parts.append(_table(found, layers, _lost(found.float_accuracy)))
    refused = {f"{m.layer} at {m.width}: {m.refused}": None for m in found.measured if m.refused}
    return Group(*parts, *map(Text, refused))


def _table(
    found: Sensitivity,
    layers: Sequence[LayerPlan],
    cell: Callable[[Measured], str],
    *,
    noted: bool = False,
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("layer", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("weights", justify="right", no_wrap=True)
    for width in found.widths:
        table.add_column(str(width), justify="right", no_wrap=True)
    notes = {plan.layer: note(plan) if noted else "" for plan in layers}
    if any(notes.values()):
        table.add_column("where", overflow="fold")
    for plan in layers:
        measured = found.of(plan.layer)
        cells = [cell(m) if not m.refused else "-" for m in measured.values()]
        cells = cells or ["-"] * len(found.widths)
        row = (plan.layer, plan.kind, f"{plan.weights:,}", *cells, notes[plan.layer])
        table.add_row(*map(Text, row[: len(table.columns)]))
    return table


def note(plan: LayerPlan) -> str:
    """The line that a layer is called in, without folders, or why it stays float."""
    return Path(plan.where).name if plan.quantized else f"stays float: {plan.reason}"


def _output(m: Measured) -> str:
    return in_decibels(m.output_noise)


def _own(m: Measured) -> str:
    return in_decibels(m.layer_noise)


def _lost(accuracy: float) -> Callable[[Measured], str]:
    def cell(m: Measured) -> str:
        return "-" if m.accuracy is None else lost(accuracy, m.accuracy)

    return cell


def in_decibels(noise: float) -> str:
    """Noise power over signal power as a cell: "38.1"."""
    value = decibels(noise)
    return "exact" if value == math.inf else f"{value:.1f}" if math.isfinite(value) else "-"


def lost(before: float, after: float) -> str:
    """A difference as a cell: points of a share, or what `evaluate` counts in."""
    if 0 <= before <= 1 and 0 <= after <= 1:
        return f"{100 * (before - after):.2f}"
    return f"{before - after:.4g}"


# --- JSON ----------------------------------------------------------------------------------------


def to_json(found: Sensitivity) -> dict[str, Any]:
    """What `json.dumps` takes; docs/accuracy.md has the schema."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": found.model,
        "samples": found.samples,
        "float_accuracy": found.float_accuracy,
        "widths": [str(width) for width in found.widths],
        "layers": [_layer(found, plan) for plan in found.layers],
    }


def _layer(found: Sensitivity, plan: LayerPlan) -> dict[str, Any]:
    return {
        "layer": plan.layer,
        "kind": plan.kind,
        "weights": plan.weights,
        "where": plan.where,
        "stays_float": plan.reason if not plan.quantized else "",
        "measured": [_measured(m) for m in found.of(plan.layer).values()],
    }


def _measured(m: Measured) -> dict[str, Any]:
    return {
        "width": str(m.width),
        "weight_bits": m.width.weight_bits,
        "activation_bits": m.width.activation_bits,
        "layer_noise": finite(m.layer_noise),
        "layer_sqnr_db": finite(decibels(m.layer_noise)),
        "output_noise": finite(m.output_noise),
        "output_sqnr_db": finite(decibels(m.output_noise)),
        "accuracy": m.accuracy,
        "refused": m.refused,
    }


def finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
