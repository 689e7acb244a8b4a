"""How a product of matrices is divided among the blocks and warps of a GPU, by estimated time.

The estimate is of a GPU as most are: it ranks, and is not a prediction. In cycles of a processor of
which there are `_PROCESSORS`: an mma takes 2, 128 bytes of shared memory 1, four instructions 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from qcompile.codegen.cuda.matrices import BYTES, STEP, Matrix
from qcompile.codegen.cuda.writer import WARP

SHARED = 48 << 10  # bytes of a block
_STAGES = 4  # of copies that are under way or multiplied, at most
_PROCESSORS = 100
_RESIDENT = 96 << 10  # bytes of shared memory of a processor
_THREADS = 1536  # of a processor
_LATENCY = 600  # from a copy's start to its end
_START = 1500  # of a block: its launch, first copies, and end
_LAUNCH = 4000  # another kernel
_TRAFFIC = 1000  # bytes that all processors together read or write in a cycle
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
_PARTIAL = 1 << 19  # bytes of a sample's partial sums, at most
_MANY = 64  # samples of a large batch
_MOST = 256  # of a small one


@dataclass(frozen=True)
class Tile:
    """What a block computes, `rows` by `columns`, and its warps: `down` by `across`."""

    rows: int
    columns: int
    down: int
    across: int

    @property
    def threads(self) -> int:
        return WARP * self.down * self.across

    @property
    def m(self) -> int:
        """Fragments of rows of a warp."""
        return self.rows // (16 * self.down)

    @property
    def n(self) -> int:
        """Fragments of columns of a warp."""
        return self.columns // (8 * self.across)

    @property
    def stage(self) -> int:
        """Words of shared memory for a step."""
        return (self.rows + self.columns) * STEP

    @property
    def stages(self) -> int:
        return min(_STAGES, SHARED // (self.stage * BYTES))


TILES = (
    Tile(128, 128, 2, 2),
    Tile(128, 64, 2, 2),
    Tile(64, 128, 1, 4),
    Tile(64, 64, 2, 2),
    Tile(128, 32, 4, 1),
    Tile(32, 64, 2, 2),
    Tile(64, 32, 2, 2),
    Tile(32, 32, 2, 2),
    Tile(128, 16, 4, 1),
    Tile(64, 16, 4, 1),
    Tile(16, 64, 1, 4),
    Tile(16, 128, 1, 4),
)


@dataclass(frozen=True)
class Division:
    """A tile, and into how many parts the words of a row are divided."""

    tile: Tile
    splits: int = 1


@dataclass(frozen=True)
class _Estimate:
    """The time that a product of so many rows takes."""

    matrix: Matrix
    division: Division

    @cached_property
    def step(self) -> float:
        """Of a step of a block, where others hide its latency."""
        tile = self.division.tile
        tensor = tile.rows * tile.columns / 32
        read = 8 * tile.down * tile.across * (tile.m + tile.n / 2)
        written = (tile.rows + tile.columns) * STEP * BYTES / 64  # and read, in the first cache
        loaded = tile.rows * STEP / (8 * self.matrix.piece)
        return max(tensor, read + written, loaded + tile.columns / 2)

    def time(self, samples: int) -> float:
        tile, splits = self.division.tile, self.division.splits
        steps = -(-self.matrix.steps // splits)
        rows = samples * self.matrix.pixels
        across = -(-self.matrix.columns // tile.columns) * self.matrix.groups
        blocks = -(-rows // tile.rows) * across * splits
        each = -(-blocks // _PROCESSORS)
        shared = tile.stages * tile.stage * BYTES
        resident = max(1, min(_THREADS // tile.threads, _RESIDENT // shared))
        end = tile.rows * tile.columns / 12
        alone = steps * max(self.step, _LATENCY / (tile.stages - 1)) + _START + end
        found = max(each * (steps * self.step + end), -(-each // resident) * alone)
        if splits > 1:
            sums = rows * self.matrix.columns * self.matrix.groups * BYTES
            found += _LAUNCH + (splits + 1) * sums / _TRAFFIC
        return found


def _divisions(matrix: Matrix, *, packs: bool) -> Iterator[Division]:
    """All that can be: words of signs lie in the columns of one block."""
    width = matrix.columns * matrix.groups
    for tile in TILES:
        if packs and tile.columns % 32 and matrix.columns > tile.columns:
            continue
        for splits in dict.fromkeys(_filled(parts, matrix.steps) for parts in _SPLITS):
            partial = splits * matrix.pixels * width * BYTES
            if splits == 1 or partial <= _PARTIAL:
                yield Division(tile, splits)


def _filled(parts: int, steps: int) -> int:
    """As many parts of the same size, as far as there are steps for them."""
    return -(-steps // -(-steps // parts))


def divisions(matrix: Matrix, *, packs: bool) -> tuple[Division, Division, int]:
    """How to divide a product: for small batches, for large ones, and the most samples of a small one.

    Returns:
        the same twice, and 0, where one is as good for all.
    """
    estimates = [_Estimate(matrix, one) for one in _divisions(matrix, packs=packs)]
    whole = (one for one in estimates if one.division.splits == 1)
    large = min(whole, key=lambda one: one.time(_MANY))
    small = min(estimates, key=lambda one: one.time(1))
    if 5 * small.time(1) > 4 * large.time(1):
        return large.division, large.division, 0
    most = 1
    while most < _MOST and small.time(2 * most) <= large.time(2 * most):
        most *= 2
    return small.division, large.division, most
