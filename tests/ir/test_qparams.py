from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qcompile.ir import ops
from qcompile.ir.qparams import QParams, QScheme, qparams_of_range

AFFINE, SYMMETRIC = QScheme.PER_TENSOR_AFFINE, QScheme.PER_TENSOR_SYMMETRIC
FLOATS = st.floats(-1e6, 1e6, width=32)


def of_range(low: float, high: float, bits: int, qscheme: QScheme) -> QParams:
    return qparams_of_range(torch.tensor(low), torch.tensor(high), bits, qscheme)


def levels(x: Tensor, q: QParams) -> Tensor:
    return ops.affine_levels(x, float(q.scale), int(q.zero_point), q.qmin, q.qmax)


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels(bits: int) -> None:
    affine, symmetric = of_range(-1, 1, bits, AFFINE), of_range(-1, 1, bits, SYMMETRIC)
    assert (affine.qmin, affine.qmax) == (0, 2**bits - 1)
    assert (symmetric.qmin, symmetric.qmax) == (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)


@pytest.mark.parametrize("qscheme", QScheme)
def test_symmetric(qscheme: QScheme) -> None:
    assert qscheme.symmetric == qscheme.value.endswith("symmetric")
    assert qscheme.value == str(getattr(torch, qscheme.value)).removeprefix("torch.")


@given(
    low=FLOATS, high=FLOATS, bits=st.integers(2, 8), qscheme=st.sampled_from([AFFINE, SYMMETRIC])
)
def test_the_range_is_covered_and_zero_is_a_level(
    low: float, high: float, bits: int, qscheme: QScheme
) -> None:
    low, high = min(low, high), max(low, high)
    q = of_range(low, high, bits, qscheme)
    assert q.scale > 0
    assert q.qmin <= q.zero_point <= q.qmax
    assert levels(torch.tensor(0.0), q) == q.zero_point
    ends = torch.tensor([low, high])
    error = (levels(ends, q) - q.zero_point) * q.scale - ends
    # One step: half of it by rounding the level, half by rounding the zero point; and float32.
    assert (error.abs() <= q.scale * 1.001 + 1e-30).all()


def test_a_known_range() -> None:
    q = of_range(-1.0, 2.0, 8, AFFINE)
    assert q.scale == torch.tensor(3.0) / 255
    assert q.zero_point == 85
    assert q.zero_point.dtype == torch.int32
    q = of_range(-1.0, 2.0, 4, SYMMETRIC)
    assert q.scale == torch.tensor(2.0) / 7
    assert q.zero_point == 0


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (0.0, 1e-44), (-1e-40, 1e-40)])
def test_a_range_of_no_width_has_scale_1(low: float, high: float) -> None:
    for qscheme in (AFFINE, SYMMETRIC):
        q = of_range(low, high, 8, qscheme)
        assert q.scale == 1
        assert levels(torch.tensor(high), q) == q.zero_point


def test_a_range_is_widened_to_hold_zero() -> None:
    q = of_range(3.0, 5.0, 8, AFFINE)
    assert q.zero_point == 0
    assert q.scale == torch.tensor(5.0) / 255
    q = of_range(-5.0, -3.0, 8, AFFINE)
    assert q.zero_point == 255


def test_per_channel() -> None:
    low, high = torch.tensor([-1.0, 0.0, -3.0]), torch.tensor([1.0, 2.0, 0.0])
    q = qparams_of_range(low, high, 8, QScheme.PER_CHANNEL_SYMMETRIC, axis=0)
    assert q.axis == 0
    assert torch.equal(q.scale, torch.tensor([1.0, 2.0, 3.0]) / 127)
    assert q.zero_point.tolist() == [0, 0, 0]
