"""The benchmark of all widths, on layers that take no time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import bench_widths
import machine_facts
from bench_widths import Row
from binary_chain import Shape
from qcompile.ir.graph import calls, constant_of
from qcompile.ir.target import Target
from timed_rows import Settings

ROW = Row(Shape(64, 5), 1, 1, "xnor-popcount", "", 1e-3, 2e-3, 0.5, 0.4, 0.6)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_facts, "pin", lambda threads: None)
    monkeypatch.setattr(bench_widths, "SHORT", 1)
    monkeypatch.setattr(bench_widths, "LONG", 2)


def test_a_layer_is_slower_where_three_rounds_of_four_say_so() -> None:
    assert not ROW.slower
    assert replace(ROW, ratio=1.1, low=1.02, high=1.2).slower
    assert not replace(ROW, ratio=1.1, low=0.9, high=1.3).slower
    assert not replace(ROW, ratio=1.02, low=1.01, high=1.03).slower
    assert replace(ROW, ratio=1.1, low=1.02).to_json()["slower"] is True
    assert ROW.to_json()["int8_ms"] == pytest.approx(2.0)


def test_levels_of_a_chain_use_the_widths_that_are_asked_for() -> None:
    shape, x = Shape(32, 5), torch.randn(2, 32, 5, 5)
    for weight_bits, activation_bits in [(1, 1), (1, 4), (3, 2), (8, 8)]:
        gm = bench_widths.chain(shape, (weight_bits, activation_bits), 2, x)
        products = [n for n in gm.graph.nodes if calls(n, torch.ops.qcompile.conv.default)]
        assert [n.meta["layer"] for n in products] == ["layer0", "layer1"] == list(gm.meta["plans"])
        used = len(gm(x).unique())
        assert 2 <= used <= 1 << activation_bits
        weight = constant_of(gm, products[0].args[1])  # type: ignore[arg-type]
        assert weight is not None
        assert len(weight.unique()) == 1 << weight_bits


def test_the_choice_is_timed_beside_int8_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = tmp_path / "out.json", tmp_path / "out.md"
    files = ["--json", str(paths[0]), "--markdown", str(paths[1])]
    quick = ["--shapes", "64x9", "--seconds", "0.01", "--widths", "1/1,8/8"]
    code = bench_widths.main([*quick, *files])
    whole = json.loads(paths[0].read_text(encoding="utf-8"))
    binary, bytes_ = whole["layers"]
    assert (binary["weight_bits"], binary["activation_bits"]) == (1, 1)
    assert binary["kernel"] in ("xnor-popcount", "int8")
    assert (bytes_["kernel"], bytes_["ratio"], bytes_["slower"]) == ("int8", 1.0, False)
    printed, markdown = capsys.readouterr().out, paths[1].read_text(encoding="utf-8")
    assert "layers are slower than int8" in printed
    assert "64 channels, 9 x 9" in printed
    assert "| 1/1 |" in markdown
    assert code == int(any(layer["slower"] for layer in whole["layers"]))


def test_a_layer_that_is_slower_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = replace(ROW, ratio=1.5, low=1.4, high=1.6)
    monkeypatch.setattr(bench_widths, "measure", lambda *arguments: slow)
    assert bench_widths.main(["--shapes", "64x5", "--widths", "1/1"]) == 1
    printed = capsys.readouterr().out
    assert "1 of 1 layers are slower than int8" in printed
    assert "SLOWER" in printed


def test_results_that_depend_on_the_kernel_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = bench_widths.compiled

    def wrong(converted: torch.fx.GraphModule, target: Target, kernel: str | None) -> object:
        program = compiled(converted, target, kernel)
        return program if kernel is None else _Negated(program)

    class _Negated:
        num_threads = 1

        def __init__(self, program: object) -> None:
            self.program = program

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return 1 - self.program(x)  # type: ignore[operator]

    monkeypatch.setattr(bench_widths, "compiled", wrong)
    with pytest.raises(SystemExit, match="depend on the kernel"):
        bench_widths.measure(Shape(32, 5), (1, 2), Target(), 1, Settings(seconds=0.01))


def test_the_widths_of_the_command_line() -> None:
    every = bench_widths.widths_of(bench_widths.options(["--all"]))
    assert len(every) == len(set(every)) == 64
    some = bench_widths.widths_of(bench_widths.options([]))
    assert len(some) == 20
    assert bench_widths.widths_of(bench_widths.options(["--widths", "1/2,8/3"])) == [(1, 2), (8, 3)]
