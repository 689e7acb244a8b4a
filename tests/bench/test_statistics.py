"""Medians, ratios and differences: by hand, beside scipy, and over many made-up machines."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from sample_reports import disturbed
from scipy import stats

from qcompile.bench import statistics
from qcompile.bench.results import Spread
from qcompile.bench.statistics import Difference, difference, holm, quick


def test_a_spread_is_of_all_samples() -> None:
    assert statistics.spread(((1.0, 2.0), (3.0,), (4.0, 5.0))) == Spread(3.0, 2.0, 4.0)
    with pytest.raises(ValueError, match="no samples"):
        statistics.spread(((), ()))


def test_ratios_are_of_the_same_rounds() -> None:
    ours = ((1.0, 2.0, 4.0), (8.0, 1.0, 3.0))
    theirs = tuple(tuple(3 * x for x in process) for process in ours)
    found = statistics.ratio_spread(ours, theirs)
    assert found.median == pytest.approx(3.0)
    # Two processes that agree to the last digit may do so by chance.
    half = 0.02 * math.sqrt(4 / 5) / math.sqrt(2) * stats.t.ppf(0.975, 5)
    assert (found.low, found.high) == pytest.approx((3 * math.exp(-half), 3 * math.exp(half)))
    with pytest.raises(ValueError, match="shorter"):
        statistics.ratio_spread(ours, theirs[:1])
    with pytest.raises(ValueError, match="no samples"):
        statistics.ratio_spread((), ())


def test_the_interval_of_a_ratio_is_student_s_of_the_processes() -> None:
    levels = np.log([1.9, 2.0, 2.2, 2.1])
    found = statistics.ratio_spread([[1.0]] * 4, [[x] for x in np.exp(levels)])
    squares = 3 * levels.var(ddof=1)
    prior = 4 * (3 * 0.02**2) / squares  # they differ by more than processes do: it weighs less
    error = math.sqrt((prior * 0.02**2 + squares) / (prior + 3) / 4)
    low, high = stats.t.interval(0.95, prior + 3, levels.mean(), error)
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert found.median == pytest.approx(math.exp(np.median(levels)))


def test_the_interval_holds_the_median_and_one_round_has_none() -> None:
    # The mean of the processes is far from the median of the rounds, most of which the first one has.
    found = statistics.ratio_spread([[1.0] * 99, [1.0], [1.0]], [[1.0] * 99, [1.5], [1.5]])
    assert found.low <= found.median == 1.0 <= found.high
    single = statistics.ratio_spread([[2.0]], [[3.0]])
    assert single.low == single.median == single.high == pytest.approx(1.5)


def test_two_processes_that_differ_have_a_finite_interval() -> None:
    apart = statistics.ratio_spread([[1.0], [1.0]], [[1.0], [18.0]])
    assert apart.median / apart.low < 1e4
    assert apart.high / apart.median < 1e4
    noise = statistics.noise([[1.0] * 5, [1e9] * 5], [[1.0] * 5, [18.0] * 5])
    assert noise is not None
    assert noise.share == statistics.WIDEST - 1


def test_one_process_has_the_interval_of_its_stretches() -> None:
    ratios = np.exp(np.array([0.0, 0.01, 0.03, 0.02] * 2))
    found = statistics.ratio_spread([[1.0] * 8], [ratios])
    low, high = stats.t.interval(0.95, 7, np.log(ratios).mean(), stats.sem(np.log(ratios)))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))


def held(intervals: list[Spread]) -> float:
    """The share of them that holds 1."""
    return sum(s.low <= 1 <= s.high for s in intervals) / len(intervals)


@pytest.mark.parametrize("processes", [1, 3, 5])
def test_intervals_hold_the_truth_about_as_often_as_they_say(processes: int) -> None:
    random = np.random.default_rng(processes)
    found = []
    for _ in range(200):
        # What disturbs lasts: a round is like the one before it.
        steps = random.standard_normal((2, processes, 48)) * 0.1
        lasting = np.stack([sum(0.7**i * np.roll(s, i, axis=1) for i in range(8)) for s in steps])
        levels = 0.03 * random.standard_normal((2, processes, 1)) * (processes > 1)
        ours, theirs = np.exp(lasting + levels)
        found.append(statistics.ratio_spread(ours, theirs))
    assert 0.85 <= held(found) <= 0.99


def test_noise_is_the_larger_of_two() -> None:
    flat = [[1.0] * 4] * 3
    apart = [[1.0] * 4, [1.1] * 4, [1.2] * 4]
    assert statistics.noise(flat, flat) is not None
    between = statistics.noise(apart, apart)
    assert between is not None
    assert between.ratio.median == 1
    assert between.ratio.high < 1.03
    assert between.share == pytest.approx(math.expm1(np.std(np.log([1, 1.1, 1.2]), ddof=1)))
    beside = statistics.noise(flat, [[1.0] * 4, [1.02] * 4, [1.04] * 4])
    assert beside is not None
    assert beside.share == pytest.approx(beside.ratio.high - 1)
    assert beside.share > 0.04


def test_one_round_says_nothing_of_noise() -> None:
    assert statistics.noise([[1.0]], [[1.1]]) is None
    assert statistics.noise([[1.0], [1.0]], [[1.1], [1.1]]) is not None


# --- two reports ---------------------------------------------------------------------------------


def test_holm_as_by_hand() -> None:
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5, 0.001]) == pytest.approx([1.0, 1.0, 0.003])


def test_without_what_is_known_before_it_is_a_trimmed_t_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics, "PRIOR_FREEDOM", 0)
    random = np.random.default_rng(0)
    for count, kept in ((2, 2), (4, 3), (5, 3), (10, 6)):
        values = random.standard_normal((2, count))
        means = [stats.trim1(v, 1 - kept / count, tail="right").mean() for v in values]
        limits = (0, 1 - kept / count)
        drawn_in = [np.asarray(stats.mstats.winsorize(v, limits=limits)) for v in values]
        squares = sum(v.var() * count for v in drawn_in)
        error = math.sqrt(squares / (2 * kept - 2) * 2 / kept)
        found = difference(*values)
        assert found.log == pytest.approx(means[1] - means[0])
        assert found.error == pytest.approx(error)
        assert found.freedom == 2 * kept - 2
    a, b = random.standard_normal((2, 2))  # of two, none is left out
    wanted = stats.ttest_ind(b, a, alternative="greater").pvalue
    assert difference(a, b).slower() == pytest.approx(wanted)


def test_two_slow_processes_are_left_out_of_five() -> None:
    level = np.log([1.0, 1.01, 1.02, 1.03, 1.04])
    unlucky = np.log([1.0, 1.01, 1.02, 2.0, 9.0])
    assert difference(level, unlucky).log == pytest.approx(0, abs=1e-9)
    assert difference(level[:4], unlucky[1:]).log > 0.2


def test_processes_that_agree_by_chance_promise_nothing() -> None:
    found = difference(np.zeros(3), np.full(3, 0.03))
    assert found.error > 0.01
    assert found.slower() > 0.01
    assert difference(np.zeros(3), np.full(3, 0.1)).slower() < 0.001


def test_a_difference_and_what_is_certain() -> None:
    found = Difference(0.1, 0.02, 8)
    assert found.slower() == pytest.approx(stats.t.sf(5, 8))
    assert found.faster() == pytest.approx(1 - stats.t.sf(5, 8))
    certain = Difference(found.least(0.01), 0.02, 8)
    assert certain.slower() == pytest.approx(0.01)
    ratio = found.ratio()
    assert ratio.median == pytest.approx(math.exp(0.1))
    assert ratio.low * ratio.high == pytest.approx(ratio.median**2)


def test_what_is_taken_out_is_what_is_no_chance_and_adds_its_own_doubt() -> None:
    machine = Difference(0.08, 0.04, 6)
    assert machine.certain() == pytest.approx(0.75)
    found = Difference(0.1, 0.04, 8).less(machine)
    assert (found.log, found.error) == pytest.approx((0.04, 0.05))
    assert found.freedom == pytest.approx(0.05**4 / (0.04**4 / 8 + 0.03**4 / 6))
    for log in (0.0, 0.03, -0.04):
        assert Difference(0.1, 0.03, 8).less(Difference(log, 0.04, 8)).log == 0.1


def test_quick_is_the_quick_quarter_of_each_process() -> None:
    assert quick(((4.0, 1.0, 2.0, 3.0, 5.0), (8.0,))) == pytest.approx(np.log([2.0, 8.0]))
    assert statistics.typical(np.log([2.0, 2.0, 2.0, 4.0, 50.0])) == pytest.approx(2.0)


Machine = Callable[[np.random.Generator], list[np.ndarray]]


def called(pairs: int, slower: float, **machine: float) -> float:
    """The share of pairs that are certainly slower by 5 % or more, on such a machine."""
    random = np.random.default_rng(7)
    count = 0
    for _ in range(pairs):
        a, b = (quick(disturbed(1e-4 * s, random, **machine)) for s in (1.0, slower))  # type: ignore[arg-type]
        found = difference(a, b)
        count += found.log >= math.log(1.05) and found.slower() < 0.01
    return count / pairs


@pytest.mark.parametrize("machine", [{"bursts": 0.0}, {}, {"bursts": 0.5}])
def test_the_same_program_is_not_slower_and_a_tenth_is_found(machine: dict[str, float]) -> None:
    assert called(100, 1.0, **machine) <= 0.02
    assert called(100, 1.1, **machine) >= 0.9


@pytest.mark.parametrize("machine", [{"level": 0.1}, {"unlucky": 0.5}, {"processes": 3}])
def test_however_noisy_the_same_program_is_rarely_slower(machine: dict[str, float]) -> None:
    assert called(100, 1.0, **machine) <= 0.05
    assert called(50, 3.0, **machine) >= 0.9
