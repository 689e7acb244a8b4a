"""The search for the fastest kernel: what there is to choose from, who wins, and who may not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from compiling import Case, joined, load
from torch import Tensor
from torch.fx import GraphModule
from tvm_ffi import StructuralKey

from qcompile.codegen.build import build
from qcompile.codegen.fusion import form
from qcompile.codegen.groups import Group
from qcompile.codegen.machine import machine_of
from qcompile.codegen.schedules.cpu import kernel_of
from qcompile.codegen.schedules.tile import Choice, Tile
from qcompile.codegen.tuning import search
from qcompile.codegen.tuning.search import Budget, tune, winner
from qcompile.codegen.tuning.space import (
    Chooser,
    Workload,
    choices_of,
    describe,
    processor,
    workloads,
)
from qcompile.codegen.tuning.trial import Contestant, LocalBench, problem
from qcompile.ir.ops import pack_words
from qcompile.ir.target import Target

q, aten = torch.ops.qcompile, torch.ops.aten
CPU = Target()
MACHINE = machine_of(CPU)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def binary(channels: int, filters: int, size: int, seed: int = 0) -> Case:
    """A 3x3 conv of signs, the border +1, scaled."""
    high = random(filters, 3, 3, channels, seed=seed) >= 0
    weight = pack_words(high).reshape(filters, -1)

    def function(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        bits = q.bitpack.default(q.sign.default(x))
        patches = q.im2col.default(bits, channels, 1, [3, 3], [1, 1], [1, 1, 1, 1], [1, 1], 1)
        sums = q.xnor_matmul.default(patches, weight, 9 * channels, 1)
        return q.scale_shift.default(sums, scale, None)

    constants = {"weight": weight, "scale": random(filters, seed=seed + 1)}
    return Case(function, [(channels, size, size)], constants)


def packing(channels: int, filters: int, size: int) -> Case:
    """The same with a stride of 2, its signs packed again."""
    constants = {
        "weight": binary(channels, filters, size).constants["weight"],
        "tau": (10 * random(filters)).to(torch.int32),
        "direction": torch.ones(filters, dtype=torch.int32),
    }

    def function(x: Tensor, weight: Tensor, tau: Tensor, direction: Tensor) -> Tensor:
        bits = q.bitpack.default(q.sign.default(x))
        patches = q.im2col.default(bits, channels, 1, [3, 3], [2, 2], [1, 1, 1, 1], [1, 1], 1)
        sums = q.xnor_matmul.default(patches, weight, 9 * channels, 1)
        return q.bitpack.default(q.threshold.default(sums, tau, direction, -1))

    return Case(function, [(channels, size, size)], constants)


def integers(channels: int, filters: int, size: int, groups: int = 1) -> Case:
    weight = (50 * random(filters, channels // groups, 3, 3)).clamp(-127, 127).to(torch.int8)

    def function(x: Tensor, weight: Tensor) -> Tensor:
        levels = q.quantize.default(x, 0.1, 3, 0, 255)
        return q.conv.default(levels, weight, [1, 1], [1, 1, 1, 1], [1, 1], groups, 3, 0)

    return Case(function, [(channels, size, size)], {"weight": weight})


def floats(channels: int, filters: int, size: int) -> Case:
    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ones, none = [1, 1], [0, 0]
        y = aten.convolution.default(x, weight, bias, ones, ones, ones, False, none, 1)
        return aten.relu.default(y)

    weight = random(filters, channels, 3, 3)
    return Case(function, [(channels, size, size)], {"weight": weight, "bias": random(filters)})


def pooled(channels: int, filters: int, size: int) -> Case:
    """8-bit integers whose largest of each 2x2 is taken by the same kernel."""
    case = integers(channels, filters, size)

    def function(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        y = q.scale_shift.default(case.function(x, weight), scale, None)
        return aten.max_pool2d.default(y, [2, 2], [2, 2])

    return Case(function, case.shapes, {**case.constants, "scale": random(filters)})


def linear(features: int, outputs: int) -> Case:
    weight = pack_words(random(outputs, features) >= 0)

    def function(x: Tensor, weight: Tensor) -> Tensor:
        bits = q.bitpack.default(q.sign.default(x))
        return q.xnor_matmul.default(bits, weight, features, 1)

    return Case(function, [(features,)], {"weight": weight})


def contraction(gm: GraphModule) -> Group:
    [group] = [g for g in form(gm) if g.kind in ("xnor-popcount", "int8", "float32")]
    return group


def workload(gm: GraphModule) -> Workload:
    [found] = workloads(gm, MACHINE)
    return found


# --- what there is to choose from ----------------------------------------------------------------

CASES = {
    "binary": binary(64, 48, 9),
    "binary-tail": binary(40, 24, 5),
    "packing": packing(64, 64, 9),
    "integers": integers(12, 24, 7),
    "integers-grouped": integers(8, 12, 6, groups=2),
    "floats": floats(5, 40, 8),
    "pooled": pooled(4, 24, 8),
    "linear": linear(200, 70),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_way_computes_the_same_bits(case: Case) -> None:
    gm = case.graph()
    group = contraction(gm)
    choices = choices_of(gm, group, MACHINE)
    assert len(choices) == len(set(choices)) > 1
    given = problem(gm, group, MACHINE, batch=2)
    expected = Contestant(given, choices[0], LocalBench()).results()
    assert all(len(np.unique(value)) > 1 for value in expected)
    some = choices[1 :: max(1, len(choices) // 4)]  # the likely ones and the odd ones
    for choice in some:
        got = Contestant(given, choice, LocalBench()).results()
        assert search.same_bits(got, expected), str(choice)


def test_the_default_comes_first_and_every_method_has_its_own() -> None:
    gm = binary(64, 64, 14).graph()
    choices = choices_of(gm, contraction(gm), MACHINE)
    default = kernel_of(gm, contraction(gm), MACHINE)
    first = kernel_of(gm, contraction(gm), MACHINE, choices[0])
    assert StructuralKey(first.function) == StructuralKey(default.function)  # type: ignore[call-arg]
    methods = list(dict.fromkeys(choice.method for choice in choices))
    assert [choice.method for choice in choices[: len(methods)]] == methods
    assert None not in methods


def test_the_case_of_pooling_pools() -> None:
    assert contraction(CASES["pooled"].graph()).pool is not None


def test_tiles_of_words_write_whole_words() -> None:
    gm = packing(64, 64, 9).graph()
    choices = choices_of(gm, contraction(gm), MACHINE)
    assert {choice.tile.channels % 32 for choice in choices} == {0}


def test_depthwise_convolutions_and_pools_have_no_choices() -> None:
    def function(x: Tensor, weight: Tensor) -> Tensor:
        ones, none = [1, 1], [0, 0]
        y = aten.convolution.default(x, weight, None, ones, ones, ones, False, none, 8)
        return aten.max_pool2d.default(y, [2, 2])

    gm = Case(function, [(8, 6, 6)], {"weight": random(8, 1, 3, 3)}).graph()
    assert workloads(gm, MACHINE) == ()


def test_layers_of_one_shape_are_one_workload() -> None:
    [found] = workloads(joined([binary(64, 32, 8), binary(64, 32, 8, seed=5)]), MACHINE)
    assert len(found.layers) == 2
    others = [binary(64, 32, 7), binary(64, 48, 8), binary(33, 32, 8), packing(64, 32, 8)]
    for other in others:
        assert len(workloads(joined([binary(64, 32, 8), other]), MACHINE)) == 2


def test_the_description_is_readable_and_names_no_values() -> None:
    gm = binary(40, 24, 5).graph()
    assert describe(gm, contraction(gm)) == (
        "x0 = int32[5, 5, 2], channels last, packed",
        "y0 = qcompile.im2col(x0, 40, 1, [3, 3], [1, 1], [1, 1, 1, 1], [1, 1], 1)",
        "y1 = qcompile.xnor_matmul(y0, int32[24, 18], 360, 1)",
        "y2 = qcompile.scale_shift(y1, float32[24], None)",
        "return y2: float32[24, 5, 5], channels first",
    )


# --- choices in a build --------------------------------------------------------------------------


def chooser(gm: GraphModule, choice: Choice) -> Chooser:
    return Chooser({(processor(MACHINE), describe(gm, contraction(gm))): choice})


@pytest.mark.parametrize("case", [CASES["packing"], CASES["floats"]], ids=["packing", "floats"])
def test_a_tuned_network_computes_the_same_bits(case: Case) -> None:
    gm = case.graph()
    choice = choices_of(gm, contraction(gm), MACHINE)[-1]
    plain, tuned = build(gm, CPU), build(gm, CPU, chooser(gm, choice))
    assert [k.tuned for k in plain.kernels] == [""] * len(plain.kernels)
    assert [k.tuned for k in tuned.kernels if k.tuned] == [str(choice)]
    for batch in (1, 3):
        x = case.inputs(batch, seed=3)
        [expected], [got] = load(plain)(x), load(tuned)(x)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


IMPOSSIBLE = [
    Choice("popcount", Tile(16, 1000, 1000)),
    Choice("popcount", Tile(3, 1, 1)),
    Choice("no such method", Tile(16, 1, 1)),
    Choice(None, Tile(16, 1, 1)),
]


@pytest.mark.parametrize("choice", IMPOSSIBLE, ids=str)
def test_a_choice_that_does_not_fit_is_not_taken(choice: Choice) -> None:
    gm = binary(64, 64, 5).graph()
    assert chooser(gm, choice)(gm, contraction(gm), MACHINE) is None
    assert [k.tuned for k in build(gm, CPU, chooser(gm, choice)).kernels] == ["", ""]


def test_another_processor_keeps_its_defaults() -> None:
    gm = binary(64, 64, 5).graph()
    group = contraction(gm)
    choice = choices_of(gm, group, MACHINE)[1]
    choose = chooser(gm, choice)
    assert choose(gm, group, MACHINE) == choice
    assert choose(gm, group, machine_of(Target("cpu", "nehalem"))) is None


# --- who wins ------------------------------------------------------------------------------------


def test_the_winner_is_clearly_and_mostly_faster() -> None:
    default = [1.0] * 8
    assert winner([default]) == 0
    assert winner([default, [0.9] * 8, [0.8] * 8, [0.95] * 8]) == 2
    assert winner([default, [0.98] * 8]) == 0  # not clearly
    assert winner([default, [0.5] * 5 + [2.0] * 3]) == 0  # not mostly
    assert winner([default, [0.5] * 6 + [2.0] * 2]) == 1
    busy = [1.0, 9.0, 1.0, 9.0]  # what slows all of a round down does not count
    assert winner([busy, [0.9 * seconds for seconds in busy]]) == 1


class Fake:
    """Stands in for a contestant: results and times by the tile's pixels, the default's tile first."""

    times: dict[int, Iterator[float]]
    wrong: frozenset[int] = frozenset()
    broken: frozenset[int] = frozenset()
    samples: dict[int, int]

    def __init__(self, given: object, choice: Choice, bench: object) -> None:
        if choice.tile.pixels in self.broken:
            raise RuntimeError("LLVM says:\nno")
        self.choice = choice

    def results(self) -> Any:
        pixels = self.choice.tile.pixels
        return [np.array([pixels if pixels in self.wrong else 0])]

    def seconds(self) -> float:
        pixels = self.choice.tile.pixels
        self.samples[pixels] = self.samples.get(pixels, 0) + 1
        return next(self.times[pixels])


Race = Callable[..., search.Found | None]


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> Race:
    """`race(1.0, 0.8, ...)` searches among candidates that take so long, the default first."""
    gm = binary(32, 32, 3).graph()

    def run_it(*seconds: Any, budget: Budget | None = None, **what: Any) -> search.Found | None:
        times = [s if isinstance(s, Iterator) else itertools.repeat(s) for s in seconds]
        fields = {"times": dict(enumerate(times)), "samples": {}, **what}
        monkeypatch.setattr(search, "Contestant", type("Racer", (Fake,), fields))
        choices = tuple(Choice(None, Tile(16, 1, i)) for i in range(len(seconds)))
        given = Workload((), contraction(gm), choices, ("conv",), 1)
        return tune(gm, given, MACHINE, LocalBench(), 1, budget or Budget())

    return run_it


def pixels(found: search.Found | None) -> int:
    assert found is not None
    return found.choice.tile.pixels


def test_the_fastest_candidate_is_found(race: Race) -> None:
    found = race(1.0, 0.9, 1.5, 0.5, 0.8, 0.85)
    assert pixels(found) == 3
    assert found is not None
    assert (found.seconds, found.default, found.ratio, found.tried) == (0.5, 1.0, 0.5, 5)


def test_the_default_stays_where_nothing_is_clearly_faster(race: Race) -> None:
    found = race(1.0, 0.99, 1.0, 1.3)
    assert found is not None
    assert (pixels(found), found.ratio, found.seconds) == (0, 1.0, 1.0)


def test_who_was_lucky_in_the_heats_loses_the_final(race: Race) -> None:
    lucky = itertools.chain(itertools.repeat(0.5, search.HEAT), itertools.repeat(1.0))
    assert pixels(race(1.0, lucky, 0.9)) == 2


def test_hopeless_candidates_are_given_up_early(race: Race) -> None:
    samples: dict[int, int] = {}
    race(1.0, 2.0, 1.1, samples=samples)
    assert samples[1] < samples[2] == search.HEAT


def test_other_numbers_never_win(race: Race) -> None:
    found = race(1.0, 0.1, 0.8, wrong=frozenset({1}))
    assert pixels(found) == 2
    assert found is not None
    assert found.refused == ("16x1x1 gives other numbers than 16x1x0",)


def test_what_does_not_build_never_wins(race: Race) -> None:
    found = race(1.0, 0.1, 0.8, broken=frozenset({1}))
    assert pixels(found) == 2
    assert found is not None
    assert found.refused == ("16x1x1 does not build: no",)


def test_results_are_compared_bit_for_bit() -> None:
    one, nan = np.array([0.0, 1.0], np.float32), np.array([np.nan], np.float32)
    assert search.same_bits([one, nan], [one.copy(), nan.copy()])
    assert not search.same_bits([one], [np.array([-0.0, 1.0], np.float32)])
    assert not search.same_bits([nan, one], [nan, np.nextafter(one, np.float32(2))])


# --- how much is measured ------------------------------------------------------------------------


def test_the_budget_ends_a_search(race: Race) -> None:
    found = race(1.0, 0.9, 0.8, 0.1, budget=Budget(trials=2))
    assert pixels(found) == 2
    assert found is not None
    assert found.tried == 2


def test_no_budget_finds_nothing(race: Race) -> None:
    stopped = Budget()
    stopped.stop()
    for budget in (Budget(trials=0), Budget(seconds=1e-9), stopped):
        assert race(1.0, 0.5, budget=budget) is None


def test_a_budget_counts() -> None:
    budget = Budget(trials=2)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    assert budget.trials == 2
    assert Budget(seconds=60).take()


def test_a_real_search_measures(race: Race) -> None:
    gm = binary(32, 32, 6).graph()
    ticks: list[int] = []
    found = tune(
        gm, workload(gm), MACHINE, LocalBench(), 2, Budget(trials=2), lambda: ticks.append(1)
    )
    assert found is not None
    assert found.tried == len(ticks) == 2
    assert found.choice in workload(gm).choices[:3]
    assert 0 < found.seconds <= found.default
    assert not found.refused
