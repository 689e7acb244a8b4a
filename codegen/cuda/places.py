"""Which thread computes which place of a value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.writer import CudaWriter, Grid
from qcompile.codegen.expr import Expr
from qcompile.codegen.layout import Layout
from qcompile.codegen.schedules.loops import split
from qcompile.codegen.writer import Point
from qcompile.ir.ops import WORD

THREADS = 256


@contextmanager
def each_place(
    w: CudaWriter, layout: Layout, *, along_rows: bool = False
) -> Iterator[tuple[Point, Expr]]:
    """Launch a thread for each element of a value; where the group packs, a warp for each word.

    Neighbouring threads have neighbouring channels.

    Args:
        along_rows: they have neighbouring columns of one channel instead; not where the group packs.

    Yields:
        the thread's point, inside in any case; and whether it is its own.
    """
    channels = -(-layout.channels // WORD) * WORD if w.group.packs else layout.channels
    size = math.prod(layout.spatial) * channels
    with w.launch(Grid(size, THREADS, threads=THREADS)) as t:
        index, valid = element(w.n * size, t.x * THREADS + t.thread)
        if along_rows and not w.group.packs:
            n, channel, *at = split(index, [channels, *layout.spatial])
        else:
            n, *at, channel = split(index, [*layout.spatial, channels])
        if channels > layout.channels:
            valid = tirx.all(valid, channel < layout.channels)
            channel = e.bind(tirx.min(channel, layout.channels - 1))
        yield Point(n, tuple(at), channel), valid


def element(count: Expr, index: Expr) -> tuple[Expr, Expr]:
    """One of `count` elements: inside in any case; and whether it is that of the index."""
    count, index = e.bind(count), e.bind(index)
    # The lower bound tells TVM that no index is negative.
    return e.bind(tirx.max(tirx.min(index, count - 1), 0)), index < count
