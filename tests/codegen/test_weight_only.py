"""Floats times integer levels: how the levels lie, and the loops that read them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from compiling import Case, check, joined, load
from disassembly import hottest_loop, mnemonic
from machines import TARGETS, runnable
from random_layers import Layer, Slide, WeightOnly
from small_nets import levels, normal
from torch import Tensor
from torch.fx import GraphModule

from qcompile.codegen.build import build
from qcompile.codegen.dots.floats import Dot
from qcompile.codegen.dots.weight_only import LevelDot, level_dot
from qcompile.codegen.groups import Group
from qcompile.codegen.machine import Machine, host_family
from qcompile.codegen.schedules.tile import Choice, Tile
from qcompile.codegen.tuning.space import is_tunable
from qcompile.errors import QCompileError
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


def test_a_product_over_more_dimensions_is_refused() -> None:
    weight = levels(-7, 7, 4, 8)
    case = Case(lambda x, w: dialect.weight_only_linear.default(x, w), [(3, 8)], {"w": weight})
    with pytest.raises(QCompileError, match="over 3 dimensions is not compiled") as error:
        build(case.graph(), Target())
    assert "flatten" in str(error.value.hint)


_CODED = [
    WeightOnly(64, (), (Layer(33, end="relu"), Layer(7), Layer(70, end="uint8")), reach=7),
    WeightOnly(128, (), (Layer(48, end="signs"), Layer(5), Layer(1)), reach=1),
    WeightOnly(8, (), (Layer(40), Layer(16)), reach=7, seed=1),
    WeightOnly(2048, (), (Layer(96, end="floats"),), reach=7, seed=2),
    WeightOnly(66, (), (Layer(33),), reach=7, seed=3),  # does not fill its words
]


@pytest.mark.parametrize("target", TARGETS)
def test_weights_of_few_values(target: str) -> None:
    """Codes, where the processor looks values up; bytes elsewhere. The same results."""
    built = check([family.case() for family in _CODED], runnable(target), (1, 2, 3, 5, 40))
    kept = [kernel.weights for kernel in built.kernels if kernel.weights]
    lying = {weights.dtype for weights in kept}
    assert lying == ({"int8", "uint8"} if "avx512f" in built.features else {"int8"})
    # What is stored is the same for all processors.
    assert all(-8 <= weights.values.min() < 0 for weights in kept)


@pytest.mark.parametrize("tile", [Tile(16, 1, 1), Tile(16, 3, 1), Tile(8, 2, 1), Tile(4, 4, 1)])
def test_codes_in_vectors_of_any_width(tile: Tile) -> None:
    def choose(gm: GraphModule, group: Group, machine: Machine) -> Choice | None:
        free = is_tunable(gm, group, machine) and not group.packs  # words are of 32 channels
        return Choice(None, tile) if free else None

    cases = [family.case() for family in _CODED[:3]]
    check(cases, runnable("cpu:skylake-avx512"), (1, 3), choose=choose)


def test_weights_of_sixteen_values_that_are_no_neighbours() -> None:
    """As DoReFa-Net has them: odd numbers; and a program's file has four bits of each."""
    weight = levels(0, 15, 40, 64) * 2 - 15
    x = torch.randint(-8, 9, (3, 64)).float()
    case = Case(lambda x, w: dialect.weight_only_linear.default(x, w), [(64,)], {"w": weight})
    gm = case.graph()
    built = build(gm, Target())
    assert torch.equal(load(built)([x])[0], gm(x))
    if "avx512f" in built.features:
        [weights] = [kernel.weights for kernel in built.kernels]
        assert weights is not None
        assert weights.form.nbytes == 48 * 64 // 2  # three vectors of 16 rows
        assert len(set(weights.values.tolist())) == 16


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


needs_objdump = pytest.mark.skipif(
    shutil.which("objdump") is None or host_family() != "x86_64",
    reason="needs objdump (binutils) for x86-64",
)


@needs_objdump
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


@needs_objdump
@pytest.mark.parametrize(("reach", "codes"), [(7, 8), (1, 16)])
def test_a_load_serves_all_codes_of_a_word(reach: int, codes: int, tmp_path: Path) -> None:
    """A shift, a lookup, a product; the first codes of a word need no shift."""
    case = WeightOnly(512, (), (Layer(128),), reach=reach).case()
    library = build(joined([case]), Target("cpu", "skylake-avx512")).library
    loop = hottest_loop(library, "vpermps", tmp_path, "objdump")
    found = [mnemonic(line) for line in loop]
    lookups = found.count("vpermps") + found.count("vpermd")
    shifts = found.count("vpsrld") + found.count("vpsrad")
    assert lookups > 0
    assert lookups % codes == 0
    assert shifts == lookups * (codes - 1) // codes
    assert sum(name.startswith("vfmadd") for name in found) >= lookups
    assert not any("(%rsp" in line for line in loop)
