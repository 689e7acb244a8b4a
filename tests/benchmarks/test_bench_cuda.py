"""The tables of a GPU: tried out on the emulator, and what is said where there is no GPU."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from emulated_gpu import needs_emulator
from torch import nn

import bench_cuda
import bench_network
import gpu_clock
import qcompile
import timed_rows
from bench_network import Contest
from binary_chain import Shape
from qcompile.rivals import torch_cuda
from qcompile.rivals.entrant import Unavailable


def small_contest() -> Contest:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU())

    ours = {"lenet, 1 bit": (build, qcompile.Recipe(1, first_last_bits=8))}
    return Contest("small", (1, 8, 8), build, ours)


FLOATS = [entrant.name for entrant in torch_cuda.entrants(nn.Identity(), "cpu")]
COMPILED = [name for name in FLOATS if "compiled" in name]


class TestEmulated:
    pytestmark = needs_emulator

    def test_every_table(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(bench_network, "CONTESTS", (small_contest(), bench_network.IMAGENET))
        path = tmp_path / "out.json"
        arguments = ["--emulated", "--seconds", "0.01", "--networks", "lenet", "--shapes", "32x3"]
        bench_cuda.main([*arguments, "--json", str(path)])
        whole = json.loads(path.read_text(encoding="utf-8"))
        assert whole["emulated"] is True
        assert whole["target"] == "cuda:sm_80"
        assert [(r["network"], r["batch"]) for r in whole["networks"]] == [("small", 1)]
        names = [row["name"] for row in whole["networks"][0]["rows"]]
        assert names == ["qcompile lenet, 1 bit", *FLOATS]
        (layer,) = whole["layers"]
        ours = [bench_cuda.OURS_1, bench_cuda.OURS_8]
        assert [row["name"] for row in layer["rows"]] == [*ours, *FLOATS, torch_cuda.INT_MM]
        for row in [*whole["networks"][0]["rows"], *layer["rows"]]:
            reason = "needs a GPU" if row["name"] in COMPILED else ""
            assert row["reason"] == reason, row
            assert (row["ms"] is None) == bool(reason)
        printed = capsys.readouterr().out
        assert printed.count("EMULATED ON THE CPU, NOT A MEASUREMENT") == 2

    def test_a_target_without_code_for_gpus(self) -> None:
        settings = timed_rows.Settings(seconds=0.01)
        place = bench_cuda.Place("cpu", settings, 80)
        chain = bench_cuda.chains(Shape(32, 3), 1, 1, place)[0]
        with pytest.raises(Unavailable, match="GPU"):
            chain.prepare((torch.zeros(1, 32, 3, 3),))


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_clock, "diagnose", lambda: "there is no GPU")
    with pytest.raises(SystemExit, match=r"nothing can be measured here: there is no GPU \(--emu"):
        bench_cuda.main([])


def test_a_torch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_clock, "diagnose", lambda: "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "built without CUDA" in gpu_clock.obstacle()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu_clock.obstacle() == ""


def test_on_a_gpu_it_compiles_for_that_gpu_and_takes_its_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_clock, "obstacle", lambda: "")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    place = bench_cuda.place_of(bench_cuda.options([]))
    assert (place.target, place.device, place.emulate) == ("cuda:sm_89", "cuda", None)
    assert isinstance(place.settings, gpu_clock.GpuSettings)
    assert bench_cuda.options([]).batch == [1, 64, 256]
    assert bench_cuda.place_of(bench_cuda.options(["--target", "cuda"])).target == "cuda"


class _Event:
    """An event of a GPU whose calls take as long as they say."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = _Event.now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: _Event) -> float:
        return (other.at - self.at) * 1e3


def test_turns_are_timed_by_events(monkeypatch: pytest.MonkeyPatch) -> None:
    def takes(seconds: float) -> Any:
        def call() -> None:
            _Event.now += seconds
            time.sleep(1e-5)

        return call

    monkeypatch.setattr(torch.cuda, "Event", _Event)
    settings = gpu_clock.GpuSettings(seconds=0.01, rounds=7)
    fast, slow = settings.take_turns([takes(1e-4), takes(2e-3)])
    assert 5 <= len(fast) == len(slow) <= 7
    assert fast == pytest.approx([1e-4] * len(fast))
    assert slow == pytest.approx([2e-3] * len(slow))
    assert settings.take_turns([]) == []


def test_the_product_of_integers_is_one() -> None:
    ready = torch_cuda.int_mm(32, 64, 16, 3, "cpu").prepare((torch.empty(0),))
    found = ready.call()
    assert isinstance(found, torch.Tensor)
    assert (found.shape, found.dtype) == ((32, 16), torch.int32)


def test_unknown_shapes_and_networks_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--shapes", "big"], ["--networks", "vgg"], ["--batch", "many"]):
        with pytest.raises(SystemExit):
            bench_cuda.options(arguments)
    assert "there are birealnet18, resnet18, lenet" in capsys.readouterr().err
