"""What is proved about the size of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compiling import Case
from torch import Tensor
from torch.fx import Node

from qcompile.codegen.fusion import form
from qcompile.codegen.kernels.ranges import are_two_levels, bound, is_finite, levels
from qcompile.codegen.machine import machine_of
from qcompile.codegen.writer import Writer
from qcompile.ir.target import Target

q, aten = torch.ops.qcompile, torch.ops.aten


def bound_of(function: Callable[..., Any], **constants: Tensor) -> tuple[float, bool]:
    """Of the value that the network returns."""
    gm = Case(function, [(2, 3, 3)], constants).graph()
    w = Writer(gm, form(gm)[-1], machine_of(Target("cpu")), {})
    node = gm.graph.output_node().args[0]
    assert isinstance(node, Node)
    return bound(w, node), is_finite(w, node)


def test_sums_of_scaled_products_are_bounded() -> None:
    def function(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Any:
        acc = q.conv.default(q.sign.default(x), w, [1, 1], [0, 0, 0, 0], [1, 1], 1, 0, 0)
        y = aten.relu.default(q.scale_shift.default(acc, a, b))
        return aten.add.Tensor(y, q.scale_shift.default(y, a, None))

    w = torch.ones(2, 2, 1, 1, dtype=torch.int8)
    a, b = torch.tensor([0.5, -2.0]), torch.tensor([3.0, -1.0])
    most = 2.0**31 * 2 + 3
    assert bound_of(function, w=w, a=a, b=b) == (most + 2 * most, True)
    huge = torch.tensor([1e30, 0.0])
    assert not bound_of(function, w=w, a=huge, b=b)[1]
    assert not bound_of(function, w=w, a=a, b=torch.tensor([torch.nan, 0.0]))[1]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: aten.relu.default(x),
        lambda x: aten.add.Tensor(x, x),
        lambda x: aten.sigmoid.default(x),
        lambda x: aten.max_pool2d.default(x, [2, 2]),
    ],
)
def test_nothing_is_known_of_floats_from_outside(function: Callable[..., Any]) -> None:
    assert not bound_of(function)[1]


@pytest.mark.parametrize(
    ("function", "ends"),
    [
        (lambda x: q.quantize.default(x, 0.1, 3, 0, 15), (0, 15)),
        (lambda x: q.quantize.default(x, 0.1, 0, -8, 7), (-8, 7)),
        (lambda x: q.quantize_unit.default(x, 3), (0, 7)),
        (lambda x: q.dynamic_quantize.default(x, q.dynamic_qparams.default(x, 5), 5), (0, 31)),
        (lambda x: q.sign.default(x), (-1, 1)),
        (lambda x: aten.max_pool2d.default(q.quantize_unit.default(x, 2), [2, 2]), (0, 3)),
        (lambda x: aten.flatten.using_ints(q.sign.default(x), 1), (-1, 1)),
        (lambda x: aten.pad.default(q.sign.default(x), [1, 1]), (-128, 127)),
        (lambda x: aten.pad.default(q.quantize_unit.default(x, 2), [1, 1]), (0, 255)),
    ],
)
def test_levels_are_known_from_what_made_them(
    function: Callable[..., Any], ends: tuple[int, int]
) -> None:
    gm = Case(function, [(2, 3, 3)]).graph()
    w = Writer(gm, form(gm)[-1], machine_of(Target("cpu")), {})
    node = gm.graph.output_node().args[0]
    assert isinstance(node, Node)
    assert levels(w, node) == ends


def test_nothing_is_known_of_floats_times_levels() -> None:
    def function(x: Tensor, w: Tensor) -> Any:
        return q.weight_only_conv.default(x, w, [1, 1], [0] * 4, [1, 1], 1)

    assert not bound_of(function, w=torch.ones(2, 2, 1, 1, dtype=torch.int8))[1]


def test_levels_of_a_threshold_begin_where_it_says() -> None:
    def function(x: Tensor, w: Tensor, t: Tensor) -> Any:
        acc = q.conv.default(q.sign.default(x), w, [1, 1], [0, 0, 0, 0], [1, 1], 1, 0, 0)
        return q.threshold.default(acc, t, t, 0), q.threshold.default(acc, t, t, -1)

    constants = {"w": torch.ones(2, 2, 1, 1, dtype=torch.int8), "t": torch.ones(2).to(torch.int32)}
    gm = Case(function, [(2, 3, 3)], constants).graph()
    w = Writer(gm, form(gm)[-1], machine_of(Target("cpu")), {})
    nodes = gm.graph.output_node().args[0]
    assert isinstance(nodes, (tuple, list))
    assert [levels(w, n) for n in nodes if isinstance(n, Node)] == [(0, 1), (-1, 1)]


@pytest.mark.parametrize(
    ("function", "two"),
    [
        (lambda x: q.sign.default(x), True),
        (lambda x: aten.max_pool2d.default(q.sign.default(x), [2, 2]), True),
        (lambda x: q.quantize.default(x, 0.1, 0, 0, 1), True),
        (lambda x: q.quantize.default(x, 0.1, 0, -1, 1), False),
        (lambda x: q.quantize_unit.default(x, 1), True),
        (lambda x: q.quantize_unit.default(x, 2), False),
    ],
)
def test_signs_have_nothing_between_their_levels(function: Callable[..., Any], two: bool) -> None:
    gm = Case(function, [(2, 4, 4)]).graph()
    w = Writer(gm, form(gm)[-1], machine_of(Target("cpu")), {})
    node = gm.graph.output_node().args[0]
    assert isinstance(node, Node)
    assert are_two_levels(w, node) == two
