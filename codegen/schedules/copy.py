"""A copy of a whole value, for results that would be memory of somebody else."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as tb

from qcompile.codegen.layout import Layout
from qcompile.codegen.writer import Kernel, Parameter, counts, function_of


def copy(layout: Layout) -> Kernel:
    """A function of a value and its copy, whole samples a part. LLVM knows the loop: memcpy."""
    n, part, parts = counts()
    source, out = (Parameter(layout.dtype, n * layout.size, 1) for _ in range(2))
    with IRBuilder() as ib, tb.prim_func(s_tir=True):
        tb.func_name("copy")
        first, last = (tirx.truncdiv(n * p, parts) * layout.size for p in (part, part + 1))
        with tb.serial(last - first) as i:
            tb.buffer_store(out.buffer, source.buffer[first + i], [first + i])
    return Kernel(function_of([source, out], (n, part, parts), ib.get().body), (), layout.size)
