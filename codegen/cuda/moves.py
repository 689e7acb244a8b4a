"""Concatenation on a GPU: a thread for each element of the result."""

from __future__ import annotations

from dataclasses import replace

from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen.cuda.places import each_place
from qcompile.codegen.cuda.writer import CudaKernel, CudaWriter, Part
from qcompile.codegen.groups import CAT
from qcompile.codegen.kernels.moves import cat_offsets


def cat(w: CudaWriter) -> CudaKernel | None:
    """Values one after another along a dimension."""
    return w.kernel(Part(_cat)) if w.group.anchor.target is CAT else None


def _cat(w: CudaWriter) -> None:
    axis, parts = cat_offsets(w, w.group.anchor)
    layout = w.layout(w.group.anchor)
    ends = [start for _, start in parts[1:]]
    ends.append((layout.channels, *layout.spatial)[axis + 1])
    with each_place(w, layout, along_rows=not layout.channels_last) as (point, valid):
        at = [point.channel, *point.spatial]
        index = at[axis + 1]
        for (part, start), end in zip(parts, ends, strict=True):
            at[axis + 1] = index - start
            source = replace(point, channel=at[0], spatial=tuple(at[1:]))
            with tb.If(tirx.all(valid, index >= start, index < end)), tb.Then():
                w.out.store(point, w.read(part, source))
