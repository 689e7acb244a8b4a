"""How many products the inner loops make for each cycle that their instructions need."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from compiling import joined
from disassembly import hottest_loop, mnemonic
from layers import int_conv, xnor_conv

from qcompile.codegen.build import build
from qcompile.codegen.machine import host_family
from qcompile.ir.target import Target

pytestmark = [
    pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump (binutils)"),
    pytest.mark.skipif(host_family() != "x86_64", reason="needs an objdump for x86-64"),
]

SAME = ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
PORTS = 2  # that compute on vectors of 512 bits, on all Intel processors
_CARRY = "vpternlogd $0x3a"  # once for two words


def loop_of(channels: int, size: int, arch: str, folder: Path) -> list[str]:
    case = xnor_conv(channels, channels, *SAME, size=(size, size), tail="pack")
    library = build(joined([case]), Target("cpu", arch)).library
    return [
        re.sub(r"\s+", " ", line) for line in hottest_loop(library, "vpternlogd", folder, "objdump")
    ]


def products_per_cycle(loop: list[str]) -> float:
    moves = re.compile(r"vmov|vpbroadcast|vbroadcast|kmov")
    computing = [line for line in loop if re.search(r"[xyz]mm", line) and not moves.match(line)]
    words = 2 * sum(line.startswith(_CARRY) for line in loop)
    return words * 512 / (len(computing) / PORTS)


@pytest.mark.parametrize(("channels", "size"), [(64, 56), (128, 28), (256, 14), (512, 7)])
def test_a_carry_is_counted_for_two_words(channels: int, size: int, tmp_path: Path) -> None:
    loop = loop_of(channels, size, "icelake-server", tmp_path)
    pairs = sum(line.startswith(_CARRY) for line in loop)
    found = [mnemonic(line) for line in loop]
    assert found.count("vpternlogd") == 3 * pairs > 0
    assert pairs <= found.count("vpopcntd") <= 1.2 * pairs
    assert products_per_cycle(loop) >= 360


@pytest.mark.parametrize(("channels", "size"), [(128, 28), (256, 14), (512, 7)])
def test_planes_of_carries(channels: int, size: int, tmp_path: Path) -> None:
    loop = loop_of(channels, size, "cascadelake", tmp_path)
    assert "vpopcntd" not in map(mnemonic, loop)
    assert products_per_cycle(loop) >= 260


@pytest.mark.parametrize(
    ("channels", "size", "fetched"), [(64, 56, 0), (128, 28, 1), (256, 14, 1), (512, 7, 1)]
)
def test_bytes_are_multiplied_and_nothing_else(
    channels: int, size: int, fetched: int, tmp_path: Path
) -> None:
    case = int_conv(channels, channels, *SAME, size=(size, size), tail="quantize")
    library = build(joined([case]), Target("cpu", "icelake-server")).library
    loop = hottest_loop(library, "vpdpbusd", tmp_path, "objdump")
    found = Counter(map(mnemonic, loop))
    products = found["vpdpbusd"]
    # A broadcast from memory serves two vectors of weights, one of those all pixels.
    assert 2 * found["vpbroadcastd"] == products >= 24
    assert all("(%" in line for line in loop if mnemonic(line) == "vpbroadcastd")
    steps = sum(m.startswith("vmovdq") for m in map(mnemonic, loop)) // 2
    assert products // steps >= 14
    assert not any("%rsp" in line for line in loop)
    vectors = {m for line in loop if "mm" in line for m in [mnemonic(line)]}
    assert vectors <= {"vpdpbusd", "vpbroadcastd", "vmovdqa64", "vmovdqu64"}
    assert (found["prefetcht1"] > 0) == bool(fetched)
