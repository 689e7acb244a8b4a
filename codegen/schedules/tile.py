"""How much of a contraction's result stays in registers."""

from __future__ import annotations

from dataclasses import dataclass

from qcompile.codegen.kernels.contraction import Contraction
from qcompile.codegen.machine import Machine
from qcompile.codegen.schedules.loops import CHUNK

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


def tile_of(c: Contraction, machine: Machine, *, packs: bool, spare: int = 4) -> Tile:
    """A tile whose sums, weights and `spare` other values fit in the registers."""
    outputs, width = c.weight.shape[1], c.outputs[-1]
    lanes = next((n for n in (4, 8, 16) if n >= outputs or n == machine.lanes), 4)
    lanes = min(lanes, machine.lanes)
    wide = -(-outputs // lanes)
    if packs:
        vectors = CHUNK // lanes
    elif width == 1:
        vectors = min(wide, 8)  # a single pixel: as many independent sums as hide an addition
    else:
        vectors = min(wide, 2)
    most = min(
        max(1, (machine.registers - spare - vectors) // vectors),
        (_STACK - 1) // (4 * lanes * vectors),
    )
    tiles = -(-width // most)
    return Tile(lanes, vectors, -(-width // tiles))
