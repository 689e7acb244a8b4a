from __future__ import annotations

import pytest
from rewriting import assert_same_result, check_declines, check_ignores, check_rewrite, converted
from small_nets import Net, levels, normal, signs
from torch import Tensor

from qcompile.ir.stages import dialect
from qcompile.passes.lower_binary_linear import LowerBinaryLinear


def of_signs(x: Tensor, w: Tensor) -> Tensor:
    return dialect.linear.default(dialect.sign.default(x), w, 0)


def of_zero_one(x: Tensor, w: Tensor) -> Tensor:
    return dialect.linear.default(dialect.quantize_unit.default(x, 1), w, 0)


def test_signs_become_words_and_popcount() -> None:
    expected = """
        %0 = placeholder x() : f32[3,70]
        %1 = call_function qcompile.sign(%0) : i8[3,70]
        %2 = call_function qcompile.bitpack(%1) : i32[3,3]
        %3 = get_attr linear_default_bits() : i32[5,3]
        %4 = call_function qcompile.xnor_matmul(%2, %3, 70, 1) : i32[3,5]
        return %4
    """
    check_rewrite(LowerBinaryLinear(), Net(of_signs, w=signs(5, 70)), expected, normal(3, 70))


def test_levels_0_and_1() -> None:
    expected = """
        %0 = placeholder x() : f32[3,31]
        %1 = call_function qcompile.quantize_unit(%0, 1) : u8[3,31]
        %2 = call_function qcompile.bitpack(%1) : i32[3,1]
        %3 = get_attr linear_default_bits() : i32[5,1]
        %4 = call_function qcompile.xnor_matmul(%2, %3, 31, 1) : i32[3,5]
        %5 = get_attr linear_default_weight_sum() : i32[5]
        %6 = call_function qcompile.zero_one(%4, %5) : i32[3,5]
        return %6
    """
    check_rewrite(LowerBinaryLinear(), Net(of_zero_one, w=signs(5, 31)), expected, normal(3, 31))


@pytest.mark.parametrize("k", [1, 31, 32, 33, 64, 100])
@pytest.mark.parametrize("forward", [of_signs, of_zero_one])
def test_any_length_gives_the_same_integers(k: int, forward: object) -> None:
    assert callable(forward)
    x = normal(4, k)
    before = converted(Net(forward, w=signs(6, k)), x)
    result = LowerBinaryLinear()(before)
    assert result.rewrote == ["linear_default"]
    assert_same_result(result.graph, before, x)


def test_more_dimensions_are_declined() -> None:
    reason = "its input has 3 dimensions, words are packed along the second"
    net = Net(of_signs, w=signs(5, 8))
    check_declines(LowerBinaryLinear(), net, normal(2, 3, 8), linear_default=reason)


def test_weights_or_levels_of_more_bits_are_ignored() -> None:
    x = normal(2, 8)
    check_ignores(LowerBinaryLinear(), Net(of_signs, w=levels(-1, 1, 5, 8)), x)
    two_bits = Net(
        lambda x, w: dialect.linear.default(dialect.quantize_unit.default(x, 2), w, 0),
        w=signs(5, 8),
    )
    check_ignores(LowerBinaryLinear(), two_bits, x)
