"""The table of binary layers: who is in it, against which limit, and what a chain computes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bench_conv
import binary_chain
import machine_facts
from binary_chain import Shape
from qcompile.bench import limits
from qcompile.ir.ops import pack_words
from qcompile.rivals import ov, pytorch
from qcompile.rivals.entrant import Inputs, Ready, Unavailable
from timed_rows import Settings

RIVALS = [
    *("PyTorch float32", "PyTorch float32, inductor"),
    *("PyTorch int8 fbgemm", "PyTorch int8 x86", "PyTorch int8 onednn"),
    *("ONNX Runtime float32", "ONNX Runtime int8"),
    *("OpenVINO float32", "OpenVINO int8", "OpenVINO 1 bit"),
]


def test_work_of_a_layer() -> None:
    assert [shape.k for shape in bench_conv.SHAPES] == [576, 1152, 2304, 4608]
    assert {shape.macs for shape in bench_conv.SHAPES} == {115_605_504}


def test_a_layer_of_the_chain_is_a_convolution_over_zeros() -> None:
    torch.manual_seed(0)
    shape = Shape(32, 5)
    layer = binary_chain._Layer(shape)
    x = torch.randn(2, 32, 5, 5)
    bits = pack_words(x.movedim(1, -1) >= 0)
    acc = layer.corrected(layer.accumulators(bits))
    assert isinstance(layer.weight, Tensor)
    places = (layer.weight.unsqueeze(-1) >> torch.arange(32)) & 1
    signs = (1 - 2 * places).reshape(32, 3, 3, 32).movedim(-1, 1)
    wanted = F.conv2d(torch.where(x >= 0, 1.0, -1.0), signs.float(), padding=1)
    assert torch.equal(acc, wanted.to(torch.int32))


def test_programs_of_the_chain_and_of_its_parts() -> None:
    shape, x = Shape(32, 5), torch.randn(2, 32, 5, 5)
    program = binary_chain.chain(shape, 2, x, "cpu")
    assert program(x).shape == (2, 5, 5, 1)
    parts = bench_conv.split(shape, x, "cpu", Settings())
    assert list(parts) == ["pack", "matmul", "epilogue"]
    assert all(seconds > 0 for seconds in parts.values())
    assert bench_conv.split(shape, x, "cpu:no-such-processor", Settings()) == {}
    with pytest.raises(Unavailable, match="no-such-processor"):
        binary_chain.chain(shape, 2, x, "cpu:no-such-processor")


def test_a_wrong_program_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: object) -> object:
        return lambda x: torch.zeros(1, 5, 5, 1, dtype=torch.int32)

    monkeypatch.setattr(binary_chain, "build_program", wrong)
    with pytest.raises(Unavailable, match="wrong result"):
        binary_chain.chain(Shape(32, 5), 2, torch.randn(1, 32, 5, 5), "cpu")


def test_the_limit_of_a_target() -> None:
    all_of_them = [isa.name for isa in limits.SETS]
    assert bench_conv.isa_of("cpu", all_of_them) == "avx512_vpopcntdq"
    assert bench_conv.isa_of("cpu", ["avx2"]) == "avx2"
    assert bench_conv.isa_of("cpu", []) is None
    assert bench_conv.isa_of("cpu:cascadelake", all_of_them) == "avx512"
    assert bench_conv.isa_of("cpu:haswell", all_of_them) == "avx2"
    assert bench_conv.isa_of("cpu:cascadelake", ["avx2"]) is None
    assert bench_conv.isa_of("cpu:cortex-a76", all_of_them) is None


def test_openvinos_binary_convolution_is_the_one_that_is_meant() -> None:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    package = ov.openvino()
    random = np.random.default_rng(0)
    x = random.standard_normal((1, 64, 6, 6), dtype=np.float32)
    tau = random.standard_normal(64, dtype=np.float32)
    high = random.integers(0, 2, (64, 64, 3, 3), dtype=np.uint8)
    graph = package.opset13.parameter(list(x.shape), np.float32)
    value = ov.binary_convolution(package, graph, tau, high)
    whole = package.Model([value], [graph], "one")
    got = ov.run(whole, (torch.from_numpy(x),), 1, precision="f32").output()
    assert got is not None
    signs = torch.where(torch.from_numpy(x > tau.reshape(1, -1, 1, 1)), 1.0, -1.0)
    wanted = F.conv2d(signs, torch.from_numpy(2.0 * high - 1).float(), padding=1)
    assert torch.equal(got, wanted)


def busy(model: nn.Module, inputs: Inputs) -> Ready:
    raise Unavailable("the compiler is busy")


def test_every_rival_stands_in_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_facts, "pin", lambda threads: None)
    monkeypatch.setattr(pytorch, "_inductor", busy)  # seconds each, and tested with the engines
    monkeypatch.setattr(bench_conv, "SHORT", 1)
    monkeypatch.setattr(bench_conv, "LONG", 2)
    paths = tmp_path / "out.json", tmp_path / "out.md"
    files = ["--json", str(paths[0]), "--markdown", str(paths[1])]
    quick = ["--shapes", "64x5", "--seconds", "0.01", "--targets", "cpu,cpu:no-such-processor"]
    bench_conv.main([*quick, *files])
    whole = json.loads(paths[0].read_text(encoding="utf-8"))
    [layer] = whole["layers"]
    rows = {row["name"]: row for row in layer["rows"]}
    mine, other = "qcompile 1 bit, cpu", "qcompile 1 bit, cpu:no-such-processor"
    expected = [mine, other, *RIVALS]
    assert list(rows)[: len(expected)] == expected
    assert [n for n in list(rows)[len(expected) :] if not n.startswith("limit, ")] == []
    assert "no-such-processor" in rows[other]["reason"]
    assert rows[mine]["reason"] == ""
    assert rows["PyTorch float32, inductor"]["reason"] == "the compiler is busy"
    for row in rows.values():
        assert (row["ms"] is None) == bool(row["reason"]), row
    if whole["limit"]["best"]["1 bit"]:
        assert rows[mine]["of_limit"] is not None
    assert list(layer["split_ms"]) == [mine]
    printed, markdown = capsys.readouterr().out, paths[1].read_text(encoding="utf-8")
    for name in expected:
        assert name in printed
        assert f"| {name} |" in markdown
    assert "64 channels, 5 x 5, batch 1, 1 thread" in printed


def test_shapes_on_the_command_line() -> None:
    assert bench_conv.options(["--shapes", "64x56,32x7"]).shapes == [Shape(64, 56), Shape(32, 7)]
    assert bench_conv.options([]).targets == ["cpu", "cpu:cascadelake", "cpu:haswell"]
