from __future__ import annotations

import pytest
import torch
from rewriting import staged
from small_nets import Net, normal
from torch import Tensor

from qcompile.ir.stages import Stage, aten, dialect
from qcompile.passes.one_bit import argument, is_signs, low_level


def tau(x: Tensor, low: int) -> Tensor:
    acc = dialect.linear.default(dialect.sign.default(x), torch.ones(3, 4, dtype=torch.int8), 0)
    zero = torch.zeros(3, dtype=torch.int32)
    return dialect.threshold.default(acc, zero, zero + 1, low)


@pytest.mark.parametrize(
    ("function", "low"),
    [
        (dialect.sign.default, -1),
        (lambda x: dialect.quantize_unit.default(x, 1), 0),
        (lambda x: tau(x, -1), -1),
        (lambda x: tau(x, 0), 0),
        (lambda x: aten.flatten.using_ints(dialect.sign.default(x), 1), -1),
        (lambda x: dialect.quantize_unit.default(x, 2), None),
        (lambda x: dialect.quantize.default(x, 1.0, 0, -1, 1), None),
        (lambda x: aten.relu.default(x), None),
        (lambda x: x, None),
    ],
)
def test_low_level(function: object, low: int | None) -> None:
    assert callable(function)
    gm = staged(Stage.LOWERED, Net(function), normal(2, 4))
    [output] = gm.graph.find_nodes(op="output")
    assert low_level(argument(output)) == low


def test_is_signs() -> None:
    assert is_signs(torch.tensor([1, -1]))
    for other in ([1, 0], [2, -1], [-128, 1]):
        assert not is_signs(torch.tensor(other, dtype=torch.int8))
