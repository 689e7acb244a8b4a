"""Bits for each layer, from what each costs and what each spoils, for a budget.

The error of an assignment is taken to be the sum of what each layer's quantization does alone. That is
what it would be if errors were small, and of different layers uncorrelated; the least bits are not
small errors. So what is chosen, and what it is compared with, is quantized, compiled and measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from qcompile.errors import QCompileError
from qcompile.quant.overrides import Override
from qcompile.quant.recipe import Recipe
from qcompile.recording import Recording
from qcompile.search_budget import Budget, budget
from qcompile.search_costs import Calls, compiled, latencies, uniform_costs
from qcompile.search_frontier import (
    candidates,
    check_reachable,
    errors,
    frontier,
    limits_of,
    non_dominated,
    point,
    table_of,
    uniform_point,
)
from qcompile.search_points import Point, Search, excess
from qcompile.search_solver import Assignment, Table, solve
from qcompile.sensitivity_analysis import measure
from qcompile.sensitivity_network import Evaluate, Network, widths_to_try
from qcompile.sensitivity_widths import Width

if TYPE_CHECKING:
    from qcompile.steps import Step

METRICS = ("sqnr", "accuracy")
TRIES = 3  # to meet a budget that was missed although the sums meet it


def search(
    model: nn.Module | ExportedProgram,
    example_inputs: Tensor | Sequence[Tensor],
    *,
    max_latency: str | float | None = None,
    max_size: str | float | None = None,
    widths: Iterable[Any] | int | None = None,
    fixed: Mapping[str, Override] | None = None,
    metric: str = "sqnr",
    recipe: Recipe | None = None,
    calibration: Iterable[Any] | None = None,
    evaluate: Evaluate | None = None,
    samples: int | None = None,
    batch: int = 1,
    threads: int | None = None,
    step: Step = nullcontext,
) -> Search:
    """Choose bits for each layer: the least error that a budget allows, on this machine.

    Args:
        model: a float network; it stays as it is.
        example_inputs: float32, one for each argument of `forward`; dimension 0 is the batch.
        max_latency: of a call: seconds, or "0.5ms".
        max_size: of the program's file: bytes, or "60KB". Without any limit there is a frontier,
            but nothing is chosen.
        widths: a layer may get: 8, "1/4", (4, 8), "float", ...; None: what the method has of 8, 4,
            2, 1/4 and 1.
        fixed: layers that keep to one width, as a Recipe's `overrides`.
        metric: what is minimised, the sum over the layers of "sqnr": noise power at the network's
            outputs; or of "accuracy": what `evaluate` loses.
        recipe: the method and its options; its bits and overrides are not looked at.
        calibration: batches of real inputs; without it the example inputs have to do.
        evaluate: accuracy of a network, from 0 to 1.
        samples: how many samples of the calibration data are used at most.
        batch, threads: of the call that is timed.
        step: entered around what takes long, with its title.

    Raises:
        QCompileError: something that is given cannot be had, or no assignment keeps the budget: the
            message says the closest.
    """
    limits, calls = budget(max_latency, max_size), Calls(batch, threads)
    check_metric(metric, evaluate is not None)
    tried = widths_to_try(widths, recipe)
    network = Network(
        model,
        example_inputs,
        recipe=recipe,
        calibration=calibration,
        evaluate=evaluate,
        samples=samples,
    )
    return find(network, limits, tried, fixed or {}, metric, calls, step)


def check_metric(metric: str, has_evaluate: bool) -> None:
    """See that there is such a metric, and what it needs.

    Raises:
        QCompileError: there is not.
    """
    if metric not in METRICS:
        raise QCompileError(f"unknown metric {metric!r}", hint=f"one of {', '.join(METRICS)}")
    if metric == "accuracy" and not has_evaluate:
        raise QCompileError(
            "metric 'accuracy' needs evaluate", hint="pass evaluate, or take metric='sqnr'"
        )


def find(
    network: Network,
    limits: Budget,
    widths: Sequence[Width],
    fixed: Mapping[str, Override],
    metric: str,
    calls: Calls,
    step: Step,
) -> Search:
    """The same for a network that is there already; the arguments are those of `search`."""
    possible = candidates(network, widths, fixed)
    tried = tuple(dict.fromkeys(w for options in possible.values() for w in options))
    with step(f"compile and time at {len(tried)} widths") as advance:
        uniform = uniform_costs(network, tried, calls, _progress(advance))
    check_reachable(table_of(possible, uniform, {}), limits)
    with step("quantize layers one by one") as advance:
        found = measure(network, tried, _progress(advance), accuracy=metric == "accuracy")
    table = table_of(possible, uniform, errors(found, metric))
    with step("quantize as the frontier says") as advance:
        both = [*frontier(table, limits), *(uniform_point(table, u) for u in uniform)]
        measured = _measured(network, both, _progress(advance))
    points, others = non_dominated(measured[: -len(uniform)]), measured[-len(uniform) :]
    result = Search(found, limits, metric, tuple(points), tuple(others))
    if not limits.given:
        return result
    with step("compile and time what is chosen"):
        return _choose(network, table, result, calls)


def _progress(advance: object) -> Any:
    return advance if callable(advance) else None


def _measured(network: Network, points: Sequence[Point], progress: Any) -> list[Point]:
    """The points with their noise and accuracy, in PyTorch."""
    found = []
    for done, one in enumerate(points, 1):
        quantized = network.quantize(one.widths)
        noise, accuracy = network.noise(quantized), network.accuracy(quantized)
        found.append(dataclasses.replace(one, noise=noise, accuracy=accuracy))
        if progress is not None:
            progress(done, len(points))
    return found


# --- the choice ----------------------------------------------------------------------------------


def _choose(network: Network, table: Table, found: Search, calls: Calls) -> Search:
    """Solve, compile, measure; where a budget is missed by measurement, again for a smaller one."""
    wanted = limits_of(found.budget)
    limits = dict(wanted)
    tries: list[tuple[float, Search]] = []
    for _ in range(TRIES):
        assignment = solve(table, "error", limits)
        if assignment is None or _known(assignment, tries):
            break
        predicted = point(table, assignment)
        chosen, tried = _try(network, predicted, found, calls)
        tries.append((excess(chosen, found.budget), tried))
        if tried.within_budget:
            break
        got = {"seconds": chosen.seconds, "bytes": chosen.size}
        for name in wanted:
            if got[name] > wanted[name]:
                limits[name] = min(limits[name], 0.99 * wanted[name] * limits[name] / got[name])
    return min(tries, key=lambda one: one[0])[1]  # there is one: the budget is in reach


def _known(assignment: Assignment, tries: Sequence[tuple[float, Search]]) -> bool:
    return any(t.chosen is not None and t.chosen.widths == assignment for _, t in tries)


def _try(network: Network, predicted: Point, found: Search, calls: Calls) -> tuple[Point, Search]:
    """Compile and measure an assignment."""
    program = compiled(network, predicted.widths, calls)
    [seconds] = latencies([program], network, calls)
    module = Recording(program, budget=0)
    chosen = dataclasses.replace(
        predicted,
        seconds=seconds,
        size=program.size,
        noise=network.noise(module),
        accuracy=network.accuracy(module),
        measured=True,
        title="chosen",
    )
    recipe = network.recipe(predicted.widths, trained=True)
    return chosen, dataclasses.replace(
        found, predicted=predicted, chosen=chosen, program=program, recipe=recipe
    )
