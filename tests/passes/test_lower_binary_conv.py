from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rewriting import assert_same_result, check_declines, check_ignores, check_rewrite, converted
from small_nets import Net, conv, levels, normal, signs
from torch import Tensor

from qcompile.ir.graph import calls
from qcompile.ir.stages import Stage, dialect
from qcompile.passes.lower_binary_conv import LowerBinaryConv


def test_signs_become_words_and_popcount() -> None:
    expected = """
        %0 = placeholder x() : f32[2,40,5,6]
        %1 = call_function qcompile.sign(%0) : i8[2,40,5,6]
        %2 = call_function qcompile.bitpack(%1) : i32[2,5,6,2]
        %3 = call_function qcompile.im2col(%2, 40, 1, [3, 3], [2, 2], [1, 1, 1, 1], [1, 1], -1) : i32[2,3,3,18]
        %4 = get_attr conv_default_bits() : i32[7,18]
        %5 = call_function qcompile.xnor_matmul(%3, %4, 360, 1) : i32[2,7,3,3]
        return %5
    """
    net = Net(
        lambda x, w: conv(dialect.sign.default(x), w, 2, 1, pad_value=-1), w=signs(7, 40, 3, 3)
    )
    after = check_rewrite(LowerBinaryConv(), net, expected, normal(2, 40, 5, 6))
    assert after.meta["stage"] is Stage.LOWERED
    assert not hasattr(after, "w")


def test_levels_0_and_1_pad_with_0_as_they_are() -> None:
    expected = """
        %0 = placeholder x() : f32[2,3,4]
        %1 = call_function qcompile.quantize_unit(%0, 1) : u8[2,3,4]
        %2 = call_function qcompile.bitpack(%1) : i32[2,4,1]
        %3 = call_function qcompile.im2col(%2, 3, 1, [3], [1], [1, 1], [1], -1) : i32[2,4,3]
        %4 = get_attr conv_default_bits() : i32[5,3]
        %5 = call_function qcompile.xnor_matmul(%3, %4, 9, 1) : i32[2,5,4]
        %6 = get_attr conv_default_weight_sum() : i32[5]
        %7 = call_function qcompile.zero_one(%5, %6) : i32[2,5,4]
        return %7
    """
    net = Net(lambda x, w: conv(dialect.quantize_unit.default(x, 1), w, 1, 1), w=signs(5, 3, 3))
    check_rewrite(LowerBinaryConv(), net, expected, normal(2, 3, 4))


@given(data=st.data())
def test_any_shape_gives_the_same_integers(data: st.DataObject) -> None:
    draw = data.draw
    rank = draw(st.integers(1, 3))
    groups, wide = draw(st.sampled_from([(1, 1), (1, 33), (1, 64), (2, 64), (3, 32)]))
    few = draw(st.integers(1, 4))
    channels = wide * groups if groups > 1 else wide
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    stride = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    dilation = draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank))
    padding = draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    size = [(k - 1) * d + draw(st.integers(1, 3)) for k, d in zip(kernel, dilation, strict=True)]
    low = draw(st.sampled_from([-1, 0]))
    pad_value = draw(st.sampled_from([low, 1]))

    def forward(x: Tensor, w: Tensor) -> Tensor:
        q = dialect.sign.default(x) if low else dialect.quantize_unit.default(x, 1)
        return dialect.conv.default(q, w, stride, padding, dilation, groups, 0, pad_value)

    x = normal(2, channels, *size)
    before = converted(Net(forward, w=signs(groups * few, channels // groups, *kernel)), x)
    result = LowerBinaryConv()(before)
    assert result.rewrote == ["conv_default"]
    assert_same_result(result.graph, before, x)


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        (4, "groups=4 leaves 16 channels a group, a word holds 32"),
        (64, "groups=64 leaves 1 channel a group, a word holds 32"),
    ],
)
def test_groups_that_share_a_word_are_declined(groups: int, reason: str) -> None:
    net = Net(
        lambda x, w: conv(dialect.sign.default(x), w, groups=groups),
        w=signs(64, 64 // groups, 3, 3),
    )
    check_declines(LowerBinaryConv(), net, normal(1, 64, 5, 5), conv_default=reason)


@pytest.mark.parametrize(
    ("bits", "pad_value", "reason"),
    [
        (None, 0, "pads with 0, which is none of its levels -1 and 1"),
        (1, -1, "pads with -1, which is none of its levels 0 and 1"),
    ],
)
def test_padding_that_is_no_level_is_declined(
    bits: int | None, pad_value: int, reason: str
) -> None:
    def forward(x: Tensor, w: Tensor) -> Tensor:
        q = dialect.quantize_unit.default(x, bits) if bits else dialect.sign.default(x)
        return conv(q, w, 1, 1, pad_value=pad_value)

    check_declines(
        LowerBinaryConv(), Net(forward, w=signs(2, 3, 3)), normal(1, 3, 5), conv_default=reason
    )


def test_weights_or_levels_of_more_bits_are_ignored() -> None:
    x = normal(1, 3, 5)
    ternary = Net(lambda x, w: conv(dialect.sign.default(x), w), w=levels(-1, 1, 4, 3, 3))
    check_ignores(LowerBinaryConv(), ternary, x)
    wide = Net(lambda x, w: conv(dialect.quantize_unit.default(x, 2), w), w=signs(2, 3, 3))
    check_ignores(LowerBinaryConv(), wide, x)
    affine = Net(lambda x, w: conv(dialect.quantize.default(x, 0.5, 0, -7, 7), w), w=signs(2, 3, 3))
    check_ignores(LowerBinaryConv(), affine, x)


def test_one_input_of_two_layers_stays_one() -> None:
    def forward(x: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        q = dialect.sign.default(x)
        return conv(q, v), conv(q, w)

    x = normal(2, 3, 5, 5)
    before = converted(Net(forward, v=signs(4, 3, 3, 3), w=levels(-3, 3, 4, 3, 3, 3)), x)
    result = LowerBinaryConv()(before)
    assert result.rewrote == ["conv_default"]
    kinds = [n.target for n in result.graph.graph.nodes if calls(n, n.target)]
    assert kinds.count(dialect.sign.default) == kinds.count(dialect.conv.default) == 1
    assert_same_result(result.graph, before, x)


def test_negative_zero_and_nan_pack_as_sign_reads_them() -> None:
    x = torch.tensor([0.0, -0.0, float("nan"), 1e-45]).reshape(1, 4, 1)
    before = converted(Net(lambda x, w: conv(dialect.sign.default(x), w), w=signs(3, 4, 1)), x)
    assert_same_result(LowerBinaryConv()(before).graph, before, x)
