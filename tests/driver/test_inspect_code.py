"""`qcompile inspect PROGRAM`: the kernels of a program, and the code of its layers."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qcompile
from qcompile import cli
from qcompile.codegen.cuda import build
from qcompile.debug_info import Place, places
from qcompile.inspect_code import disassembler, listings, titled
from qcompile.program import Program
from qcompile.program_file import Archive
from qcompile.program_info import KernelInfo, Variant

BOTH = "cuda,cpu"
X86 = platform.machine() == "x86_64"
needs_objdump = pytest.mark.skipif(
    not any(map(shutil.which, ("objdump", "llvm-objdump", "llvm-objdump-14"))),
    reason="there is no objdump",
)


@cache
def converted() -> GraphModule:
    torch.manual_seed(0)
    x = torch.randn(2, 2, 6, 6)
    network = nn.Sequential(
        nn.Conv2d(2, 64, 3),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 8, 1),
        nn.Flatten(),
        nn.Linear(128, 3),
    )
    prepared = qcompile.prepare(network, x, qcompile.Recipe(bits=1, mode="static"))
    qcompile.calibrate(prepared, [x])
    return qcompile.convert(prepared)


@cache
def program(target: str) -> Program:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "find_nvcc", lambda: None)  # it is slow
        return qcompile.compile(converted(), target=target)


def archive(target: str) -> Archive:
    return program(target)._archive


def saved(target: str, folder: Path) -> str:
    program(target).save(folder / "net.qcp")
    return str(folder / "net.qcp")


def out_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["inspect", *words]) == cli.OK
    return capsys.readouterr().out


def variant_of(target: str) -> Variant:
    """The last."""
    return program(target).info.variants[-1]


@pytest.mark.parametrize("target", [BOTH, "cpu:cortex-a76"])
def test_every_kernel_has_its_place(target: str) -> None:
    """By itself, or where it was inlined; no two functions by themselves share a byte."""
    found, variant = archive(target), variant_of(target)
    where = places(found.library(variant))
    assert {kernel.name for kernel in variant.kernels} <= where.keys()
    own = sorted(place.ranges[0] for place in where.values() if not place.within)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(own))
    for place in where.values():
        assert all(start < stop for start, stop in place.ranges)
        assert place.size == sum(stop - start for start, stop in place.ranges)
        if place.within:
            [(first, last)] = where[place.within].ranges
            assert all(first <= a < b <= last for a, b in place.ranges)


def test_titles() -> None:
    first = KernelInfo("f", (), "a", "int8", method="tiles 16x2")
    same = KernelInfo("f", (), "b", "int8", method="tiles 16x2")
    other = KernelInfo("g", (), "c", "lookup", method="lookup 16x2x2")
    kernels = (first, other, same)
    assert titled(first, "9 bytes", kernels) == "a: int8 tiles 16x2; 9 bytes; also of b"
    assert titled(other, "9 bytes", kernels) == "c: lookup 16x2x2; 9 bytes"


def test_which_copy_is_shown() -> None:
    inlined, small, large = Place(((0, 100),), "f"), Place(((0, 5),)), Place(((8, 16), (20, 40)))
    assert large.better(small)
    assert small.better(inlined)
    assert not small.better(large)
    assert large.size == 28


@needs_objdump
def test_assembly_of_a_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(BOTH, tmp_path)
    out = out_of([path, "--arch", variant_of(BOTH).arch, "--code", "2"], capsys)
    [title, *lines] = out.splitlines()
    assert title.startswith("# 2: ")
    variant = variant_of(BOTH)
    kernel = next(k for k in variant.kernels if k.layer == "2" and k.macs)
    place = places(archive(BOTH).library(variant))[kernel.name]
    assert f"{place.size:,} bytes" in title
    addresses = [int(line.split(":")[0], 16) for line in lines if ":" in line]
    assert addresses[0] == place.ranges[0][0]
    assert addresses == sorted(addresses)
    assert all(any(a <= at < b for a, b in place.ranges) for at in addresses)
    assert not X86 or re.search(r"\bv?p\w+ .*%[xyz]mm", out)
    assert "<__tvm_ffi" not in out  # the nearest symbol is another function's


@needs_objdump
def test_a_glob_shows_each_function_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = out_of(
        [saved(BOTH, tmp_path), "--arch", variant_of(BOTH).arch, "--code", "*", "--code", "2"],
        capsys,
    )
    titles = [line for line in out.splitlines() if line.startswith("# ")]
    variant = variant_of(BOTH)
    assert len(titles) == len(set(titles)) == len({kernel.name for kernel in variant.kernels})


def test_code_of_another_family() -> None:
    try:
        disassembler("aarch64")
    except qcompile.QCompileError as error:
        pytest.skip(str(error))
    found, variant = archive("cpu:cortex-a76"), variant_of("cpu:cortex-a76")
    text = "\n".join(map(str, listings(found, variant, "2")))
    assert re.search(r"\bcnt +v\d+|\bt(bl|rn1) +v\d+|[us]dot +v\d+", text)


def test_cuda_of_a_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(BOTH, tmp_path)
    out = out_of([path, "--arch", "cuda", "--code", "2"], capsys)
    assert out.startswith("// 2: xnor-popcount ")
    gpu = program(BOTH).info.variants[0]
    number = next(i for i, k in enumerate(gpu.kernels) if k.layer == "2" and k.macs)
    symbols = {launch.symbol for launch in gpu.launches if launch.kernel == number}
    for symbol in symbols:
        assert re.search(rf"__global__ .*\b{symbol}\(.*\{{$", out, re.MULTILINE)
    assert out.rstrip().endswith("}")
    source = archive(BOTH).source(gpu)
    both = out_of([path, "--arch", "cuda", "--code", "2", "--kernels"], capsys)
    assert "kernels of cuda" in both
    assert both.endswith(out)
    code = [line for line in out.splitlines() if not line.startswith("// 2")]
    assert "\n".join(code).strip().split("\n\n")[0] in source


def test_all_of_the_cuda_source_is_some_layer_s() -> None:
    found = archive(BOTH)
    gpu = found.info.variants[0]
    shown = listings(found, gpu, "*")
    source = found.source(gpu)
    definitions = re.findall(r'^extern "C" __global__ .*\{$', source, re.MULTILINE)
    assert sorted(listing.lines[0] for listing in shown) == sorted(definitions)


def test_the_table_of_kernels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(BOTH, tmp_path)
    out = out_of([path, "--kernels"], capsys)
    info = program(BOTH).info
    for variant in info.variants:
        assert f"kernels of {variant.arch}" in out
        only = out_of([path, "--kernels", "--arch", variant.arch], capsys)
        assert only.count("kernels of ") == 1
        stored = 0
        for line in only[only.index("kernels of ") :].splitlines()[4:]:
            words = line.split()
            stored += next((int(w.replace(",", "")) for w in words[3:] if _number(w)), 0)
        assert stored == sum(layer.bytes_after for layer in info.layers)
        assert all(kernel.name in only for kernel in variant.kernels)
    assert "first layer" in " ".join(out.split())


def _number(word: str) -> bool:
    return re.fullmatch(r"\d{2,3}|\d{1,3},\d{3}", word) is not None


def test_without_torch_and_the_compiler(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['tvm'] = None; from qcompile import cli; "
        "sys.exit(cli.main())"
    )
    words = ["inspect", saved(BOTH, tmp_path), "--arch", "cuda", "--code", "2"]
    done = subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
    assert b"__global__" in done.stdout
