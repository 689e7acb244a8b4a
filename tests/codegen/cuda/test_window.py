"""Pools and depthwise convolutions on a GPU: one column a thread, and four."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pool_cases
import pytest
import torch
from compiling import Case
from emulated_gpu import needs_emulator
from pool_cases import NEAR, one
from running import check
from torch import Tensor

from qcompile.codegen.cuda import window
from qcompile.codegen.cuda.build import generate
from qcompile.ir.target import Target

pytestmark = needs_emulator
q, aten = torch.ops.qcompile, torch.ops.aten


@pytest.fixture(params=["one column", "four columns"])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How many columns a thread computes where windows overlap, for any batch."""
    if request.param == "four columns":
        monkeypatch.setattr(window, "_BUSY", 1)
    return str(request.param)


def test_pools(columns: str) -> None:
    floats = [*pool_cases.max_pools()[:-1], *pool_cases.average_pools()]
    cases = [
        *pool_cases.max_pools(),
        *pool_cases.average_pools(),
        *pool_cases.between(floats),
        *pool_cases.bit_maxpools(),
        pool_cases.nan_in_maxima(),
        pool_cases.nan_at_each_tap(),
    ]
    check(cases)


def test_large_windows(columns: str) -> None:
    """Lines of taps in a loop; of more than 32 taps, each by itself."""
    pool, average = aten.max_pool2d.default, aten.avg_pool1d.default
    cases = [
        Case(one(pool, [6, 7], [1, 2], [3, 3]), [(33, 11, 14)]),
        Case(one(aten.max_pool1d.default, [40], [1], [20]), [(5, 57)]),
        Case(one(average, [35], [35]), [(5, 70)], tolerance=NEAR),
        Case(one(average, [33], [2], [16]), [(5, 70)], tolerance=NEAR),
    ]
    check(pool_cases.between(cases))


def integers(low: int, high: int, *shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, shape, generator=generator).to(torch.int8)


_DEPTHWISE = {
    "low": 0,
    "high": 255,
    "zero": 3,
    "pad": 2,
    "stride": 1,
    "dilation": 1,
    "border": 1,
}


def depthwise(
    channels: int, kernel: tuple[int, ...], size: tuple[int, ...], **options: int
) -> Case:
    """A quantized layer: its sums, then the levels that follow in the same kernel."""
    rank, o = len(kernel), {**_DEPTHWISE, **options}

    def function(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Any:
        levels = q.quantize.default(x, 0.03, o["zero"], o["low"], o["high"])
        slide = [o["stride"]] * rank, [o["border"]] * 2 * rank, [o["dilation"]] * rank
        acc = q.conv.default(levels, w, *slide, channels, o["zero"], o["pad"])
        y = aten.relu.default(q.scale_shift.default(acc, a, b))
        return acc, q.quantize.default(y, 0.11, 1, 0, 15)

    constants = {
        "w": integers(-127, 128, channels, 1, *kernel, seed=channels),
        "a": torch.linspace(-0.01, 0.02, channels),
        "b": torch.linspace(2, -2, channels),
    }
    return Case(function, [(channels, *size)], constants, name=f"{channels} {kernel} {options}")


def floats_by_channel(of_levels: bool) -> Case:
    """Float weights with a bias, or levels as weights."""

    def with_bias(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return aten.convolution.default(x, w, b, [1, 1], [1, 1], [1, 1], False, [0, 0], 33)

    def with_levels(x: Tensor, w: Tensor) -> Tensor:
        return q.weight_only_conv.default(x, w, [1, 1], [1] * 4, [1, 1], 33)

    if of_levels:
        constants = {"w": integers(-7, 8, 33, 1, 3, 3, seed=1)}
        return Case(with_levels, [(33, 9, 8)], constants, (1e-5, 1e-4), name="levels")
    shape, generator = (33, 1, 3, 3), torch.Generator().manual_seed(2)
    constants = {"w": torch.randn(shape, generator=generator), "b": torch.linspace(-1, 1, 33)}
    return Case(with_bias, [(33, 9, 8)], constants, (1e-5, 1e-5), name="floats")


def test_depthwise_convolutions(columns: str) -> None:
    cases = [
        depthwise(33, (3, 3), (9, 8)),
        depthwise(64, (3, 3), (9, 7), low=-128, high=127, zero=-3, pad=0, stride=2),
        depthwise(7, (5,), (9,), high=15, zero=0, pad=0),
        depthwise(40, (3, 3), (9, 8), pad=-3, dilation=2, border=2),
        depthwise(5, (2, 3, 2), (4, 5, 6)),
        depthwise(40, (7, 7), (9, 8), border=3),
        depthwise(33, (3, 3), (9, 8), border=0),
        depthwise(33, (3, 2), (9, 8), border=0, dilation=2),
        floats_by_channel(of_levels=False),
        floats_by_channel(of_levels=True),
    ]
    built = check(cases)
    assert len({launch.kernel for launch in built.launches if launch.macs}) == len(cases)


def launched(function: Callable[[Tensor], Tensor], *shape: int) -> list[tuple[int, int, int]]:
    built = generate(Case(function, [shape]).graph(), Target("cuda"))
    return [(launch.items, launch.least, launch.most) for launch in built.launches]


def test_only_large_batches_of_overlapping_windows_give_a_thread_four_columns() -> None:
    def overlapping(x: Tensor) -> Tensor:
        return aten.max_pool2d.default(aten.neg.default(x), [3, 3], [2, 2], [1, 1])

    def side_by_side(x: Tensor) -> Tensor:
        return aten.max_pool2d.default(aten.neg.default(x), [2, 2])

    size = 64 * 14 * 14
    enough = -(-window._BUSY * 4 // size)
    assert launched(overlapping, 64, 28, 28)[1:] == [
        (size, 1, enough - 1),
        (size * 4 // 14, enough, 0),
    ]
    assert launched(side_by_side, 64, 28, 28)[1:] == [(size, 1, 0)]
