"""Code for AArch64, made on a machine of any family: what it computes, under qemu, and its loops."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from compiling import Case, check, forced, joined
from disassembly import hottest_loop, mnemonic
from emulating import emulated, needs_emulator
from layers import (
    floats,
    int_cases,
    int_conv,
    integers,
    packed_weight,
    random_int,
    random_xnor,
    xnor_cases,
    xnor_conv,
)
from random_layers import Integer, Layer, Slide, WeightOnly
from torch import Tensor

from qcompile.codegen import linker
from qcompile.codegen.build import build
from qcompile.codegen.dots.methods import methods
from qcompile.codegen.machine import host_family, machine_of
from qcompile.errors import QCompileError
from qcompile.ir.target import Target

q, aten = torch.ops.qcompile, torch.ops.aten

# Without dot products, with them, and with those of both kinds of signs.
PROCESSORS = ["cortex-a72", "cortex-a76", "neoverse-v1"]
SAME = ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
POINT = ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
_OBJDUMP = "aarch64-linux-gnu-objdump"


# --- what it computes ----------------------------------------------------------------------------


@needs_emulator
@pytest.mark.parametrize("arch", PROCESSORS[:2])
def test_convolutions_of_signs(arch: str) -> None:
    cases = [*xnor_cases(), *map(random_xnor, range(8))]
    check(cases, f"cpu:{arch}", (1, 3), emulated)


@needs_emulator
@pytest.mark.parametrize("arch", PROCESSORS)
def test_convolutions_of_integers(arch: str) -> None:
    cases = [*int_cases(), *map(random_int, range(8))]
    check(cases, f"cpu:{arch}", (1, 3), emulated)


@needs_emulator
@pytest.mark.parametrize("arch", PROCESSORS[:2])
def test_tables_and_planes(arch: str) -> None:
    odd, same = Slide((3, 2), (1, 2), (0, 1, 2, 0), (2, 1)), Slide((3, 3), (1, 1), (1,) * 4, (1, 1))
    families = {
        "lookup": [
            Integer(
                30, (7, 9), (Layer(33, same, end="uint8"), Layer(70, odd)), 0, 0, 3, 1, planes=1
            ),
            Integer(18000, (), (Layer(9),), 1, -8, 7, -3, planes=1),
        ],
        "bit-planes": [
            Integer(30, (7, 9), (Layer(33, same), Layer(70, odd)), 2, -1, 1, 0, planes=2),
            Integer(333, (), (Layer(40, end="bits"),), 3, 0, 1, 0, 1),
        ],
    }
    for method, drawn in families.items():
        cases = [family.case() for family in drawn]
        built = check(cases, f"cpu:{arch}", (1, 3), emulated, forced(method))
        assert all(k.tuned.startswith(method) for k in built.kernels if k.tuned)


@needs_emulator
def test_floats_times_levels() -> None:
    odd, grouped = (
        Slide((3, 2), (1, 2), (0, 1, 2, 0), (2, 1)),
        Slide((3, 3), (1, 1), (1,) * 4, (1, 1)),
    )
    families = [
        WeightOnly(
            17, (9, 8), (Layer(21, odd, end="uint8"), Layer(40, grouped, end="pool floats"))
        ),
        WeightOnly(12, (5, 6), (Layer(12, grouped, 12), Layer(24, odd, 3)), reach=255),
        WeightOnly(300, (), (Layer(37, end="relu"), Layer(70, end="floats and bits")), reach=7),
    ]
    check([family.case() for family in families], "cpu:cortex-a72", (1, 3), emulated)


@needs_emulator
@pytest.mark.parametrize("arch", PROCESSORS[:2])
def test_counts_do_not_overflow(arch: str) -> None:
    """All places differ, in more words than the bytes of a counter can take."""

    def conv(x: Tensor, weight: Tensor) -> Any:
        bits = q.bitpack.default(q.sign.default(aten.abs.default(x)))
        patches = q.im2col.default(bits, 1100, 1, [1, 3], [1, 1], [0] * 4, [1, 1], 1)
        return q.xnor_matmul.default(patches, weight, 3300, 1)

    def linear(x: Tensor, weight: Tensor) -> Any:
        bits = q.bitpack.default(q.sign.default(aten.abs.default(x)))
        return q.xnor_matmul.default(bits, weight, 4100, 1)

    words = torch.full((10, 35), -1, dtype=torch.int32)
    words[:, 34] = (1 << 1100 % 32) - 1
    long = torch.full((10, 129), -1, dtype=torch.int32)
    long[:, 128] = (1 << 4100 % 32) - 1
    cases = [
        Case(conv, [(1100, 2, 5)], {"weight": words.repeat(1, 3)}, name="conv"),
        Case(linear, [(4100,)], {"weight": long}, name="linear"),
    ]
    check(cases, f"cpu:{arch}", (1,), emulated)


@needs_emulator
@pytest.mark.parametrize("arch", PROCESSORS)
def test_the_largest_products_of_bytes(arch: str) -> None:
    """-128 times -128, twice, does not fit 16 bits."""
    cases = []
    for weight in (-128, -127, 127):

        def conv(x: Tensor, weight: Tensor) -> Any:
            levels = q.quantize.default(aten.abs.default(x), 1e9, 255, 0, 255)
            low = q.quantize.default(aten.abs.default(x), 1e9, 0, 0, 255)
            geometry = ([1, 1], [0] * 4, [1, 1], 1)
            high = q.conv.default(levels, weight, *geometry, 0, 0)
            return high, q.conv.default(low, weight, *geometry, 255, 0)

        constant = {"weight": torch.full((9, 70, 1, 2), weight, dtype=torch.int8)}
        cases.append(Case(conv, [(70, 2, 4)], constant, name=f"weights {weight}"))
    check(cases, f"cpu:{arch}", (1,), emulated)


@needs_emulator
def test_matrix_products_floats_and_all_threads() -> None:
    def signs(x: Tensor, weight: Tensor) -> Any:
        return q.xnor_matmul.default(q.bitpack.default(q.sign.default(x)), weight, 70, 1)

    def integer(x: Tensor, weight: Tensor) -> Any:
        return q.linear.default(q.quantize.default(x, 0.02, 31, 0, 255), weight, 31)

    def conv(x: Tensor, w: Tensor, b: Tensor) -> Any:
        y = aten.convolution.default(x, w, b, [2, 1], [1, 0], [1, 2], False, [0, 0], 1)
        return aten.sigmoid.default(aten.max_pool2d.default(y, [2, 2], [1, 1]))

    def linear(x: Tensor, w: Tensor, b: Tensor) -> Any:
        return aten.softmax.int(aten.linear.default(aten.flatten.using_ints(x, 1), w, b), 1)

    byte = integers(-127, 128, 37, 300, dtype=torch.int8, seed=1)
    near = (1e-5, 1e-5)  # sums of a hundred floats in another order, exponentials by polynomials
    weights = {"w": floats(21, 17, 3, 3, seed=2), "b": floats(21, seed=3)}
    matrix = {"w": floats(10, 60, seed=4), "b": floats(10, seed=5)}
    cases = [
        Case(signs, [(70,)], {"weight": packed_weight(33, 70, (), 5)}, name="signs"),
        Case(integer, [(300,)], {"weight": byte}, name="integers"),
        Case(conv, [(17, 9, 8)], weights, name="floats", tolerance=near),
        Case(linear, [(3, 4, 5)], matrix, name="matrix", tolerance=near),
        xnor_conv(64, 160, *SAME, size=(12, 15), tail="pack", seed=1),
        int_conv(24, 70, *SAME, size=(16, 14), zero_point=3, tail="quantize", seed=2),
    ]
    built = check(cases, "cpu:cortex-a76", (1, 3), emulated)
    assert built.family == "aarch64"
    assert b"TVMBackendParallelBarrier" in built.library  # tasks for all threads


# --- its loops -----------------------------------------------------------------------------------

needs_objdump = pytest.mark.skipif(
    shutil.which(_OBJDUMP) is None, reason=f"needs {_OBJDUMP} (binutils-aarch64-linux-gnu)"
)


def loop_of(case: Case, arch: str, instruction: str, folder: Path) -> list[str]:
    library = build(joined([case]), Target("cpu", arch)).library
    return hottest_loop(library, instruction, folder, _OBJDUMP)


def computed(loop: list[str]) -> Counter[str]:
    """How often each instruction occurs that has a vector, loads and stores aside."""
    vectors = [line for line in loop if re.search(r"\bv\d+\.\w+", line)]
    return Counter(m for m in map(mnemonic, vectors) if not re.match(r"ld|st", m) or m == "ld1r")


@needs_objdump
@pytest.mark.parametrize("tail", ["pack", "residual"])
@pytest.mark.parametrize(("arch", "add"), [("cortex-a72", "add"), ("cortex-a76", "udot")])
@pytest.mark.parametrize(("channels", "size"), [(64, 56), (256, 14)])
def test_three_instructions_for_128_signs(
    channels: int, size: int, arch: str, add: str, tail: str, tmp_path: Path
) -> None:
    case = xnor_conv(channels, channels, *SAME, size=(size, size), tail=tail)
    loop = loop_of(case, arch, "cnt", tmp_path)
    found = computed(loop)
    count = found["cnt"]
    assert count >= 16
    assert found["eor"] == found[add] == count
    # A broadcast serves eight vectors of channels; nothing else is computed, and nothing spilled.
    assert found["ld1r"] + found["dup"] == count // 8
    assert sum(found.values()) == 3 * count + count // 8
    assert not any("[sp" in line for line in loop)


@needs_objdump
@pytest.mark.parametrize(
    ("arch", "source", "instructions", "broadcasts"),
    [
        ("cortex-a76", "uint8", {"sdot": 1}, 8),
        ("cortex-a76", "int8", {"sdot": 1}, 8),
        ("neoverse-v1", "uint8", {"usdot": 1}, 8),
        ("neoverse-v1", "int8", {"sdot": 1}, 8),
        ("cortex-a72", "uint8", {"smull": 1, "smlal": 1, "sadalp": 1}, 2),
    ],
)
def test_products_of_bytes(
    arch: str, source: str, instructions: dict[str, int], broadcasts: int, tmp_path: Path
) -> None:
    case = int_conv(64, 64, *SAME, zero_point=3, source=source, size=(56, 56))
    case.constants["weight"].clamp_(min=-127)
    loop = loop_of(case, arch, next(iter(instructions)), tmp_path)
    found = computed(loop)
    count = found[next(iter(instructions))]
    assert count >= 8
    assert {name: found[name] for name in instructions} == dict.fromkeys(instructions, count)
    assert found["ld1r"] + found["dup"] == count // broadcasts
    assert sum(found.values()) == len(instructions) * count + count // broadcasts
    assert not any("[sp" in line for line in loop)


# --- what it is made for, and with ---------------------------------------------------------------


def test_a_processor_says_its_family() -> None:
    old, new, newer = (machine_of(Target("cpu", arch)) for arch in PROCESSORS)
    for machine in (old, new, newer):
        assert (machine.family, machine.lanes, machine.registers) == ("aarch64", 4, 32)
        assert "asimd" in machine.features
    assert [m.dot for m in (old, new, newer)] == ["byte pair", "signed quad", "mixed quad"]
    assert "asimddp" not in old.features
    assert "asimddp" in new.features
    assert {"i8mm", "sve"} <= set(newer.features)
    assert methods(old, 18)[0] == "count-bytes"
    assert methods(new, 18)[0] == "count"
    assert machine_of(Target("cpu", "haswell")).family == "x86_64"
    assert machine_of(Target()).family == host_family()


def test_a_misspelt_processor_of_either_family() -> None:
    with pytest.raises(QCompileError, match="unknown processor 'cortexa76'") as error:
        machine_of(Target("cpu", "cortexa76"))
    assert "cortex-a76" in str(error.value.hint)


def other_family() -> tuple[str, str]:
    """A family that is not this machine's, and a processor of it."""
    return ("x86_64", "haswell") if host_family() == "aarch64" else ("aarch64", "cortex-a53")


def relu(arch: str) -> Any:
    case = Case(lambda x: aten.relu.default(x), [(5,)])
    return build(case.graph(), Target("cpu", arch))


def test_no_linker_for_another_family(monkeypatch: pytest.MonkeyPatch) -> None:
    family, arch = other_family()
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name: None if family in name or "lld" in name else which(name)
    )
    with pytest.raises(QCompileError, match=f"no linker for {family}") as error:
        relu(arch)
    assert f"binutils-{family.replace('_', '-')}-linux-gnu" in str(error.value.hint)
    assert "lld" in str(error.value.hint)


@pytest.mark.skipif(shutil.which("ld.lld") is None, reason="needs ld.lld (Debian: lld)")
def test_the_linker_of_llvm_takes_any_family(monkeypatch: pytest.MonkeyPatch) -> None:
    family, arch = other_family()
    monkeypatch.setattr(linker, "_FOREIGN", ("ld.lld",))
    built = relu(arch)
    machine = int.from_bytes(built.library[18:20], "little")  # e_machine of ELF
    assert machine == {"aarch64": 183, "x86_64": 62}[family]
