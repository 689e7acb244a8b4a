"""Each op's reference against an independent formulation: loops over integers, or torch's own ops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from small_nets import levels, normal, signs
from torch import Tensor

from qcompile.ir import ops
from qcompile.ir.stages import CONVERTED_OPS, LOWERED_OPS, dialect

INF, NAN = float("inf"), float("nan")


def bits_of(words: list[int], channels: int) -> list[int]:
    """The first bits of int32 words, by Python's integers."""
    return [(words[c // 32] % 2**32 >> c % 32) & 1 for c in range(channels)]


# --- floats to levels ------------------------------------------------------------------------------


def test_sign_is_plus_one_at_both_zeros_and_minus_one_at_nan() -> None:
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-45, INF, -INF, NAN])
    assert dialect.sign.default(x).tolist() == [1, 1, 1, -1, 1, -1, -1]


@pytest.mark.parametrize(
    ("qmin", "qmax", "dtype"),
    [(0, 255, torch.uint8), (0, 3, torch.uint8), (-127, 127, torch.int8), (-1, 1, torch.int8)],
)
def test_quantize_is_torchs_quantizer(qmin: int, qmax: int, dtype: torch.dtype) -> None:
    x = torch.cat([normal(500) * 40, torch.tensor([-0.25, 0.25, 0.75, 1.25, 1e9, -1e9])])
    scale, zero_point = 0.5, (qmin + qmax) // 2
    q = dialect.quantize.default(x, scale, zero_point, qmin, qmax)
    assert q.dtype == dtype
    there_and_back = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, qmin, qmax)
    assert torch.equal((q.float() - zero_point) * scale, there_and_back)


@pytest.mark.parametrize("bits", range(1, 9))
def test_quantize_unit_rounds_to_even(bits: int) -> None:
    top = 2**bits - 1
    x = torch.cat([normal(500), torch.tensor([0.0, 1.0, 0.5, 2.0, -INF, INF])])
    wanted = [round(min(max(v, 0.0), 1.0) * top) for v in x.double().tolist()]
    q = dialect.quantize_unit.default(x, bits)
    assert q.dtype == torch.uint8
    assert q.tolist() == wanted
    if bits == 1:
        assert dialect.quantize_unit.default(torch.tensor([0.5]), 1).item() == 0


# --- integer arithmetic ----------------------------------------------------------------------------


def shapes(draw: st.DrawFn) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Size, kernel, stride, padding, dilation with at least one position."""
    rank = draw(st.integers(1, 3))
    many = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    kernel, stride, dilation = draw(many), draw(many), draw(many)
    padding = draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    size = [
        max(1, (kernel[d] - 1) * dilation[d] + 1 - sum(padding[2 * d : 2 * d + 2]))
        + draw(st.integers(0, 3))
        for d in range(rank)
    ]
    return size, kernel, stride, padding, dilation


SHAPES = st.composite(shapes)()


@given(shape=SHAPES, groups=st.sampled_from([1, 2]), zero_point=st.sampled_from([0, 7]))
def test_conv_is_a_sum_over_taps(
    shape: tuple[list[int], ...], groups: int, zero_point: int
) -> None:
    size, kernel, stride, padding, dilation = shape
    x, w = levels(0, 15, 1, 2 * groups, *size), levels(-7, 7, 2 * groups, 2, *kernel)
    got = dialect.conv.default(x, w, stride, padding, dilation, groups, zero_point, 1)
    out = ops.output_size(size, kernel, stride, padding, dilation)
    assert got.dtype == torch.int32
    assert got.shape == (1, 2 * groups, *out)
    at = [n - 1 for n in out]  # the last position of the last channel
    total = 0
    for c, tap in itertools.product(range(2), itertools.product(*map(range, kernel))):
        place = [
            at[d] * stride[d] + tap[d] * dilation[d] - padding[2 * d] for d in range(len(size))
        ]
        inside = all(0 <= p < n for p, n in zip(place, size, strict=True))
        channel = 2 * (groups - 1) + c
        level = int(x[(0, channel, *place)]) - zero_point if inside else 1
        total += level * int(w[(-1, c, *tap)])
    assert int(got[(0, -1, *at)]) == total


def test_conv_and_linear_are_exact_beyond_24_bits() -> None:
    x = torch.full((1, 3000), 255, dtype=torch.uint8)
    w = torch.full((1, 3000), 127, dtype=torch.int8)
    w[0, 0] = 126
    wanted = 255 * (127 * 3000 - 1)
    assert wanted > 2**24
    assert dialect.linear.default(x, w, 0).item() == wanted
    conv = dialect.conv.default(x[:, :, None], w[:, :, None], [1], [0, 0], [1], 1, 0, 0)
    assert conv.item() == wanted


def test_linear_takes_the_zero_point_away() -> None:
    x, w = levels(0, 15, 3, 20), levels(-7, 7, 4, 20)
    wanted = (x.long() - 5) @ w.long().T
    got = dialect.linear.default(x, w, 5)
    assert got.dtype == torch.int32
    assert torch.equal(got.long(), wanted)


def test_scale_shift_rounds_twice() -> None:
    """(2^12 + 1)^2 needs 25 bits: its last one is lost before the sum, not in it."""
    x, scale = torch.tensor([[4097]], dtype=torch.int32), torch.tensor([4097.0])
    shift = torch.tensor([-16785408.0])
    assert 4097 * 4097 - 16785408 == 1
    assert dialect.scale_shift.default(x, scale, shift).item() == 0.0


def test_scale_shift_is_by_channel() -> None:
    x, scale, shift = normal(2, 3, 4, 5), normal(3), normal(3, seed=2)
    wanted = torch.stack([x[:, c] * scale[c] + shift[c] for c in range(3)], dim=1)
    assert torch.equal(dialect.scale_shift.default(x, scale, shift), wanted)
    without = dialect.scale_shift.default(x, scale[:1], None)
    assert torch.equal(without, x * scale[0])


def test_scale_shift_turns_integers_into_float32_first() -> None:
    x = torch.tensor([[2**24 + 1]], dtype=torch.int32)
    got = dialect.scale_shift.default(x, torch.ones(1), None)
    assert got.dtype == torch.float32
    assert got.item() == 2**24


@pytest.mark.parametrize(("low", "dtype"), [(-1, torch.int8), (0, torch.uint8)])
def test_threshold(low: int, dtype: torch.dtype) -> None:
    acc = torch.arange(-5, 6, dtype=torch.int32)[:, None].expand(-1, 4).contiguous()
    tau = torch.tensor([2, 2, ops.INT32_MIN, ops.INT32_MAX], dtype=torch.int32)
    direction = torch.tensor([1, -1, 1, 1], dtype=torch.int32)
    got = dialect.threshold.default(acc, tau, direction, low)
    assert got.dtype == dtype
    for i, a in enumerate(range(-5, 6)):
        wanted = [a >= 2, -a >= 2, True, False]
        assert got[i].tolist() == [1 if w else low for w in wanted]


# --- packed bits -----------------------------------------------------------------------------------


@given(channels=st.integers(1, 100), seed=st.integers(0, 99))
def test_bit_c_of_the_words_is_the_sign_of_channel_c(channels: int, seed: int) -> None:
    x = signs(2, channels, 3, seed=seed)
    packed = dialect.bitpack.default(x)
    assert packed.dtype == torch.int32
    assert packed.shape == (2, 3, -(-channels // 32))
    bits = bits_of(packed[1, 2].tolist(), channels)
    assert bits == [0 if s > 0 else 1 for s in x[1, :, 2].tolist()]
    tail = bits_of(packed[1, 2].tolist(), packed.shape[-1] * 32)[channels:]
    assert not any(tail)


def test_levels_0_and_1_pack_as_signs_do() -> None:
    x = signs(2, 40, 3)
    zero_one = ((x + 1) // 2).to(torch.uint8)
    assert torch.equal(dialect.bitpack.default(zero_one), dialect.bitpack.default(x))


@given(channels=st.integers(1, 100))
def test_unpacking_gives_the_signs_back(channels: int) -> None:
    x = signs(3, channels)
    unpacked = ops.unpack_signs(dialect.bitpack.default(x))
    assert torch.equal(unpacked[:, :channels], x.float())
    assert (unpacked[:, channels:] == 1).all()


@given(k=st.integers(1, 100), seed=st.integers(0, 99), groups=st.sampled_from([1, 2]))
def test_xnor_matmul_is_k_minus_2_popcount(k: int, seed: int, groups: int) -> None:
    a, b = signs(3, groups, k, seed=seed), signs(groups * 2, k, seed=seed + 1)
    words, weight = ops.pack_words(a > 0), ops.pack_words(b > 0)
    got = dialect.xnor_matmul.default(words.flatten(1), weight, k, groups)
    assert got.dtype == torch.int32
    for n, o in itertools.product(range(3), range(2 * groups)):
        x, y = words[n, o // 2].tolist(), weight[o].tolist()
        differ = sum(((i ^ j) % 2**32).bit_count() for i, j in zip(x, y, strict=True))
        assert got[n, o] == k - 2 * differ
        assert got[n, o] == (a[n, o // 2].int() * b[o].int()).sum()


@given(shape=SHAPES, groups=st.sampled_from([1, 2]), pad_value=st.sampled_from([-1, 1]))
def test_im2col_and_xnor_matmul_are_a_convolution(
    shape: tuple[list[int], ...], groups: int, pad_value: int
) -> None:
    size, kernel, stride, padding, dilation = shape
    wide = 32 if groups == 2 else 5
    x, w = signs(2, wide * groups, *size), signs(3 * groups, wide, *kernel)
    patches = dialect.im2col.default(
        dialect.bitpack.default(x),
        wide * groups,
        groups,
        kernel,
        stride,
        padding,
        dilation,
        pad_value,
    )
    weight = ops.pack_words(w.movedim(1, -1) > 0).flatten(1)
    k = wide * math.prod(kernel)
    got = dialect.xnor_matmul.default(patches, weight, k, groups)
    wanted = dialect.conv.default(x, w, stride, padding, dilation, groups, 0, pad_value)
    assert torch.equal(got, wanted)


@given(k=st.integers(1, 50), seed=st.integers(0, 99))
def test_zero_one_is_the_dot_product_of_zeros_and_ones(k: int, seed: int) -> None:
    s, w = signs(4, k, seed=seed), signs(3, k, seed=seed + 1)
    acc = dialect.linear.default(s, w, 0)
    got = dialect.zero_one.default(acc, w.sum(1).to(torch.int32))
    wanted = dialect.linear.default(((s + 1) // 2).to(torch.uint8), w, 0)
    assert torch.equal(got, wanted)


def test_border_correction_reads_the_class_of_each_position() -> None:
    acc = levels(-9, 9, 2, 3, 4, 5).to(torch.int32)
    table = levels(-9, 9, 3, 2, 3, seed=1).to(torch.int32)
    rows, columns = torch.tensor([1, 0, 0, 1]), torch.tensor([2, 0, 1, 1, 0])
    got = dialect.border_correction.default(acc, table, [rows, columns])
    for o, y, x in itertools.product(range(3), range(4), range(5)):
        assert torch.equal(got[:, o, y, x], acc[:, o, y, x] - table[o, rows[y], columns[x]])


def max_pool(x: Tensor, **window: Any) -> Tensor:
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.dim() - 3]
    return function(x, **window)


@given(data=st.data())
def test_bit_maxpool_is_the_maximum_or_the_minimum(data: st.DataObject) -> None:
    draw = data.draw
    rank = draw(st.integers(1, 3))
    many = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    kernel, stride, dilation = draw(many), draw(many), draw(many)
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    size = [(k - 1) * d + draw(st.integers(1, 4)) for k, d in zip(kernel, dilation, strict=True)]
    channels, ceil_mode = draw(st.sampled_from([3, 40])), draw(st.booleans())
    x = signs(2, channels, *size)
    falls = signs(channels, seed=5) < 0
    turn = torch.where(falls, -1, 1).reshape(-1, *[1] * rank)
    window = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": ceil_mode,
    }
    wanted = max_pool((x * turn).float(), **window) * turn  # min(x) = -max(-x)
    got = dialect.bit_maxpool.default(
        dialect.bitpack.default(x),
        ops.pack_words(~falls),
        kernel,
        stride,
        [p for p in padding for _ in range(2)],
        dilation,
        ceil_mode,
    )
    assert torch.equal(got, dialect.bitpack.default(wanted.to(torch.int8)))


# --- what torch asks of an op ----------------------------------------------------------------------


def samples() -> dict[Any, tuple[Any, ...]]:
    """Arguments for every op of the dialect."""
    x, acc = normal(2, 40, 5, 6), levels(-9, 9, 2, 40, 5, 6).to(torch.int32)
    word, pair = torch.zeros(2, dtype=torch.int32), [1, 1]
    bits, window = dialect.bitpack.default(signs(2, 40, 5, 6)), [1, 0, 2, 1]
    vector = torch.arange(40, dtype=torch.int32)
    classes = [torch.zeros(5, dtype=torch.int64), torch.ones(6, dtype=torch.int64)]
    pooling = ([3, 2], [2, 1], [1, 1, 0, 0], pair, True)
    return {
        dialect.sign.default: (x,),
        dialect.quantize.default: (x, 0.5, 3, 0, 15),
        dialect.quantize_unit.default: (x, 3),
        dialect.conv.default: (
            signs(2, 40, 5, 6), signs(4, 20, 3, 2), [2, 1], window, [1, 2], 2, 0, 1,
        ),
        dialect.linear.default: (signs(2, 40), signs(3, 40), 0),
        dialect.scale_shift.default: (acc, normal(40), normal(40)),
        dialect.dynamic_qparams.default: (x, 4),
        dialect.dynamic_quantize.default: (x, dialect.dynamic_qparams.default(x, 4), 4),
        dialect.dynamic_scale_shift.default: (
            acc[:, :, 0, 0].contiguous(), normal(2, 2).abs(), vector, normal(40), normal(40),
        ),
        dialect.weight_only_conv.default: (
            x, levels(-7, 7, 4, 20, 3, 2), [2, 1], window, [1, 2], 2,
        ),
        dialect.weight_only_linear.default: (normal(2, 40), levels(-7, 7, 3, 40)),
        dialect.threshold.default: (acc, vector, vector.sign() * 2 + 1, 0),
        dialect.bitpack.default: (signs(2, 40, 5, 6),),
        dialect.im2col.default: (bits, 40, 1, [3, 2], [2, 1], window, [1, 2], -1),
        dialect.xnor_matmul.default: (bits, bits.reshape(-1, 2), 40, 1),
        dialect.zero_one.default: (acc, vector),
        dialect.border_correction.default: (acc, torch.ones(40, 1, 2, dtype=torch.int32), classes),
        dialect.bit_maxpool.default: (bits, word, *pooling),
    }  # fmt: skip


def test_every_op_has_a_sample() -> None:
    assert samples().keys() == CONVERTED_OPS | LOWERED_OPS


@pytest.mark.parametrize("op", samples(), ids=str)
def test_schema_shape_rule_and_dispatch(op: Any) -> None:
    results = torch.library.opcheck(op, samples()[op])
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("op", samples(), ids=str)
def test_results_are_contiguous_and_share_no_memory(op: Any) -> None:
    arguments = samples()[op]
    result = op(*arguments)
    assert result.is_contiguous()
    assert all(
        result.untyped_storage().data_ptr() != a.untyped_storage().data_ptr()
        for a in arguments
        if isinstance(a, Tensor)
    )


def test_sums_beyond_float32_are_exact() -> None:
    """2^24 + 1 is no float32: such sums are taken in float64."""
    x = torch.full((1, 600, 1), 255, dtype=torch.uint8)
    x[0, 0, 0] = 2
    weight = torch.full((1, 600, 1), 127, dtype=torch.int8)
    expected = 599 * 255 * 127 + 2 * 127
    assert expected > ops.FLOAT32_EXACT
    assert expected % 2 == 1
    conv = torch.ops.qcompile.conv(x, weight, [1], [0, 0], [1], 1, 0, 0)
    assert conv.item() == expected
    linear = torch.ops.qcompile.linear(x[..., 0], weight[..., 0], 0)
    assert linear.item() == expected
    assert ops.exact_floats(x.float(), weight)[0].dtype == torch.float64
    assert ops.exact_floats(x.float(), weight // 2)[0].dtype == torch.float32
