"""Portable programs: code for several processors in one file, of which the best is run."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from toy_library import affine_info, affine_library, affine_variant

import qcompile
from qcompile import QCompileError, cli, cpuinfo, trial
from qcompile.codegen.machine import machine_of
from qcompile.ir.target import VARIANTS, Target
from qcompile.machine import obstacle, runnable
from qcompile.program import Program
from qcompile.program_file import Archive, pack

X86 = platform.machine() == "x86_64"
on_x86 = pytest.mark.skipif(
    not X86, reason=f"the variants are those of x86-64, not {platform.machine()}"
)


# --- of toy libraries ----------------------------------------------------------------------------


def toy(**features: tuple[str, ...]) -> Program:
    """A program of variants that all are the same code, and claim to need these features."""
    variants = tuple(
        replace(affine_variant(), arch=arch, features=needs) for arch, needs in features.items()
    )
    return Program(
        pack(replace(affine_info(), variants=variants), [affine_library()] * len(variants))
    )


def has(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    """Let the processor have these instructions."""
    monkeypatch.setattr(cpuinfo, "flags", lambda: frozenset(flags))


def test_the_first_variant_that_runs_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    program = toy(best=("a", "b"), good=("a",), plain=())
    for flags, arch in (
        (("a", "b", "c"), "best"),
        (("a",), "good"),
        (("b",), "plain"),
        ((), "plain"),
    ):
        has(monkeypatch, *flags)
        assert program.variant.arch == arch
        assert program.runnable()[0] is program
    has(monkeypatch, "a")
    assert [one.variant.arch for one in program.runnable()] == ["good", "plain"]
    assert [v.arch for v in runnable(program.info)] == ["good", "plain"]
    assert obstacle(program.info.variants[0]) == "needs b, which this machine lacks"


def test_variants_of_another_family_are_passed_over() -> None:
    first, second = toy(first=(), second=()).info.variants
    variants = (replace(first, machine="riscv64"), second)
    program = Program(pack(replace(affine_info(), variants=variants), [b"", affine_library()]))
    assert program.variant.arch == "second"
    assert torch.equal(program(torch.zeros(1, 3, 8)), torch.ones(1, 3, 8))


def test_a_variant_can_be_asked_for(tmp_path: Path) -> None:
    program = toy(one=(), two=(), three=())
    path = tmp_path / "net.qcp"
    program.save(path)
    assert qcompile.load(path).variant.arch == "one"
    forced = qcompile.load(path, arch="two")
    assert (forced.arch, forced.variant.arch) == ("two", "two")
    assert [one.variant.arch for one in forced.runnable()] == ["two"]
    program.num_threads = 1
    other = program.as_variant("three")
    assert (other.variant.arch, other.num_threads) == ("three", 1)
    assert torch.equal(other(torch.zeros(2, 3, 8)), program(torch.zeros(2, 3, 8)))
    forced.save(tmp_path / "again.qcp")
    assert (tmp_path / "again.qcp").read_bytes() == path.read_bytes()


def test_only_the_chosen_variant_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.qcp"
    toy(one=("a",), two=(), three=()).save(path)
    read: list[str] = []
    original = zipfile.ZipFile.read

    def read_member(self: zipfile.ZipFile, name: str | zipfile.ZipInfo) -> bytes:
        read.append(name if isinstance(name, str) else name.filename)
        return original(self, name)

    has(monkeypatch)
    monkeypatch.setattr(zipfile.ZipFile, "read", read_member)
    program = qcompile.load(path)
    program(torch.zeros(1, 3, 8))
    assert read == ["program.json", "two.so", "constants"]


# --- of this machine's compiler ------------------------------------------------------------------


class Net(nn.Module):
    """Bits, bytes and floats; shapes small and odd."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 64, 3, padding=1)
        self.one = nn.Conv2d(64, 40, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(40)
        self.two = nn.Conv2d(40, 40, 1, bias=False)
        self.last = nn.Linear(40 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.one(torch.relu(self.first(x)))))
        x = nn.functional.max_pool2d(torch.relu(self.two(x)) + x, 2)
        return torch.softmax(nn.functional.gelu(self.last(torch.flatten(x, 1))), 1)


X = torch.randn(6, 2, 6, 6, generator=torch.Generator().manual_seed(0))


@cache
def converted() -> GraphModule:
    torch.manual_seed(0)
    prepared = qcompile.prepare(Net(), X)
    prepared.train()
    prepared(X)
    return qcompile.convert(prepared.eval())


@cache
def compiled() -> tuple[Program, tuple[str, ...]]:
    """The portable program, and the steps in which it was compiled."""
    steps = []

    @contextmanager
    def step(title: str) -> Iterator[None]:
        steps.append(title)
        yield

    return qcompile.compile(converted(), target="cpu:portable", step=step), tuple(steps)


@cache
def portable() -> Program:
    return compiled()[0]


@cache
def libraries() -> dict[str, bytes]:
    archive: Archive = portable()._archive
    return {v.arch: archive.library(v) for v in portable().info.variants}


def test_a_portable_program_holds_all_variants() -> None:
    info = portable().info
    names = VARIANTS[platform.machine()]
    assert info.target == "cpu:portable"
    assert tuple(v.arch for v in info.variants) == names
    assert compiled()[1] == ("lower to kernels", *(f"compile for cpu:{name}" for name in names))
    assert len(set(libraries().values())) == len(names)


def test_better_variants_need_what_those_below_do_not_have() -> None:
    needs = [set(v.features) for v in portable().info.variants]
    for i, better in enumerate(needs):
        for worse in needs[i + 1 :]:
            assert better - worse


def test_every_variant_that_runs_here_is_verified() -> None:
    report = qcompile.verify(portable(), converted(), X)
    report.raise_if_failed()
    here = [v.arch for v in runnable(portable().info)]
    assert [report.variant, *(o.variant for o in report.others)] == here
    lines = report.verdict().splitlines()
    for arch, line in zip(here, lines, strict=False):
        assert line.startswith(f"verified as {arch}: 6 samples, ")
    for variant in portable().info.variants:
        unverified = [line for line in report.unverified if line.startswith(f"{variant.arch} ")]
        assert bool(unverified) == (variant.arch not in here)


def test_all_variants_give_the_same_integers() -> None:
    """Nothing in the network is decided by the order of float sums."""
    results = [program(X) for program in portable().runnable()]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-6, atol=1e-7)


@on_x86
def test_what_cannot_run_is_said_to_be_unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    program = portable().as_variant("x86-64-v2")
    assert program.variant.features
    has(monkeypatch, *program.variant.features)
    report = qcompile.verify(portable(), converted(), X)
    assert (report.variant, report.others) == ("x86-64-v2", ())
    assert [line.split()[0] for line in report.unverified] == list(VARIANTS["x86_64"][:-1])
    verdict = report.verdict()
    assert verdict.startswith("verified as x86-64-v2: 6 samples")
    assert "\nunverified, as this machine cannot run them:\nicelake-server needs " in verdict
    assert "avx512f" in verdict
    assert str(report).endswith(verdict)


def test_a_wrong_variant_is_found_and_named() -> None:
    """The second variant of the file is of a network with another weight."""
    variants = runnable(portable().info)[:2]
    if len(variants) < 2:
        pytest.skip("this machine runs only one of the variants")
    graph = torch.fx.GraphModule(converted(), converted().graph)
    graph.meta.update(converted().meta)
    weight = graph.get_buffer("two_weight")
    weight[3, 0, 0, 0] *= -1
    try:
        wrong = qcompile.compile(graph, target=f"cpu:{variants[1].arch}")
    finally:
        weight[3, 0, 0, 0] *= -1
    info = replace(portable().info, variants=variants)
    right = portable().as_variant(variants[0].arch)
    made = [right, wrong]
    program = Program(pack(info, [p.library_bytes for p in made], [p.constants for p in made]))
    report = qcompile.verify(program, converted(), X)
    assert not report.ok
    assert all(kernel.ok for kernel in report.kernels)
    assert all(line.startswith(f"{variants[1].arch}: two (") for line in report.failures()[:1])
    assert f"\nNOT VERIFIED as {variants[1].arch}: " in report.verdict()
    assert "differ, first at" in str(report)
    with pytest.raises(QCompileError, match=f"its graph does:\n  {variants[1].arch}: two"):
        report.raise_if_failed()


# --- the command line ----------------------------------------------------------------------------

MODEL = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
example_inputs = torch.randn(4, 4)
"""


@on_x86
def test_from_a_model_file_to_a_portable_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trial, "SHORT", 0.01)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setitem(VARIANTS, "x86_64", ("haswell", "x86-64-v2", "x86-64"))
    monkeypatch.chdir(tmp_path)
    has(monkeypatch, *machine_of(Target("cpu", "x86-64-v2")).features)
    Path("net.py").write_text(MODEL)

    assert cli.main(["net.py", "--target", "cpu:portable"]) == cli.OK
    out, err = capsys.readouterr()
    for arch in VARIANTS["x86_64"]:
        assert f"compile for cpu:{arch} " in err
    assert "verified as x86-64-v2: 4 samples" in out
    assert "verified as x86-64: 4 samples" in out
    assert "unverified, as this machine cannot run them:\nhaswell needs " in out

    assert cli.main(["inspect", "net-w1a1.qcp", "--kernels"]) == cli.OK
    rows = capsys.readouterr().out.splitlines()
    [haswell, used, unused] = [line for line in rows if " x86_64 " in line]
    assert "avx2, bmi1" in haswell
    assert used.split()[0] == "x86-64-v2"
    assert used.split()[-1] == "used"
    assert unused.split()[-2:] == ["would", "run"]
    assert [line.rstrip() for line in rows if line.startswith("kernels of ")] == [
        f"kernels of {arch}" for arch in VARIANTS["x86_64"]
    ]


def test_no_portable_target_is_said_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(VARIANTS, platform.machine())
    train = "def train(model):\n    raise AssertionError\n"
    Path("net.py").write_text(MODEL + train)
    assert cli.main(["net.py", "--target", "cpu:portable"]) == cli.REFUSED
    assert f"there is no cpu:portable on {platform.machine()}" in capsys.readouterr().err


# --- what the code consists of -------------------------------------------------------------------

GAS = {"pni": "sse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "bmi1": "bmi", "abm": "lzcnt"}


def instructions(library: bytes, folder: Path) -> list[str]:
    """The library's instructions, without those that jump: they name places."""
    path = folder / "library.so"
    path.write_bytes(library)
    command = ["objdump", "-d", "--no-show-raw-insn", "--no-addresses", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = (re.sub(r"\s*(<.*>|#.*)", "", x).strip() for x in text.splitlines() if x[:1] == "\t")
    places = re.compile(r"(bnd |data16 |rex.W |notrack )*(j\w+|call|nop\w?|cs nop\w?)\b")
    return sorted({line for line in lines if not places.match(line)})


def complaints(lines: list[str], features: tuple[str, ...]) -> list[str]:
    """What the assembler says of them if a processor has these features, and those of all x86-64."""
    # endbr64 does nothing where it is not known.
    extensions = ["ibt", *(GAS.get(f, f) for f in features)]
    command = ["as", f"-march={'+'.join(['generic64', *extensions])}", "-o", "/dev/null", "-"]
    text = "\n".join(lines) + "\n"
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return re.findall(r"Error: (.*)", done.stderr)


needs_binutils = pytest.mark.skipif(
    not X86 or shutil.which("objdump") is None or shutil.which("as") is None,
    reason="there is no objdump and as for x86-64",
)


@needs_binutils
@pytest.mark.parametrize("arch", VARIANTS["x86_64"])
def test_code_has_no_instruction_that_is_not_asked_for(arch: str, tmp_path: Path) -> None:
    [variant] = [v for v in portable().info.variants if v.arch == arch]
    lines = instructions(libraries()[arch], tmp_path)
    assert len(lines) > 1000
    assert complaints(lines, variant.features) == []
    if variant.features and arch != "x86-64-v2":
        assert complaints(lines, ("pni", "sse4_1", "ssse3", "sse4_2", "popcnt"))


@needs_binutils
def test_code_for_avx2_touches_no_register_of_avx512(tmp_path: Path) -> None:
    best = "\n".join(instructions(libraries()["cascadelake"], tmp_path))
    assert re.search(r"%zmm\d", best)
    assert "vpdpbusd" in best
    for arch, wide in (("haswell", "%ymm"), ("alderlake", "%ymm"), ("x86-64-v2", "%xmm")):
        text = "\n".join(instructions(libraries()[arch], tmp_path))
        assert wide in text
        assert not re.search(r"%zmm|%k[0-7]|%[xy]mm(1[6-9]|2\d|3[01])", text)
        assert wide != "%xmm" or "%ymm" not in text
        assert ("vpdpbusd" in text) == (arch == "alderlake")


def test_numpy_gives_the_same(tmp_path: Path) -> None:
    path = tmp_path / "net.qcp"
    portable().save(path)
    worst = runnable(portable().info)[-1].arch
    y = qcompile.load(path, arch=worst)(X.numpy())
    assert np.array_equal(y, portable().as_variant(worst)(X).numpy())
