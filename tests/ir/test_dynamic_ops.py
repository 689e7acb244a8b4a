"""Dynamic quantization's references against loops over samples, and against torch's own quantizer."""

from __future__ import annotations

import math

import pytest
import torch
from small_nets import levels, normal
from torch import Tensor

from qcompile.ir import dynamic_ops
from qcompile.ir.qparams import QScheme, qparams_of_range
from qcompile.ir.stages import dialect

INF, NAN = float("inf"), float("nan")


def dynamic_linear(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, bits: int) -> Tensor:
    """A linear layer of dynamic quantization, as the converted graph has it."""
    qparams = dialect.dynamic_qparams.default(x, bits)
    q = dialect.dynamic_quantize.default(x, qparams, bits)
    acc = dialect.linear.default(q, weight, 0)
    total = weight.to(torch.int32).sum(1, dtype=torch.int32)
    return dialect.dynamic_scale_shift.default(acc, qparams, total, scale, shift)


@pytest.mark.parametrize("bits", range(2, 9))
def test_each_sample_has_the_parameters_of_its_own_range(bits: int) -> None:
    x = normal(5, 3, 7) * torch.tensor([1.0, 1e-3, 40.0, 1e4, 1.0]).reshape(-1, 1, 1)
    x[4] = x[4].abs() + 1  # 0 belongs to the range all the same
    got = dialect.dynamic_qparams.default(x, bits)
    assert got.dtype == torch.float32
    for sample, (scale, zero_point) in zip(x, got.tolist(), strict=True):
        low, high = sample.min(), sample.max()
        wanted = qparams_of_range(low, high, bits, QScheme.PER_TENSOR_AFFINE)
        assert (scale, zero_point) == (wanted.scale.item(), wanted.zero_point.item())
        if low >= 0:
            assert zero_point == 0


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_are_those_of_torchs_quantizer(bits: int) -> None:
    x = normal(4, 300)
    qparams = dialect.dynamic_qparams.default(x, bits)
    got = dialect.dynamic_quantize.default(x, qparams, bits)
    assert got.dtype == torch.uint8
    for sample, q, (scale, zero_point) in zip(x, got, qparams.tolist(), strict=True):
        wanted = dialect.quantize.default(sample, scale, int(zero_point), 0, 2**bits - 1)
        assert torch.equal(q, wanted)
        assert q.min() == 0
        assert q.max() == 2**bits - 1


def test_a_sample_does_not_depend_on_its_batch() -> None:
    x, weight = normal(6, 50), levels(-7, 7, 9, 50)
    scale, shift = normal(9), normal(9, seed=2)
    together = dynamic_linear(x, weight, scale, shift, 4)
    alone = [dynamic_linear(x[i : i + 1], weight, scale, shift, 4) for i in range(6)]
    assert torch.equal(together, torch.cat(alone))


def test_the_product_is_near_that_of_floats() -> None:
    x, weight = normal(3, 64), levels(-127, 127, 10, 64)
    scale, shift = normal(10).abs() + 0.5, normal(10, seed=3)
    got = dynamic_linear(x, weight, scale, shift, 8)
    wanted = (x @ weight.float().T) * scale + shift
    step = dialect.dynamic_qparams.default(x, 8)[:, :1]
    bound = step * 0.51 * weight.float().abs().sum(1) * scale
    assert ((got - wanted).abs() <= bound).all()


@pytest.mark.parametrize("value", [0.0, -0.0, 3.0, -3.0, 1e-42])
def test_constant_samples(value: float) -> None:
    """Without width, or with one below the normal numbers, the scale is 1."""
    x = torch.full((1, 5), value)
    (scale, zero_point), *_ = dialect.dynamic_qparams.default(x, 8).tolist()
    assert scale == (float(torch.tensor(3.0) / 255) if abs(value) == 3 else 1.0)
    assert math.copysign(1, zero_point) == 1
    assert zero_point == (255 if value == -3 else 0)
    q = dialect.dynamic_quantize.default(x, torch.tensor([[scale, zero_point]]), 8)
    assert (q == (255 if value == 3 else 0)).all()


def test_nan_has_no_part_in_the_range_and_level_0() -> None:
    x = torch.tensor([[NAN, 1.0, -1.0], [NAN, NAN, NAN], [2.0, NAN, 0.5]])
    got = dialect.dynamic_qparams.default(x, 4)
    assert torch.equal(got, dialect.dynamic_qparams.default(x.nan_to_num(0.0), 4))
    q = dialect.dynamic_quantize.default(x, got, 4)
    assert q[x.isnan()].tolist() == [0] * 5


@pytest.mark.parametrize(("low", "high"), [(-INF, 1.0), (0.0, INF), (-INF, INF), (-3e38, 3e38)])
def test_a_range_too_wide_for_float32_has_level_0_alone(low: float, high: float) -> None:
    x = torch.tensor([[low, high, 5.0]])
    qparams = dialect.dynamic_qparams.default(x, 8)
    assert qparams.tolist() == [[INF, 0.0]]
    assert dialect.dynamic_quantize.default(x, qparams, 8).tolist() == [[0, 0, 0]]


def test_scale_shift_rounds_after_each_step() -> None:
    """4097 * 4097 = 2^24 + 2^13 + 1 loses its last bit, once in the factor and once in the product."""
    qparams, one = torch.tensor([[4097.0, 3.0]]), torch.ones(1)
    total, shift = torch.tensor([2], dtype=torch.int32), torch.tensor([-16785408.0])
    acc = torch.tensor([[1 + 3 * 2]], dtype=torch.int32)
    function = dialect.dynamic_scale_shift.default
    assert function(acc, qparams, total, torch.tensor([4097.0]), shift).item() == 0.0
    acc = torch.tensor([[4097 + 3 * 2]], dtype=torch.int32)
    assert function(acc, qparams, total, one, shift).item() == 0.0
    assert function(acc, qparams, total, one, None).item() == 16785408.0


def test_shared_expressions_are_those_of_the_ops() -> None:
    x, acc = normal(3, 8), levels(-99, 99, 3, 5).to(torch.int32)
    qparams = dynamic_ops.dynamic_range_qparams(x, 3)
    assert torch.equal(qparams, dialect.dynamic_qparams.default(x, 3))
    q = dynamic_ops.dynamic_levels(x, qparams, 3)
    assert torch.equal(q, dialect.dynamic_quantize.default(x, qparams, 3).float())
    total, scale, shift = levels(-9, 9, 5).to(torch.int32), normal(5), normal(5, seed=4)
    centred = acc - qparams[:, 1:].to(torch.int32) * total
    wanted = dialect.dynamic_scale_shift.default(acc, qparams, total, scale, shift)
    got = dynamic_ops.dynamic_scaled_shifted(centred.float(), qparams, scale, shift)
    assert torch.equal(got, wanted)
