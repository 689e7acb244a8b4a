"""`qcompile inspect MODEL`: what each pass made of the graph, and the kernels that would be compiled."""

from __future__ import annotations

import io
import re
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from qcompile import QCompileError, cli, inspect_verb, model_file, pipelines
from qcompile.inspect_code import Listing
from qcompile.inspect_graphs import Snapshots, changed, coloured, difference
from qcompile.inspect_model import Inspected, inspected
from qcompile.ir.graph import text, trace
from qcompile.ir.stages import Stage
from qcompile.ir.target import Target
from qcompile.quant.recipe import Recipe

MODEL = """
import torch
from torch import nn

model = nn.Sequential(
    nn.Conv2d(2, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64),
    nn.ReLU(), nn.Conv2d(64, 8, 1, groups=8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3),
)
example_inputs = torch.randn(4, 2, 6, 6)
"""
RECIPE = Recipe(bits=1, mode="static")
PASSES = [
    p.name
    for passes in (pipelines.prepare_passes(RECIPE), pipelines.convert_passes())
    for p in passes
] + [p.name for p in pipelines.lower_passes()]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL)


@cache
def network() -> Inspected:
    torch.manual_seed(0)
    return inspected(model_file.read("net.py"), RECIPE, (Target("cpu", "haswell"),))


def snapshots() -> Snapshots:
    return network().snapshots


def test_a_snapshot_for_each_pass() -> None:
    assert [one.name for one in snapshots().all] == ["traced", *PASSES]
    assert [one.number for one in snapshots().all] == list(range(len(PASSES) + 1))
    stages = [one.stage for one in snapshots().all]
    assert list(dict.fromkeys(stages)) == [
        Stage.TRACED,
        Stage.PREPARED,
        Stage.CONVERTED,
        Stage.LOWERED,
    ]
    lowered = snapshots().all[-1]
    assert any("qcompile.xnor_matmul" in line for line in lowered.lines)
    assert "def forward(self, " in lowered.text


def test_passes_are_found_by_number_name_title_and_stage() -> None:
    find, last = snapshots().find, snapshots().all[-1]
    assert find("0") is find("traced") is find("00-traced")
    assert find("4") is find("04") is find(PASSES[3])
    assert find("lowered") is find(last.title) is find(str(last.number)) is last
    assert find("converted").stage is Stage.CONVERTED
    assert snapshots().all[find("converted").number + 1].stage is Stage.LOWERED


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("merge-duplicates", "3 passes are called 'merge-duplicates'", "say which: 11-merge-"),
        ("fold-treshold", "no pass is called 'fold-treshold'", "did you mean 'fold-threshold'?"),
        ("nothing like it", "no pass is called 'nothing like it'", "--passes lists them: 0 to"),
        ("99", "there is no pass 99", "they are numbered 0 to"),
    ],
)
def test_passes_that_are_not_there(word: str, message: str, hint: str) -> None:
    with pytest.raises(QCompileError, match=message) as caught:
        snapshots().find(word)
    assert hint in str(caught.value.hint)


def test_layers_that_are_not_there() -> None:
    with pytest.raises(QCompileError, match="no layer that has a kernel is called 'head'"):
        network().code("head")


def test_the_list_of_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "net.py", "--bits", "1", "--passes"]) == cli.OK
    out, err = capsys.readouterr()
    listed = re.findall(r"^ +(\d+)  ([\w-]+) +(\w+) ", out, re.MULTILINE)
    assert [name for _, name, _ in listed] == ["traced", *PASSES]
    assert "groups=8 leaves" in " ".join(out.split())  # what was declined, and why
    assert "Nothing is trained: weights are those of the model file" in " ".join(err.split())
    assert "kernels for" not in out
    for one in snapshots().all:
        row = next(line for line in out.splitlines() if line.split()[:1] == [str(one.number)])
        if one.rewrote:
            assert str(len(one.rewrote)) in row.split()


def test_differences_add_up_to_the_other_graph() -> None:
    for before, after in pairwise(snapshots().all):
        lines = difference(before, after)
        added = [line for line in lines[2:] if line.startswith("+")]
        removed = [line for line in lines[2:] if line.startswith("-")]
        assert (len(added), len(removed)) == changed(before, after)
        assert len(after.lines) == len(before.lines) + len(added) - len(removed)
        if lines:
            assert lines[:2] == [f"--- {before.title}", f"+++ {after.title}"]
        else:
            assert before.lines == after.lines


def test_nodes_keep_their_names_in_a_difference() -> None:
    """Else every line behind a node that came would differ."""
    find = snapshots().find
    added, removed = changed(find("13"), find("lower-binary-conv"))
    assert 0 < removed < added < 12 < len(find("lowered").lines)


def test_names_and_numbers() -> None:
    gm = trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), [torch.randn(1, 2)])
    assert "%2 = call_module 1:ReLU(%1) : f32[1,2]" in text(gm)
    assert "%_1 = call_module 1:ReLU(%_0) : f32[1,2]" in text(gm, named=True)


def test_a_graph_and_a_diff_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["inspect", "net.py", "--bits", "1", "--pass", "fold-threshold"]
    assert cli.main([*words, "--diff", "converted", "lowered"]) == cli.OK
    out = capsys.readouterr().out
    assert out.startswith("rewrote: ")
    graph, diff = out.split("\n--- ")
    assert "qcompile.threshold(" in graph
    assert "def forward(self, input):" in graph
    titles, *lines = diff.split("\n+++ ")[1].splitlines()
    assert titles == snapshots().all[-1].title
    assert any(line.startswith("+%xnor_matmul") for line in lines)
    assert "\x1b" not in out  # no colours where it is no terminal


def test_graphs_that_read_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    inspect_verb._print_diff(network(), ["traced", "1"], Console(highlight=False))
    assert capsys.readouterr().out == "00-traced and 01-read-torch-ao read the same\n"


@pytest.mark.parametrize(("language", "word"), [("asm", "pushq"), ("cuda", "int")])
def test_code_on_a_terminal(language: str, word: str) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, color_system="standard", width=60)
    inspect_verb._print_code([Listing("fc: int8", (f"{word} x;",) * 2, language)], console)
    text_ = shown.getvalue()
    assert "\x1b[1mfc: int8\x1b[0m" in text_
    assert re.sub("\x1b\\[[0-9;]*m", "", text_).count(f"{word} x;") == 2


def test_colours_of_a_diff() -> None:
    lines = ["--- a", "+++ b", "@@ -1 +1 @@", " same", "-old", "+new", "+++ more", "--- less"]
    shown = io.StringIO()
    Console(file=shown, force_terminal=True, color_system="standard", width=80).print(
        coloured(lines)
    )
    one, other, at, same, *rest = shown.getvalue().splitlines()
    assert (one, other) == ("\x1b[1m--- a\x1b[0m", "\x1b[1m+++ b\x1b[0m")
    assert (at, same) == ("\x1b[36m@@ -1 +1 @@\x1b[0m", " same")
    assert rest == [
        "\x1b[31m-old\x1b[0m",
        "\x1b[32m+new\x1b[0m",
        "\x1b[32m+++ more\x1b[0m",
        "\x1b[31m--- less\x1b[0m",
    ]


def test_kernels_and_code(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["inspect", "net.py", "--target", "cpu:haswell", "--kernel", "3=xnor-popcount"]
    assert cli.main([*words, "--kernels", "--code", "3"]) == cli.OK
    out = capsys.readouterr().out
    assert "kernels for haswell" in out
    [row] = [line for line in out.splitlines() if "forced" in line]
    assert row.split()[:2] == ["3", "xnor-popcount"]
    assert "# 3: xnor-popcount " in out
    assert "compiled by itself for haswell\nkernel:\n" in out
    assert "ymm" in out
    assert "zmm" not in out


def test_code_for_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["inspect", "net.py", "--bits", "1", "--target", "cuda", "--code", "*"]
    assert cli.main(words) == cli.OK
    out = capsys.readouterr().out
    assert out.count('extern "C" __global__') == out.count("\n}\n") >= 4
    assert "// 3: xnor-popcount" in out


def test_code_of_another_family() -> None:
    found = inspected(model_file.read("net.py"), RECIPE, (Target("cpu", "cortex-a76"),))
    [listing] = found.code("9")
    assert str(listing).startswith("# 9: int8; compiled by itself for cortex-a76\nkernel:\n")
    assert any("udot" in line or "sdot" in line or "mull" in line for line in listing.lines)
