"""Bits for each layer: the solver against all assignments, the tables, the command."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from small_nets import generator
from torch import nn

import qcompile
from qcompile import Search, cli, recipe_file, search_analysis, search_costs, search_report, trial
from qcompile.program_info import KernelInfo
from qcompile.search_budget import Budget, budget
from qcompile.search_costs import Calls
from qcompile.search_frontier import brief, frontier, non_dominated, point
from qcompile.search_points import Point, excess
from qcompile.search_solver import COSTS, Option, Table, solve, total
from qcompile.sensitivity_widths import DEFAULT, FLOAT, Width

X = torch.randn(16, 2, 6, 6, generator=generator(1))


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    return nn.Sequential(*layers).eval()


def shown(value: object) -> str:
    with open("/dev/null", "w") as nowhere:
        console = Console(width=160, record=True, file=nowhere)
        console.print(value)
    return console.export_text()


# --- the solver ----------------------------------------------------------------------------------

# Sizes as they come: noise over many decades, times of microseconds, files of kilobytes.
OPTIONS = st.builds(
    Option,
    st.floats(-9, 1).map(lambda x: 10**x) | st.just(0.0),
    st.floats(1e-6, 1e-3),
    st.integers(1, 1 << 20).map(float),
)
TABLES = st.lists(st.lists(OPTIONS, min_size=1, max_size=len(DEFAULT)), min_size=1, max_size=4).map(
    lambda rows: {f"layer{i}": dict(zip(DEFAULT, row, strict=False)) for i, row in enumerate(rows)}
)


def every(table: Table) -> list[Mapping[str, Width]]:
    return [dict(zip(table, chosen, strict=True)) for chosen in itertools.product(*table.values())]


@given(TABLES, st.sampled_from(COSTS), st.data())
def test_solver_against_all_assignments(table: Table, objective: str, data: st.DataObject) -> None:
    limits = {}
    for name in data.draw(st.sets(st.sampled_from([c for c in COSTS if c != objective]))):
        low = min(total(table, a, name) for a in every(table))
        high = max(total(table, a, name) for a in every(table))
        limits[name] = data.draw(st.floats(0.9 * low, 1.1 * high))
    # HiGHS keeps to limits within 1e-6: what is so near one may go either way.
    able = {
        slack: [
            total(table, a, objective)
            for a in every(table)
            if all(total(table, a, n) <= limit * (1 + slack) for n, limit in limits.items())
        ]
        for slack in (-1e-5, 1e-5)
    }
    found = solve(table, objective, limits)
    if found is None:
        assert not able[-1e-5]
        return
    value = total(table, found, objective)
    assert min(able[1e-5]) <= value * (1 + 1e-9)
    if able[-1e-5]:
        assert value <= min(able[-1e-5]) * (1 + 1e-6) + 1e-18
    for name, limit in limits.items():
        assert total(table, found, name) <= limit * (1 + 1e-5)


@given(TABLES)
def test_the_frontier_has_no_point_that_another_beats(table: Table) -> None:
    points = frontier(table, Budget())
    assert points == non_dominated(points)
    assert [p.seconds for p in points] == sorted(p.seconds for p in points)
    best = min(total(table, a, "error") for a in every(table))
    assert min(p.error for p in points) <= best * (1 + 1e-6) + 1e-18
    for p in points:
        assert p.seconds == pytest.approx(total(table, p.widths, "seconds"))


def test_non_dominated_by_what_was_measured() -> None:
    a = Point({}, seconds=1.0, size=10, error=0.5)
    worse = dataclasses.replace(a, size=11)
    same = dataclasses.replace(a)
    other = dataclasses.replace(a, seconds=2.0, error=0.1)
    assert non_dominated([a, worse, same, other]) == [a, same, other]
    assert non_dominated([a, dataclasses.replace(other, noise=0.6)]) == [a]


# --- budgets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latency", "size", "expected"),
    [
        ("0.5ms", None, Budget(5e-4)),
        ("200us", "60KB", Budget(2e-4, 60_000)),
        ("200 µs", "1.5 MB", Budget(2e-4, 1_500_000)),
        (".25s", "512KiB", Budget(0.25, 512 << 10)),
        (1e-3, 1000, Budget(1e-3, 1000)),
        (None, "1e3B", Budget(None, 1000)),
        (None, 1000.7, Budget(None, 1000)),
    ],
)
def test_budgets(latency: Any, size: Any, expected: Budget) -> None:
    found = budget(latency, size)
    assert found.bytes == expected.bytes
    assert found.seconds == pytest.approx(expected.seconds)


def test_what_a_budget_is_called() -> None:
    assert str(budget("0.5ms", "60KB")) == "0.5 ms and 60,000 bytes"
    assert str(Budget()) == "no limit"
    assert not Budget().given


def test_a_call_a_little_late_is_in_time_but_no_byte_too_much() -> None:
    p = Point({}, seconds=1.04, size=100, error=0)
    assert excess(p, Budget(1.0, 100)) <= 1 < excess(p, Budget(1.0, 99))
    assert excess(dataclasses.replace(p, seconds=1.06), Budget(1.0)) > 1
    assert excess(p, Budget()) == 0


# --- costs ---------------------------------------------------------------------------------------


def test_kernels_share_the_time_of_the_call() -> None:
    """Each was timed with an overhead of 2, the call with one of 2 for all."""
    shares = search_costs._shares([3.0, 5.0, 10.0], 2.0 + 1 + 3 + 8)
    assert sum(shares) == pytest.approx(14)
    assert [s / shares[0] for s in shares] == pytest.approx([1, 3, 8])
    assert search_costs._shares([4.0], 3.0) == [3.0]
    assert search_costs._shares([1.0, 3.0], 8.0) == [2.0, 6.0]  # a call slower than its kernels


def test_kernels_of_no_layer_count_for_the_one_before() -> None:
    class Variant:
        kernels = tuple(KernelInfo(f"k{i}", (), x) for i, x in enumerate(["", "a", "relu", "b"]))

    class Program:
        variant = Variant()

    found = search_costs._by_layer(Program(), ["a", "b", "unused"], [1.0, 2.0, 4.0, 8.0])  # type: ignore[arg-type]
    assert found == {"a": 7.0, "b": 8.0, "unused": 0.0}


# --- the whole -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found() -> Iterator[Search]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_costs, "SECONDS", 0.02)
        yield qcompile.search(
            net(),
            X[:1],
            max_size="1GB",
            max_latency=10.0,
            widths=[8, "1/4"],
            fixed={"3": 8},
            calibration=[X],
            evaluate=lambda network: float(network(X).argmax(1).eq(0).float().mean()),
            threads=1,
        )


def test_sums_of_costs_are_those_of_the_programs(found: Search) -> None:
    """Predictions of uniform networks are exact: nothing is lost between the layers."""
    titles = [p.title for p in found.uniform]
    assert titles == ["8/8 everywhere", "1/4 everywhere"]
    assert all(p.measured and p.seconds > 0 for p in found.uniform)
    eight, one = found.uniform
    assert eight.noise is not None
    assert one.noise is not None
    assert eight.noise < one.noise
    assert eight.accuracy is not None


def test_with_room_the_best_is_chosen(found: Search) -> None:
    assert found.chosen is not None
    assert found.predicted is not None
    assert found.program is not None
    assert found.within_budget
    assert found.chosen.widths == {"0": Width(8, 8), "3": Width(8, 8)}
    assert found.chosen.size == found.program.size
    assert found.chosen.measured
    assert not found.predicted.measured
    assert found.chosen.accuracy is not None
    # Noise of the program is that of the graph, and near the sum of what each layer's alone is.
    assert found.chosen.noise == pytest.approx(found.predicted.error, rel=1.0)
    assert found.predicted.size == pytest.approx(found.chosen.size, rel=0.2)
    layers = {x.layer: (x.weight_bits, x.activation_bits) for x in found.program.info.layers}
    assert layers == {"0": (8, 8), "3": (8, 8)}
    assert found.program(X).shape == (16, 3)


def test_the_recipe_is_to_train_with(found: Search) -> None:
    assert found.recipe is not None
    assert found.recipe.mode == "qat"
    plans = qcompile.prepare(net(), X[:1], found.recipe).meta["plans"]
    bits = {p.layer: (p.weight_bits, p.activation_bits) for p in plans.values()}
    assert bits == {"0": (8, 8), "3": (8, 8)}


def test_tables(found: Search) -> None:
    text = shown(found)
    for part in ("8/8 everywhere", "chosen for 1e+04 ms and 1,000,000,000 bytes", "predicted"):
        assert part in text
    assert "Widths are of 0, 3." in text
    assert "8/8  8/8" in text
    assert "accuracy" in text


def test_json(found: Search) -> None:
    value = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert value["format"] == "qcompile search"
    assert value["budget"] == {"seconds": 10.0, "bytes": 10**9}
    assert value["within_budget"] is True
    assert value["chosen"]["widths"] == {"0": "8/8", "3": "8/8"}
    assert value["chosen"]["bytes"] == found.chosen.size if found.chosen else False
    assert recipe_file.from_json(value["recipe"]) == found.recipe
    assert {layer["layer"] for layer in value["sensitivity"]["layers"]} == {"0", "3"}


# --- a budget that is missed by measurement ------------------------------------------------------

TABLE = {
    "a": {Width(8, 8): Option(0.0, 10.0, 100.0), Width(1, 1): Option(1.0, 2.0, 10.0)},
    "b": {Width(8, 8): Option(0.0, 10.0, 100.0), Width(1, 1): Option(2.0, 4.0, 10.0)},
}


def choose(found: Search, patch: pytest.MonkeyPatch, limits: Budget, late: float) -> Search:
    """What is chosen of TABLE where each call takes so many times what the sum says."""

    def attempt(
        network: object, predicted: Point, before: Search, calls: Calls
    ) -> tuple[Point, Search]:
        chosen = dataclasses.replace(predicted, seconds=late * predicted.seconds)
        return chosen, dataclasses.replace(before, predicted=predicted, chosen=chosen)

    patch.setattr(search_analysis, "_try", attempt)
    empty = dataclasses.replace(found, budget=limits, chosen=None, predicted=None)
    return search_analysis._choose(None, TABLE, empty, Calls())  # type: ignore[arg-type]


def test_a_budget_is_met_with_less(found: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    in_time = choose(found, monkeypatch, Budget(20.0), 1.0)
    assert in_time.chosen is not None
    assert set(in_time.chosen.widths.values()) == {Width(8, 8)}
    # 20 sums to what takes 30; the first that is in time by measurement is a at one bit.
    late = choose(found, monkeypatch, Budget(20.0), 1.5)
    assert late.chosen is not None
    assert late.within_budget
    assert late.chosen.widths == {"a": Width(1, 1), "b": Width(8, 8)}


def test_what_misses_the_budget_least_is_told(
    found: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = choose(found, monkeypatch, Budget(7.0), 4.0)
    assert late.chosen is not None
    assert not late.within_budget
    assert late.chosen.widths == {"a": Width(1, 1), "b": Width(1, 1)}
    assert "7000 ms, is missed as measured: 2.4e+04 ms" in search_report.how_missed(late)


def test_an_assignment_as_a_line() -> None:
    assert brief({"a": Width(1, 4), "b": FLOAT, "c": Width(1, 4)}) == "1/4: a, c; float: b"
    many = brief({f"l{i}": Width(1, 1) for i in range(12)})
    assert many.endswith("l7 and 4 more")


def test_a_point_is_a_sum() -> None:
    p = point(TABLE, {"a": Width(1, 1), "b": Width(8, 8)})
    assert (p.error, p.seconds, p.size) == (1.0, 12.0, 110.0)
    assert math.isclose(total(TABLE, p.widths, "bytes"), 110)


# --- the command ---------------------------------------------------------------------------------

MODEL = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
example_inputs = torch.randn(4, 2, 6, 6)

def train(model, epochs=1):
    model.train()
    model(example_inputs)
    print("trained", type(model).__name__)

def calibration_data():
    return [(torch.randn(8, 2, 6, 6), "labels") for _ in range(3)]

def evaluate(model, samples=50):
    return 0.5
"""


@pytest.fixture
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(search_costs, "SECONDS", 0.02)
    monkeypatch.setattr(trial, "SHORT", 0.01)
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_in_a_folder")
def test_command_and_what_comes_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "net.py", "--widths", "8,4", "--max-size", "1MB", "--metric", "accuracy"]
    files = ["--save", "net.json", "--json", "all.json", "--plot", "net.svg"]
    assert cli.main([*words, *files, "--epochs", "0", "--threads", "1"]) == cli.OK
    out, err = capsys.readouterr()
    assert "chosen for 1,000,000 bytes" in out
    assert "wrote net.json" in out
    assert "compile and time at 2 widths" in err
    assert Path("net.svg").read_text().startswith("<?xml")
    assert json.loads(Path("all.json").read_text())["metric"] == "accuracy"
    recipe = recipe_file.load("net.json")
    assert set(recipe.overrides) == {"0", "3"}

    assert cli.main(["net.py", "--recipe", "net.json", "--threads", "1"]) == cli.OK
    out, err = capsys.readouterr()
    assert "trained GraphModule" in out
    assert "wrote net-mixed.qcp" in out


@pytest.mark.usefixtures("_in_a_folder")
def test_without_a_budget_there_is_a_frontier(
    found: Search, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = dataclasses.replace(found, budget=Budget(), chosen=None, predicted=None, recipe=None)
    monkeypatch.setattr(search_analysis, "find", lambda *arguments: bare)
    assert cli.main(["search", "net.py", "--epochs", "0", "--plot", "net.png"]) == cli.OK
    out, _ = capsys.readouterr()
    assert "8/8 everywhere" in out
    assert "chosen" not in out
    assert Path("net.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_in_a_folder")
def test_a_missed_budget_saves_no_recipe(
    found: Search, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missed = dataclasses.replace(found, budget=Budget(1e-9))
    monkeypatch.setattr(search_analysis, "find", lambda *arguments: missed)
    words = ["search", "net.py", "--epochs", "0", "--max-latency", "1ns", "--json", "all.json"]
    assert cli.main([*words, "--save", "net.json"]) == cli.FAILED
    out, err = capsys.readouterr()
    assert "chosen for" in out
    assert "The budget, 1e-06 ms, is missed as measured" in " ".join(err.split())
    assert not Path("net.json").exists()
    assert json.loads(Path("all.json").read_text())["within_budget"] is False
