"""What a search gives: assignments of widths to layers, predicted and measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcompile.program import Program
from qcompile.quant.recipe import Recipe
from qcompile.search_budget import Budget
from qcompile.search_solver import Assignment
from qcompile.sensitivity_analysis import Sensitivity

if TYPE_CHECKING:
    from rich.console import RenderableType

LATE = 1.05  # a call that takes up to so many times the limit keeps it: timings vary so much


@dataclass(frozen=True)
class Point:
    """One assignment.

    Attributes:
        widths: layer path to width.
        seconds: of a call.
        size: of the file, in bytes.
        error: the sum that is minimised, as predicted.
        noise: measured, noise power over signal power at the outputs; or None.
        accuracy: measured, or None.
        measured: whether seconds and size are of a compiled program; else they are sums.
        title: what it is called: "8/8 everywhere", "chosen", or "".
    """

    widths: Assignment
    seconds: float
    size: float
    error: float
    noise: float | None = None
    accuracy: float | None = None
    measured: bool = False
    title: str = ""


@dataclass(frozen=True)
class Search:
    """What `search` found; print it.

    Attributes:
        sensitivity: of the layers.
        budget: that was asked for.
        metric: "sqnr" or "accuracy".
        points: no other assignment that was found is better than one of them in error, latency and
            size; by latency.
        uniform: one width for all layers, measured.
        predicted: the chosen one's sums, or None without a budget.
        chosen: the same, compiled and measured.
        program: that was compiled.
        recipe: of the chosen one, for `qcompile.prepare`: to be trained with, in its `mode`.
    """

    sensitivity: Sensitivity
    budget: Budget
    metric: str
    points: tuple[Point, ...]
    uniform: tuple[Point, ...]
    predicted: Point | None = None
    chosen: Point | None = None
    program: Program | None = None
    recipe: Recipe | None = None

    @property
    def within_budget(self) -> bool:
        """Whether the chosen program, as measured, keeps the budget."""
        return self.chosen is not None and excess(self.chosen, self.budget) <= 1

    def __rich__(self) -> RenderableType:
        from qcompile.search_report import tables

        return tables(self)

    def to_json(self) -> dict[str, Any]:
        """What `json.dumps` takes; docs/accuracy.md has the schema."""
        from qcompile.search_report import to_json

        return to_json(self)


def excess(point: Point, limits: Budget) -> float:
    """How many times its limit the costliest of a point's costs is; timings within LATE are within."""
    ratios = [0.0]
    if limits.seconds is not None:
        ratios.append(point.seconds / limits.seconds / LATE)
    if limits.bytes is not None:
        ratios.append(point.size / limits.bytes)
    return max(ratios)
