from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rewriting import (
    assert_same_result,
    check_declines,
    check_ignores,
    check_rewrite,
    converted,
    staged,
)
from small_nets import Net, levels, normal, signs
from torch import Tensor

from qcompile.ir.graph import calls
from qcompile.ir.stages import Stage, aten, dialect
from qcompile.passes.unflatten_linear import UnflattenLinear


def flat(x: Tensor) -> Tensor:
    return aten.flatten.using_ints(x, 1)


def test_a_linear_layer_becomes_a_convolution_with_one_position() -> None:
    expected = """
        %0 = placeholder x() : f32[2,3,2,4]
        %1 = call_function aten.relu(%0) : f32[2,3,2,4]
        %2 = call_function qcompile.sign(%1) : i8[2,3,2,4]
        %3 = get_attr linear_default_weight() : i8[5,3,2,4]
        %4 = call_function qcompile.conv(%2, %3, [1, 1], [0, 0, 0, 0], [1, 1], 1, 0, 0) : i32[2,5,1,1]
        %5 = call_function aten.flatten.using_ints(%4, 1) : i32[2,5]
        return %5
    """

    def forward(x: Tensor, w: Tensor) -> Tensor:
        return dialect.linear.default(dialect.sign.default(aten.relu.default(flat(x))), w, 0)

    check_rewrite(UnflattenLinear(), Net(forward, w=signs(5, 24)), expected, normal(2, 3, 2, 4))


def affine(x: Tensor) -> Tensor:
    return dialect.quantize.default(x, 0.125, 7, 0, 15)


@pytest.mark.parametrize("size", [[6], [2, 3], [2, 1, 3], [1, 7]])
@pytest.mark.parametrize(
    "before_layer",
    [
        lambda x: affine(flat(x)),
        lambda x: flat(affine(x)),
        lambda x: affine(aten.hardtanh.default(aten.neg.default(flat(x)))),
        lambda x: affine(aten.add.Scalar(aten.leaky_relu.default(flat(x), 0.25), 0.5)),
    ],
)
def test_any_rank_and_elementwise_ops(
    size: list[int], before_layer: Callable[[Tensor], Tensor]
) -> None:
    x = normal(2, 3, *size)
    features = x[0].numel()
    net = Net(
        lambda x, w: dialect.linear.default(before_layer(x), w, 7), w=levels(-7, 7, 4, features)
    )
    before = converted(net, x)
    result = UnflattenLinear()(before)
    assert result.rewrote == ["linear_default"]
    assert_same_result(result.graph, before, x)


def scaled(x: Tensor, w: Tensor, m: Tensor, b: Tensor) -> Tensor:
    return dialect.linear.default(affine(dialect.scale_shift.default(flat(x), m, b)), w, 7)


def test_vectors_with_one_value_a_channel_become_vectors_by_channel() -> None:
    expected = """
        %0 = placeholder x() : f32[2,3,2,2]
        %1 = get_attr b() : f32[1]
        %2 = get_attr m_1() : f32[3]
        %3 = call_function qcompile.scale_shift(%0, %2, %1) : f32[2,3,2,2]
        %4 = call_function qcompile.quantize(%3, 0.125, 7, 0, 15) : u8[2,3,2,2]
        %5 = get_attr linear_default_weight() : i8[5,3,2,2]
        %6 = call_function qcompile.conv(%4, %5, [1, 1], [0, 0, 0, 0], [1, 1], 1, 7, 0) : i32[2,5,1,1]
        %7 = call_function aten.flatten.using_ints(%6, 1) : i32[2,5]
        return %7
    """
    m = normal(3).repeat_interleave(4)
    net = Net(scaled, w=levels(-7, 7, 5, 12), m=m, b=normal(1))
    check_rewrite(UnflattenLinear(), net, expected, normal(2, 3, 2, 2))


def test_thresholds_with_one_value_a_channel_work_before_the_flatten() -> None:
    def forward(x: Tensor, w: Tensor, tau: Tensor, direction: Tensor) -> Tensor:
        return dialect.linear.default(dialect.threshold.default(flat(x), tau, direction, -1), w, 0)

    tau, direction = (v.to(torch.int32).repeat_interleave(4) for v in (levels(-3, 3, 3), signs(3)))
    net = Net(forward, w=signs(5, 12), tau=tau, direction=direction)
    x = levels(-7, 7, 2, 3, 2, 2).to(torch.int32)
    before = staged(Stage.LOWERED, net, x)
    result = UnflattenLinear()(before)
    assert result.rewrote == ["linear_default"]
    assert_same_result(result.graph, before, x)


def test_vectors_with_a_value_a_feature_are_declined() -> None:
    net = Net(scaled, w=levels(-7, 7, 5, 12), m=normal(12), b=normal(1))
    reason = "4 values of m for each channel stand between the feature map and the layer"
    check_declines(UnflattenLinear(), net, normal(2, 3, 2, 2), linear_default=reason)


def test_one_position_of_one_bit_levels_goes_too() -> None:
    expected = """
        %0 = placeholder x() : f32[2,3,1]
        %1 = call_function qcompile.sign(%0) : i8[2,3,1]
        %2 = get_attr linear_default_weight() : i8[5,3,1]
        %3 = call_function qcompile.conv(%1, %2, [1], [0, 0], [1], 1, 0, 0) : i32[2,5,1]
        %4 = call_function aten.flatten.using_ints(%3, 1) : i32[2,5]
        return %4
    """

    def forward(x: Tensor, w: Tensor) -> Tensor:
        return dialect.linear.default(dialect.sign.default(flat(x)), w, 0)

    check_rewrite(UnflattenLinear(), Net(forward, w=signs(5, 3)), expected, normal(2, 3, 1))


def test_two_layers_on_one_map() -> None:
    def forward(x: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = flat(x)
        q = affine(y)
        return dialect.linear.default(q, v, 7), dialect.linear.default(q, w, 7), y

    x = normal(2, 3, 2, 2)
    before = converted(Net(forward, v=levels(-7, 7, 4, 12), w=levels(-7, 7, 5, 12)), x)
    result = UnflattenLinear()(before)
    assert result.rewrote == ["linear_default", "linear_default_1"]
    assert_same_result(result.graph, before, x)


def test_moved_ops_keep_the_layers_of_the_user() -> None:
    x = normal(2, 3, 2, 2)
    net = Net(scaled, w=levels(-7, 7, 5, 12), m=normal(1), b=normal(1))
    before = converted(net, x)
    for node in before.graph.nodes:
        node.meta["layer"] = f"user.{node.name}"
    nodes = UnflattenLinear()(before).graph.graph.nodes
    layer = {node.target: node.meta["layer"] for node in nodes if calls(node, node.target)}
    assert layer == {
        dialect.scale_shift.default: "user.scale_shift_default",
        dialect.quantize.default: "user.quantize_default",
        dialect.conv.default: "user.linear_default",
        aten.flatten.using_ints: "user.linear_default",
    }


@pytest.mark.parametrize(
    "before_layer",
    [
        lambda x: affine(aten.amax.default(x, [2, 3])),  # no flatten
        lambda x: affine(aten.flatten.using_ints(x, 0, 2)),  # not of all but the batch
        lambda x: affine(flat(aten.mean.dim(x, [2, 3], True))),  # one position: nothing to move
        lambda x: affine(aten.softmax.int(flat(x), 1)),  # not elementwise
        lambda x: affine(aten.tanh.default(flat(x))),  # its bits may depend on the layout
    ],
)
def test_other_inputs_are_ignored(before_layer: Callable[[Tensor], Tensor]) -> None:
    x = normal(2, 3, 2, 2)
    features = before_layer(x).shape[1]
    net = Net(
        lambda x, w: dialect.linear.default(before_layer(x), w, 7), w=levels(-7, 7, 4, features)
    )
    check_ignores(UnflattenLinear(), net, x)


def test_a_flat_network_is_ignored() -> None:
    net = Net(lambda x, w: dialect.linear.default(affine(flat(x)), w, 7), w=levels(-7, 7, 4, 6))
    check_ignores(UnflattenLinear(), net, torch.ones(2, 6))
