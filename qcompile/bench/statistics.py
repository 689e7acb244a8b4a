"""What samples say: medians, ratios with intervals, noise.

Calls of one process resemble each other, and processes differ: where memory lies is drawn anew in each. What
tells how sure a number is is therefore how processes differ, not how many calls there were: one number a
process, the median of its logarithms, and Student's t over those, with a moderated variance (`moderated`), as two
processes may agree or differ by chance. Where there is one process, it is cut into
stretches of rounds, which stand in for processes ("batch means": Law and Carson, "A sequential procedure for
determining the length of a steady-state simulation", Operations Research 1979): that knows nothing of how
another process would differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special

from qcompile.bench.results import Noise, Spread

Samples: TypeAlias = Sequence[Sequence[float]]  # seconds of a call: of each process, in order
Array: TypeAlias = npt.NDArray[np.float64]

CONFIDENCE = 0.95
STRETCHES = 8  # of one process, at most
QUICK = 25  # percentile
SLOW = 0.4  # share of the processes that are left out, the slowest
# What processes differ by, as measured on a shared machine, and how much that weighs.
PRIOR_SPREAD, PRIOR_FREEDOM = 0.02, 4
WIDEST = 1000.0  # times either way: intervals and noise end there, as what lies beyond is not known


def spread(samples: Samples) -> Spread:
    """Median and quartiles of all samples, of whichever process.

    Raises:
        ValueError: there are none.
    """
    low, median, high = np.percentile(_joined(samples), [25, 50, 75])
    return Spread(float(median), float(low), float(high))


def ratio_spread(ours: Samples, theirs: Samples) -> Spread:
    """How many times as fast as theirs ours is: the median of the rounds' ratios, and its 95 % interval.

    Of a single round there is no interval: its ends are the ratio then. No end is farther than WIDEST.

    Args:
        ours, theirs: of the same processes and rounds.

    Raises:
        ValueError: there are none, or not of the same rounds.
    """
    logs = [
        np.log(np.asarray(b, float)) - np.log(np.asarray(a, float))
        for a, b in zip(ours, theirs, strict=True)
    ]
    median = float(np.median(_joined(logs)))
    found = levels(logs)
    half = half_width(found, of_processes=len(logs) > 1)
    # The mean of processes is not the median of all rounds, which the interval has to hold.
    low, high = min(found.mean() - half, median), max(found.mean() + half, median)
    return Spread(math.exp(median), math.exp(low), math.exp(high))


def noise(ours: Samples, again: Samples) -> Noise | None:
    """What the program beside itself shows; None of a single round, which shows nothing.

    Raises:
        ValueError: there are no samples, or not of the same rounds.
    """
    ratio = ratio_spread(ours, again)
    if sum(map(len, ours)) == 1:
        return None
    own = levels([np.log(np.asarray(process, float)) for process in ours])
    between = math.expm1(float(own.std(ddof=1))) if len(own) > 1 else 0.0
    share = max(abs(ratio.low - 1), abs(ratio.high - 1), between)
    return Noise(ratio, min(share, WIDEST - 1))


def levels(logs: Sequence[npt.ArrayLike]) -> Array:
    """One number a process, its median; of a single process, one for each stretch of rounds.

    Args:
        logs: of each process, in the order of its rounds.

    Raises:
        ValueError: there are none.
    """
    taken = [np.asarray(process, float) for process in logs if np.size(process)]
    if len(taken) == 1:
        taken = np.array_split(taken[0], min(STRETCHES, taken[0].size))
    if not taken:
        raise ValueError("there are no samples")
    return np.array([np.median(process) for process in taken])


def half_width(values: Array, *, of_processes: bool) -> float:
    """Of the 95 % interval of the mean of logarithms, by Student's t; 0 of a single value, which has none.

    Args:
        of_processes: rather than of stretches of one, of which nothing is known beforehand.
    """
    freedom = float(len(values) - 1)
    if not freedom:
        return 0.0
    squares = float(np.square(values - values.mean()).sum())
    variance, freedom = (
        moderated(squares, freedom) if of_processes else (squares / freedom, freedom)
    )
    error = math.sqrt(variance / len(values))
    return min(error * float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)), math.log(WIDEST))


def moderated(squares: float, freedom: float) -> tuple[float, float]:
    """Variance of processes, and its degrees of freedom, from what is known of processes too.

    A few that happen to lie close together promise too much: the variance is what it would be had
    `PRIOR_FREEDOM` degrees of freedom more shown `PRIOR_SPREAD` (Smyth, "Linear models and empirical Bayes
    methods", 2004). Processes that differ by more contradict that, and it weighs the less.

    Args:
        squares: sum of squared deviations, with so much `freedom`.
    """
    expected = freedom * PRIOR_SPREAD**2
    prior = PRIOR_FREEDOM * (expected / squares if squares > expected else 1.0)
    return (prior * PRIOR_SPREAD**2 + squares) / (prior + freedom), prior + freedom


# --- two reports ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """How much longer B takes than A, as logarithms of times.

    Attributes:
        log: of the ratio.
        error: standard error of that.
        freedom: degrees of freedom that the error has.
    """

    log: float
    error: float
    freedom: float

    def slower(self) -> float:
        """Probability of such a difference, or a larger one, where B is not slower: the p-value."""
        return float(special.stdtr(self.freedom, -self.log / self.error))

    def faster(self) -> float:
        """Likewise, where B is not faster."""
        return 1 - self.slower()

    def least(self, alpha: float) -> float:
        """The smallest difference that is certain: its p-value is `alpha`."""
        return float(-self.error * special.stdtrit(self.freedom, alpha))

    def ratio(self) -> Spread:
        """Of their times, with its 95 % interval."""
        half = self.least((1 - CONFIDENCE) / 2)
        return Spread(*(math.exp(x) for x in (self.log, self.log - half, self.log + half)))

    def certain(self) -> float:
        """The part of it that is no chance: 1 less the share of its square that is the error's.

        As random effects are told from sampling errors by their moments (DerSimonian and Laird,
        "Meta-analysis in clinical trials", 1986).
        """
        return max(0.0, 1 - (self.error / self.log) ** 2) if self.log else 0.0

    def less(self, other: Difference) -> Difference:
        """Without the certain part of another one, which is independent."""
        part = other.certain()
        errors = self.error, part * other.error
        error = math.hypot(*errors)
        # Welch and Satterthwaite
        parts = errors[0] ** 4 / self.freedom + errors[1] ** 4 / other.freedom
        return Difference(self.log - part * other.log, error, error**4 / parts)


def quick(samples: Samples) -> Array:
    """One logarithm a process: of its lower quartile, as what else a machine does only ever slows down.

    Raises:
        ValueError: a process has no samples.
    """
    return np.log([np.percentile(process, QUICK) for process in samples])


def typical(values: Array) -> float:
    """Seconds of what processes are like, from `quick`; the slowest are left out."""
    return math.exp(_trimmed(values)[0])


def difference(a: Array, b: Array) -> Difference:
    """Between processes of two reports, by a trimmed t-test with a moderated variance.

    The slowest two fifths of the processes are left out of both: in one process in a few memory lies badly, or
    another guest is on the same core, and that only ever slows down (after Yuen, "The two-sample trimmed t for
    unequal population variances", Biometrika 1974, who trims either side alike; here the variances are pooled,
    and `moderated`).

    Args:
        a, b: of two processes or more, from `quick`.
    """
    (mean_a, squares_a, count_a), (mean_b, squares_b, count_b) = _trimmed(a), _trimmed(b)
    variance, freedom = moderated(squares_a + squares_b, count_a + count_b - 2)
    error = math.sqrt(variance * (1 / count_a + 1 / count_b))
    return Difference(mean_b - mean_a, error, freedom)


def _trimmed(values: Array) -> tuple[float, float, int]:
    """Mean of the fast ones, sum of squared deviations of the winsorized values, how many values stayed."""
    kept = np.sort(values)[: len(values) - int(SLOW * len(values))]
    drawn_in = np.minimum(values, kept[-1])
    return float(kept.mean()), float(np.square(drawn_in - drawn_in.mean()).sum()), len(kept)


def holm(chances: Sequence[float]) -> list[float]:
    """p-values, adjusted so that one of all is wrong no more often than one alone would be.

    Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    found, largest = [0.0] * len(chances), 0.0
    for rank, i in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[i]))
        found[i] = largest
    return found


def _joined(samples: Sequence[Any]) -> Array:
    taken = [np.asarray(process, float) for process in samples]
    if not sum(process.size for process in taken):
        raise ValueError("there are no samples")
    return np.concatenate(taken)
