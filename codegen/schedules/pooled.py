"""A contraction and the pooling of its result on a CPU: a few rows wait in a cache, never the map.

A task computes a strip of the pooling's rows, one after another; the rows of the contraction that a
window spans lie in a ring. Where windows overlap, the first ones of a strip are computed twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch.fx import Node
from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen import laps
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import Group
from qcompile.codegen.kernels.contraction import Contraction
from qcompile.codegen.kernels.window import window_of
from qcompile.codegen.schedules import window as windows
from qcompile.codegen.schedules.contraction import Body
from qcompile.codegen.schedules.loops import each_task, split
from qcompile.codegen.schedules.tile import Tile
from qcompile.codegen.writer import Operand, Point, Writer

_STRIPS = 4  # of one sample, where each repeats some rows
_SEPARATE_STRIPS = 16  # where none does


@dataclass(frozen=True)
class _Ring(Operand):
    """Some rows of one sample: row y lies at y modulo the layout's rows."""

    def index(self, p: Point) -> Expr:
        row = tirx.floormod(p.spatial[0], self.layout.spatial[0])
        return super().index(replace(p, n=0, spatial=(row, *p.spatial[1:])))


def schedule(w: Writer, c: Contraction, tile: Tile, pool: Node) -> None:
    """Write the contraction, the pooling, and what follows each of them."""
    at = w.group.nodes.index(pool)
    last = w.group.nodes[at - 1]
    head = Group(w.group.nodes[:at], w.group.anchor, (last,))
    tail = Group(w.group.nodes[at:], pool, w.group.results)
    body = Body(w, c, tile, 0, single=True)
    layout = w.layout(last)
    w.group = tail
    window = window_of(w)
    g, rows = window.geometry, w.layout(pool).spatial[0]
    span = g.dilation[0] * (g.kernel[0] - 1) + 1
    kept = max(0, span - g.stride[0])
    height = -(-rows // min(rows, _STRIPS if kept else _SEPARATE_STRIPS))
    strips = -(-rows // height)
    ring = replace(layout, spatial=(span, *layout.spatial[1:]))

    def task(index: Expr) -> None:
        n, strip = split(index, [strips])
        held: Any = _Ring(ring, tb.alloc_buffer((ring.size,), ring.dtype, scope="global"))
        w.operands[last] = held
        with tb.serial(height) as step:
            row = e.bind(strip * height + step)
            with tb.If(row < rows), tb.Then():
                first = e.bind(row * g.stride[0] - g.padding[0])
                w.group = head
                with tb.serial(span) as number:
                    y = e.bind(first + number)
                    new = tirx.any(step < 1, number >= kept)
                    with tb.If(tirx.all(y >= 0, y < g.inputs[0], new)), tb.Then():
                        body.band(n, (y,))
                w.group = tail
                windows.row(w, window, n, (row,))
                w.lap(laps.EPILOGUE)

    work = c.steps * c.weight.shape[1] * math.prod(c.outputs) // c.dot.unit
    each_task(w, strips, work, task)
