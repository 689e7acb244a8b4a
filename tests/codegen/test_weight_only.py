"""Floats times integer levels: how the levels lie, and the loops that read them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from compiling import Case, check, joined
from disassembly import hottest_loop, mnemonic
from random_layers import Layer, Slide, WeightOnly
from small_nets import levels, normal
from torch import Tensor

from qcompile.codegen.build import build
from qcompile.codegen.dots.floats import Dot
from qcompile.codegen.dots.weight_only import LevelDot, level_dot
from qcompile.codegen.machine import host_family
from qcompile.ir.stages import aten, dialect
from qcompile.ir.target import Target

SAME = Slide((3, 3), (1, 1), (1,) * 4, (1, 1))


@pytest.mark.parametrize(
    ("family", "lying"),
    [
        (WeightOnly(40, (), (Layer(33),)), "int8"),
        (WeightOnly(40, (), (Layer(33),), reach=255), "int16"),
        (WeightOnly(24, (3, 3), (Layer(16, SAME),)), "int8"),
        (WeightOnly(24, (9, 9), (Layer(16, SAME),)), "float32"),
        (WeightOnly(16, (9, 9), (Layer(16, SAME, 16),)), "float32"),
    ],
    ids=["linear", "16 bits", "a small map", "a larger map", "depthwise"],
)
def test_the_file_has_integers_whatever_lies_in_memory(family: WeightOnly, lying: str) -> None:
    built = check([family.case()], batches=(1, 3))
    [kernel] = [kernel for kernel in built.kernels if kernel.kind == "weight-only"]
    assert kernel.weights is not None
    assert kernel.weights.dtype == lying
    wanted = "int16" if family.reach > 127 else "int8"
    assert str(kernel.weights.values.dtype) == wanted


@pytest.mark.parametrize(
    ("weights", "positions", "stays"),
    [(100, 1, True), (100, 16, True), (100, 17, False), (1 << 21, 64, True), (1 << 21, 65, False)],
)
def test_weights_that_are_used_often_are_converted_once(
    weights: int, positions: int, stays: bool
) -> None:
    assert isinstance(level_dot(weights, positions), LevelDot) is stays
    assert isinstance(level_dot(weights, positions), Dot)


def test_sums_of_any_floats_are_near() -> None:
    def function(x: Tensor, taps: Tensor, rows: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        y = dialect.weight_only_conv.default(x, taps, [1, 1], [1] * 4, [1, 1], 1)
        y = aten.relu.default(dialect.scale_shift.default(y, scale, scale))
        flat = aten.flatten.using_ints(y, 1)
        return y, dialect.weight_only_linear.default(flat, rows)

    constants = {
        "taps": levels(-127, 127, 12, 5, 3, 3),
        "rows": levels(-7, 7, 20, 12 * 49, seed=1),
        "scale": normal(12) / 1000,
    }
    check([Case(function, [(5, 7, 7)], constants, (1e-5, 1e-4))])


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump (binutils)")
@pytest.mark.skipif(host_family() != "x86_64", reason="needs an objdump for x86-64")
@pytest.mark.parametrize("arch", ["haswell", "icelake-server"])
def test_each_vector_of_weights_is_converted_once(arch: str, tmp_path: Path) -> None:
    """Two instructions for a vector, whatever the number of pixels; nothing is spilled."""
    case = WeightOnly(64, (4, 4), (Layer(64, SAME),)).case()
    library = build(joined([case]), Target("cpu", arch)).library
    loop = hottest_loop(library, "vcvtdq2ps", tmp_path, "objdump")
    found = [mnemonic(line) for line in loop]
    products = sum(bool(re.match("vfmadd", name)) for name in found)
    assert found.count("vpmovsxbd") == found.count("vcvtdq2ps") > 0
    assert products >= 4 * found.count("vcvtdq2ps")
    assert not any("(%rsp" in line for line in loop)
