"""From what was measured of layers to assignments: which there are, and which are worth a look."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from qcompile.errors import QCompileError
from qcompile.quant.overrides import Override
from qcompile.quant.recipe import Recipe
from qcompile.search_budget import Budget, milliseconds
from qcompile.search_costs import Uniform
from qcompile.search_points import Point
from qcompile.search_solver import Assignment, Option, Table, solve, total
from qcompile.sensitivity_analysis import Measured, Sensitivity
from qcompile.sensitivity_network import Network
from qcompile.sensitivity_widths import Width

POINTS = 8  # budgets that are tried between the least and the most, of each kind
TIE = 1e-4  # weight of noise beside accuracy: less than one sample of 10,000
MOST = 1e6  # noise over signal: more says no more


def candidates(
    network: Network, widths: Sequence[Width], fixed: Mapping[str, Override]
) -> dict[str, tuple[Width, ...]]:
    """The widths that each layer may get."""
    pinned = Recipe(32, overrides=fixed)
    pinned.check_overrides(plan.layer for plan in network.layers)
    found = {}
    for plan in network.quantizable:
        own = pinned.overrides_of(plan.layer, plan.kind)
        bits = pinned.for_layer(plan.layer, plan.kind)
        found[plan.layer] = (Width(*bits),) if own else tuple(widths)
    for width in dict.fromkeys(w for options in found.values() for w in options):
        refused = network.refused(width)
        for layer in refused.keys() & found.keys():
            found[layer] = tuple(w for w in found[layer] if w != width)
            if not found[layer]:
                raise QCompileError(
                    refused[layer], where=layer, hint="leave the layer another width"
                )
    return found


def errors(found: Sensitivity, metric: str) -> dict[tuple[str, Width], float]:
    return {(m.layer, m.width): _error(found, m, metric) for m in found.measured if not m.refused}


def _error(found: Sensitivity, m: Measured, metric: str) -> float:
    if metric == "sqnr":
        return min(m.output_noise, MOST)
    assert found.float_accuracy is not None
    assert m.accuracy is not None
    # What happens to be better than float is not to pay for something that is worse.
    return max(0.0, found.float_accuracy - m.accuracy) + TIE * min(m.output_noise, 1.0)


def table_of(
    candidates: Mapping[str, Sequence[Width]],
    uniform: Sequence[Uniform],
    errors: Mapping[tuple[str, Width], float],
) -> Table:
    by_width = {u.width: u for u in uniform}
    return {
        layer: {
            w: Option(
                errors.get((layer, w), 0.0),
                by_width[w].layer_seconds[layer],
                by_width[w].layer_bytes[layer],
            )
            for w in widths
        }
        for layer, widths in candidates.items()
    }


# --- budgets -------------------------------------------------------------------------------------


def limits_of(limits: Budget) -> dict[str, float]:
    given = {"seconds": limits.seconds, "bytes": limits.bytes}
    return {name: float(value) for name, value in given.items() if value is not None}


def check_reachable(table: Table, limits: Budget) -> None:
    """See that some assignment keeps the budget.

    Raises:
        QCompileError: none does; it says the closest.
    """
    wanted = limits_of(limits)
    alone: list[dict[str, float]] = [{} for _ in wanted]
    together = [{n: v for n, v in wanted.items() if n != cost} for cost in wanted]
    # Each by itself first: with another limit that is out of reach there is no closest.
    for cost, others in [*zip(wanted, alone, strict=True), *zip(wanted, together, strict=True)]:
        least = solve(table, cost, others)
        assert least is not None
        value = total(table, least, cost)
        if value > wanted[cost]:
            raise _out_of_reach(cost, wanted[cost], value, least, others)


def _out_of_reach(
    cost: str, limit: float, least: float, assignment: Assignment, others: Mapping[str, float]
) -> QCompileError:
    within = "".join(f" within {_readable(name, value)}" for name, value in others.items())
    adjective = "fastest" if cost == "seconds" else "smallest"
    return QCompileError(
        f"no assignment takes {_readable(cost, limit)} or less{within}",
        hint=f"the {adjective} takes {_readable(cost, least)}: {brief(assignment)}",
    )


def _readable(cost: str, value: float) -> str:
    return milliseconds(value) if cost == "seconds" else f"{math.ceil(value):,} bytes"


def brief(assignment: Assignment, most: int = 8) -> str:
    """An assignment as a line: "1/4: conv1, conv2; 8/8: fc"."""
    by_width: dict[Width, list[str]] = {}
    for layer, width in assignment.items():
        by_width.setdefault(width, []).append(layer)
    parts = []
    for width, layers in by_width.items():
        more = f" and {len(layers) - most} more" if len(layers) > most else ""
        parts.append(f"{width}: {', '.join(layers[:most])}{more}")
    return "; ".join(parts)


def point(table: Table, assignment: Assignment, title: str = "") -> Point:
    sums = {cost: total(table, assignment, cost) for cost in ("error", "seconds", "bytes")}
    return Point(assignment, sums["seconds"], sums["bytes"], sums["error"], title=title)


def frontier(table: Table, limits: Budget) -> list[Point]:
    """The best for each of some budgets, by latency; those worse than another in all left out."""
    assignments = [
        a for a in (solve(table, "error"), solve(table, "error", limits_of(limits))) if a
    ]
    for cost in ("seconds", "bytes"):
        fewest = solve(table, cost)
        assert fewest is not None
        low, high = total(table, fewest, cost), total(table, assignments[0], cost)
        for i in range(POINTS):
            # 1e-6: the solver need not find room for what fits to the last bit
            limit = low * max(high / low, 1.0) ** (i / POINTS) * (1 + 1e-6)
            assignments += [a for a in (solve(table, "error", {cost: limit}),) if a]
    points = {tuple(a.items()): point(table, a) for a in assignments}
    return sorted(non_dominated(list(points.values())), key=lambda p: (p.seconds, p.size))


def non_dominated(points: Sequence[Point]) -> list[Point]:
    """Without points that another is as good as in noise, latency and size, and better in one.

    Noise is as measured, or as predicted where it is not.
    """
    values = [(p.error if p.noise is None else p.noise, p.seconds, p.size) for p in points]
    return [
        one
        for one, own in zip(points, values, strict=True)
        if not any(other != own and _no_worse(other, own) for other in values)
    ]


def _no_worse(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True))


def uniform_point(table: Table, u: Uniform) -> Point:
    options = ((table[layer].get(w), layer) for layer, w in u.widths.items())
    errors = [math.nan if o is None else o.error for o, _ in options]
    title = f"{u.width} everywhere"
    return Point(u.widths, u.seconds, u.size, sum(errors), measured=True, title=title)
