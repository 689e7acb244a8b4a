"""What `search` and recipe files refuse, in Python and on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import qcompile
from qcompile import QCompileError, cli, recipe_file, search_analysis, search_costs, search_plot
from qcompile.search_budget import Budget, budget
from qcompile.search_costs import Calls
from qcompile.search_frontier import check_reachable
from qcompile.search_solver import Option, solve
from qcompile.sensitivity_widths import Width

NET = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
X = torch.ones(3, 4)


# --- budgets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latency", "size", "message"),
    [
        ("0.5", None, "'0.5' is a time without a unit"),
        ("0.5KB", None, "'0.5KB' is a time of unknown unit 'KB'"),
        ("fast", None, "'fast' is no time"),
        ("", None, "'' is no time"),
        ("1 2ms", None, "'1 2ms' is no time"),
        ("-1ms", None, "the time '-1ms' is not above zero"),
        ("0ms", None, "the time '0ms' is not above zero"),
        ("1e999s", None, "the time '1e999s' is not above zero, or too large"),
        ("nanms", None, "'nanms' is no time"),
        (-1.0, None, "the largest latency is -1.0"),
        (float("nan"), None, "the largest latency is nan"),
        (True, None, "the largest latency is True"),
        ([1], None, "the largest latency is [1]"),
        (None, "60", "'60' is a size without a unit"),
        (None, "60ms", "'60ms' is a size of unknown unit 'ms'"),
        (None, "-60KB", "the size '-60KB' is not above zero"),
        (None, "0.1B", "the largest size is 0"),
        (None, float("inf"), "the largest size is inf"),
        (None, 0, "the largest size is 0"),
    ],
)
def test_budgets(latency: Any, size: Any, message: str) -> None:
    with pytest.raises(QCompileError) as info:
        budget(latency, size)
    assert message in str(info.value)
    assert info.value.hint


TABLE = {
    "a": {Width(8, 8): Option(0.0, 1e-3, 100.0), Width(1, 1): Option(1.0, 5e-4, 300.0)},
    "b": {Width(8, 8): Option(0.0, 1e-3, 100.0)},
}


@pytest.mark.parametrize(
    ("limits", "what", "hint"),
    [
        (
            Budget(1e-3),
            "no assignment takes 1 ms or less",
            "the fastest takes 1.5 ms: 1/1: a; 8/8: b",
        ),
        (
            Budget(None, 150),
            "no assignment takes 150 bytes or less",
            "the smallest takes 200 bytes: 8/8: a, b",
        ),
        (
            Budget(1.6e-3, 250),
            "no assignment takes 1.6 ms or less within 250 bytes",
            "the fastest takes 2 ms: 8/8: a, b",
        ),
        (Budget(1e-3, 1000), "no assignment takes 1 ms or less", "the fastest takes 1.5 ms"),
        (Budget(1.0, 150), "no assignment takes 150 bytes or less", "smallest takes 200 bytes"),
        (Budget(1e-3, 150), "no assignment takes 1 ms or less", "the fastest takes 1.5 ms"),
    ],
)
def test_a_budget_out_of_reach_names_the_closest(limits: Budget, what: str, hint: str) -> None:
    with pytest.raises(QCompileError) as info:
        check_reachable(TABLE, limits)
    assert what in info.value.what
    assert hint in str(info.value.hint)
    check_reachable(TABLE, Budget(2.1e-3, 200))


def test_a_budget_out_of_reach_of_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_costs, "SECONDS", 0.01)
    monkeypatch.setattr(search_analysis, "measure", None)  # it is said before layers are tried
    with pytest.raises(QCompileError) as info:
        qcompile.search(NET, X, max_size="100B", widths=[8])
    assert info.value.what == "no assignment takes 100 bytes or less"
    assert "8/8: 0, 2" in str(info.value.hint)


def test_a_solver_that_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SimpleNamespace(status=1, x=None, message="Time limit reached.")
    monkeypatch.setattr("scipy.optimize.milp", lambda *arguments, **more: answer)
    with pytest.raises(QCompileError, match="the solver gives up: Time limit reached"):
        solve(TABLE, "error", {"seconds": 1.0})


def test_a_solver_that_does_not_keep_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def milp(costs: object, **more: Any) -> SimpleNamespace:
        tried.append(more["options"]["presolve"])
        return SimpleNamespace(status=0, x=np.array([1.0, 0.0, 1.0]), message="")

    monkeypatch.setattr("scipy.optimize.milp", milp)
    with pytest.raises(QCompileError, match="the solver's answers do not keep the limits"):
        solve(TABLE, "error", {"seconds": 1.6e-3})
    assert tried == [True, False]


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        (nn.ReLU(), {}, "the model has no convolution and no linear layer"),
        (NET, {"metric": "accuracy"}, "metric 'accuracy' needs evaluate"),
        (NET, {"metric": "loss"}, "unknown metric 'loss'"),
        (NET, {"max_latency": "0.5"}, "without a unit"),
        (NET, {"widths": "8,9"}, "there is no width of 9 bits"),
        (NET, {"batch": 0}, "batch is 0"),
        (NET, {"threads": 0}, "threads is 0"),
        (NET, {"fixed": {"3": 8}}, "'3' matches no conv or linear layer"),
        (NET, {"fixed": {"2": 9}}, "overrides['2'] must be 1 to 8"),
    ],
)
def test_arguments(model: nn.Module, more: dict[str, Any], message: str) -> None:
    with pytest.raises(QCompileError) as info:
        qcompile.search(model, X, **more)
    assert message in str(info.value)


def test_calls() -> None:
    with pytest.raises(QCompileError, match="batch is True"):
        Calls(True)


def test_a_layer_that_none_of_the_widths_suits() -> None:
    """The sums of 2^17 products of 8 bits may leave int32."""
    net = nn.Linear(1 << 17, 1, bias=False)
    with pytest.raises(QCompileError) as info:
        qcompile.search(nn.Sequential(nn.Flatten(), net), torch.ones(1, 2, 1 << 16), widths=[8])
    assert "1: 131072 inputs of 8 by 8 bits can overflow 32-bit sums" in str(info.value)


# --- recipe files --------------------------------------------------------------------------------

HEAD = '{"format": "qcompile recipe", "version": 1, "recipe": '


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("1" * 5000, "is no JSON"),  # more digits than Python reads
        ("[]", "is no recipe"),
        ('{"format": "qcompile search"}', "is no recipe"),
        ('{"format": "qcompile recipe", "version": 2}', "version 2, this qcompile reads 1"),
        (HEAD + '{}, "more": 1}', "the file has the unknown field 'more'"),
        (HEAD + "[]}", "recipe is no object"),
        (HEAD + '{"bit": 8}}', "recipe has the unknown field 'bit'\n  did you mean 'bits'?"),
        (HEAD + '{"bits": "8"}}', 'recipe.bits is "8", not a whole number'),
        (HEAD + '{"bits": true}}', "recipe.bits is true, not a whole number"),
        (HEAD + '{"bits": 8.0}}', "recipe.bits is 8.0, not a whole number"),
        (HEAD + '{"k_map": 1}}', "recipe.k_map is 1, not true or false"),
        (HEAD + '{"observer": 1}}', "recipe.observer is 1, not a string or null"),
        (HEAD + '{"overrides": []}}', "recipe.overrides is [], not an object"),
        (HEAD + '{"overrides": {"a": 9}}}', "overrides['a'] must be 1 to 8"),
        (HEAD + '{"overrides": {"a": 8, "a": 4}}}', "'a' is there 2 times"),
        (HEAD + '{"method": "magic"}}', "unknown method 'magic'"),
    ],
)
def test_recipe_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(QCompileError) as info:
        recipe_file.load(path)
    assert message in str(info.value)
    assert info.value.where == str(path)


def test_files_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    with pytest.raises(QCompileError, match="there is no such file"):
        recipe_file.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(QCompileError, match="is no JSON"):
        recipe_file.load(path)


@pytest.mark.parametrize("name", ["plot", "plot.jpg", "plot.qcp"])
def test_pictures(name: str) -> None:
    with pytest.raises(QCompileError) as info:
        search_plot.check(name)
    assert "its name ends in .png, .svg, .pdf" in str(info.value)


# --- the command ---------------------------------------------------------------------------------

MODEL = """
import torch
from pathlib import Path
from torch import nn

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
example_inputs = torch.randn(4, 4)

def train(model, epochs=1):
    Path("was trained").touch()
"""


@pytest.fixture
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL)
    Path("bad.json").write_text("{}")
    recipe_file.save(qcompile.Recipe(8), "good.json")


@pytest.mark.usefixtures("_in_a_folder")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("search net.py --max-latency 5", "'5' is a time without a unit"),
        ("search net.py --max-size 5ms", "'5ms' is a size of unknown unit 'ms'"),
        ("search net.py --max-size=-5KB", "'-5KB' is not above zero"),
        ("search net.py --batch 0", "--batch is 0, it must be 1 or more"),
        ("search net.py --metric accuracy", "net.py: --metric accuracy needs evaluate(model)"),
        ("search net.py --metric loss", "unknown --metric 'loss'"),
        ("search net.py --save a.json", "--save: without a budget nothing is chosen"),
        ("search net.py --plot a.jpg", "a.jpg: cannot draw a .jpg"),
        ("search net.py --plot gone/a.png", "cannot write 'gone/a.png'"),
        ("search net.py --override 5=8", "'5' matches no conv or linear layer"),
        ("search net.py --override 5", "--override '5' is not LAYER=BITS"),
        ("search net.py --widths 1/2/3", "'1/2/3' is no width"),
        ("net.py --recipe gone.json", "gone.json: there is no such file"),
        ("net.py --recipe bad.json", "bad.json: is no recipe"),
        ("net.py --recipe good.json --bits 1", "--bits and --recipe are both given"),
        ("net.py --recipe good.json --method xnor", "--method and --recipe are both given"),
        ("net.py --recipe good.json --k-map", "--k-map and --recipe are both given"),
        ("net.py --recipe good.json --override 0=8", "--override and --recipe are both given"),
        (
            "net.py --recipe good.json --first-last-bits 8",
            "--first-last-bits and --recipe are both",
        ),
    ],
)
def test_options(capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    assert cli.main(words.split()) == cli.REFUSED
    out, err = capsys.readouterr()
    assert out == ""
    assert message in " ".join(err.split())
    assert not Path("was trained").exists()
    assert sorted(p.name for p in Path().glob("*.json")) == ["bad.json", "good.json"]
