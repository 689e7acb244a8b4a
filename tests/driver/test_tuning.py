"""Tuning as a user meets it: the cache, what a program says, the command line."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qcompile
from qcompile import QCompileError, Tuning, cli, tuning_search
from qcompile.codegen.schedules.tile import candidates
from qcompile.codegen.tuning import search, space
from qcompile.codegen.tuning.trial import Contestant
from qcompile.ir.target import Target
from qcompile.program_info import KernelInfo
from qcompile.tuning import budget
from qcompile.tuning_cache import Entry, TuningCache
from qcompile.tuning_search import Tuned, tune

SHAPE = (3, 6, 6)
KERNELS = 3  # with something to choose: the linear layer's product has it, too


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        *[nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU()],
        *[nn.Conv2d(32, 40, 3, padding=1), nn.BatchNorm2d(40), nn.ReLU()],
        *[nn.Flatten(), nn.Linear(640, 70)],
    ).eval()


@pytest.fixture(scope="module")
def converted() -> GraphModule:
    prepared = qcompile.prepare(network(), torch.randn(2, *SHAPE))
    prepared(torch.randn(4, *SHAPE))
    return qcompile.convert(prepared)


class Clocked(Contestant):
    """Built, loaded and run as any, but its time is made up: the farther from the default, the less."""

    def seconds(self) -> float:
        return 1.0 / self._rank()

    def _rank(self) -> int:
        return type(self).ranks.setdefault(str(self.choice), len(type(self).ranks) + 1)

    ranks: dict[str, int] = {}  # noqa: RUF012


@pytest.fixture
def made_up_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last candidate that is measured always wins; there are few."""
    monkeypatch.setattr(search, "Contestant", Clocked)
    monkeypatch.setattr(space, "candidates", partial(candidates, limit=2))


def few(cache: Path, trials: int | None = 3) -> Tuning:
    return Tuning(trials=trials, cache=cache, threads=1)


def kernels(program: qcompile.Program) -> list[KernelInfo]:
    return [k for variant in program.info.variants for k in variant.kernels]


def tuned_to(program: qcompile.Program) -> list[str]:
    return [kernel.tuned for kernel in kernels(program)]


def entries(cache: Path) -> list[dict[str, Any]]:
    return json.loads(cache.read_text())["entries"]


def rewrite(cache: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(cache.read_text())
    for entry in value["entries"]:
        change(entry)
    cache.write_text(json.dumps(value))


@pytest.fixture
def tuned_cache(tmp_path: Path, converted: GraphModule, made_up_times: None) -> Path:
    """A cache that knows one kernel, which has not its default."""
    cache = tmp_path / "tuning.json"
    tune(converted, Target(), few(cache, trials=2))
    assert len(entries(cache)) == 1
    return cache


# --- what is tuned -------------------------------------------------------------------------------


@pytest.mark.usefixtures("made_up_times")
def test_a_tuned_program_computes_the_same_bits_and_says_what_it_is(
    converted: GraphModule, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = torch.randn(7, *SHAPE)
    plain = qcompile.compile(converted)
    program = qcompile.compile(converted, tune=few(tmp_path / "tuning.json", trials=None))
    torch.testing.assert_close(program(x), plain(x), rtol=0, atol=0)
    assert qcompile.verify(program, converted, x).ok
    assert not any(tuned_to(plain))
    assert sum(map(bool, tuned_to(program))) == KERNELS

    program.save(tmp_path / "net.qcp")
    assert tuned_to(qcompile.load(tmp_path / "net.qcp")) == tuned_to(program)
    assert cli.main(["inspect", str(tmp_path / "net.qcp"), "--kernels"]) == cli.OK
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines()]
    for kernel in kernels(program):
        tuned = ["tuned:", *kernel.tuned.split()] if kernel.tuned else kernel.method.split()
        wanted = [kernel.layer, kernel.kind, *tuned, kernel.name]
        assert any(row[: len(wanted)] == wanted for row in rows), wanted


def test_the_default_compile_reads_no_cache(
    converted: GraphModule, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tuned_cache: Path
) -> None:
    home = tmp_path / "home" / "qcompile"
    home.mkdir(parents=True)
    tuned_cache.rename(home / "tuning.json")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert not any(tuned_to(qcompile.compile(converted)))
    known = qcompile.compile(converted, tune=Tuning(trials=0, threads=1))
    assert sum(map(bool, tuned_to(known))) == 1


def test_what_is_known_is_not_measured_again(
    converted: GraphModule, tmp_path: Path, made_up_times: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "tuning.json"
    first = qcompile.compile(converted, tune=few(cache, trials=None))

    def measured(*_: object) -> None:
        raise AssertionError("it is known")

    monkeypatch.setattr(search, "Contestant", measured)
    again = qcompile.compile(converted, tune=few(cache, trials=None))
    cached = qcompile.compile(converted, tune=few(cache, trials=0))
    assert sum(map(bool, tuned_to(first))) == KERNELS
    assert tuned_to(first) == tuned_to(again) == tuned_to(cached)


def test_a_small_budget_is_spent_on_the_largest_kernel_and_that_is_said(
    converted: GraphModule, tmp_path: Path, caplog: pytest.LogCaptureFixture, made_up_times: None
) -> None:
    with caplog.at_level(logging.WARNING, "qcompile"):
        qcompile.compile(converted, tune=few(tmp_path / "tuning.json", trials=1))
    [entry] = entries(tmp_path / "tuning.json")
    assert (entry["tried"], entry["tried"] < entry["candidates"]) == (1, True)
    assert f"{KERNELS - 1} of {KERNELS} kernels were not measured" in caplog.text


def test_an_unfinished_kernel_is_searched_again(
    converted: GraphModule, tmp_path: Path, made_up_times: None
) -> None:
    cache = tmp_path / "tuning.json"
    tune(converted, Target(), few(cache, trials=1))
    tune(converted, Target(), few(cache, trials=2))
    [entry] = entries(cache)
    assert entry["tried"] == 2


def test_entries_count_for_their_threads_batch_and_versions_only(
    converted: GraphModule, tuned_cache: Path
) -> None:
    def known(**fields: Any) -> int:
        tuned = tune(converted, Target(), replace(few(tuned_cache, trials=0), **fields))
        return sum(kernel.entry is not None for kernel in tuned.kernels)

    assert known() == 1
    assert known(batch=2) == 0
    assert known(threads=7) == 0
    rewrite(tuned_cache, lambda entry: entry["versions"].update(qcompile="0.0.1"))
    assert known() == 0


def test_the_portable_target_tunes_what_this_machine_runs(
    converted: GraphModule, tmp_path: Path, made_up_times: None
) -> None:
    tuned = tune(converted, Target("cpu", "portable"), few(tmp_path / "c", trials=2))
    assert len({kernel.arch for kernel in tuned.kernels}) > 1
    [entry] = entries(tmp_path / "c")
    program = qcompile.compile(converted, target="cpu:portable", tune=tuned)
    changed = [v.arch for v in program.info.variants if any(k.tuned for k in v.kernels)]
    assert changed == [entry["processor"].partition(" ")[0]]


# --- what is in the file -------------------------------------------------------------------------


def an_entry(**fields: Any) -> Entry:
    entry = Entry(("x", "y"), "cpu a b", 1, 1, {"tvm": "1"}, "", 16, 2, 7, 5, 5, 1.0, 2.0, 0.5)
    return replace(entry, **fields)


def test_entries_survive_the_file(tmp_path: Path) -> None:
    made = [an_entry(), an_entry(threads=2, method="popcount"), an_entry(processor="other")]
    cache = TuningCache(tmp_path / "c.json")
    for entry in made:
        cache.add(entry)
    read = TuningCache(tmp_path / "c.json")
    assert [read.get(entry.identity) for entry in made] == made
    assert read.processors() == {"cpu", "other"}
    read.add(an_entry(lanes=8))
    assert TuningCache(tmp_path / "c.json").get(made[0].identity) == an_entry(lanes=8)
    assert len(TuningCache(tmp_path / "c.json")) == 3


def test_what_another_process_found_in_the_meantime_stays(tmp_path: Path) -> None:
    one, other = TuningCache(tmp_path / "c"), TuningCache(tmp_path / "c")
    one.add(an_entry())
    other.add(an_entry(threads=2))
    assert len(TuningCache(tmp_path / "c")) == 2


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a field is missing": lambda entry: entry.pop("lanes"),
    "a field is unknown": lambda entry: entry.update(color="red"),
    "a number is a text": lambda entry: entry.update(pixels="7"),
    "a number is true": lambda entry: entry.update(vectors=True),
    "a tile is negative": lambda entry: entry.update(pixels=-3),
    "a tile is empty": lambda entry: entry.update(vectors=0),
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_damaged_entries_are_left_out(tmp_path: Path, change: Callable[..., object]) -> None:
    cache = TuningCache(tmp_path / "c")
    cache.add(an_entry())
    rewrite(tmp_path / "c", change)
    read = TuningCache(tmp_path / "c")
    assert (len(read), read.damaged) == (0, 1)
    read.add(an_entry(threads=2))
    assert (len(entries(tmp_path / "c")), TuningCache(tmp_path / "c").damaged) == (1, 0)


def note(tuned: Tuned) -> str:
    return " ".join(tuned.notes)


def test_damaged_entries_are_said(converted: GraphModule, tuned_cache: Path) -> None:
    rewrite(tuned_cache, lambda entry: entry.pop("lanes"))
    assert "1 damaged entries" in note(tune(converted, Target(), few(tuned_cache, trials=0)))


IMPOSSIBLE: dict[str, dict[str, object]] = {
    "huge": {"pixels": 1 << 40},
    "crooked": {"lanes": 13},
    "unknown method": {"method": "guess"},
}


@pytest.mark.parametrize("change", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_tile_that_does_not_fit_is_ignored_and_said(
    converted: GraphModule, tuned_cache: Path, change: dict[str, object]
) -> None:
    rewrite(tuned_cache, lambda entry: entry.update(change))
    tuned = tune(converted, Target(), few(tuned_cache, trials=0))
    assert "1 entries of" in note(tuned)
    assert "do not fit their kernels" in note(tuned)
    assert not any(tuned_to(qcompile.compile(converted, tune=tuned)))


def test_entries_of_another_processor_are_kept_but_not_used(
    converted: GraphModule, tuned_cache: Path, made_up_times: None
) -> None:
    rewrite(tuned_cache, lambda entry: entry.update(processor="znver9 avx9"))
    tuned = tune(converted, Target(), few(tuned_cache, trials=0))
    assert "are not in" in note(tuned)
    assert "knows kernels of znver9" in note(tuned)
    assert [kernel.entry for kernel in tuned.kernels] == [None] * KERNELS
    tune(converted, Target(), few(tuned_cache, trials=1))
    assert [e["processor"] == "znver9 avx9" for e in entries(tuned_cache)] == [True, False]


# --- interruptions, and what is wrong ------------------------------------------------------------


class Interrupted(Clocked):
    """Ctrl-C is pressed while the second kernel is measured."""

    built: list[str] = []  # noqa: RUF012

    def __init__(self, given: Any, choice: Any, bench: Any) -> None:
        layer = str(given.group.anchor.meta["layer"])
        self.built.append(layer)
        if len(set(self.built)) == 2:
            raise KeyboardInterrupt
        super().__init__(given, choice, bench)


@pytest.fixture
def interruption(monkeypatch: pytest.MonkeyPatch, made_up_times: None) -> None:
    monkeypatch.setattr(Interrupted, "built", [])
    monkeypatch.setattr(search, "Contestant", Interrupted)


@pytest.mark.usefixtures("interruption")
def test_ctrl_c_keeps_what_was_found(converted: GraphModule, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(converted, Target(), few(tmp_path / "c", trials=None))
    assert len(entries(tmp_path / "c")) == 1


@pytest.mark.usefixtures("interruption")
def test_ctrl_c_may_end_the_search_alone(converted: GraphModule, tmp_path: Path) -> None:
    called: list[int] = []
    tuned = tune(
        converted,
        Target(),
        few(tmp_path / "c", trials=None),
        interrupted=lambda: called.append(1),
    )
    assert called == [1]
    assert sum(kernel.entry is not None for kernel in tuned.kernels) == 1


def test_other_numbers_are_reported(
    converted: GraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "same_bits", lambda got, expected: False)
    tuned = tune(converted, Target(), few(tmp_path / "c", trials=1))
    assert "gives other numbers than" in note(tuned)
    assert all(kernel.is_default for kernel in tuned.kernels)


def test_progress_is_reported(converted: GraphModule, tmp_path: Path, made_up_times: None) -> None:
    seen: list[tuple[int, int]] = []

    @contextmanager
    def step(title: str) -> Iterator[object]:
        yield lambda done, total: seen.append((done, total))

    tune(converted, Target(), few(tmp_path / "c", trials=3), step)
    assert seen == [(1, 3), (2, 3), (3, 3)]


# --- the command line ----------------------------------------------------------------------------

MODEL = """
import torch
from torch import nn

torch.manual_seed(3)
model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
example_inputs = torch.randn(1, 3, 6, 6)
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qcompile.trial.SHORT", 0.0)
    (tmp_path / "net.py").write_text(MODEL)
    return tmp_path / "net.py"


@pytest.mark.usefixtures("made_up_times")
def test_the_command_tunes_and_remembers(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(model), "--threads", "1", "--tune-cache", "c.json"]
    assert cli.main([*words, "--tune", "2"]) == cli.OK
    first = capsys.readouterr()
    assert "tune kernels" in first.err
    assert "tuned: 1 of 2 kernels" in first.out
    assert "verified" in first.out
    program = qcompile.load("net-w1a1.qcp")
    assert sum(map(bool, tuned_to(program))) == 1

    assert cli.main(words) == cli.OK  # the cache alone
    second = capsys.readouterr()
    assert "tune kernels" not in second.err
    assert "1 of 2 kernels are not in c.json" in second.err
    assert tuned_to(qcompile.load("net-w1a1.qcp")) == tuned_to(program)


@pytest.mark.usefixtures("interruption")
def test_ctrl_c_ends_the_search_and_the_command_goes_on(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(model), "--threads", "1", "--tune", "--tune-cache", "c.json"]
    assert cli.main(words) == cli.OK
    said = capsys.readouterr()
    assert "Tuning was interrupted; what it found is used" in said.err
    assert "verified" in said.out
    assert len(entries(Path("c.json"))) == 1


def test_budgets() -> None:
    assert budget("all") == (None, None)
    assert budget("0") == (0, None)
    assert budget("200") == (200, None)
    assert [budget(text)[1] for text in ("90s", "1.5m", "2h")] == [90, 90, 7200]


def test_tune_says_how_much() -> None:
    asked: list[Tuning] = []

    class Stop(Exception):
        pass

    def remember(target: Target, tuning: Tuning) -> None:
        asked.append(tuning)
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning_search, "_Search", remember)
        for value in (True, 5, Tuning(seconds=2.5)):
            with pytest.raises(Stop):
                qcompile.compile(network(), torch.randn(1, *SHAPE), tune=value)
    assert asked == [Tuning(), Tuning(trials=5), Tuning(seconds=2.5)]
    with pytest.raises(QCompileError, match="tune is 'yes'"):
        qcompile.compile(network(), torch.randn(1, *SHAPE), tune="yes")  # type: ignore[arg-type]
