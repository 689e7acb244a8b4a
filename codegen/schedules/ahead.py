"""Weights on their way to the second cache while those before them are multiplied.

A block of channels is multiplied by the tiles of a band, one after another, and each of them fetches
a part of the block that follows: memory is asked evenly, and nothing waits for it. After the last
block of a kernel come its other constants and, as constants lie in the order of the kernels, the
weights of the next one. What does not exist may be fetched too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr

_NEAR = 1 << 16  # bytes of weights that are soon in a near cache, and stay there
_APART = 8  # steps, at most


@dataclass(frozen=True)
class Ahead:
    """How much a tile fetches.

    Attributes:
        every: steps from one fetch to the next, a power of two.
        lines: that are fetched at once.
    """

    every: int
    lines: int

    def fetch(
        self, weights: Any, first: Expr, number: Expr, steps: int, size: int
    ) -> Callable[[Expr, int], None]:
        """What fetches a tile's part: `(step, count)`, before so many steps of a vector.

        Args:
            first: where the next block lies.
            number: of the tile.
            steps: of a vector.
            size: elements of a step.
        """
        each = size * self.lines // self.every
        start = e.bind(first + number * (steps * each))

        def fetch(step: Expr, count: int) -> None:
            for i in range(0, count, self.every):
                at = start + (step * each + i * each)
                for line in range(self.lines):
                    e.prefetch(weights, at + line * size)

        return fetch


def ahead_of(weight_bytes: int, tiles: int, vectors: int) -> Ahead | None:
    """The tiles of a band fetch as many vectors as a block has; None where it does not pay."""
    if weight_bytes <= _NEAR:
        return None
    every = 1
    while every < _APART and 2 * every * vectors <= tiles:
        every *= 2
    return Ahead(every, -(-vectors // tiles))
