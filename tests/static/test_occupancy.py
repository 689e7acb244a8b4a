"""Blocks that fit on an SM, beside what NVIDIA's own header says."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qcompile.codegen.cuda.nvcc import find_nvcc
from qcompile.errors import QCompileError
from qcompile.static.gpus import GPUS, gpu_of
from qcompile.static.occupancy import LIMITS, Occupancy, limits_of, occupancy
from qcompile.static.tools import Resources

ORACLE = Path(__file__).with_name("occupancy.cpp")


def headers() -> list[Path]:
    """The folders where nvcc looks for headers that have the one that is needed."""
    nvcc = find_nvcc()
    if nvcc is None:
        return []
    text = subprocess.run(
        [nvcc, "--dryrun", "-E", "-x", "c++", os.devnull],
        check=True,
        capture_output=True,
        text=True,
    ).stderr
    folders = [Path(p) for p in re.findall(r'"?-I([^"\s]+)', text)]
    return [folder for folder in folders if (folder / "cuda_occupancy.h").exists()]


def test_as_nvidias_header_says(tmp_path: Path) -> None:
    folders = headers()
    if not folders or shutil.which("g++") is None:
        pytest.skip("g++ and cuda_occupancy.h of a CUDA toolkit are needed")
    binary = tmp_path / "occupancy"
    subprocess.run(["g++", f"-I{folders[0]}", str(ORACLE), "-o", str(binary)], check=True)
    draw = random.Random(0)
    cases, lines = [], []
    for arch, limits in LIMITS.items():
        for _ in range(400):
            registers, threads = (
                draw.randint(16, 255),
                draw.choice((32, 64, 96, 128, 160, 256, 512)),
            )
            shared = draw.choice((0, draw.randint(1, 49152 - 1024)))
            cases.append((arch, threads, Resources(registers, 0, shared)))
            numbers = (*divmod(arch, 10), limits.threads, limits.shared, registers, shared, threads)
            lines.append(" ".join(map(str, numbers)))
    answer = subprocess.run(
        [str(binary)], input="\n".join(lines), check=True, capture_output=True, text=True
    ).stdout
    theirs = [int(line) for line in answer.split()]
    assert min(theirs) >= 0
    assert [occupancy(*case).blocks for case in cases] == theirs


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "expected"),
    [
        (80, 256, 128, 32768, Occupancy(2, 0.25, ("registers",))),
        (80, 128, 32, 49152 - 1024, Occupancy(3, 3 / 16, ("shared memory",))),
        (86, 512, 32, 0, Occupancy(3, 1.0, ("threads",))),
        (75, 32, 32, 0, Occupancy(16, 0.5, ("blocks",))),
        (90, 1024, 65, 0, Occupancy(0, 0.0, ("registers",))),
    ],
)
def test_what_limits_it(
    arch: int, threads: int, registers: int, shared: int, expected: Occupancy
) -> None:
    assert occupancy(arch, threads, Resources(registers, 0, shared)) == expected


def test_an_architecture_whose_limits_are_not_known() -> None:
    with pytest.raises(QCompileError, match="the limits of sm_70 are not known") as caught:
        limits_of(70)
    assert "sm_75" in str(caught.value.hint)


def test_gpus_have_limits_and_agree_with_their_makers_figures() -> None:
    tops = {
        "T4": 130,
        "A100": 624,
        "RTX 3090": 284,
        "RTX 4090": 660.6,
        "H100 SXM": 1979,
        "RTX 5090": 838,
    }
    assert {gpu.name for gpu in GPUS} == tops.keys()
    for gpu in GPUS:
        limits_of(gpu.arch)
        assert gpu.sources
        assert 2e-12 * gpu.rate("s8") == pytest.approx(tops[gpu.name], rel=0.01)
    assert 2e-12 * gpu_of(80).rate("b1") == pytest.approx(4992, rel=0.01)


def test_an_architecture_without_figures() -> None:
    with pytest.raises(QCompileError, match="no figures are known of a GPU of sm_100") as caught:
        gpu_of(100)
    assert "sm_80 (A100)" in str(caught.value.hint)
