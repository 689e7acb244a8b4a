"""What follows a product on tensor cores: sums from fragments to points of the group's results.

Threads have sums of scattered places. Where each can store what it makes of them, it does (in_place);
else they go through shared memory (staging).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.fx import Node
from tvm import tirx
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.cuda.in_place import InPlace, stays
from qcompile.codegen.cuda.matrices import Matrix
from qcompile.codegen.cuda.mma import Sums
from qcompile.codegen.cuda.places import each_place
from qcompile.codegen.cuda.staging import Staging, Store
from qcompile.codegen.cuda.tiles import Division
from qcompile.codegen.cuda.writer import CudaWriter
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import activations
from qcompile.codegen.schedules.loops import split
from qcompile.codegen.writer import Point

PARTIAL = "sums"  # of parts, `[splits, n * pixels, groups * columns]`
_dialect = torch.ops.qcompile
# They read by place, or by sample.
_PLACED = frozenset(
    {
        _dialect.border_correction.default,
        _dialect.dynamic_quantize.default,
        _dialect.dynamic_scale_shift.default,
    }
)


@dataclass(frozen=True)
class Epilogue:
    """Of a product that is divided in some way."""

    w: CudaWriter
    matrix: Matrix
    division: Division

    def finish(self, sums: Sums) -> None:
        """Finish the group at each row and channel."""
        w = self.w
        w.anchored, value = self.matrix.finish(w)
        point = _points(w, self.matrix)
        if stays(w, self.division.tile):
            InPlace(w, self.matrix, self.division.tile, sums, point, value).write()
            return

        def store(total: Expr, row: Expr, channel: Expr, valid: Expr) -> None:
            w.anchor = lambda p: value(total, p)
            w.finish(point(row, channel), valid)

        self._staged(sums, store, along_rows=_along_rows(w))

    def keep(self, sums: Sums) -> None:
        """Store the sums of a part."""
        w, width = self.w, self.matrix.groups * self.matrix.columns
        rows = e.bind(w.n * self.matrix.pixels)

        def store(total: Expr, row: Expr, channel: Expr, valid: Expr) -> None:
            with tb.If(valid), tb.Then():
                at = (sums.split * rows + row) * width + channel
                tb.buffer_store(w.scratch(PARTIAL), total, [at])

        self._staged(sums, store)

    def _staged(self, sums: Sums, store: Store, *, along_rows: bool = False) -> None:
        Staging(self.w, self.matrix, self.division, sums, store, along_rows=along_rows).write()


def total(w: CudaWriter, matrix: Matrix, splits: int) -> None:
    """A launch: add what parts have stored, and finish the group."""
    w.anchored, value = matrix.finish(w)
    layout = w.layout(w.group.anchor)
    width = matrix.groups * matrix.columns

    def anchor(p: Point) -> Expr:
        rows = e.bind(w.n * matrix.pixels)
        row = p.n
        for index, size in zip(p.spatial, layout.spatial, strict=True):
            row = row * size + index
        at = e.bind(row * width + p.channel)
        sums = [w.scratch(PARTIAL)[i * (rows * width) + at] for i in range(splits)]
        found = sums[0]
        for one in sums[1:]:
            found = found + one
        return value(e.keep(found), p)

    with each_place(w, layout, along_rows=_along_rows(w)) as (p, valid):
        w.anchor = anchor
        w.finish(p, valid)


def _points(w: CudaWriter, matrix: Matrix) -> Callable[[Expr, Expr], Point]:
    """A row of the batch and a channel, as a point of the results."""
    spatial, zero = w.layout(w.group.anchor).spatial, e.const(0, "int32")
    long = [d for d, size in enumerate(spatial) if size > 1]
    if not long:
        return lambda row, channel: Point(row, (zero,) * len(spatial), channel)
    if _by_row(w):
        # Rows follow one another as those of the last dimension that has several.
        return lambda row, channel: Point(
            zero, tuple(row if d == long[-1] else zero for d in range(len(spatial))), channel
        )

    def point(row: Expr, channel: Expr) -> Point:
        # The bound tells TVM that no index is negative.
        n, *place = split(tirx.max(row, 0), spatial)
        return Point(n, tuple(place), channel)

    return point


def _by_row(w: CudaWriter) -> bool:
    """Whether a row of the batch, taken for a column of its first sample, finds every value's place.

    All that is read or stored lies as the results do, and nothing asks for the place itself.
    """
    group, spatial = w.group, w.layout(w.group.anchor).spatial
    others = [v for n in group.nodes[1:] for v in activations(n) if v not in group.nodes]
    lie_so = all(
        not (layout := w.layout(n)).torch_order and layout.spatial == spatial
        for n in (*group.results, *others)
    )
    return lie_so and not any(n.target in _PLACED or _reads_tensors(n) for n in group.nodes[1:])


def _reads_tensors(node: Node) -> bool:
    """Whether it is one of torch's, and reads a constant that may have places of its own."""
    own = str(node.target).startswith("qcompile") or node.target is torch.ops.aten.prelu.default
    return not own and any(v.op == "get_attr" for v in node.all_input_nodes)


def _along_rows(w: CudaWriter) -> bool:
    results = w.group.results
    return not w.group.packs and any(not w.layout(n).channels_last for n in results)
