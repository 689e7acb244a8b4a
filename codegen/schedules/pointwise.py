"""Element by element on a CPU: vectors of channels, or of whatever lies in one piece."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch.fx import Node
from tvm.tirx.script import builder as tb

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import BITPACK, BY_PLACE, pads_channels
from qcompile.codegen.kernels.moves import cat_offsets
from qcompile.codegen.layout import Layout, layout_of
from qcompile.codegen.schedules.loops import CHUNK, each_chunk, each_task, split
from qcompile.codegen.writer import Point, Writer

_aten, _dialect = torch.ops.aten, torch.ops.qcompile
_PIECE = 64 * CHUNK  # elements of a task of flat work


def is_flat(w: Writer) -> bool:
    """Whether every operand is read just where the result is written, place by place."""
    group = w.group
    if group.packs or any(n.target in BY_PLACE for n in group.nodes):
        return False
    if any(n.target in (_aten.pad.default, _dialect.im2col.default) for n in group.nodes):
        return False
    if any(n.op == "get_attr" for node in group.nodes for n in node.all_input_nodes):
        return False
    first, *others = map(layout_of, (*group.results, *group.inputs))
    return all(_same_order(layout, first) for layout in others)


def _same_order(a: Layout, b: Layout) -> bool:
    same = (a.channels, a.spatial) == (b.channels, b.spatial)
    return same and (a.torch_order == b.torch_order or (a.channels_last and b.channels_last))


def flat(w: Writer) -> None:
    """One run of elements a sample."""
    size = w.layout(w.group.anchor).channels
    whole, rest = divmod(size, _PIECE)
    work = size * len(w.group.nodes)

    def lanes(n: Expr, start: Expr, first: Expr, count: int) -> None:
        w.finish(Point(n, (), start + first, count))

    def piece(index: Expr) -> None:
        n, part = split(index, [whole])
        with tb.serial(_PIECE // CHUNK) as chunk:
            lanes(n, part * _PIECE, chunk * CHUNK, CHUNK)

    if whole:
        each_task(w, whole, work, piece)
    if rest:
        each_task(w, 1, work, lambda n: each_chunk(rest, partial(lanes, n, whole * _PIECE)))


def by_pixel(w: Writer) -> None:
    """Pixels one by one, channels in vectors; a few channels of a long row: vectors along the row."""
    unpacked = [n for n in w.group.results if n.target is not BITPACK]
    anchor = w.group.anchor.args[0] if w.group.anchor.target is BITPACK else w.group.anchor
    layout = layout_of((*unpacked, anchor)[0])  # type: ignore[arg-type]
    _each_pixel(w, layout, partial(_vectors, w, layout))


def _each_pixel(w: Writer, layout: Layout, body: Callable[[Expr, tuple[Expr, ...]], None]) -> None:
    outer = layout.spatial[:-1]
    work = layout.size * len(w.group.nodes)

    def line(index: Expr) -> None:
        n, *at = split(index, outer)
        body(n, tuple(at))

    each_task(w, math.prod(outer), work, line)


def _vectors(w: Writer, layout: Layout, n: Expr, outer: tuple[Expr, ...]) -> None:
    scalar = any(
        node.target is _dialect.im2col.default or pads_channels(node) for node in w.group.nodes
    )

    def channels(at: tuple[Expr, ...]) -> None:
        if scalar:
            with tb.serial(layout.channels) as channel:
                w.finish(Point(n, at, channel))
            return
        each_chunk(layout.channels, lambda first, lanes: w.finish(Point(n, at, first, lanes)))

    if not layout.spatial:
        channels(())
    elif _along_row(w, layout):
        _row(w, layout, n, outer)
    else:
        with tb.serial(layout.spatial[-1]) as column:
            channels((*outer, column))


def _row(w: Writer, layout: Layout, n: Expr, outer: tuple[Expr, ...]) -> None:
    """Vectors of columns: of each channel by itself, or of all of them, stored as one run."""
    axis = len(outer)

    def together(first: Expr, lanes: int) -> None:
        row = (*outer, first)
        values = [
            w.value(Point(n, row, e.const(c, "int32"), lanes, axis)) for c in range(layout.channels)
        ]
        run = e.ramp(w.out.index(Point(n, row, 0)), 1, lanes * layout.channels)
        tb.buffer_store(w.out.flat, e.interleave([e.splat(v, lanes) for v in values]), [run])

    if len(w.group.results) == 1 and not layout.torch_order:
        each_chunk(layout.spatial[-1], together)
        return
    with tb.serial(layout.channels) as channel:
        each_chunk(
            layout.spatial[-1],
            lambda first, lanes: w.finish(Point(n, (*outer, first), channel, lanes, axis)),
        )


def _along_row(w: Writer, layout: Layout) -> bool:
    places = (_aten.pad.default, _dialect.im2col.default, _dialect.border_correction.default)
    if w.group.packs or any(n.target in places for n in w.group.nodes):
        return False
    ends = (*w.group.inputs, *w.group.results)
    from_input = any(layout_of(n).torch_order for n in ends)
    return layout.channels < 8 or (from_input and not layout.channels_last)


def cat(w: Writer) -> None:
    """Copy each part to its place."""
    axis, parts = cat_offsets(w, w.group.anchor)
    for part, start in parts:
        _each_pixel(w, w.layout(part), partial(_part, w, part, axis, start))


def _part(w: Writer, part: Node, axis: int, start: int, n: Expr, outer: tuple[Expr, ...]) -> None:
    """Copy one line of a part; along `axis` it begins at `start`."""
    layout = w.layout(part)

    def store(at: tuple[Expr, ...], first: Expr, lanes: int) -> None:
        p = Point(n, at, first, lanes)
        to = [first, *at]
        to[axis + 1] = to[axis + 1] + start
        w.out.store(replace(p, channel=to[0], spatial=tuple(to[1:])), w.read(part, p))

    if not layout.spatial:
        each_chunk(layout.channels, partial(store, ()))
        return
    with tb.serial(layout.spatial[-1]) as column:
        each_chunk(layout.channels, partial(store, (*outer, column)))
