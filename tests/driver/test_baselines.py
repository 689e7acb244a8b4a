"""What the program is timed against, and how."""

from __future__ import annotations

import io
import time
from functools import partial

import torch
from rich.console import Console
from torch import Tensor, nn

from qcompile import baselines, report
from qcompile.baselines import Rival, Timing


class ByValue(nn.Module):
    """Decides by the values of its input, which cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout())


def test_float_is_a_copy_in_eval_mode() -> None:
    model = network()
    rival = baselines.eager(model)
    assert isinstance(rival.call, nn.Sequential)
    assert not rival.call.training
    assert model.training


def test_int8_of_every_engine_is_near_the_float_network() -> None:
    x = torch.randn(4, 2, 6, 6)
    model = network()
    engine = torch.backends.quantized.engine
    rivals = baselines.static_int8(model, [(x,)])
    assert torch.backends.quantized.engine == engine
    assert [r.name for r in rivals] == ["PyTorch int8 x86", "PyTorch int8 fbgemm"]
    expected = model.eval()(x)
    for rival in rivals:
        assert rival.call is not None
        result = rival.call(x)
        assert isinstance(result, Tensor)
        # 8 bits over the range of the values: a few steps of max / 255.
        torch.testing.assert_close(result, expected, rtol=0, atol=5 * expected.max().item() / 255)
        assert not torch.equal(result, expected)


def test_sizes_are_those_of_what_is_stored() -> None:
    x = torch.randn(4, 2, 6, 6)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    weights, biases = 8 * 2 * 9 + 128 * 4, 8 + 4
    assert baselines.eager(model).size == 4 * (weights + biases)
    for rival in baselines.static_int8(model, [(x,)]):
        assert rival.size is not None
        # int8 weights, float biases; scales and zero points of each layer's activations
        assert 0 < rival.size - (weights + 4 * biases) < 100


def test_a_network_that_pytorch_cannot_quantize() -> None:
    for rival in baselines.static_int8(ByValue(), [(torch.ones(1),)]):
        assert rival.call is None
        assert rival.reason.startswith("PyTorch cannot: symbolically traced variables")


def test_only_the_engines_that_are_asked_for_and_there() -> None:
    x = torch.randn(4, 2, 6, 6)
    rivals = baselines.static_int8(network(), [(x,)], ["onednn", "abacus"])
    assert [r.name for r in rivals] == ["PyTorch int8 onednn"]


def test_turns_are_taken_round_by_round() -> None:
    order = ""

    def call(name: str) -> None:
        nonlocal order
        order += name
        time.sleep(0.001)

    ticks = iter(range(1000))
    calls = [partial(call, "a"), partial(call, "b")]
    samples = baselines.take_turns(calls, seconds=0, clock=lambda: next(ticks), pause=1e-4)
    assert samples == [[1.0] * 5, [1.0] * 5]  # two ticks a sample, whatever the clock on the wall
    # Each was called twice to see how long it takes; then two calls a round, the first not counted.
    assert order == "aabb" + "aabb" * 5
    assert len(baselines.take_turns(calls, seconds=9, rounds=6)[0]) == 6
    assert baselines.take_turns([], seconds=1) == []


def test_measure_repeats_the_first_sample_to_the_batch() -> None:
    seen = set()

    def quick(x: Tensor, y: Tensor) -> None:
        seen.add((tuple(x.shape), tuple(y.shape), x.unique().item()))

    def slow(x: Tensor, y: Tensor) -> None:
        time.sleep(0.002)

    entrants = [Rival("quick", quick), Rival("missing", None, "why"), Rival("slow", slow)]
    examples = (torch.arange(2.0).reshape(2, 1).expand(2, 3), torch.ones(2))
    timings = baselines.measure(entrants, examples, 5, seconds=0.01)
    assert seen == {((5, 3), (5,), 0.0)}
    assert [(t.name, t.batch) for t in timings] == [("quick", 5), ("missing", 5), ("slow", 5)]
    assert timings[0].seconds is not None
    assert timings[1].seconds is None
    assert timings[2].seconds is not None
    assert timings[0].seconds < 0.002 <= timings[2].seconds


def test_table_of_timings() -> None:
    rivals = [
        Rival("qcompile", print, size=1000),
        Rival("float", print, size=4500),
        Rival("int8", None, "PyTorch cannot: because"),
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
    rivals = [Rival("qcompile", print, size=1000), Rival("float", print, size=4500)]
    text = io.StringIO()
    Console(file=text, width=120).print(report.timing_table(rivals, [], ""))
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert lines[0] == "size; ×: times ours"
    assert "float 4,500 4.50" in lines
    assert not any("batch" in line or " ms" in line for line in lines)


def test_a_busy_machine_is_named() -> None:
    rivals = [Rival("qcompile", print, size=1), Rival("float", print, size=1)]
    timings = [Timing("qcompile", 1, 0.001, 1.1), Timing("float", 1, 0.01, 7.0)]
    text = io.StringIO()
    Console(file=text, width=120).print(report.timing_table(rivals, timings, "2 threads"))
    assert "unsteady, 7.0 times" in text.getvalue()
    assert "1.1 times" not in text.getvalue()
    assert "the machine is busy" in text.getvalue()


def test_spread_is_that_of_the_quarters() -> None:
    timing = baselines._timing("float", 64, [1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0])
    assert (timing.seconds, timing.spread) == (1.0, 3.0)
