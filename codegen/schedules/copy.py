"""A copy of a whole value, for results that would be memory of somebody else."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as tb

from qcompile.codegen.layout import Layout


def copy(layout: Layout) -> Any:
    """A function of a value and its copy. LLVM knows the loop: it calls memcpy."""
    n = tirx.Var("n", "int64")
    with IRBuilder() as ib, tb.prim_func(s_tir=True):
        tb.func_name("kernel")
        tb.func_attr({"tirx.noalias": True})
        buffers = [tb.buffer((n, *layout.shape), layout.dtype) for _ in range(2)]
        size = n * layout.size
        source, out = (tb.decl_buffer((size,), layout.dtype, data=b.data) for b in buffers)
        with tb.serial(size) as i:
            tb.buffer_store(out, source[i], [i])
    written = ib.get()
    return tirx.PrimFunc(buffers, written.body, attrs=written.attrs)
