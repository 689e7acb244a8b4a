"""Whole networks for GPUs, run on an emulation of one: equal to their graphs, bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from emulated_gpu import needs_emulator
from torch import Tensor, nn
from torch.fx import GraphModule

import qcompile
from qcompile import QCompileError, Recipe
from qcompile.codegen.cuda import build
from qcompile.emulator import ORDERS
from qcompile.machine import obstacle
from qcompile.program import Program
from qcompile.zoo.lenet import lenet
from qcompile.zoo.resnet import BasicBlock, BiRealBlock

pytestmark = needs_emulator

LENET = {
    "levels 0 and 1": Recipe(bits=1, method="dorefa"),
    "8 bits": Recipe(bits=8),
    "2/2 bits": Recipe(weight_bits=2, activation_bits=2),
    "dynamic": Recipe(bits=8, mode="dynamic"),
    "4-bit weights": Recipe(bits=4, mode="weight-only"),
}


@pytest.fixture(autouse=True)
def _source_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator reads the source; machine code for seven architectures takes seconds."""
    monkeypatch.setattr(build, "find_nvcc", lambda: None)


def converted(model: nn.Module, x: Tensor, recipe: Recipe) -> GraphModule:
    torch.manual_seed(7)
    prepared = qcompile.prepare(model, x, recipe)
    prepared.train()(x)  # statistics of BatchNorm, ranges of activations
    return qcompile.convert(prepared.eval())


@pytest.fixture(scope="module")
def binary() -> tuple[GraphModule, Tensor]:
    """LeNet of one bit, and samples for it."""
    torch.manual_seed(2)
    x = torch.randn(4, 1, 28, 28)
    return converted(lenet(), x, Recipe(bits=1)), x


def bireal() -> nn.Module:
    """A stem, two stages, a head, as Bi-Real-Net-18 has them."""
    return nn.Sequential(
        *[nn.Conv2d(3, 32, 7, 2, 3, bias=False), nn.BatchNorm2d(32), nn.MaxPool2d(3, 2, 1)],
        *[BiRealBlock(32, 32, 1), BiRealBlock(32, 32, 1), BiRealBlock(32, 64, 2)],
        *[BiRealBlock(64, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)],
    )


def resnet() -> nn.Module:
    return nn.Sequential(
        *[nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()],
        *[BasicBlock(32, 32, 1), BasicBlock(32, 64, 2)],
        *[nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)],
    )


def check(gm: GraphModule, x: Tensor, arches: tuple[int, ...] = (80,)) -> Program:
    """Each kernel is right on each architecture, and the whole gives the bits of the graph."""
    program = qcompile.compile(gm, target="cuda")
    report = qcompile.verify(program, gm, [x[:1], x[1:]], emulate=arches)
    report.raise_if_failed()
    each = (report, *report.others)
    assert tuple(r.emulated for r in each) == arches
    assert all(k.equal for r in each for k in r.kernels if k.equal is not None)
    assert report.verdict().count("verified, emulated on the CPU as sm_") == len(arches)
    return program


@pytest.mark.parametrize("recipe", LENET.values(), ids=LENET)
def test_lenet(recipe: Recipe) -> None:
    torch.manual_seed(1)
    x = torch.randn(4, 1, 28, 28)
    gm = converted(lenet(), x, recipe)
    check(gm, x)


def test_a_binary_lenet_in_any_order(binary: tuple[GraphModule, Tensor]) -> None:
    gm, x = binary
    program = check(gm, x, (80,))
    expected = gm(x)
    for order in range(ORDERS):
        assert torch.equal(program.emulated(80, order=order)(x), expected)
    assert np.array_equal(program.emulated(80)(x.numpy()), expected.numpy())


def test_a_binary_lenet_as_every_generation(binary: tuple[GraphModule, Tensor]) -> None:
    check(*binary, (75, 90, 100))


@pytest.mark.parametrize("bits", [1, 8])
def test_residual_networks(bits: int) -> None:
    torch.manual_seed(3)
    x = torch.randn(3, 3, 32, 32)
    model = bireal() if bits == 1 else resnet()
    program = check(converted(model, x, Recipe(bits=bits)), x, (80, 90))
    kinds = {k.kind for k in program.info.variants[0].kernels}
    assert ("xnor-popcount" if bits == 1 else "int8") in kinds


def test_one_file_for_both(binary: tuple[GraphModule, Tensor], tmp_path: Path) -> None:
    gm, x = binary
    qcompile.compile(gm, target="cuda,cpu").save(tmp_path / "both.qcp")
    program = qcompile.load(tmp_path / "both.qcp", emulate=80)
    on_gpu, on_cpu = program.info.variants
    assert (on_gpu.machine, on_gpu.arch, program.variant) == ("cuda", "cuda", on_gpu)
    native = qcompile.load(tmp_path / "both.qcp")
    assert torch.equal(program(x), gm(x))
    assert torch.equal(native(x), gm(x))
    report = qcompile.verify(native, gm, x, emulate=80)
    assert [(r.variant, r.emulated) for r in (report, *report.others)] == [
        (on_cpu.arch, None),
        ("cuda", 80),
    ]
    assert f"verified as {on_cpu.arch}: 4 samples" in report.verdict()
    assert "verified as cuda, emulated on the CPU as sm_80: 4 samples" in report.verdict()
    if why := obstacle(on_gpu):
        without = qcompile.verify(native, gm, x)
        assert without.unverified == (f"cuda {why}",)
        assert "emulated" not in without.verdict()


def test_one_architecture_is_emulated_as_itself() -> None:
    torch.manual_seed(5)
    x = torch.randn(2, 6)
    gm = converted(nn.Sequential(nn.Linear(6, 3)), x, Recipe(bits=8))
    program = qcompile.compile(gm, target="cuda:sm_86")
    report = qcompile.verify(program, gm, x, emulate=(86,))
    assert report.ok
    assert (report.variant, report.emulated) == ("sm_86", 86)
    assert qcompile.verify(program, gm, x, emulate="sm_86").emulated == 86
    with pytest.raises(QCompileError, match="there is no GPU 'ampere' to emulate"):
        qcompile.verify(program, gm, x, emulate=("sm_86", "ampere"))
    with pytest.raises(QCompileError, match="has no code for sm_90, and none to emulate") as caught:
        qcompile.verify(program, gm, x, emulate=90)
    assert "it holds sm_86" in str(caught.value)


def test_what_has_no_code_for_gpus_is_not_emulated() -> None:
    x = torch.randn(2, 6)
    gm = converted(nn.Sequential(nn.Linear(6, 3)), x, Recipe(bits=8))
    program = qcompile.compile(gm, target="cpu")
    with pytest.raises(QCompileError, match="has no code for sm_80, and none to emulate"):
        qcompile.verify(program, gm, x, emulate=80)


def test_a_wrong_kernel_is_found_on_an_emulation(
    binary: tuple[GraphModule, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    gm, x = binary
    generate = build.generate

    def broken(*arguments: object) -> object:
        built = generate(*arguments)  # type: ignore[arg-type]
        assert "__ballot_sync" in built.source
        wrong = built.source.replace("__ballot_sync(", "1 ^ __ballot_sync(")
        return dataclasses.replace(built, source=wrong)

    monkeypatch.setattr(build, "generate", broken)
    report = qcompile.verify(qcompile.compile(gm, target="cuda"), gm, x, emulate=80)
    assert not report.ok
    assert report.verdict().startswith("NOT VERIFIED, emulated on the CPU as sm_80: 4 samples")
