from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from rewriting import assert_same_result, check_declines, check_ignores, check_rewrite, staged
from small_nets import Net, conv, normal, signs
from torch import Tensor
from torch.fx import GraphModule

from qcompile.ir.graph import calls, constant_of
from qcompile.ir.ops import pack_words
from qcompile.ir.stages import Stage, aten, dialect
from qcompile.passes.commute_maxpool import CommuteMaxpool
from qcompile.passes.one_bit import argument

POOLS = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
HUGE = 3e38


def lowered(net: Net, x: Tensor) -> GraphModule:
    return staged(Stage.LOWERED, net, x)


def test_signs_are_pooled() -> None:
    expected = """
        %0 = placeholder x() : f32[2,3,7]
        %1 = call_function qcompile.sign(%0) : i8[2,3,7]
        %2 = get_attr w() : i8[4,3,1]
        %3 = call_function qcompile.conv(%1, %2, [1], [0, 0], [1], 1, 0, 0) : i32[2,4,7]
        %4 = get_attr m() : f32[4]
        %5 = get_attr n() : f32[4]
        %6 = call_function qcompile.scale_shift(%3, %4, None) : f32[2,4,7]
        %7 = call_function qcompile.scale_shift(%6, %5, None) : f32[2,4,7]
        %8 = call_function qcompile.sign(%7) : i8[2,4,7]
        %9 = call_function qcompile.bitpack(%8) : i32[2,7,1]
        %10 = get_attr max_pool1d_default_any_mask() : i32[1]
        %11 = call_function qcompile.bit_maxpool(%9, %10, [3], [2], [1, 1], [1], False) : i32[2,4,1]
        return %11
    """

    def forward(x: Tensor, w: Tensor, m: Tensor, n: Tensor) -> Tensor:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, None)
        y = aten.max_pool1d.default(y, [3], [2], [1])
        return dialect.bitpack.default(
            dialect.sign.default(dialect.scale_shift.default(y, n, None))
        )

    n = torch.tensor([1.0, -1.0, 0.0, -0.5])
    net = lowered(Net(forward, w=signs(4, 3, 1), m=torch.ones(4), n=n), normal(2, 3, 7))
    after = check_rewrite(CommuteMaxpool(), net, expected, normal(2, 3, 7))
    [pool] = [node for node in after.graph.nodes if calls(node, dialect.bit_maxpool.default)]
    mask = constant_of(after, argument(pool, 1))
    assert mask is not None
    assert torch.equal(mask, pack_words(torch.tensor([True, False, True, False])))


@given(data=st.data())
def test_any_pooling_gives_the_same_bits(data: st.DataObject) -> None:
    draw = data.draw
    rank = draw(st.integers(1, 3))
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    stride = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    dilation = draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank))
    size = [(k - 1) * d + draw(st.integers(1, 4)) for k, d in zip(kernel, dilation, strict=True)]
    ceil_mode, low, seed = draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 99))

    def forward(x: Tensor, w: Tensor, m: Tensor, b: Tensor, n: Tensor, c: Tensor) -> Tensor:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, b)
        y = POOLS[rank - 1](y, kernel, stride, padding, dilation, ceil_mode)
        y = dialect.scale_shift.default(aten.hardtanh.default(y), n, c)
        q = dialect.quantize_unit.default(y, 1) if low else dialect.sign.default(y)
        return dialect.bitpack.default(q)

    constants = {name: normal(40, seed=seed + i) for i, name in enumerate("mbnc")}
    x = normal(2, 5, *size, seed=seed)
    before = lowered(Net(forward, w=signs(40, 5, *[1] * rank, seed=seed), **constants), x)
    result = CommuteMaxpool()(before)
    assert len(result.rewrote) == 1
    assert not any(calls(n, *POOLS) for n in result.graph.graph.nodes)
    assert_same_result(result.graph, before, x)


def test_one_number_for_all_dimensions_and_no_stride() -> None:
    def forward(x: Tensor, w: Tensor, m: Tensor) -> Tensor:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, None)
        y = aten.max_pool2d.default(y, [2])
        return dialect.bitpack.default(dialect.sign.default(y))

    x = normal(2, 3, 5, 6)
    before = lowered(Net(forward, w=signs(4, 3, 1, 1), m=normal(4)), x)
    result = CommuteMaxpool()(before)
    [pool] = [n for n in result.graph.graph.nodes if calls(n, dialect.bit_maxpool.default)]
    assert pool.args[2:] == ([2, 2], [2, 2], [0, 0, 0, 0], [1, 1], False)
    assert_same_result(result.graph, before, x)


@given(seed=st.integers(0, 99))
def test_two_poolings_each_with_its_own_direction(seed: int) -> None:
    def forward(x: Tensor, w: Tensor, m: Tensor, n: Tensor, p: Tensor) -> Tensor:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, None)
        y = aten.max_pool1d.default(y, [2], [1])
        y = aten.max_pool1d.default(dialect.scale_shift.default(y, n, p), [3], [2])
        return dialect.bitpack.default(dialect.sign.default(dialect.scale_shift.default(y, p, n)))

    constants = {name: normal(33, seed=seed + i) for i, name in enumerate("mnp")}
    x = normal(2, 5, 9, seed=seed)
    before = lowered(Net(forward, w=signs(33, 5, 1, seed=seed), **constants), x)
    result = CommuteMaxpool()(before)
    assert sum(calls(n, dialect.bit_maxpool.default) for n in result.graph.graph.nodes) == 2
    assert_same_result(result.graph, before, x)


def pooled(before_pool: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        y = aten.max_pool2d.default(before_pool(x), [2, 2])
        return dialect.bitpack.default(dialect.sign.default(y))

    return forward


def test_a_float_map_is_declined() -> None:
    reason = "max_pool stays on floats: aten.abs.default is no integer accumulator"
    net = lowered(Net(pooled(aten.abs.default)), normal(1, 3, 4, 4))
    check_declines(CommuteMaxpool(), net, bitpack_default=reason)


def test_the_input_of_the_network_is_declined() -> None:
    reason = "max_pool stays on floats: the input x is no integer accumulator"
    net = lowered(Net(pooled(aten.relu.default)), normal(1, 3, 4, 4))
    check_declines(CommuteMaxpool(), net, bitpack_default=reason)


def test_a_map_that_a_shortcut_reads_as_floats_is_declined() -> None:
    def forward(x: Tensor, w: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, None)
        y = aten.max_pool1d.default(y, [2])
        bits = dialect.bitpack.default(dialect.sign.default(aten.hardtanh.default(y)))
        return bits, aten.abs.default(aten.relu.default(y))

    net = lowered(Net(forward, w=signs(2, 3, 1), m=normal(2)), normal(1, 3, 6))
    reason = "max_pool stays on floats: a layer reads what it gives as floats"
    check_declines(CommuteMaxpool(), net, bitpack_default=reason)


def test_a_map_that_two_quantizers_read_is_pooled_as_signs() -> None:
    def forward(x: Tensor, w: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, None)
        y = aten.max_pool1d.default(y, [2])
        one = dialect.bitpack.default(dialect.sign.default(aten.hardtanh.default(y)))
        return one, dialect.bitpack.default(dialect.quantize_unit.default(y, 1))

    x = normal(1, 3, 6)
    before = lowered(Net(forward, w=signs(2, 3, 1), m=normal(2)), x)
    result = CommuteMaxpool()(before)
    assert len(result.rewrote) == 2
    assert_same_result(result.graph, before, x)


def test_an_overflow_to_nan_is_declined() -> None:
    def forward(x: Tensor, w: Tensor, m: Tensor, n: Tensor) -> Tensor:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, None)
        y = aten.max_pool1d.default(y, [2])
        return dialect.bitpack.default(
            dialect.sign.default(dialect.scale_shift.default(y, n, None))
        )

    net = Net(forward, w=signs(2, 3, 3), m=torch.tensor([1.0, HUGE]), n=torch.zeros(2))
    reason = "max_pool stays on floats: what stands around it overflows to NaN"
    check_declines(CommuteMaxpool(), lowered(net, normal(1, 3, 6)), bitpack_default=reason)


ALL_PADDING = "max_pool stays on floats: a pooling window lies wholly in the padding"


def windows_at_the_edge(*arguments: object) -> Net:
    """Signs that fall with what is pooled, after `arguments` for max_pool2d."""

    def forward(x: Tensor, w: Tensor, m: Tensor, n: Tensor) -> Tensor:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, None)
        y = aten.max_pool2d.default(y, *arguments)
        return dialect.bitpack.default(
            dialect.sign.default(dialect.scale_shift.default(y, n, None))
        )

    return Net(forward, w=signs(4, 3, 1, 1), m=torch.ones(4), n=-torch.ones(4))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_a_window_of_nothing_but_padding_is_declined(size: tuple[int, int]) -> None:
    net = windows_at_the_edge([2, 2], [1, 1], [1, 1], [2, 2])
    check_declines(CommuteMaxpool(), lowered(net, normal(1, 3, *size)), bitpack_default=ALL_PADDING)


@given(data=st.data())
def test_exactly_the_windows_that_torch_finds_empty_are_declined(data: st.DataObject) -> None:
    def pair(least: int, most: int) -> list[int]:
        return data.draw(st.lists(st.integers(least, most), min_size=2, max_size=2))

    size, kernel, stride, dilation = pair(1, 6), pair(1, 4), pair(1, 3), pair(1, 4)
    padding = [data.draw(st.integers(0, k // 2)) for k in kernel]
    geometry = zip(size, kernel, padding, dilation, strict=True)
    assume(all(n + 2 * p > d * (k - 1) for n, k, p, d in geometry))
    arguments = (kernel, stride, padding, dilation, data.draw(st.booleans()))
    empty = bool(aten.max_pool2d.default(torch.zeros(1, 1, *size), *arguments).isinf().any())
    x = normal(2, 3, *size)
    before = lowered(windows_at_the_edge(*arguments), x)
    result = CommuteMaxpool()(before)
    assert bool(result.rewrote) is not empty
    assert_same_result(result.graph, before, x)


@pytest.mark.parametrize("step", [aten.relu.default, lambda x: x])
def test_signs_without_pooling_are_ignored(step: Callable[[Tensor], Tensor]) -> None:
    net = Net(lambda x: dialect.bitpack.default(dialect.sign.default(step(x))))
    check_ignores(CommuteMaxpool(), lowered(net, normal(1, 3, 4)))


def test_levels_that_are_not_packed_are_ignored() -> None:
    def forward(x: Tensor, w: Tensor, m: Tensor) -> Tensor:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, None)
        return dialect.sign.default(aten.max_pool1d.default(y, [2]))

    net = Net(forward, w=signs(4, 3, 3), m=normal(4))
    check_ignores(CommuteMaxpool(), lowered(net, normal(1, 3, 6)))


def test_floats_before_the_pooling_may_have_other_users() -> None:
    def forward(x: Tensor, w: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, m)
        return dialect.bitpack.default(dialect.sign.default(aten.max_pool1d.default(y, [2]))), y

    x = normal(2, 3, 8)
    before = lowered(Net(forward, w=signs(4, 3, 3), m=normal(4)), x)
    result = CommuteMaxpool()(before)
    assert result.rewrote == ["bitpack_default"]
    assert_same_result(result.graph, before, x)
