from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from rewriting import assert_same_result, check_ignores, check_rewrite, converted
from small_nets import Net, conv, levels, normal, signs
from torch import Tensor

from qcompile.ir.borders import border_table
from qcompile.ir.graph import constant_of
from qcompile.ir.stages import dialect
from qcompile.passes.correct_zero_padding import CorrectZeroPadding


def test_3x3_with_padding_1_has_nine_classes() -> None:
    expected = """
        %0 = placeholder x() : f32[2,3,5,6]
        %1 = call_function qcompile.sign(%0) : i8[2,3,5,6]
        %2 = get_attr w() : i8[4,3,3,3]
        %3 = call_function qcompile.conv(%1, %2, [1, 1], [1, 1, 1, 1], [1, 1], 1, 0, 1) : i32[2,4,5,6]
        %4 = get_attr conv_default_border_class() : i64[5]
        %5 = get_attr conv_default_border_class_1() : i64[6]
        %6 = get_attr conv_default_border_table() : i32[4,3,3]
        %7 = call_function qcompile.border_correction(%3, %6, [%4, %5]) : i32[2,4,5,6]
        return %7
    """
    net = Net(lambda x, w: conv(dialect.sign.default(x), w, 1, 1), w=signs(4, 3, 3, 3))
    after = check_rewrite(CorrectZeroPadding(), net, expected, normal(2, 3, 5, 6))
    nodes = list(after.graph.nodes)
    rows, table = constant_of(after, nodes[4]), constant_of(after, nodes[6])
    assert rows is not None
    assert table is not None
    assert len(rows.unique()) == 3
    assert rows[0] not in rows[1:]
    assert rows[-1] not in rows[:-1]
    middle = rows[1]
    assert (table[:, middle, middle] == 0).all()


@given(data=st.data())
def test_any_window_gives_the_same_integers(data: st.DataObject) -> None:
    """Stride, dilation, even kernels, uneven padding, kernels larger than the image, groups."""
    draw = data.draw
    rank = draw(st.integers(1, 3))

    def many(low: int, high: int, count: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    size, kernel = many(1, 6, rank), many(1, 4, rank)
    stride, dilation, padding = many(1, 3, rank), many(1, 3, rank), many(0, 5, 2 * rank)
    for d in range(rank):  # at least one position
        missing = (kernel[d] - 1) * dilation[d] + 1 - size[d] - sum(padding[2 * d : 2 * d + 2])
        padding[2 * d] += max(missing, 0)
    groups = draw(st.sampled_from([1, 2]))
    channels = 32 if groups == 2 else 2

    def forward(x: Tensor, w: Tensor) -> Tensor:
        q = dialect.sign.default(x)
        return dialect.conv.default(q, w, stride, padding, dilation, groups, 0, 0)

    x = normal(2, channels * groups, *size)
    before = converted(Net(forward, w=signs(2 * groups, channels, *kernel)), x)
    result = CorrectZeroPadding()(before)
    assert result.rewrote == (["conv_default"] if any(padding) else [])
    assert_same_result(result.graph, before, x)


def test_the_table_is_what_convolving_the_border_gives() -> None:
    """An image of zeros padded with ones shows the weight beyond the border at each position."""
    w = signs(3, 2, 2, 4)
    size, stride, padding, dilation = [3, 5], [2, 1], [1, 2, 3, 0], [1, 2]
    table, (rows, columns) = border_table(w, size, stride, padding, dilation)
    zeros = torch.zeros(1, 2, *size, dtype=torch.int8)
    border = dialect.conv.default(zeros, w, stride, padding, dilation, 1, 0, 1)
    assert torch.equal(table[:, rows[:, None], columns], border[0])


def test_what_needs_no_correction_is_ignored() -> None:
    x, w = normal(1, 3, 5, 5), signs(4, 3, 3, 3)
    unpadded = Net(lambda x, w: conv(dialect.sign.default(x), w), w=w)
    check_ignores(CorrectZeroPadding(), unpadded, x)
    with_ones = Net(lambda x, w: conv(dialect.sign.default(x), w, 1, 1, pad_value=1), w=w)
    check_ignores(CorrectZeroPadding(), with_ones, x)
    zero_one = Net(lambda x, w: conv(dialect.quantize_unit.default(x, 1), w, 1, 1), w=w)
    check_ignores(CorrectZeroPadding(), zero_one, x)


def test_what_stays_int8_is_ignored() -> None:
    x = normal(1, 4, 5, 5)
    ternary = Net(lambda x, w: conv(dialect.sign.default(x), w, 1, 1), w=levels(-1, 1, 4, 4, 3, 3))
    check_ignores(CorrectZeroPadding(), ternary, x)
    grouped = Net(
        lambda x, w: conv(dialect.sign.default(x), w, 1, 1, groups=2), w=signs(4, 2, 3, 3)
    )
    check_ignores(CorrectZeroPadding(), grouped, x)
