"""What the command does where there is a GPU: the emulator plays one that this machine has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from emulated_gpu import needs_emulator
from torch import nn

import qcompile
from qcompile import cli, emulator, latency, machine, program, trial, verification
from qcompile.codegen.cuda import build
from qcompile.emulation import Emulated
from qcompile.program_info import Variant

pytestmark = needs_emulator

MODEL = """
import torch
from torch import nn

model = nn.Sequential(nn.Flatten(), nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 3))
example_inputs = torch.randn(20, 2, 4)

def train(model):
    model.train()(example_inputs)

@torch.no_grad()
def evaluate(model):
    return (model(example_inputs).argmax(1) == 0).float().mean().item()
"""


@pytest.fixture
def _a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine code is the emulator's, its driver too; nothing else knows."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL, encoding="utf-8")
    native = machine.obstacle

    def obstacle(variant: Variant) -> str:
        return "" if variant.machine == "cuda" else native(variant)

    def fatbin(source: str, *_: object) -> bytes:
        return emulator.image(source, 80)

    monkeypatch.setattr(build, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(build, "fatbin", fatbin)
    monkeypatch.setattr(program, "Native", lambda: Emulated(80))
    for module in (machine, trial, verification):
        monkeypatch.setattr(module, "obstacle", obstacle)
    monkeypatch.setattr(trial, "SHORT", 0.0)
    monkeypatch.setattr(trial, "BATCHES", (1,))


@pytest.mark.usefixtures("_a_gpu")
def test_it_is_evaluated_verified_and_timed_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["net.py", "--target", "cuda", "-o", "net.qcp"]) == cli.OK
    out, err = (" ".join(text.split()) for text in capsys.readouterr())
    assert "verified: 20 samples" in out
    assert "emulated" not in out + err
    assert out.count("%") >= 3  # the program's accuracy too
    assert "median of a call, GPU; ×: times ours" in out
    assert "this PyTorch has no CUDA" in out or torch.cuda.is_available()
    assert out.endswith(f"wrote net.qcp, {Path('net.qcp').stat().st_size:,} bytes")
    assert cli.main(["run", "net.qcp"]) == cli.OK
    assert "ms on random numbers, copies to the GPU and back included, cuda" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.usefixtures("_a_gpu")
def test_of_both_the_first_that_runs_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["net.py", "--epochs", "0", "--target", "cpu,cuda", "-o", "net.qcp"]
    assert cli.main(words) == cli.OK
    out = " ".join(capsys.readouterr().out.split())
    both = qcompile.load("net.qcp")
    assert both.variant.machine != "cuda"
    assert f"verified as {both.variant.arch}: 20 samples" in out
    assert "verified as cuda: 20 samples" in out
    assert "thread" in out


def test_rivals_run_where_the_program_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 and float16, on a device, which they are waited for."""
    waited: list[None] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(None))
    monkeypatch.setattr(latency, "_device", lambda: torch.device("cpu"))
    model, x = nn.Linear(4, 3), torch.randn(2, 4)
    own = qcompile.compile(model, x, bits=8)
    entrants = latency.on_gpu(own, model)
    assert [rival.name for rival in entrants] == ["qcompile", "PyTorch float32", "PyTorch float16"]
    ready = [rival.prepare((x,)) for rival in entrants]
    assert [r.size for r in ready] == [own.size, 60, 30]
    results = [r.call() for r in ready]
    assert len(waited) == len(results) == 3
    assert all(isinstance(y, torch.Tensor) for y in results)
    assert torch.equal(results[1], model(x))  # type: ignore[arg-type]
    assert results[2].dtype is torch.float16  # type: ignore[attr-defined]
    assert model.weight.dtype is torch.float32


def test_without_cuda_in_torch_there_are_no_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model, x = nn.Linear(4, 3), torch.randn(2, 4)
    entrants = latency.on_gpu(qcompile.compile(model, x, bits=8), model)
    rivals, timings = latency.measure(entrants, (x,), [1], seconds=0.01)
    assert [timing.seconds is None for timing in timings] == [False, True]
    assert "this PyTorch has no CUDA" in rivals[1].reason
