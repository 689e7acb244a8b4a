"""Convolutions and matrix products: integers exactly, floats within what the order of sums leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compiling import Case, check
from layers import (
    CHANNELS,
    GEOMETRIES,
    floats,
    int_cases,
    int_conv,
    integers,
    packed_weight,
    signs,
    xnor_cases,
    xnor_conv,
)
from torch import Tensor

from qcompile.codegen.dots.integers import FewLevelsDot
from qcompile.codegen.fusion import form
from qcompile.codegen.kernels.contraction import contraction_of
from qcompile.codegen.machine import machine_of
from qcompile.codegen.writer import Writer
from qcompile.ir.target import Target

q, aten = torch.ops.qcompile, torch.ops.aten


@pytest.mark.parametrize("target", ["cpu", "cpu:haswell", "cpu:x86-64-v2"])
def test_xnor_convolutions(target: str) -> None:
    built = check(xnor_cases(), target)
    kinds = {k.kind for k in built.kernels}
    assert kinds == {"xnor-popcount", "pack"}


def test_xnor_matmul_without_im2col_and_im2col_with_two_users() -> None:
    weight = packed_weight(33, 70, (), 5)

    def linear(x: Tensor, weight: Tensor) -> Any:
        bits = q.bitpack.default(q.sign.default(x))
        return q.xnor_matmul.default(bits, weight, 70, 1)

    def twice(x: Tensor, a: Tensor, b: Tensor) -> Any:
        bits = q.bitpack.default(q.sign.default(x))
        patches = q.im2col.default(bits, 33, 1, [3, 3], [1, 1], [1, 1, 1, 1], [1, 1], -1)
        return q.xnor_matmul.default(patches, a, 297, 1), q.xnor_matmul.default(patches, b, 297, 1)

    two = {"a": packed_weight(4, 33, (3, 3), 6), "b": packed_weight(17, 33, (3, 3), 7)}
    check(
        [
            Case(linear, [(70,)], {"weight": weight}, name="linear"),
            Case(linear, [(70, 3, 2)], {"weight": weight}, name="over pixels"),
            Case(twice, [(33, 5, 6)], two, name="im2col with two users"),
        ]
    )


@pytest.mark.parametrize("target", ["cpu", "cpu:alderlake", "cpu:haswell", "cpu:x86-64-v2"])
def test_integer_convolutions(target: str) -> None:
    check(int_cases(), target)


def test_integer_matrix_products() -> None:
    cases = []
    for i, (k, outputs, dtype) in enumerate(
        [(1, 1, torch.int8), (31, 10, torch.int8), (70, 33, torch.int16), (300, 130, torch.int8)]
    ):
        weight = integers(-127, 128, outputs, k, dtype=dtype, seed=i)

        def linear(x: Tensor, weight: Tensor, zero: int = 31 * i) -> Any:
            return q.linear.default(q.quantize.default(x, 0.02, zero, 0, 255), weight, zero)

        def signed(x: Tensor, weight: Tensor) -> Any:
            return q.linear.default(q.sign.default(x), weight, 0)

        cases.append(Case(linear, [(k,)], {"weight": weight}, name=f"linear {k}->{outputs}"))
        cases.append(Case(signed, [(k,)], {"weight": weight}, name=f"signs {k}->{outputs}"))
    check(cases)


@pytest.mark.parametrize("target", ["cpu", "cpu:alderlake", "cpu:haswell", "cpu:x86-64-v2"])
def test_matrix_products_of_many_samples(target: str) -> None:
    """Batches that fill no tile, one, several, and several with some samples left."""
    k, outputs = 310, 230
    weight = integers(-127, 128, outputs, k, dtype=torch.int8, seed=1)
    constants = {"scale": floats(outputs, seed=2), "shift": floats(outputs, seed=3)}

    def levels(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor) -> Any:
        acc = q.linear.default(q.quantize.default(x, 0.02, 90, 0, 255), weight, 90)
        return q.quantize.default(q.scale_shift.default(acc, scale, shift), 99.0, 7, 0, 255)

    def signed(x: Tensor, weight: Tensor) -> Any:
        return q.linear.default(q.quantize.default(x, 0.02, 0, -127, 127), weight, 0)

    def binary(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor) -> Any:
        bits = q.bitpack.default(q.sign.default(x))
        acc = q.xnor_matmul.default(bits, weight, 2 * 1024, 1)
        return q.bitpack.default(q.sign.default(q.scale_shift.default(acc, scale, shift)))

    packed = packed_weight(outputs, 2 * 1024, (), 5)
    cases = [
        Case(levels, [(k,)], {"weight": weight, **constants}, name="levels"),
        Case(signed, [(k,)], {"weight": weight}, name="signed"),
        Case(binary, [(2 * 1024,)], {"weight": packed, **constants}, name="binary"),
    ]
    check(cases, target, batches=(1, 3, 4, 7, 9, 23))


def test_float_convolutions_and_matrix_products() -> None:
    cases = []
    # Both add the same products in another order: each addition rounds by at most half of 2^-23 of
    # the partial sum, and with some hundred terms of size 1 that stays far below 1e-4.
    near = (1e-5, 1e-4)
    for i, (geometry, (channels, outputs)) in enumerate(zip(GEOMETRIES, CHANNELS, strict=True)):
        kernel, stride, padding, dilation = geometry
        constants = {"w": floats(outputs, channels, *kernel, seed=i), "b": floats(outputs, seed=i)}

        rest = ([*stride], [*padding[::2]], [*dilation], False, [0, 0], 1)

        def conv(x: Tensor, w: Tensor, b: Tensor, rest: tuple[Any, ...] = rest) -> Any:
            return aten.relu.default(aten.convolution.default(x, w, b, *rest))

        cases.append(
            Case(conv, [(channels, 7, 9)], constants, name=f"float {geometry}", tolerance=near)
        )

    def depthwise(x: Tensor, w: Tensor) -> Any:
        return aten.convolution.default(x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 40)

    def linear(x: Tensor, w: Tensor, b: Tensor) -> Any:
        return aten.linear.default(x, w, b)

    def flat(x: Tensor, w: Tensor) -> Any:
        return aten.linear.default(aten.flatten.using_ints(aten.relu.default(x), 1), w)

    cases += [
        Case(
            depthwise,
            [(40, 6, 5)],
            {"w": floats(40, 1, 3, 3, seed=1)},
            name="depthwise",
            tolerance=near,
        ),
        Case(
            linear, [(33,)], {"w": floats(10, 33, seed=2), "b": floats(10, seed=3)}, tolerance=near
        ),
        Case(flat, [(5, 3, 4)], {"w": floats(70, 60, seed=4)}, name="flatten", tolerance=near),
    ]
    check(cases)


@pytest.mark.parametrize("target", ["cpu", "cpu:haswell", "cpu:x86-64-v2"])
def test_depthwise_sums_that_floats_hold_and_that_they_do_not(target: str) -> None:
    cases = []
    for i, dtype in enumerate((torch.int8, torch.int16)):
        for size, (pad, zero) in ((3, (1, 0)), (5, (-1, 255)), (7, (0, 128))):
            padding = (size // 2,) * 4
            geometry = ((size, size), (1, 2), padding, (1, 1))
            one = int_conv(
                37, 37, *geometry, groups=37, zero_point=zero, pad_value=pad, dtype=dtype, seed=i
            )
            one.spread = 1e6  # levels at their ends
            cases.append(one)
    lowest = int_conv(6, 6, (27, 27), (1, 1), (0,) * 4, (1, 1), groups=6, size=(27, 27))
    lowest.constants["weight"].fill_(-128)[:, :, ::2, 1::2] = -127
    lowest.spread = 1e6
    check([*cases, lowest], target, batches=(2,))


ENDS = [  # levels and weights, and whether two products of the largest ones fit 16 bits
    ((0, 127), 127, True),
    ((0, 255), 64, True),
    ((0, 255), 65, False),
    ((0, 128), 128, False),
    ((-64, 63), 128, True),
    ((-8, 7), 7, True),
    ((-127, 127), 127, False),
]


def at_the_ends(levels: tuple[int, int], size: int, padding: int) -> Case:
    """Activations and weights at their ends: inputs so large that all quantizers clip."""
    weight = signs(18, 13, 3, 3, seed=size)
    constants = {"w": torch.where(weight, min(size, 127), -size).to(torch.int8)}
    constants["w"][0], constants["w"][1] = -size, min(size, 127)
    zero = max(levels[0], 0)

    def function(x: Tensor, w: Tensor) -> Any:
        x = q.quantize.default(x, 0.1, zero, *levels)
        return q.conv.default(x, w, [1, 1], [padding] * 4, [1, 1], 1, zero, 0)

    return Case(function, [(13, 5, 6)], constants, name=f"{levels} {size}", spread=1e6)


@pytest.mark.parametrize("target", ["cpu", "cpu:haswell", "cpu:x86-64-v2", "cpu:skylake-avx512"])
def test_products_at_the_ends_of_16_bits(target: str) -> None:
    check([at_the_ends(levels, size, i % 2) for i, (levels, size, _) in enumerate(ENDS)], target)


@pytest.mark.parametrize(("levels", "size", "fits"), ENDS)
def test_two_bytes_are_multiplied_at_once_only_where_no_sum_saturates(
    levels: tuple[int, int], size: int, fits: bool
) -> None:
    gm = at_the_ends(levels, size, 0).graph()
    for arch, able in (("haswell", True), ("x86-64", False), ("icelake-server", False)):
        machine = machine_of(Target("cpu", arch))
        c = contraction_of(Writer(gm, form(gm)[-1], machine, {}), machine)
        assert isinstance(c.dot, FewLevelsDot) == (fits and able), arch


@pytest.mark.parametrize("target", ["cpu", "cpu:haswell"])
def test_convolutions_with_kernels_as_large_as_the_map(target: str) -> None:
    """Matrix products, but for the places of what follows them."""
    ones, none = (1, 1), (0, 0, 0, 0)
    cases = [
        int_conv(20, 70, (3, 4), ones, none, ones, zero_point=9, tail="quantize", size=(3, 4)),
        int_conv(64, 32, (2, 2), (3, 1), none, ones, source="int8", tail="pack", size=(2, 2)),
        int_conv(7, 40, (1, 1), ones, none, ones, zero_point=3, size=(1, 1), seed=4),
        int_conv(9, 65, (60,), (1,), (0, 0), (1,), zero_point=3, size=(60,), seed=5),
        int_conv(8, 64, (4, 4), ones, none, ones, groups=2, tail="quantize", size=(4, 4), seed=6),
        int_conv(8, 33, (4, 4), ones, (1, 1, 0, 1), ones, zero_point=7, size=(4, 4), seed=7),
        xnor_conv(64, 70, (4, 4), ones, none, ones, tail="pack", size=(4, 4), seed=8),
        xnor_conv(40, 33, (4, 3), (2, 2), none, ones, tail="residual", size=(4, 3), seed=9),
    ]
    check(cases, target, batches=(1, 5, 8, 30))


def test_few_channels_in_torchs_order_are_interleaved() -> None:
    cases = []
    for channels, groups in [(2, 1), (3, 1), (6, 2), (8, 1), (9, 1)]:
        weight = floats(8, channels // groups, 3, 3, seed=channels)

        def conv(x: Tensor, w: Tensor, groups: int = groups) -> Any:
            return aten.convolution.default(
                x, w, None, [2, 2], [1, 1], [1, 1], False, [0, 0], groups
            )

        name = f"{channels} channels, {groups} groups"
        case = Case(conv, [(channels, 5, 75)], {"w": weight}, name=name, tolerance=(1e-5, 1e-4))
        cases.append(case)
    check(cases)


def test_float_matrix_products_of_many_samples() -> None:
    def linear(x: Tensor, w: Tensor, b: Tensor) -> Any:
        return aten.relu.default(aten.linear.default(x, w, b))

    constants = {"w": floats(70, 300, seed=1), "b": floats(70, seed=2)}
    case = Case(linear, [(300,)], constants, tolerance=(1e-5, 1e-4))
    check([case], batches=(1, 3, 6, 14, 31))


def test_large_layers_run_on_all_threads() -> None:
    conv = ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    weight = integers(-127, 128, 520, 700, dtype=torch.int8, seed=1)

    def linear(x: Tensor, weight: Tensor) -> Any:
        return q.linear.default(q.quantize.default(x, 0.02, 7, 0, 255), weight, 7)

    built = check(
        [
            xnor_conv(64, 160, *conv, size=(12, 15), tail="pack", seed=1),
            int_conv(24, 70, *conv, size=(16, 14), zero_point=3, tail="quantize", seed=2),
            Case(linear, [(700,)], {"weight": weight}, name="linear"),
        ],
        batches=(1, 3),
    )
    assert b"TVMBackendParallelBarrier" in built.library


def test_float_values_that_signs_are_taken_from_are_stored() -> None:
    def function(x: Tensor, w: Tensor, a: Tensor) -> Any:
        y = aten.convolution.default(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        return q.scale_shift.default(aten.relu.default(y), a, a), y

    def signs_of(x: Tensor, w: Tensor, a: Tensor) -> Any:
        y = aten.convolution.default(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        return q.sign.default(q.scale_shift.default(y, a, a))

    constants = {"w": floats(4, 3, 1, 1, seed=1), "a": floats(4, seed=2)}
    shape = [(3, 4, 4)]
    case = Case(function, shape, constants, tolerance=(1e-5, 1e-5))
    # A sign may differ from torch's only where the value is within rounding of 0: none is, here.
    built = check([case, Case(signs_of, shape, constants)])
    kernel = built.kernels[-1]
    assert kernel.nodes == ("convolution_default_1", "scale_shift_default_1", "sign_default")
    assert [value.node for value in kernel.results] == ["convolution_default_1", "sign_default"]
