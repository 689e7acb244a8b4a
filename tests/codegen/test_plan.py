"""Where values lie: none is overwritten before it was read for the last time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from compiling import Case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcompile.codegen.fusion import form
from qcompile.codegen.groups import whole
from qcompile.codegen.plan import Plan, plan
from qcompile.constants import ALIGNMENT

aten = torch.ops.aten


def pooled(x: Tensor) -> Tensor:
    return aten.max_pool2d.default(x, [3, 3], [1, 1], [1, 1])


def planned(function: Callable[..., Any], *shape: int) -> tuple[Plan, list[Any]]:
    gm = Case(function, [shape]).graph()
    groups = form(gm)
    return plan(gm, groups), groups


def test_a_chain_needs_memory_for_two_values() -> None:
    def chain(x: Tensor) -> Tensor:
        for _ in range(6):
            x = pooled(x)
        return x

    found, _ = planned(chain, 4, 8, 8)
    size = 4 * 8 * 8 * 4
    assert found.workspace == 2 * size * found.samples
    assert found.samples == 64
    kinds = [place.kind for place in found.places.values()]
    assert kinds == ["input", "output", *["workspace"] * 5]


def test_few_samples_at_once_where_values_are_large() -> None:
    found, _ = planned(lambda x: pooled(pooled(pooled(x))), 16, 64, 64)
    assert found.samples == 1
    assert found.workspace == 2 * 16 * 64 * 64 * 4


def test_more_samples_at_once_where_weights_are_larger() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        y = aten.linear.default(aten.flatten.using_ints(pooled(pooled(x)), 1), w)
        return aten.log_softmax.int(y, 1)

    shape = (16, 64, 64)
    case = Case(function, [shape], {"w": torch.zeros(16, 16 * 64 * 64)})
    gm = case.graph()
    found = plan(gm, form(gm))
    assert found.samples > 4
    assert found.workspace <= 16 * 16 * 64 * 64 * 4


def test_one_sample_at_once_where_it_fills_the_cache() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        y = aten.linear.default(aten.flatten.using_ints(pooled(pooled(x)), 1), w)
        return aten.log_softmax.int(y, 1)

    shape = (32, 128, 128)  # 2 MiB, twice
    case = Case(function, [shape], {"w": torch.zeros(16, 32 * 128 * 128)})
    gm = case.graph()
    assert plan(gm, form(gm)).samples == 1


def test_results_that_are_views_or_inputs_are_copied() -> None:
    def function(x: Tensor) -> Any:
        y = aten.relu.default(x)
        return y, aten.flatten.using_ints(y, 1), x, y

    found, [group] = planned(function, 3, 4)
    assert [number for _, number in found.copies] == [1, 2, 3]
    assert found.place(group.results[0]).kind == "output"
    assert found.workspace == 0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=14))
def test_values_that_are_needed_at_once_do_not_overlap(pairs: list[tuple[int, int]]) -> None:
    def function(x: Tensor) -> Any:
        values = [x]
        for left, right in pairs:
            a, b = values[left % len(values)], values[right % len(values)]
            values.append(aten.add.Tensor(pooled(a), b) if left % 2 else pooled(a))
        return pooled(values[-1])

    found, groups = planned(function, 3, 5, 5)
    written = {node: i for i, g in enumerate(groups) for node in g.results}
    read = {node: i for i, g in enumerate(groups) for node in map(whole, g.inputs)}
    for a, place in found.places.items():
        if place.kind != "workspace":
            continue
        assert place.at % ALIGNMENT == 0
        assert place.at + found.samples * place.size <= found.workspace
        for b, other in found.places.items():
            alive = b in written and written[b] <= read.get(a, 0) and written[a] <= read.get(b, 0)
            if a is b or other.kind != "workspace" or not alive:
                continue
            apart = (
                place.at + found.samples * place.size <= other.at
                or other.at + found.samples * other.size <= place.at
            )
            assert apart, (a, b)
