"""Quotients without a division: equal for every float, or declined."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from compiling import Case, check
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcompile.codegen.quotient import reciprocal

q, aten = torch.ops.qcompile, torch.ops.aten

SCALES = st.floats(2.0**-60, 2.0**60, width=32)
NUMBERS = st.floats(width=32, allow_nan=False)


def _by_parts(x: float, parts: tuple[float, float]) -> float:
    """The quotient as a processor computes it; a long double holds the sum of the two products."""
    minor = np.float32(x) * np.float32(parts[1])
    total = np.longdouble(x) * np.longdouble(parts[0]) + np.longdouble(minor)
    return float(np.float32(total))


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is too short here")
@settings(deadline=None, max_examples=300)
@given(SCALES, NUMBERS, st.integers(-300, 300))
@np.errstate(all="ignore")
def test_a_quotient_is_rounded_and_clamped_as_the_division(
    scale: float, x: float, level: int
) -> None:
    parts = reciprocal(scale * (1 + 2.0**-30), -255, 255)  # the nearest float32 is what counts
    assert parts is not None
    near = float(np.float32((level + 0.5) * scale))
    for value in (x, near, float(np.nextafter(np.float32(near), np.float32(math.inf)))):
        wanted = np.rint(np.float32(value) / np.float32(scale))
        got = np.rint(np.float32(_by_parts(value, parts)))
        assert np.clip(got, -255, 255) == np.clip(wanted, -255, 255), (value, scale)


@pytest.mark.parametrize("scale", [1e-50, 2.0**-149, 3e38, 2.0**-128, 2.0**70])
def test_scales_at_the_ends_of_float32_are_declined(scale: float) -> None:
    assert reciprocal(scale, 0, 255) is None


@pytest.mark.parametrize("target", ["cpu", "cpu:haswell", "cpu:x86-64-v2"])
def test_quantizers_at_every_step_they_take(target: str) -> None:
    cases = []
    for scale, zero, low, high in [
        (0.1, 3, 0, 255),
        (1 / 3, 0, -127, 127),
        (0.25, 128, 0, 255),
        (7.7e-4, -128, -128, 127),
        (2.0**70, 1, 0, 3),
        (3e38, 0, 0, 1),
    ]:
        exact = float(np.float32(scale))
        steps = (np.arange(low - 2, high + 2) - zero + 0.5) * exact
        middle = np.clip(steps, -3.4e38, 3.4e38).astype(np.float32)
        around = [middle, np.nextafter(middle, np.float32(-np.inf))]
        around.append(np.nextafter(middle, np.float32(np.inf)))
        ends = np.array([np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, 0.0, -0.0], dtype=np.float32)
        values = torch.from_numpy(np.concatenate([*around, ends]))

        def quantize(
            x: Tensor, v: Tensor, arguments: tuple[Any, ...] = (exact, zero, low, high)
        ) -> Any:
            return q.quantize.default(aten.add.Tensor(aten.mul.Scalar(x, 0.0), v), *arguments)

        cases.append(Case(quantize, [(len(values),)], {"v": values}, name=f"scale {scale}"))
    check(cases, target, batches=(1,))
