"""The table of whole networks: who is in it, why some are not, and what the columns say."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bench_network
import machine_facts
import qcompile
import timed_rows
from bench_network import Contest
from qcompile.rivals import engines, onnx_model, pytorch
from qcompile.rivals.entrant import Unavailable
from qcompile.rivals.folding import folded

PYTORCH = [
    *("PyTorch float32", "PyTorch float32, inductor"),
    *("PyTorch int8 fbgemm", "PyTorch int8 x86", "PyTorch int8 onednn"),
]
OTHERS = ["ONNX Runtime float32", "ONNX Runtime int8", "OpenVINO float32", "OpenVINO int8"]
ENGINES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}


class Small(nn.Module):
    """Every layer of the networks that are compared, and one BatchNorm that cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.first: nn.Module = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 8, 3, 2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.nothing = nn.Dropout()
        self.fc = nn.Linear(8, 5)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.bn(self.conv(self.first(x)))))
        x = torch.flatten(self.average(self.again(x) + x), 1)
        return self.norm(self.fc(self.nothing(x)))


def small() -> nn.Module:
    torch.manual_seed(1)
    model = Small()
    with torch.no_grad():
        for norm in (model.bn, model.norm):
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
            assert norm.running_mean is not None
            norm.running_mean.uniform_(-0.1, 0.1)
    return model.eval()


def unnormed() -> nn.Module:
    model = small()
    model.first = nn.Identity()
    return model


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


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
    monkeypatch.setattr(bench_network, "CONTESTS", (simple_contest(),))
    monkeypatch.setattr(machine_facts, "pin", lambda threads: None)


def test_folded_networks_compute_the_same() -> None:
    model, x = small(), torch.randn(2, 3, 16, 16)
    graph = folded(model)
    kinds = [type(m) for m in graph.modules()]
    assert nn.BatchNorm2d in kinds  # `first`, which follows no layer
    called = {str(n.target) for n in graph.graph.nodes if n.op == "call_module"}
    assert called == {"first", "conv", "relu", "pool", "again", "average", "nothing", "fc"}
    torch.testing.assert_close(graph(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not installed("onnx"), reason="onnx is not installed")
def test_a_layer_without_a_spelling_is_a_reason() -> None:
    with pytest.raises(Unavailable, match=r"first.*has no spelling in ONNX here"):
        onnx_model.float_model(small(), (torch.ones(1, 3, 16, 16),))


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_other_engines_compute_the_same(package: str) -> None:
    for name in {"onnx", "onnxruntime", package}:
        if not installed(name):
            pytest.skip(f"{name} is not installed")
    model, x = unnormed(), torch.randn(2, 3, 16, 16)
    calibration = [torch.randn(8, 3, 16, 16), x]
    wanted = model(x)
    keys = [f"{package}-fp32", package]
    exact, rounded = engines.entrants(keys, model, [(c,) for c in calibration], 1)
    got = exact.prepare((x,)).output()
    assert got is not None
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    got = rounded.prepare((x,)).output()
    assert got is not None
    torch.testing.assert_close(got, wanted, rtol=0, atol=0.1 * wanted.abs().max().item())
    assert not torch.equal(got, wanted)


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


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "openvino"])
def test_what_is_not_installed_is_said(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    x = torch.ones(1, 3, 16, 16)
    entrants = engines.entrants(engines.NAMES[5:], unnormed(), [(x,)], 1)
    rows, calls = timed_rows.prepared(entrants, x)
    reasons = {row.name: row.reason for row in rows}
    dependent = {
        "onnx": OTHERS,
        "onnxruntime": ["ONNX Runtime float32", "ONNX Runtime int8", "OpenVINO int8"],
        "openvino": ["OpenVINO float32", "OpenVINO int8"],
    }[package]
    for name in dependent:
        assert reasons[name].endswith("is not installed")
        assert calls[[row.name for row in rows].index(name)] is None
    if all(installed(p) for p in ("onnx", "onnxruntime", "openvino")):
        assert {name for name, reason in reasons.items() if reason} == set(dependent)


def test_an_engine_that_pytorch_lacks_is_said() -> None:
    x = torch.ones(1, 1, 8, 8)
    with pytest.raises(Unavailable, match="no engine abacus"):
        pytorch.int8(unnormed(), [(x,)], "abacus").prepare((x,))


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
