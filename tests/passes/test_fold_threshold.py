from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rewriting import (
    assert_same_result,
    check_declines,
    check_ignores,
    check_rewrite,
    converted,
    staged,
)
from small_nets import Net, conv, levels, normal, signs
from torch import Tensor

from qcompile.ir.graph import calls, constant_of
from qcompile.ir.ops import INT32_MAX, INT32_MIN
from qcompile.ir.stages import Stage, aten, dialect
from qcompile.passes.fold_threshold import FoldThreshold, thresholds
from qcompile.passes.one_bit import argument

INF, NAN = float("inf"), float("nan")
SUBNORMAL, HUGE = 1e-42, 3e38


def test_batchnorm_and_sign_become_a_threshold() -> None:
    expected = """
        %0 = placeholder x() : f32[2,3,5]
        %1 = call_function qcompile.sign(%0) : i8[2,3,5]
        %2 = get_attr w() : i8[4,3,3]
        %3 = call_function qcompile.conv(%1, %2, [1], [0, 0], [1], 1, 0, 0) : i32[2,4,3]
        %4 = get_attr sign_default_1_tau() : i32[4]
        %5 = get_attr sign_default_1_direction() : i32[4]
        %6 = call_function qcompile.threshold(%3, %4, %5, -1) : i8[2,4,3]
        return %6
    """

    def forward(x: Tensor, w: Tensor, m: Tensor, b: Tensor, n: Tensor) -> Tensor:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, None)
        return dialect.sign.default(dialect.scale_shift.default(aten.relu.default(y), n, b))

    net = Net(forward, w=signs(4, 3, 3), m=normal(4), n=normal(4, seed=5), b=normal(4, seed=9))
    check_rewrite(FoldThreshold(), net, expected, normal(2, 3, 5))


def test_a_quantizer_of_levels_0_and_1_becomes_a_threshold() -> None:
    expected = """
        %0 = placeholder x() : f32[2,9]
        %1 = call_function qcompile.quantize(%0, 0.25, 3, 0, 15) : u8[2,9]
        %2 = get_attr w() : i8[4,9]
        %3 = call_function qcompile.linear(%1, %2, 3) : i32[2,4]
        %4 = get_attr quantize_unit_default_tau() : i32[4]
        %5 = get_attr quantize_unit_default_direction() : i32[4]
        %6 = call_function qcompile.threshold(%3, %4, %5, 0) : u8[2,4]
        return %6
    """

    def forward(x: Tensor, w: Tensor, m: Tensor, b: Tensor) -> Tensor:
        acc = dialect.linear.default(dialect.quantize.default(x, 0.25, 3, 0, 15), w, 3)
        return dialect.quantize_unit.default(dialect.scale_shift.default(acc, m, b), 1)

    net = Net(forward, w=levels(-7, 7, 4, 9), m=normal(4) * 0.1, b=normal(4, seed=3))
    check_rewrite(FoldThreshold(), net, expected, normal(2, 9))


def test_an_accumulator_that_is_flattened_after_all() -> None:
    expected = """
        %0 = placeholder x() : f32[2,3,2]
        %1 = call_function qcompile.sign(%0) : i8[2,3,2]
        %2 = get_attr w() : i8[4,3,2]
        %3 = call_function qcompile.conv(%1, %2, [1], [0, 0], [1], 1, 0, 0) : i32[2,4,1]
        %4 = get_attr sign_default_1_tau() : i32[4]
        %5 = get_attr sign_default_1_direction() : i32[4]
        %6 = call_function qcompile.threshold(%3, %4, %5, -1) : i8[2,4,1]
        %7 = call_function aten.flatten.using_ints(%6, 1) : i8[2,4]
        return %7
    """

    def forward(x: Tensor, w: Tensor, m: Tensor) -> Tensor:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, m)
        return dialect.sign.default(aten.flatten.using_ints(y, 1))

    check_rewrite(
        FoldThreshold(), Net(forward, w=signs(4, 3, 2), m=normal(4)), expected, normal(2, 3, 2)
    )


# --- the thresholds themselves, against every integer ----------------------------------------------


def folded(
    chain: Callable[..., Tensor], k: int, stage: Stage = Stage.CONVERTED, **constants: Tensor
) -> Tensor:
    """Fold `chain` after a dot product of k signs; check it against every integer in between.

    An input column of j ones and k - j minus ones, with weights of ones, makes the integer 2j - k.
    Returns tau.
    """
    channels = max(c.numel() for c in constants.values())

    def forward(x: Tensor, w: Tensor, **rest: Tensor) -> Tensor:
        return chain(dialect.linear.default(dialect.sign.default(x), w, 0), **rest)

    net = Net(forward, w=torch.ones(channels, k, dtype=torch.int8), **constants)
    x = torch.where(torch.arange(k) < torch.arange(k + 1)[:, None], 1.0, -1.0)
    before = staged(stage, net, x)
    result = FoldThreshold()(before)
    assert len(result.rewrote) == 1, result.declined
    assert_same_result(result.graph, before, x)
    [node] = [n for n in result.graph.graph.nodes if calls(n, dialect.threshold.default)]
    tau = constant_of(result.graph, argument(node, 1))
    assert tau is not None
    assert calls(argument(node), dialect.linear.default)
    return tau


def sign_of(acc: Tensor, m: Tensor, b: Tensor) -> Tensor:
    return dialect.sign.default(dialect.scale_shift.default(acc, m, b))


def unit_of(acc: Tensor, m: Tensor, b: Tensor) -> Tensor:
    return dialect.quantize_unit.default(dialect.scale_shift.default(acc, m, b), 1)


@pytest.mark.parametrize("chain", [sign_of, unit_of])
def test_every_kind_of_scale_and_shift(chain: Callable[..., Tensor]) -> None:
    kinds = [0.0, -0.0, 1.0, -1.0, 0.1, -0.1, 0.5, SUBNORMAL, -SUBNORMAL, HUGE, -HUGE, 1e-3]
    m = torch.tensor(kinds).repeat_interleave(len(kinds))
    b = torch.tensor(kinds).repeat(len(kinds))
    folded(chain, 40, m=m, b=b)


def test_a_zero_scale_and_a_threshold_out_of_reach_give_constants() -> None:
    tau = folded(
        sign_of, 9, m=torch.tensor([0.0, 0.0, 1.0, 1.0]), b=torch.tensor([0.5, -0.5, 100.0, -100.0])
    )
    assert tau.tolist() == [INT32_MIN, INT32_MAX, INT32_MIN, INT32_MAX]


def test_the_threshold_is_where_float32_says_not_where_the_formula_says() -> None:
    m, b = torch.tensor([0.1]), torch.tensor([-0.3])
    assert (-b.double() / m.double()).ceil() == 4  # 3 * m + b is below 0
    assert 3 * m + b == 0  # and rounds to 0
    assert folded(sign_of, 9, m=m, b=b).tolist() == [3]


def through(*steps: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def chain(acc: Tensor, m: Tensor, b: Tensor, n: Tensor, c: Tensor) -> Tensor:
        y = dialect.scale_shift.default(acc, m, b)
        for step in steps:
            y = step(y)
        return dialect.sign.default(dialect.scale_shift.default(y, n, c))

    return chain


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [aten.relu.default],
        [aten.neg.default],
        [lambda y: aten.hardtanh.default(y)],
        [lambda y: aten.hardtanh.default(y, 0.0, 6.0)],
        [lambda y: aten.hardtanh.default(y, -INF, 1.0)],
        [lambda y: aten.leaky_relu.default(y)],
        [lambda y: aten.leaky_relu.default(y, 0.0), aten.relu.default],
        [lambda y: aten.add.Scalar(y, 0.25), lambda y: aten.mul.Scalar(y, -3)],
    ],
)
@given(seed=st.integers(0, 1000), k=st.integers(1, 70))
def test_every_monotone_op(steps: list[Callable[[Tensor], Tensor]], seed: int, k: int) -> None:
    size = 8
    folded(
        through(*steps),
        k,
        m=normal(size, seed=seed),
        b=normal(size, seed=seed + 1) * 3,
        n=normal(size, seed=seed + 2),
        c=normal(size, seed=seed + 3),
    )


@given(seed=st.integers(0, 1000))
def test_prelu_with_a_slope_for_each_channel(seed: int) -> None:
    def chain(acc: Tensor, m: Tensor, b: Tensor, slope: Tensor) -> Tensor:
        y = aten.prelu.default(dialect.scale_shift.default(acc, m, None), slope)
        return dialect.sign.default(dialect.scale_shift.default(y, m, b))

    slope = normal(6, seed=seed + 2).abs()
    folded(chain, 20, m=normal(6, seed=seed), b=normal(6, seed=seed + 1), slope=slope)
    folded(chain, 20, m=normal(6, seed=seed), b=normal(6, seed=seed + 1), slope=slope[:1])


@given(seed=st.integers(0, 1000))
def test_zero_one_folds_too(seed: int) -> None:
    def chain(acc: Tensor, total: Tensor, m: Tensor, b: Tensor) -> Tensor:
        y = dialect.scale_shift.default(dialect.zero_one.default(acc, total), m, b)
        return dialect.quantize_unit.default(y, 1)

    total = levels(-9, 9, 6, seed=seed).to(torch.int32)
    m, b = normal(6, seed=seed), normal(6, seed=seed + 1)
    folded(chain, 9, stage=Stage.LOWERED, total=total, m=m, b=b)


@given(data=st.data())
def test_bisection_finds_every_step(data: st.DataObject) -> None:
    low = data.draw(st.integers(-INT32_MAX, INT32_MAX))
    high = data.draw(st.integers(low, INT32_MAX))
    step = data.draw(st.integers(max(low - 1, -INT32_MAX), min(high + 2, INT32_MAX)))
    for rises in (True, False):
        f = lambda a, rises=rises: torch.where((a >= step) == rises, 1, -1)
        tau, direction = thresholds(f, torch.tensor([low]), torch.tensor([high]))
        near = [a for a in (low, high, step - 1, step, step + 1) if low <= a <= high]
        a = torch.tensor(near, dtype=torch.int32)[:, None]
        assert torch.equal(dialect.threshold.default(a, tau, direction, -1), f(a).to(torch.int8))


# --- where it goes ---------------------------------------------------------------------------------


def test_other_users_keep_the_float_path() -> None:
    def forward(x: Tensor, w: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, m)
        return dialect.sign.default(y), aten.relu.default(y)

    x = normal(2, 3, 5)
    before = converted(Net(forward, w=signs(4, 3, 3), m=normal(4)), x)
    result = FoldThreshold()(before)
    assert result.rewrote == ["sign_default_1"]
    assert any(calls(n, dialect.scale_shift.default) for n in result.graph.graph.nodes)
    assert_same_result(result.graph, before, x)


def test_a_layer_of_more_bits_may_use_the_levels() -> None:
    def forward(x: Tensor, w: Tensor, v: Tensor, m: Tensor) -> Tensor:
        acc = conv(dialect.sign.default(x), w)
        q = dialect.quantize_unit.default(dialect.scale_shift.default(acc, m, m), 1)
        return conv(q, v, padding=1)

    x = normal(2, 3, 7)
    before = converted(Net(forward, w=signs(4, 3, 3), v=levels(-7, 7, 5, 4, 3), m=normal(4)), x)
    result = FoldThreshold()(before)
    assert result.rewrote == ["quantize_unit_default"]
    assert_same_result(result.graph, before, x)


@pytest.mark.parametrize("value", [INF, -INF, NAN])
def test_a_scale_that_is_not_finite_is_declined(value: float) -> None:
    net = Net(
        lambda x, w, m: sign_of(conv(dialect.sign.default(x), w), m, m),
        w=signs(2, 3, 3),
        m=torch.tensor([1.0, value]),
    )
    reason = "stays on floats: a scale or shift in front of it is not finite"
    check_declines(FoldThreshold(), net, normal(1, 3, 5), sign_default_1=reason)


def test_an_overflow_to_nan_is_declined() -> None:
    def forward(x: Tensor, w: Tensor, m: Tensor, n: Tensor) -> Tensor:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, None)
        return dialect.sign.default(dialect.scale_shift.default(y, n, None))

    net = Net(forward, w=signs(2, 3, 3), m=torch.tensor([1.0, HUGE]), n=torch.zeros(2))
    reason = "stays on floats: what stands in front of it overflows to NaN"
    check_declines(FoldThreshold(), net, normal(1, 3, 5), sign_default_1=reason)


@pytest.mark.parametrize("slope", [-0.5, NAN, INF])
def test_a_negative_slope_is_declined(slope: float) -> None:
    def forward(x: Tensor, w: Tensor, m: Tensor) -> Tensor:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, m)
        return dialect.sign.default(aten.leaky_relu.default(y, slope))

    reason = "stays on floats: a negative slope in front of it is not monotone"
    net = Net(forward, w=signs(2, 3, 3), m=normal(2))
    check_declines(FoldThreshold(), net, normal(1, 3, 5), sign_default_1=reason)


def test_a_negative_slope_of_one_channel_is_declined() -> None:
    def forward(x: Tensor, w: Tensor, m: Tensor, slope: Tensor) -> Tensor:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, m)
        return dialect.sign.default(aten.prelu.default(y, slope))

    reason = "stays on floats: a negative slope in front of it is not monotone"
    net = Net(forward, w=signs(2, 3, 3), m=normal(2), slope=torch.tensor([0.5, -0.5]))
    check_declines(FoldThreshold(), net, normal(1, 3, 5), sign_default_1=reason)


def test_what_leads_to_no_accumulator_is_ignored() -> None:
    x = normal(1, 3, 5)
    check_ignores(FoldThreshold(), Net(lambda x: dialect.sign.default(aten.relu.default(x))), x)

    def residual(x: Tensor, w: Tensor, m: Tensor) -> Tensor:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w, 1, 1), m, m)
        return dialect.sign.default(aten.add.Tensor(y, x))

    check_ignores(FoldThreshold(), Net(residual, w=signs(3, 3, 3), m=normal(3)), x)


def test_quantizers_of_more_bits_are_ignored() -> None:
    def forward(x: Tensor, w: Tensor, m: Tensor) -> Tensor:
        y = dialect.scale_shift.default(conv(dialect.sign.default(x), w), m, m)
        return dialect.quantize_unit.default(y, 2)

    check_ignores(FoldThreshold(), Net(forward, w=signs(2, 3, 3), m=normal(2)), normal(1, 3, 5))
