"""How much of a contraction's result stays in registers."""

from __future__ import annotations

from dataclasses import dataclass, field

from qcompile.codegen.kernels.contraction import Contraction
from qcompile.codegen.machine import Machine
from qcompile.codegen.schedules.loops import CHUNK

_SUMS = 12  # two units, of four to five cycles
_STACK = 1024  # bytes: TVM gives a local buffer below that to LLVM as a stack slot


@dataclass(frozen=True)
class Tile:
    """How much of the result is computed at a time.

    Attributes:
        lanes: output channels in a vector.
        vectors: vectors of them.
        pixels: neighbours in the last spatial dimension.
    """

    lanes: int
    vectors: int
    pixels: int

    @property
    def channels(self) -> int:
        return self.lanes * self.vectors

    def __str__(self) -> str:
        return f"{self.lanes}x{self.vectors}x{self.pixels}"


@dataclass(frozen=True)
class Choice:
    """One way to compute a contraction.

    Attributes:
        method: one of `dots.methods`; None where there is only one way.
        tile: what stays in registers.
        why: it was taken, in a few words; empty where it was the fastest one measured.
    """

    method: str | None
    tile: Tile
    why: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.method} {self.tile}" if self.method else str(self.tile)


def tile_of(c: Contraction, machine: Machine, *, packs: bool, spare: int = 4) -> Tile:
    """A tile whose sums, weights and `spare` other values fit in the registers."""
    outputs, width = c.weight.shape[1], c.outputs[-1]
    lanes = c.dot.fold * min(
        next((n for n in (4, 8, 16) if n * c.dot.fold >= outputs), machine.lanes), machine.lanes
    )
    wide = -(-outputs // lanes)
    if packs:
        vectors = max(CHUNK // lanes, min(wide, c.dot.fold // 2, c.dot.abreast))
    elif width == 1:
        vectors = min(wide, 8)  # a single pixel: as many independent sums as hide an addition
    else:
        # AArch64's instructions take no operand from memory: a broadcast costs one, for all vectors.
        vectors = min(wide, 8 // c.dot.registers if machine.family == "aarch64" else c.dot.abreast)
        vectors = max(vectors, _vectors(c, wide, machine.registers - spare))
    free = machine.registers - spare - vectors * c.dot.live
    most = max(1, free // (vectors * c.dot.registers))
    return Tile(lanes, vectors, _pixels(width, most))


def _vectors(c: Contraction, wide: int, registers: int) -> int:
    """How many vectors make up for a narrow map, so that there are sums enough to hide an addition."""
    width, each = c.outputs[-1], c.dot.registers
    fitting = [
        v for v in range(1, min(wide, 8) + 1) if v * (width * each + c.dot.live) <= registers
    ]
    enough = [v for v in fitting if v * width * each >= _SUMS and wide % v == 0]
    return min(enough, default=max(fitting, default=1)) if width < _SUMS // 2 else 1


def _pixels(width: int, most: int) -> int:
    """A tile's width: it divides the row if that is not much narrower; else the last is about as wide."""
    whole = [p for p in range(-(-2 * most // 3), most + 1) if width % p == 0]
    return whole[-1] if whole else -(-width // -(-width // most))


def candidates(
    c: Contraction, machine: Machine, *, packs: bool, limit: int = 24
) -> tuple[Tile, ...]:
    """Tiles that are worth a trial: the default one, then `limit` others, the likeliest first.

    All of them compute the same, and keep their sums in registers.
    """
    default = tile_of(c, machine, packs=packs)
    outputs, width = c.weight.shape[1], c.outputs[-1]
    halved = default.lanes // 2
    fold = c.dot.fold  # channels to a lane of 32 bits
    halves = 4 <= halved // fold < machine.lanes and outputs % default.lanes
    lanes_of = [default.lanes, *([halved] if halves else [])]
    found: dict[Tile, int] = {}
    for lanes in lanes_of:
        step = max(1, CHUNK // lanes) if packs else 1  # a word of signs is written by one tile
        for vectors in range(step, max(step, min(-(-outputs // lanes), 8)) + 1, step):
            for pixels in range(1, width + 1):
                tile = Tile(lanes, vectors, pixels)
                held = vectors * (pixels * c.dot.registers + c.dot.live) + 1
                if held <= machine.registers and 4 * tile.channels * pixels < _STACK:
                    found[tile] = _cost(c, tile)
    likely = sorted(found, key=lambda tile: found[tile])
    return (default, *[tile for tile in likely if tile != default][:limit])


def _cost(c: Contraction, tile: Tile) -> int:
    """Instructions for a step of one row, about: products, and loads that all of them share.

    Fewer than eight sums leave the units waiting for the result of the addition before.
    """
    tiles = -(-c.weight.shape[1] // tile.channels) * -(-c.outputs[-1] // tile.pixels)
    return tiles * (2 * max(8, tile.vectors * tile.pixels) + tile.vectors + tile.pixels)
