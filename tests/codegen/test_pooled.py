"""A contraction and the pooling of its result in one kernel: what it gives, and when it is two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compiling import Case, check
from torch import Tensor

q, aten = torch.ops.qcompile, torch.ops.aten

POOLS = [
    ([2, 2],),
    ([3, 3], [2, 2], [1, 1]),
    ([3, 2], [1, 3], [1, 0], [2, 1]),
    ([2, 2], [3, 3], [0, 0], [1, 1], True),
    ([3, 3], [1, 1], [1, 1], [1, 1]),
]


def floats(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(
    channels: int, outputs: int, pool: tuple[Any, ...], tail: str, size: tuple[int, int]
) -> Case:
    """A convolution of 3x3, scaled, pooled; then what `tail` says."""
    generator = torch.Generator().manual_seed(outputs)
    weight = torch.randint(-127, 128, (outputs, channels, 3, 3), generator=generator)
    constants = {
        "weight": weight.to(torch.int8),
        "a": floats(outputs, seed=1) * 1e-2,
        "b": floats(outputs, seed=2),
    }

    def function(x: Tensor, weight: Tensor, a: Tensor, b: Tensor) -> Any:
        levels = q.quantize.default(x, 0.02, 90, 0, 255)
        acc = q.conv.default(levels, weight, [1, 1], [1, 1, 0, 1], [1, 1], 1, 90, 0)
        y = aten.max_pool2d.default(q.scale_shift.default(acc, a, b), *pool)
        if tail == "quantize":
            return q.quantize.default(aten.relu.default(y), 0.3, 3, 0, 255)
        if tail == "pack":
            return q.bitpack.default(q.sign.default(y))
        return aten.add.Tensor(y, y) if tail == "twice" else y

    return Case(function, [(channels, *size)], constants, name=f"{pool} {outputs} {tail}")


@pytest.mark.parametrize("target", ["cpu", "cpu:alderlake", "cpu:haswell", "cpu:x86-64-v2"])
def test_maxima_of_integer_convolutions(target: str) -> None:
    shapes = [(3, 70, (9, 12)), (5, 33, (13, 8)), (4, 16, (21, 9)), (2, 7, (6, 6))]
    tails = ["quantize", "pack", "", "twice"]
    cases = []
    for i, pool in enumerate(POOLS):
        for j in range(2):
            channels, outputs, size = shapes[(i + j) % 4]
            cases.append(case(channels, outputs, pool, tails[(i + 2 * j) % 4], size))
    built = check(cases, target)
    with_both = [k for k in built.kernels if k.kind == "int8"]
    assert len(with_both) == len(cases)
    assert all(any(n.startswith("max_pool2d") for n in k.nodes) for k in with_both)


def test_means_of_float_convolutions_and_of_signs() -> None:
    def conv(x: Tensor, w: Tensor, y: Tensor) -> Any:
        z = aten.convolution.default(x, w, None, [2, 1], [1, 1], [1, 1], False, [0, 0], 1)
        pooled = aten.avg_pool2d.default(aten.relu.default(z), [3, 2], [2, 2], [1, 0], False, False)
        return aten.add.Tensor(pooled, y)

    constants = {"w": floats(20, 3, 3, 3, seed=1), "y": floats(1, 20, 5, 4, seed=2)}

    generator = torch.Generator().manual_seed(3)
    words = torch.randint(-(2**31), 2**31, (40, 9), generator=generator).to(torch.int32)

    def scaled(x: Tensor, w: Tensor, a: Tensor) -> Any:
        bits = q.bitpack.default(q.sign.default(x))
        patches = q.im2col.default(bits, 32, 1, [3, 3], [1, 1], [1, 1, 1, 1], [1, 1], 1)
        acc = q.xnor_matmul.default(patches, w, 288, 1)
        return aten.max_pool2d.default(q.scale_shift.default(acc, a, None), [2, 2])

    built = check(
        [
            Case(conv, [(3, 18, 9)], constants, name="means", tolerance=(1e-5, 1e-5)),
            Case(scaled, [(32, 9, 10)], {"w": words, "a": floats(40, seed=4)}, name="signs"),
        ]
    )
    assert [k.kind for k in built.kernels] == ["float32", "pack", "xnor-popcount"]


def test_large_maps_are_pooled_on_all_threads() -> None:
    built = check([case(8, 64, POOLS[1], "quantize", (61, 58))], batches=(1, 3))
    assert b"compute_" in built.library


def test_two_kernels_where_rows_or_weights_are_far_or_someone_else_reads_them() -> None:
    def twice(x: Tensor, w: Tensor) -> Any:
        z = aten.convolution.default(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        return aten.max_pool2d.default(z, [2, 2]), aten.relu.default(z)

    def pooled(groups: int, dimensions: int) -> Any:
        def function(x: Tensor, w: Tensor) -> Any:
            ones, zeros = [1] * dimensions, [0] * dimensions
            z = aten.convolution.default(x, w, None, ones, zeros, ones, False, zeros, groups)
            pool = aten.max_pool2d if dimensions == 2 else aten.max_pool1d
            return pool.default(z, [2] * dimensions)

        return function

    cases = [
        Case(twice, [(3, 4, 4)], {"w": floats(4, 3, 1, 1, seed=1)}, name="two readers"),
        Case(pooled(1, 2), [(64, 4, 4)], {"w": floats(600, 64, 1, 1, seed=1)}, name="weights"),
        Case(pooled(1, 2), [(3, 2, 900)], {"w": floats(32, 3, 1, 1, seed=1)}, name="rows"),
        Case(pooled(2, 2), [(4, 4, 4)], {"w": floats(4, 2, 1, 1, seed=1)}, name="groups"),
        Case(pooled(1, 1), [(3, 8)], {"w": floats(4, 3, 1, seed=1)}, name="lines"),
    ]
    for one in cases:
        one.tolerance = (1e-5, 1e-5)
    built = check(cases)
    assert [k.kind for k in built.kernels].count("pool") == len(cases)
