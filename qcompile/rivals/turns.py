"""Timing side by side: all take turns, so that a busy machine is busy for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

Call = Callable[[], object]
_SAMPLE = 1e-3  # seconds of a sample at least, about


def take_turns(
    calls: Sequence[Call],
    *,
    seconds: float,
    rounds: int = 200,
    clock: Callable[[], float] = time.perf_counter,
    pause: float = 0.0,
    turn: Callable[[int], None] | None = None,
) -> list[list[float]]:
    """Time functions without arguments, one sample of each a round, for rounds on end.

    Samples of one round lie close together in time, so their ratio holds on a busy machine too.

    Args:
        seconds: how long each may take, about; there are at least five rounds.
        rounds: and this many at most, even if they are fewer.
        clock: gives seconds; `time.process_time` leaves out what other processes took.
        pause: seconds before each sample, for the threads of the one before to fall asleep.
        turn: told the number of each function before it is called.

    Returns:
        For each function the seconds of a call, in the order of the rounds. A sample is a run of
        calls of about a millisecond or more, after one that is not counted.
    """
    turn = turn or _nothing
    repeats = []
    for number, call in enumerate(calls):
        turn(number)
        repeats.append(_repeats(call))
    least = min(5, rounds)
    samples: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds * len(calls)
    while calls and (
        len(samples[0]) < least or (time.perf_counter() < end and len(samples[0]) < rounds)
    ):
        for number, (call, count, taken) in enumerate(zip(calls, repeats, samples, strict=True)):
            turn(number)
            if pause:
                time.sleep(pause)
            call()  # the other's threads go to sleep, and ours wake up
            start = clock()
            for _ in range(count):
                call()
            taken.append((clock() - start) / count)
    return samples


def _nothing(number: int) -> None:
    """Whose turn it is does not matter."""


def _repeats(call: Call) -> int:
    call()
    start = time.perf_counter()
    call()
    return max(1, round(_SAMPLE / max(time.perf_counter() - start, 1e-7)))
