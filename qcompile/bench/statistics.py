"""What samples say: medians, ratios with intervals, noise.

Calls of one process resemble each other, and processes differ: where memory lies is drawn anew in each. What
tells how sure a number is is therefore how processes differ, not how many calls there were: one number a
process, the median of its logarithms, and Student's t over those. Where there is one process, it is cut into
stretches of rounds, which stand in for processes ("batch means": Law and Carson, "A sequential procedure for
determining the length of a steady-state simulation", Operations Research 1979): that knows nothing of how
another process would differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from qcompile.bench.results import Noise, Spread

Samples: TypeAlias = Sequence[Sequence[float]]  # seconds of a call: of each process, in order
Array: TypeAlias = npt.NDArray[np.float64]

CONFIDENCE = 0.95
STRETCHES = 8  # of one process, at most


def spread(samples: Samples) -> Spread:
    """Median and quartiles of all samples, of whichever process.

    Raises:
        ValueError: there are none.
    """
    low, median, high = np.percentile(_joined(samples), [25, 50, 75])
    return Spread(float(median), float(low), float(high))


def ratio_spread(ours: Samples, theirs: Samples) -> Spread:
    """How many times as fast as theirs ours is: the median of the rounds' ratios, and its 95 % interval.

    Of a single round there is no interval: its ends are the ratio then.

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
    half = half_width(found)
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
    return Noise(ratio, max(abs(ratio.low - 1), abs(ratio.high - 1), between))


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


def half_width(values: Array, confidence: float = CONFIDENCE) -> float:
    """Of the interval of the mean, by Student's t; 0 of a single value, which has none."""
    if len(values) < 2:
        return 0.0
    from scipy import stats

    error = values.std(ddof=1) / math.sqrt(len(values))
    return float(error * stats.t.ppf((1 + confidence) / 2, len(values) - 1))


def _joined(samples: Sequence[Any]) -> Array:
    taken = [np.asarray(process, float) for process in samples]
    if not sum(process.size for process in taken):
        raise ValueError("there are no samples")
    return np.concatenate(taken)
