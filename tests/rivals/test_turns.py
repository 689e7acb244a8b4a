"""Functions that are timed take turns."""

from __future__ import annotations

import time
from functools import partial

from qcompile.rivals.turns import take_turns


def test_turns_are_taken_round_by_round() -> None:
    order = ""

    def call(name: str) -> None:
        nonlocal order
        order += name
        time.sleep(0.001)

    ticks = iter(range(1000))
    calls = [partial(call, "a"), partial(call, "b")]
    samples = take_turns(calls, seconds=0, clock=lambda: next(ticks), pause=1e-4)
    assert samples == [[1.0] * 5, [1.0] * 5]  # two ticks a sample, whatever the clock on the wall
    # Each was called twice to see how long it takes; then two calls a round, the first not counted.
    assert order == "aabb" + "aabb" * 5
    assert len(take_turns(calls, seconds=9, rounds=6)[0]) == 6
    assert take_turns([], seconds=1) == []


def test_whose_turn_it_is_is_told() -> None:
    told: list[int] = []
    calls = [partial(time.sleep, 0.001), partial(time.sleep, 0.001)]
    samples = take_turns(calls, seconds=0, rounds=2, turn=told.append)
    assert [len(s) for s in samples] == [2, 2]  # as many rounds as are allowed, though they are few
    assert told == [0, 1] * 3
