"""Verdicts on made-up reports: the same program, a slower one, another machine, and too little to tell by."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sample_reports import disturbed, of_samples, report, small

from qcompile.bench import compare_tables
from qcompile.bench.comparison import (
    ERROR,
    FASTER,
    MISSING,
    NOISY,
    SAME,
    SLOWER,
    Comparison,
    Machine,
    Row,
    compare,
)
from qcompile.bench.results import AGAIN, OURS, Report, Spread, Time

FIRST = (1, 8, 64)
RIVALS = ("fp32", "onnxruntime")


def measured(
    random: np.random.Generator,
    *,
    slower: float = 1.0,
    machine: float = 1.0,
    runs: int = 1,
    rivals: tuple[str, ...] = RIVALS,
    **noise: Any,
) -> Report:
    """A report of a shared machine.

    Args:
        slower: how much more the program takes.
        machine: how much more everything takes.
    """
    keys = {OURS: slower, AGAIN: slower, **dict.fromkeys(rivals, 10.0)}
    found = [
        {key: disturbed(1e-4 * s * machine, random, **noise) for key, s in keys.items()}
        for _ in range(runs)
    ]
    return of_samples(*found, batches=FIRST)


def pair(seed: int = 0, a: dict[str, Any] | None = None, **b: Any) -> Comparison:
    """Two reports beside each other, the second one with what is given."""
    random = np.random.default_rng(seed)
    return compare(measured(random, **(a or {})), measured(random, **b))


def only(found: Comparison) -> Row:
    """Its one run."""
    [row] = found.rows
    return row


# --- is it slower --------------------------------------------------------------------------------


def test_no_regression_in_20_of_20_and_a_tenth_in_19_of_20() -> None:
    same = [bool(pair(seed, runs=2, a={"runs": 2}).having(SLOWER)) for seed in range(20)]
    assert sum(same) == 0
    found = [
        bool(pair(seed, runs=2, a={"runs": 2}, slower=1.1).having(SLOWER)) for seed in range(20)
    ]
    assert sum(found) >= 19


def test_slower_and_faster() -> None:
    row = only(pair(slower=1.3))
    assert row.verdict == SLOWER
    assert row.ratio is not None
    assert row.a is not None
    assert row.b is not None
    assert 1.2 < row.ratio.low < row.ratio.median < row.ratio.high < 1.36
    assert row.b / row.a == pytest.approx(row.ratio.median)
    assert row.chance is not None
    assert row.chance < 1e-4
    faster = only(pair(slower=1 / 1.3))
    assert faster.verdict == FASTER
    assert faster.chance is not None
    assert faster.chance < 1e-4


def test_the_threshold_is_the_user_s() -> None:
    random = np.random.default_rng(1)
    quiet: dict[str, Any] = {"level": 0.001, "bursts": 0.0, "unlucky": 0.0, "processes": 9}
    a, b = measured(random, **quiet), measured(random, slower=1.035, **quiet)
    assert only(compare(a, b)).verdict == SAME
    assert only(compare(a, b)).reason == "slower, but by less than 5%"
    assert only(compare(b, a)).reason == "faster, but by less than 5%"
    assert only(compare(a, b, threshold=0.02)).verdict == SLOWER
    assert only(compare(b, a, threshold=0.02)).verdict == FASTER


def test_what_would_have_been_seen() -> None:
    row = only(pair(bursts=0.0, a={"bursts": 0.0}))
    assert row.verdict == SAME
    assert row.seen is not None
    assert 0.05 <= row.seen < 0.08
    more = pair(processes=10, a={"processes": 10})
    assert only(more).seen == 0.05


def test_too_noisy_to_tell() -> None:
    noise: dict[str, Any] = {"level": 0.15, "unlucky": 0.0}
    row = only(pair(3, a=noise, **noise))
    assert row.verdict == NOISY
    assert row.seen is not None
    assert row.seen > 0.1
    assert row.reason == f"only from {row.seen:.0%} on would a slowdown be certain"
    assert only(pair(3, a=noise, slower=5.0, **noise)).verdict == SLOWER


def test_what_others_do_to_some_rounds_does_not_matter() -> None:
    random = np.random.default_rng(0)
    quiet = measured(random, bursts=0.0)
    busy = measured(random, bursts=0.6)
    times = [next(t for t in r.runs[0].times if t.engine == OURS) for r in (quiet, busy)]
    assert times[0].seconds is not None
    assert times[1].seconds is not None
    assert times[1].seconds.median > 1.1 * times[0].seconds.median
    assert only(compare(quiet, busy)).verdict == SAME


def test_several_runs_do_not_add_false_alarms() -> None:
    """What is certain enough in one run is not where it is one of three."""
    random = np.random.default_rng(0)
    noise: dict[str, Any] = {"level": 0.03, "unlucky": 0.0, "bursts": 0.0, "rivals": ()}
    certain = []
    for _ in range(40):
        a, b = (measured(random, runs=3, slower=s, **noise) for s in (1, 1.07))
        alone = compare(replace(a, runs=a.runs[:1]), replace(b, runs=b.runs[:1]))
        chance, own = compare(a, b).rows[0].chance, only(alone).chance
        assert chance is not None
        assert own is not None
        assert own <= chance <= 3 * own + 1e-12
        certain.append((own < ERROR, chance < ERROR))
    assert (True, False) in certain
    assert (False, True) not in certain


# --- the machine ---------------------------------------------------------------------------------


def test_a_slower_machine_is_no_slower_program() -> None:
    found = pair(machine=1.15)
    row = only(found)
    assert row.verdict in (SAME, NOISY)
    assert row.machine is not None
    assert 1.05 < row.machine.taken < row.machine.ratio.median
    assert row.machine.engines == RIVALS
    assert 1.1 < row.machine.ratio.median < 1.2
    [sentence, *_] = compare_tables.sentences(found)
    assert sentence.startswith("batch 1, 1 thread: the machine ")
    assert " changed: fp32 and onnxruntime took +1" in sentence
    assert sentence.endswith(f"{compare_tables.change(row.machine.taken)} is taken out.")


def test_how_sure_it_is_that_the_machine_changed() -> None:
    told = []
    for low in (0.99, 1.01):
        machine = Machine(("fp32",), Spread(1.04, low, 1.09), 1.03)
        row = Row(1, 1, SAME, ratio=Spread(1, 1, 1), machine=machine)
        told += list(compare_tables.sentences(Comparison("a", "b", 0.05, (row,), ())))
    end = "changed: fp32 took +4.0 % ({} to +9.0 %) in B; +3.0 % is taken out."
    assert told == [
        f"batch 1, 1 thread: the machine may have {end.format('-1.0 %')}",
        f"batch 1, 1 thread: the machine itself {end.format('+1.0 %')}",
    ]


def test_nor_does_a_faster_machine_hide_one() -> None:
    assert only(pair(machine=1 / 1.2, slower=1.3)).verdict == SLOWER
    assert only(pair(machine=1.2, slower=1.3)).verdict == SLOWER
    alone: dict[str, Any] = {"rivals": ()}
    assert only(pair(machine=1 / 1.2, slower=1.2, a=alone, **alone)).verdict != SLOWER


def test_without_other_engines_a_machine_looks_like_a_program() -> None:
    found = pair(machine=1.2, rivals=(), a={"rivals": ()})
    assert only(found).verdict == SLOWER
    assert only(found).machine is None
    assert "Measure one network with --against fp32" in " ".join(compare_tables.sentences(found))


def test_the_machine_is_as_it_was() -> None:
    found = pair()
    row = only(found)
    assert row.machine is not None
    assert row.machine.taken == 1
    assert "no change of the machine seen: fp32 and onnxruntime" in " ".join(
        compare_tables.sentences(found)
    )


def test_engines_that_disagree_tell_of_themselves() -> None:
    random = np.random.default_rng(0)
    a, b = measured(random), measured(random)
    slow = tuple(
        replace(t, samples=tuple(tuple(1.4 * x for x in p) for p in t.samples))
        if t.engine == "fp32"
        else t
        for t in b.runs[0].times
    )
    found = only(compare(a, replace(b, runs=(replace(b.runs[0], times=slow),))))
    assert found.machine is not None
    assert 1 <= found.machine.taken < 1.08
    assert found.verdict in (SAME, NOISY)


def test_an_engine_of_another_version_tells_nothing_of_the_machine() -> None:
    random = np.random.default_rng(0)
    a, b = measured(random, rivals=("fp32",)), measured(random, rivals=("fp32",))
    other = tuple(replace(e, version="9") if e.key == "fp32" else e for e in b.engines)
    assert only(compare(a, b)).machine is not None
    assert only(compare(a, replace(b, engines=other))).machine is None


# --- too little ----------------------------------------------------------------------------------


def test_one_process_tells_nothing() -> None:
    for counts in ((1, 5), (5, 1), (1, 1)):
        row = only(pair(slower=3.0, a={"processes": counts[0]}, processes=counts[1]))
        assert (row.verdict, row.ratio, row.seen) == (NOISY, None, None)
        told = " and ".join(n for n, c in zip("AB", counts, strict=True) if c == 1)
        assert row.reason.startswith(f"{told}: one process does not tell")
        assert row.a is not None
        assert row.b is not None
        assert row.b > row.a


def test_one_sample_tells_nothing() -> None:
    found = compare(small(), replace(small(), date="2026-11-23"))
    assert only(found).verdict == NOISY
    assert compare_tables.summary(found).endswith("nothing can be said of: batch 1, 1 thread.")


def test_two_processes_of_one_sample_each_are_as_noisy_as_they_are() -> None:
    row = only(pair(slower=1.02, a={"processes": 2, "rounds": 1}, processes=2, rounds=1))
    assert row.verdict == NOISY


def test_runs_and_engines_that_one_report_lacks() -> None:
    random = np.random.default_rng(0)
    noise: dict[str, Any] = {"unlucky": 0.0, "bursts": 0.0}
    a = measured(random, runs=3, **noise)
    b = measured(random, runs=2, rivals=("onnxruntime",), **noise)
    b = replace(b, runs=(replace(b.runs[0], batch=2), b.runs[1]))
    found = compare(a, b)
    told = [(row.batch, row.verdict, row.reason) for row in found.rows]
    assert told == [
        (1, MISSING, "only A has this run"),
        (2, MISSING, "only B has this run"),
        (8, SAME, ""),
        (64, MISSING, "only A has this run"),
    ]
    assert found.rows[2].machine is not None
    others = {other.engine: other for other in found.rows[2].others}
    assert others["fp32"].a is not None
    assert (others["fp32"].b, others["fp32"].ratio) == (None, None)
    assert others["onnxruntime"].ratio == pytest.approx(found.rows[2].machine.ratio.median)
    assert found.rows[2].machine.engines == ("onnxruntime",)


def test_a_program_that_could_not_run_is_not_left_out() -> None:
    a, b = pair_of_reports()
    failed = Time(OURS, reason="killed by SIGSEGV")
    times = (failed, *b.runs[0].times[1:])
    row = only(compare(a, replace(b, runs=(replace(b.runs[0], times=times),))))
    assert (row.verdict, row.reason) == (MISSING, "B has no time of ours: killed by SIGSEGV")
    row = only(compare(replace(a, runs=(replace(a.runs[0], times=()),)), b))
    assert row.reason == "A has no time of ours: no time"


def pair_of_reports() -> tuple[Report, Report]:
    """Of one program and one run."""
    random = np.random.default_rng(0)
    return measured(random), measured(random)


def test_the_program_the_second_time_counts_where_both_have_it() -> None:
    a, b = pair_of_reports()
    both = only(compare(a, b))
    without = replace(
        b, runs=(replace(b.runs[0], times=tuple(t for t in b.runs[0].times if t.engine != AGAIN)),)
    )
    one = only(compare(a, without))
    assert both.ratio is not None
    assert one.ratio is not None
    assert both.ratio != one.ratio
    fewer = tuple(
        replace(t, samples=t.samples[:2]) if t.engine == AGAIN else t for t in b.runs[0].times
    )
    less = only(compare(a, replace(b, runs=(replace(b.runs[0], times=fewer),))))
    assert less.ratio == one.ratio


# --- what else -----------------------------------------------------------------------------------


def test_what_differs_besides_times() -> None:
    a, b = report(), report(seed=1)
    subject = replace(
        b.subject, size=200_000, arch="haswell", accuracy=replace(b.subject.accuracy, compiled=0.9)
    )
    machine = replace(b.machine, governor="powersave", load=(3.0, 3.0))
    b = replace(b, subject=subject, machine=machine, versions={"Python": "3.13.0", "tvm": "0.27"})
    facts = {f.name: (f.a, f.b, f.matters) for f in compare(a, b).facts}
    assert facts == {
        "size": ("112.1 KiB", "195.3 KiB", False),
        "accuracy": ("99.40 %", "90.00 %", False),
        "variant": ("emeraldrapids", "haswell", True),
        "governor": ("–", "powersave", False),
        "Python": ("3.11.2", "3.13.0", False),
        "torch": ("2.13.0", "–", False),
        "tvm": ("–", "0.27", False),
        "load before": ("0.1", "3.0", True),
    }


def test_across_machines_nothing_is_taken_out() -> None:
    a, b = pair_of_reports()
    b = replace(b, machine=replace(b.machine, processor="another"))
    found = compare(a, b, across_machines=True)
    assert only(found).machine is None
    assert {f.name for f in found.facts if f.matters} == {"processor"}


# --- for people and for programs -----------------------------------------------------------------


def test_as_plain_values() -> None:
    found = pair(slower=1.3)
    value = json.loads(json.dumps(compare_tables.to_json(found), allow_nan=False))
    assert (value["format"], value["version"]) == ("qcompile comparison", 1)
    assert value["regression"] is True
    assert value["threshold"] == 0.05
    [row] = value["rows"]
    assert row["verdict"] == SLOWER
    assert row["ratio"]["low"] < row["ratio"]["median"] < row["ratio"]["high"]
    assert [other["engine"] for other in row["others"]] == list(RIVALS)
    assert compare_tables.to_json(pair())["regression"] is False


def test_changes_in_words() -> None:
    told = [compare_tables.change(x) for x in (1.102, 0.97, 1.0, 2.0, 3.456, 0.25)]
    assert told == ["+10.2 %", "-3.0 %", "+0.0 %", "2.00x", "3.46x", "0.25x"]


def test_markdown_has_a_row_a_run_and_no_markup_of_names() -> None:
    random = np.random.default_rng(0)
    a, b = (measured(random, slower=s, runs=2) for s in (1, 1.3))
    text = compare_tables.markdown(compare(a, b, ("a|b.json", "<b>.json")))
    assert text.startswith(
        "**REGRESSION: \\<b\\>.json is slower than a\\|b.json: batch 1, 1 thread;"
    )
    rows = [line for line in text.splitlines() if line.startswith("| batch")]
    assert [line.count("|") for line in rows[:2]] == [9, 9]
    assert all("SLOWER" in line for line in rows[:2])
    assert len(rows) == 2 + 2 * len(RIVALS)


def test_summaries() -> None:
    assert compare_tables.summary(pair()) == "No regression of 5% or more seen in 1 run."
    random = np.random.default_rng(0)
    a, b = measured(random, runs=2), measured(random, runs=1)
    assert compare_tables.summary(compare(a, b)) == (
        "No regression of 5% or more seen, but nothing can be said of: batch 8, 1 thread."
    )


@pytest.mark.parametrize("width", [70, 80, 100, 120])
def test_nothing_of_a_comparison_is_cut_on_a_narrow_terminal(width: int) -> None:
    noise: dict[str, Any] = {"level": 0.15, "unlucky": 0.0, "runs": 2}
    found = pair(3, a=noise, **noise)
    console = Console(width=width)
    with console.capture() as capture:
        console.print(compare_tables.tables(found))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    said = " ".join(text.split())
    for row in found.rows:
        run, a, b, takes, *_, verdict, reason = compare_tables.cells(row)
        assert f"{run} {a} {b} {takes}" in said
        assert verdict in said
        assert reason in said


def test_engines_of_another_network_tell_nothing_of_the_machine() -> None:
    random = np.random.default_rng(0)
    a, b = measured(random), measured(random, machine=2.0)
    assert only(compare(a, b)).machine is not None
    for changes in (
        {"name": "net"},
        {"inputs": ("x float32[N, 3, 32, 32]",)},
        {"macs": 5_000_000},
        {"parameters": 1_000_000},
        {"size_before": 4_000_000},
    ):
        other = replace(b, subject=replace(b.subject, **changes))
        found = compare(a, other, force=True)
        assert only(found).machine is None
        said = " ".join(compare_tables.sentences(found))
        assert "No other engine is the same in both and ran the same network" in said
        assert "taken out" not in said
    program = replace(b, subject=replace(b.subject, parameters=None, size_before=None))
    assert only(compare(a, program)).machine is not None


def test_noise_of_more_than_all_is_no_number() -> None:
    noise: dict[str, Any] = {"level": 0.8, "unlucky": 0.0, "processes": 2}
    found = pair(3, a=noise, **noise)
    row = only(found)
    assert row.seen is not None
    assert row.seen > 1
    loud = replace(row, stated=(0.025, 4.81))
    assert row.reason == "not even twice the time would be certain"
    assert compare_tables.cells(row)[5] == "over 100%"
    said = " ".join(compare_tables.sentences(replace(found, rows=(loud,))))
    assert "noise of 2.5% to over 100% a run (A/A), of all calls. Verdicts do not use it" in said
