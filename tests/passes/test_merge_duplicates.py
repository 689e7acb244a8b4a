from __future__ import annotations

import pytest
import torch
from rewriting import check_ignores, check_rewrite
from small_nets import Net, conv, normal, signs
from torch import Tensor

from qcompile.ir.stages import aten, dialect
from qcompile.passes.merge_duplicates import MergeDuplicates


def test_one_sign_for_two_layers_with_equal_weights() -> None:
    expected = """
        %0 = placeholder x() : f32[2,3,4]
        %1 = call_function qcompile.sign(%0) : i8[2,3,4]
        %2 = get_attr v() : i8[4,3,1]
        %3 = call_function qcompile.conv(%1, %2, [1], [0, 0], [1], 1, 0, 0) : i32[2,4,4]
        %4 = get_attr m() : f32[4]
        %5 = call_function qcompile.scale_shift(%3, %4, None) : f32[2,4,4]
        %6 = call_function aten.add.Tensor(%5, %5) : f32[2,4,4]
        return %6
    """

    def forward(x: Tensor, v: Tensor, w: Tensor, m: Tensor) -> Tensor:
        a = dialect.scale_shift.default(conv(dialect.sign.default(x), v), m, None)
        b = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, None)
        return aten.add.Tensor(a, b)

    net = Net(forward, v=signs(4, 3, 1), w=signs(4, 3, 1), m=normal(4))
    check_rewrite(MergeDuplicates(), net, expected, normal(2, 3, 4))


def pair(v: Tensor, w: Tensor) -> Net:
    return Net(lambda x, v, w: (aten.mul.Tensor(x, v), aten.mul.Tensor(x, w)), v=v, w=w)


def test_a_nan_is_itself() -> None:
    expected = """
        %0 = placeholder x() : f32[2]
        %1 = get_attr v() : f32[1]
        %2 = call_function aten.mul.Tensor(%0, %1) : f32[2]
        return [%2, %2]
    """
    nan = torch.tensor([float("nan")])
    check_rewrite(MergeDuplicates(), pair(nan, nan.clone()), expected, normal(2))


@pytest.mark.parametrize(
    ("v", "w"),
    [
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (torch.tensor([1.0]), torch.tensor(1.0)),
        (torch.tensor([1.0]), torch.tensor([1])),
        (torch.tensor([1, 0]), torch.tensor([1, 1])),
    ],
)
def test_constants_that_differ_in_anything_are_two(v: Tensor, w: Tensor) -> None:
    check_ignores(MergeDuplicates(), pair(v, w), normal(2))


@pytest.mark.parametrize(("a", "b"), [(1, 2), (1, 1.0), (0.0, -0.0), (1, True)])
def test_arguments_that_differ_in_anything_make_two(a: float, b: float) -> None:
    net = Net(lambda x: (aten.add.Scalar(x, a), aten.add.Scalar(x, b)))
    check_ignores(MergeDuplicates(), net, normal(2))


def test_the_order_of_arguments_counts() -> None:
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        y = aten.relu.default(x)
        return aten.sub.Tensor(x, y), aten.sub.Tensor(y, x)

    check_ignores(MergeDuplicates(), Net(forward), normal(2))
