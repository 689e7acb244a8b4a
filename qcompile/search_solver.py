"""A width for each layer: the multiple-choice knapsack, by SciPy's `milp` (HiGHS).

minimise    sum over layers of  objective(layer, chosen width)
such that   every layer has one width
            sum over layers of  cost(layer, chosen width) <= limit,  for each limited cost
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qcompile.errors import QCompileError
from qcompile.sensitivity_widths import Width


@dataclass(frozen=True)
class Option:
    """What a layer adds at one width: error, seconds and bytes, each to its sum."""

    error: float
    seconds: float
    bytes: float


SLACK = 1e-5  # by which limits may be exceeded: ten times the solver's tolerance
_INFEASIBLE = 2  # scipy.optimize.milp's status
COSTS = ("error", "seconds", "bytes")
Table = Mapping[str, Mapping[Width, Option]]
Assignment = Mapping[str, Width]


def total(table: Table, assignment: Assignment, cost: str) -> float:
    """The sum of a cost over the layers."""
    return float(sum(getattr(table[layer][width], cost) for layer, width in assignment.items()))


def solve(
    table: Table, objective: str, limits: Mapping[str, float] | None = None
) -> Assignment | None:
    """The assignment of the least sum that keeps to the limits, or None if none does.

    Limits are kept to within SLACK of them.

    Args:
        table: for each layer at least one option; no cost is negative.
        objective: one of COSTS.
        limits: others of them, to the largest sum.

    Raises:
        QCompileError: the solver stops without an answer.
    """
    wanted = limits or {}
    # What is beyond a limit alone, or worse alone than some assignment is in all, is in no better
    # assignment. Without it numbers are of one size, which the solver's tolerances need.
    able = _without_larger(table, wanted)
    first = None if able is None else _solve(able, objective, wanted)
    if able is None or first is None:
        return None
    kept = _without_larger(able, {objective: total(table, first, objective)})
    second = None if kept is None else _solve(kept, objective, wanted)
    found = [a for a in (first, second) if a is not None]
    return min(found, key=lambda a: total(table, a, objective))


def _without_larger(table: Table, limits: Mapping[str, float]) -> Table | None:
    """Only options whose costs are within the limits, or None where a layer has none."""
    kept = {
        layer: {
            width: option
            for width, option in options.items()
            if all(getattr(option, name) <= limit for name, limit in limits.items())
        }
        for layer, options in table.items()
    }
    return kept if all(kept.values()) else None


def _solve(table: Table, objective: str, limits: Mapping[str, float]) -> Assignment | None:
    for presolve in (True, False):  # HiGHS's presolve has had faults: its answers are looked at
        found = _by_milp(table, objective, limits, presolve)
        if found is None:
            return None
        if all(total(table, found, n) <= limit * (1 + SLACK) for n, limit in limits.items()):
            return found
    raise QCompileError("the solver's answers do not keep the limits")


def _by_milp(
    table: Table, objective: str, limits: Mapping[str, float], presolve: bool
) -> Assignment | None:
    import numpy as np
    from scipy.optimize import LinearConstraint, milp
    from scipy.sparse import csr_array

    pairs = [(layer, width) for layer, options in table.items() for width in options]
    costs = {
        name: np.array([getattr(table[layer][width], name) for layer, width in pairs])
        for name in (objective, *limits)
    }
    layers = {layer: row for row, layer in enumerate(table)}
    rows = [layers[layer] for layer, _ in pairs]
    one_each = csr_array((np.ones(len(pairs)), (rows, range(len(pairs)))))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for name, limit in limits.items():
        scale = limit or 1.0
        constraints.append(LinearConstraint(costs[name][None, :] / scale, -np.inf, limit / scale))
    result = milp(
        costs[objective] / (float(costs[objective].max()) or 1.0),
        integrality=np.ones(len(pairs)),
        bounds=(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0, "presolve": presolve},
    )
    if result.status == _INFEASIBLE:
        return None
    if result.x is None:
        raise QCompileError(f"the solver gives up: {result.message}")
    chosen = {pairs[i][0]: pairs[i][1] for i in np.flatnonzero(result.x > 0.5)}
    assert len(chosen) == len(layers)
    return chosen
