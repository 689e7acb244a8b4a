from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rewriting import assert_same_result, check_ignores, check_rewrite, converted
from small_nets import Net, levels, normal
from torch import Tensor

from qcompile.ir.graph import calls
from qcompile.ir.stages import aten, dialect
from qcompile.passes.sink_flatten import SinkFlatten


def flat(x: Tensor) -> Tensor:
    return aten.flatten.using_ints(x, 1)


def test_an_epilogue_comes_back_to_its_accumulator() -> None:
    expected = """
        %0 = placeholder x() : i8[2,3,1,1]
        %1 = get_attr w() : i8[4,3,1,1]
        %2 = call_function qcompile.conv(%0, %1, [1, 1], [0, 0, 0, 0], [1, 1], 1, 0, 0) : i32[2,4,1,1]
        %3 = get_attr scale() : f32[4]
        %4 = call_function qcompile.scale_shift(%2, %3, None) : f32[2,4,1,1]
        %5 = call_function aten.relu(%4) : f32[2,4,1,1]
        %6 = call_function qcompile.quantize(%5, 0.5, 0, 0, 255) : u8[2,4,1,1]
        %7 = call_function aten.flatten.using_ints(%6, 1) : u8[2,4]
        return %7
    """

    def forward(x: Tensor, w: Tensor, scale: Tensor) -> Tensor:
        acc = flat(dialect.conv.default(x, w, [1, 1], [0] * 4, [1, 1], 1, 0, 0))
        y = aten.relu.default(dialect.scale_shift.default(acc, scale, None))
        return dialect.quantize.default(y, 0.5, 0, 0, 255)

    net = Net(forward, w=levels(-7, 7, 4, 3, 1, 1), scale=torch.rand(4))
    check_rewrite(SinkFlatten(), net, expected, levels(-7, 7, 2, 3, 1, 1))


@pytest.mark.parametrize("ones", [[1], [1, 1], [1, 1, 1]])
@pytest.mark.parametrize(
    "op",
    [
        aten.abs.default,
        dialect.sign.default,
        lambda x: aten.hardtanh.default(x, 0.0, 1.0),
        lambda x: dialect.quantize_unit.default(x, 3),
    ],
)
def test_any_rank_and_op(ones: list[int], op: Callable[[Tensor], Tensor]) -> None:
    x = normal(2, 5, *ones)
    before = converted(Net(lambda x: op(flat(x))), x)
    after = SinkFlatten()(before).graph
    assert_same_result(before, after, x)
    last = after.graph.output_node().args[0]
    assert calls(last, aten.flatten.using_ints)


def test_what_moves_elements_stays() -> None:
    check_ignores(SinkFlatten(), Net(lambda x: aten.relu.default(flat(x))), normal(2, 5, 2, 1))
    two = Net(lambda x: aten.add.Tensor(flat(x), flat(x)))
    check_ignores(SinkFlatten(), two, normal(2, 5, 1, 1))
