"""The table of whole networks: who is in it, why some are not, and what the columns say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bench_network
import machine_facts
import qcompile
import timed_rows
from bench_network import Contest
from qcompile.rivals import pytorch
from qcompile.rivals.entrant import Inputs, Ready, Unavailable

PYTORCH = [
    *("PyTorch float32", "PyTorch float32, inductor"),
    *("PyTorch int8 fbgemm", "PyTorch int8 x86", "PyTorch int8 onednn"),
]
OTHERS = ["ONNX Runtime float32", "ONNX Runtime int8", "OpenVINO float32", "OpenVINO int8"]


def simple_contest() -> Contest:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU()
        )

    ours = {"lenet, 1 bit": (build, qcompile.Recipe(1, first_last_bits=8))}
    return Contest("small", (1, 8, 8), build, ours, batches=(1, 2))


@pytest.fixture
def one_contest(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(model: nn.Module, inputs: Inputs) -> Ready:
        raise Unavailable("the compiler is busy")

    monkeypatch.setattr(bench_network, "CONTESTS", (simple_contest(),))
    monkeypatch.setattr(machine_facts, "pin", lambda threads: None)
    monkeypatch.setattr(pytorch, "_inductor", busy)  # seconds each, and tested with the engines


@pytest.mark.usefixtures("one_contest")
def test_every_rival_stands_in_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(tmp_path / "out.json"), str(tmp_path / "out.md")]
    bench_network.main(
        ["--networks", "lenet", "--seconds", "0.01", "--json", paths[0], "--markdown", paths[1]]
    )
    whole = json.loads(Path(paths[0]).read_text(encoding="utf-8"))
    assert {"processor", "versions", "date", "load"} <= whole["machine"].keys()
    assert [(r["network"], r["batch"], r["threads"]) for r in whole["runs"]] == [
        ("small", 1, 1),
        ("small", 2, 1),
    ]
    names = ["qcompile lenet, 1 bit", *PYTORCH, *OTHERS]
    for result in whole["runs"]:
        assert [row["name"] for row in result["rows"]] == names
        assert result["best_pytorch_int8"] in pytorch.INT8.values()
        for row in result["rows"]:
            assert (row["ms"] is None) == bool(row["reason"]), row
            if row["ms"] is not None:
                assert row["times"][row["name"]] == 1.0
                assert 0 < row["best_ms"] <= row["ms"]
                assert row["size"] > 1000
    printed, markdown = capsys.readouterr().out, Path(paths[1]).read_text(encoding="utf-8")
    for name in names:
        assert name in printed
        assert f"| {name} |" in markdown
    assert "small, batch 2, 1 thread (cpu)" in printed


def test_a_target_that_this_machine_lacks_is_said() -> None:
    contest = simple_contest()
    x = torch.rand(1, *contest.shape)
    ours = bench_network.entrants(contest, ["lenet"], 1, "cpu:no-such-processor")[:1]
    rows, _ = timed_rows.prepared(ours, x)
    assert "no-such-processor" in rows[0].reason


def test_unknown_networks_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_network.options(["--networks", "vgg"])
    assert "there are birealnet18, resnet18, lenet" in capsys.readouterr().err


def test_more_threads_are_compared_with_one() -> None:
    row: dict[str, Any] = {
        "name": "a",
        "size": 12345,
        "ms": 2.0,
        "best_ms": 1.5,
        "times": {"OpenVINO int8": 3.0},
        "spread": 1.0,
        "reason": "",
        "note": "how",
    }
    result = {
        "network": "net",
        "threads": 2,
        "batch": 8,
        "target": "cpu",
        "rows": [row],
        "best_pytorch_int8": None,
    }
    made = bench_network.sheet(result, {"a": 3.8})
    assert made.title == "net, batch 8, 2 threads (cpu)"
    assert made.columns[-2:] == ("× 1 thread", "note")
    assert made.rows == (("a", "12,345", "2.000", "1.500", "-", "-", "3.00", "1.90", "how"),)
