"""How much of the next block of weights the tiles of a band fetch."""

from __future__ import annotations

import pytest

from qcompile.codegen.schedules.ahead import ahead_of

LARGE = 1 << 20


@pytest.mark.parametrize("vectors", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("tiles", [1, 2, 3, 7, 16, 200])
def test_all_of_it_and_little_more(tiles: int, vectors: int) -> None:
    steps = 24
    ahead = ahead_of(LARGE, tiles, vectors)
    assert ahead is not None
    lines = tiles * (steps // ahead.every) * ahead.lines
    assert lines >= vectors * steps
    assert ahead.every == 8 or lines < 2 * vectors * steps


def test_few_weights_are_near_anyway() -> None:
    assert ahead_of(1 << 16, 8, 2) is None
