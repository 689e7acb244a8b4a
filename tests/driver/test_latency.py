"""What the program is timed against, and how."""

from __future__ import annotations

import io
import time
from functools import partial

import torch
from rich.console import Console

from qcompile import latency, report
from qcompile.latency import Rival, Timing
from qcompile.rivals.entrant import Entrant, Inputs, Ready, Unavailable


def test_measure_repeats_the_first_sample_to_the_batch() -> None:
    seen = set()

    def quick(inputs: Inputs) -> Ready:
        x, y = inputs
        seen.add((tuple(x.shape), tuple(y.shape), x.unique().item()))
        return Ready(lambda: None, size=7)

    def missing(inputs: Inputs) -> Ready:
        raise Unavailable("why")

    def slow(inputs: Inputs) -> Ready:
        return Ready(partial(time.sleep, 0.002))

    entrants = [
        Entrant(name, name, prepare)
        for name, prepare in (("quick", quick), ("missing", missing), ("slow", slow))
    ]
    examples = (torch.arange(2.0).reshape(2, 1).expand(2, 3), torch.ones(2))
    rivals, timings = latency.measure(entrants, examples, [5, 1], seconds=0.01)
    assert seen == {((batch, 3), (batch,), 0.0) for batch in (5, 1)}
    assert rivals == [Rival("quick", 7), Rival("missing", reason="why"), Rival("slow")]
    names = ["quick", "missing", "slow"]
    assert [(t.name, t.batch) for t in timings] == [(n, batch) for batch in (5, 1) for n in names]
    assert timings[0].seconds is not None
    assert timings[1].seconds is None
    assert timings[2].seconds is not None
    assert timings[0].seconds < 0.002 <= timings[2].seconds


def test_table_of_timings() -> None:
    rivals = [
        Rival("qcompile", 1000),
        Rival("float", 4500),
        Rival("int8", reason="PyTorch cannot: because"),
    ]
    timings = [
        Timing("qcompile", 1, 0.001),
        Timing("float", 1, 0.0105),
        Timing("int8", 1, None),
        Timing("qcompile", 64, 0.2),
        Timing("float", 64, 0.1),
        Timing("int8", 64, None),
    ]
    text = io.StringIO()
    Console(file=text, width=120).print(report.timing_table(rivals, timings, "2 threads"))
    lines = [" ".join(line.replace("│", " ").split()) for line in text.getvalue().splitlines()]
    assert lines[0] == "size, and latency: median of a call, 2 threads; ×: times ours"
    assert "qcompile 1,000 1.00 1.000 ms 1.00 200 ms 1.00" in lines
    assert "float 4,500 4.50 10.500 ms 10.50 100 ms 0.50" in lines
    assert "int8 - - - - - - PyTorch cannot: because" in lines


def test_a_table_of_sizes_alone() -> None:
    """Of what this machine cannot run, nothing is timed."""
    rivals = [Rival("qcompile", 1000), Rival("float", 4500)]
    text = io.StringIO()
    Console(file=text, width=120).print(report.timing_table(rivals, [], ""))
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert lines[0] == "size; ×: times ours"
    assert "float 4,500 4.50" in lines
    assert not any("batch" in line or " ms" in line for line in lines)


def test_a_busy_machine_is_named() -> None:
    rivals = [Rival("qcompile", 1), Rival("float", 1)]
    timings = [Timing("qcompile", 1, 0.001, 1.1), Timing("float", 1, 0.01, 7.0)]
    text = io.StringIO()
    Console(file=text, width=120).print(report.timing_table(rivals, timings, "2 threads"))
    assert "unsteady, 7.0 times" in text.getvalue()
    assert "1.1 times" not in text.getvalue()
    assert "the machine is busy" in text.getvalue()


def test_spread_is_that_of_the_quarters() -> None:
    timing = latency._timing("float", 64, [1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0])
    assert (timing.seconds, timing.spread) == (1.0, 3.0)
