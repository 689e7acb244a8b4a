"""One pooling in place of two, of a value and of its ReLU."""

from __future__ import annotations

import torch
from rewriting import assert_same_result, check_declines, check_ignores, check_rewrite, converted
from small_nets import Net, normal
from torch import Tensor

from qcompile.ir.graph import calls
from qcompile.ir.stages import aten
from qcompile.passes.merge_duplicates import MergeDuplicates
from qcompile.passes.sink_relu import SinkRelu

POOL = ([3, 3], [2, 2], [1, 1], [1, 1], False)


def both(x: Tensor) -> Tensor:
    pooled = aten.max_pool2d.default(x, *POOL)
    return aten.add.Tensor(aten.max_pool2d.default(aten.relu.default(x), *POOL), pooled)


def test_the_relu_goes_behind_the_pooling() -> None:
    expected = """
        %0 = placeholder x() : f32[2,3,7,7]
        %1 = call_function aten.max_pool2d(%0, [3, 3], [2, 2], [1, 1], [1, 1], False) : f32[2,3,4,4]
        %2 = call_function aten.max_pool2d(%0, [3, 3], [2, 2], [1, 1], [1, 1], False) : f32[2,3,4,4]
        %3 = call_function aten.relu(%2) : f32[2,3,4,4]
        %4 = call_function aten.add.Tensor(%3, %1) : f32[2,3,4,4]
        return %4
    """
    check_rewrite(SinkRelu(), Net(both), expected, normal(2, 3, 7, 7))


def test_the_two_poolings_become_one() -> None:
    x = normal(2, 3, 7, 7)
    before = converted(Net(both), x)
    after = MergeDuplicates()(SinkRelu()(before).graph).graph
    assert sum(calls(n, aten.max_pool2d.default) for n in after.graph.nodes) == 1
    extremes = torch.where(normal(2, 3, 7, 7) > 1, x, torch.tensor(float("-inf")))
    for values in (x, -x.abs(), extremes, torch.full_like(x, float("nan"))):
        assert_same_result(before, after, values)


def test_a_pooling_without_its_like_stays() -> None:
    def alone(x: Tensor) -> Tensor:
        return aten.max_pool2d.default(aten.relu.default(x), *POOL)

    def other_window(x: Tensor) -> Tensor:
        low = aten.max_pool2d.default(x, [3, 3], [2, 2], [0, 0], [1, 1], False)
        return aten.add.Tensor(aten.amax.default(low, [2, 3], True), alone(x))

    check_ignores(SinkRelu(), converted(Net(alone), normal(1, 3, 7, 7)))
    check_ignores(SinkRelu(), converted(Net(other_window), normal(1, 3, 7, 7)))


def test_a_window_of_padding_alone_keeps_its_relu() -> None:
    def dilated(x: Tensor) -> Tensor:
        one = aten.max_pool2d.default(x, [2, 2], [1, 1], [1, 1], [3, 3], False)
        other = aten.max_pool2d.default(aten.relu.default(x), [2, 2], [1, 1], [1, 1], [3, 3], False)
        return aten.add.Tensor(one, other)

    reason = "its input is pooled twice: a window lies wholly in the padding"
    net = converted(Net(dilated), normal(1, 3, 2, 2))
    check_declines(SinkRelu(), net, max_pool2d_default_1=reason)
