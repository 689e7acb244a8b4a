"""Element by element on a GPU: a thread for each, or a warp for each word of signs.

elements of a batch, as they lie -> threads; neighbouring threads have neighbouring channels where the
result lies so (or is packed), else neighbouring columns of one channel
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.places import THREADS, each_place
from qcompile.codegen.cuda.writer import (
    Code,
    CudaKernel,
    CudaWriter,
    Grid,
    Part,
    function_of,
    threads_of,
)
from qcompile.codegen.groups import BITPACK
from qcompile.codegen.layout import Layout
from qcompile.codegen.schedules.pointwise import is_flat
from qcompile.codegen.writer import Parameter


def pointwise(w: CudaWriter) -> CudaKernel:
    """Any group whose values are found place by place."""
    return w.kernel(Part(_by_place), flat=is_flat(w))


def _by_place(w: CudaWriter) -> None:
    with each_place(w, shape_of(w), along_rows=_along_rows(w)) as (point, valid):
        w.finish(point, valid)


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


def _along_rows(w: CudaWriter) -> bool:
    """Whether neighbours in memory are those of a row, on either side."""
    ends = (*w.group.results, *w.group.inputs)
    return any(not w.layout(n).channels_last for n in ends)
