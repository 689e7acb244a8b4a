"""Element by element on a GPU: a thread for each, or a warp for each word of signs.

elements of a batch, as they lie -> threads; neighbouring threads have neighbouring channels where the
result lies so (or is packed), else neighbouring columns of one channel
"""

from __future__ import annotations

import math

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.writer import (
    Code,
    CudaKernel,
    CudaWriter,
    Grid,
    Part,
    function_of,
    threads_of,
)
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import BITPACK
from qcompile.codegen.layout import Layout
from qcompile.codegen.schedules.loops import split
from qcompile.codegen.schedules.pointwise import is_flat
from qcompile.codegen.writer import Parameter, Point
from qcompile.ir.ops import WORD

THREADS = 256


def pointwise(w: CudaWriter) -> CudaKernel:
    """Any group whose values are found place by place."""
    if is_flat(w):
        return w.kernel(Part(_flat), flat=True)
    return w.kernel(Part(_by_place))


def _flat(w: CudaWriter) -> None:
    size = w.layout(w.group.anchor).channels
    with w.launch(Grid(size, THREADS, threads=THREADS)) as t:
        index, valid = element(w, size, t.x * THREADS + t.thread)
        n, at = split(index, [size])
        w.finish(Point(n, (), at), valid)


def _by_place(w: CudaWriter) -> None:
    layout = shape_of(w)
    rows_first = not w.group.packs and _along_rows(w)
    channels = -(-layout.channels // WORD) * WORD if w.group.packs else layout.channels
    size = math.prod(layout.spatial) * channels
    with w.launch(Grid(size, THREADS, threads=THREADS)) as t:
        index, valid = element(w, size, t.x * THREADS + t.thread)
        if rows_first:
            n, channel, *at = split(index, [channels, *layout.spatial])
        else:
            n, *at, channel = split(index, [*layout.spatial, channels])
        if channels > layout.channels:
            valid = tirx.all(valid, channel < layout.channels)
            channel = e.bind(tirx.min(channel, layout.channels - 1))
        w.finish(Point(n, tuple(at), channel), valid)


def copy(layout: Layout) -> CudaKernel:
    """A function of a value and its copy."""
    n = tirx.Var("n", "int32")
    source, out = (Parameter(layout.dtype, n * layout.size) for _ in range(2))
    grid = Grid(layout.size, THREADS, threads=THREADS)
    with IRBuilder() as ib, tb.prim_func(s_tir=True):
        tb.func_name("copy")
        with threads_of(grid, n) as t:
            at = e.bind(t.x * THREADS + t.thread)
            with tb.If(at < n * layout.size), tb.Then():
                tb.buffer_store(out.buffer, source.buffer[at], [at])
    function = function_of([source, out], n, ib.get().body)
    return CudaKernel((Code(function, grid, 1, 0),), ())


def shape_of(w: CudaWriter) -> Layout:
    """The layout of a group's values, or of what it packs."""
    unpacked = [n for n in w.group.results if n.target is not BITPACK]
    anchor = w.group.anchor
    return w.layout((*unpacked, anchor.args[0] if anchor.target is BITPACK else anchor)[0])  # type: ignore[arg-type]


def element(w: CudaWriter, size: int, index: Expr) -> tuple[Expr, Expr]:
    """The element that a thread computes, of `size` a sample: inside in any case; and whether it is its own."""
    count = e.bind(w.n * size)
    index = e.bind(index)
    # The lower bound tells TVM that no index is negative.
    return e.bind(tirx.max(tirx.min(index, count - 1), 0)), index < count


def _along_rows(w: CudaWriter) -> bool:
    """Whether neighbours in memory are those of a row, on either side."""
    ends = (*w.group.results, *w.group.inputs)
    return any(not w.layout(n).channels_last for n in ends)
