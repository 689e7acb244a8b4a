"""What a contraction has to do for one sample, counted: the terms of the cost model.

The loops of `schedules/contraction.py` are fixed once the method and the tile are, so what they do is
counted, not estimated. How long each of these takes on a processor is measured (`model.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch

from qcompile.codegen.dots.planes import PlaneDot
from qcompile.codegen.kernels.contraction import Contraction, contraction_of
from qcompile.codegen.machine import Machine
from qcompile.codegen.schedules.contraction import band_of
from qcompile.codegen.schedules.rows import Rows, rows_of, rows_read
from qcompile.codegen.schedules.tile import Tile, tile_of
from qcompile.codegen.writer import Operand, Writer
from qcompile.ir.graph import calls

_q = torch.ops.qcompile
_SIGNS = (_q.threshold.default, _q.sign.default)

_HIDING = 8  # sums, so that none waits for the addition before it
_NEAR = 1 << 15  # bytes of weights that stay in the first cache beside activations
_FAR = 1 << 20  # bytes of weights that stay in the second one


@dataclass(frozen=True)
class Effort:
    """Counts for one sample.

    Attributes:
        calls: 1.
        products: vectors of products that are added.
        waits: products that would have fitted between two that depend on each other.
        loads: vectors of weights.
        broadcasts: activations that all channels of a tile are multiplied with.
        fetches: those vectors of weights that come from the second cache.
        sums: vectors of sums that are begun and ended.
        rows: times that a row of the result is gone along.
        copied: activations that are padded and converted before they are multiplied.
        results: elements of the result, where numbers follow from the sums.
        signs: the same, where comparisons follow.
        distant: KiB of weights that come from beyond the second cache.
    """

    calls: float
    products: float
    waits: float
    loads: float
    broadcasts: float
    fetches: float
    sums: float
    rows: float
    copied: float
    results: float
    signs: float
    distant: float


TERMS = tuple(field.name for field in fields(Effort))


def effort_of(w: Writer, machine: Machine, method: str | None) -> tuple[str, Effort]:
    """The kernel that a method makes of a group, by the name that it has in the model, and its effort."""
    c = contraction_of(w, machine, method)
    tile = tile_of(c, machine, packs=w.group.packs)
    w.operands[c.source] = Operand(w.layout(c.source), None)
    signs = any(calls(node, *_SIGNS) for node in w.group.nodes)
    return _name(c, method), _effort(c, tile, rows_of(w, c), signs)


def _name(c: Contraction, method: str | None) -> str:
    """One method is computed in several ways on one machine: weights and levels decide."""
    planes = len(c.dot.powers) if isinstance(c.dot, PlaneDot) else 1
    name = f"{method} {type(c.dot).__name__.removesuffix('Dot')}"
    return f"{name} x{planes}" if planes > 1 else name


def _effort(c: Contraction, tile: Tile, rows: Rows, signs: bool) -> Effort:
    outputs, unit = c.weight.shape[1], c.dot.unit
    run = c.kernel[-1] * c.channels if rows.merged else c.channels
    steps = c.steps // run * -(-run // unit)
    lines = math.prod(c.outputs[:-1]) * c.groups
    columns, last = divmod(c.outputs[-1], tile.pixels)
    widths = [(tile.pixels, columns), (last, 1 if last else 0)]
    blocks, rest = divmod(outputs, tile.channels)
    heights = [(tile.vectors, blocks), (-(-rest // tile.lanes), 1 if rest else 0)]
    tiles = [(p, v, lines * n * m) for p, n in widths for v, m in heights if n * m]
    weight = steps * unit * tile.lanes * c.weight.element_size()
    block = weight * tile.vectors
    total = weight * -(-outputs // tile.lanes) * c.groups
    results = outputs * c.groups * math.prod(c.outputs)
    fetched = sum(n * v for _, v, n in tiles) * steps if block > _NEAR else 0
    return Effort(
        calls=1,
        products=sum(n * p * v for p, v, n in tiles) * steps,
        waits=sum(n * max(0, _HIDING - p * v) for p, v, n in tiles) * steps,
        loads=sum(n * v for _, v, n in tiles) * steps,
        broadcasts=sum(n * p for p, _, n in tiles) * steps,
        fetches=fetched,
        sums=sum(n * p * v for p, v, n in tiles),
        rows=lines * (blocks + bool(rest)),
        copied=_copied(c, rows, max(1, blocks)),
        results=0 if signs else results,
        signs=results if signs else 0,
        distant=total / 1024 if total > _FAR else 0,
    )


def _copied(c: Contraction, rows: Rows, blocks: int) -> int:
    """Activations that are copied, for all bands of rows together."""
    if not rows.copied:
        return 0
    band = band_of(c, rows, blocks)
    lying = rows_read(c, band) if len(c.outputs) > 1 else 1
    bands = math.prod(c.outputs[:-2]) * -(-c.outputs[-2] // band) if len(c.outputs) > 1 else 1
    return c.groups * bands * math.prod(c.kernel[:-2]) * lying * rows.width * c.channels
