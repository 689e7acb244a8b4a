"""Ops that only move values: pad, im2col by itself, cat."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Node
from tvm import tirx

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import arguments
from qcompile.codegen.writer import CHANNEL, Point, Rule, Writer
from qcompile.errors import QCompileError
from qcompile.ir.graph import where
from qcompile.ir.ops import full_word_mask

_aten, _dialect = torch.ops.aten, torch.ops.qcompile


def pad_rule(w: Writer, node: Node, p: Point) -> Expr:
    """aten.pad: constant, reflect, replicate, circular; any dimension but the batch."""
    source, padding, mode, value = arguments(node)
    layout = w.layout(source)
    sizes = (layout.channels, *layout.spatial)
    at: list[Expr] = [p.channel, *p.spatial]
    inside: list[Expr] = []
    for i, before in enumerate(padding[::2]):
        d = len(sizes) - 1 - i
        after = padding[2 * i + 1]
        if d < 0 and (before or after):
            raise QCompileError("pad of the batch dimension is not compiled", where=where(node))
        if d < 0 or not (before or after):
            continue
        at[d], condition = _source_index(at[d] - before, sizes[d], mode)
        inside += condition
    moved = w.read(source, replace(p, channel=at[0], spatial=tuple(at[1:])))
    if not inside:
        return moved
    fill = e.splat(e.const(value or 0, e.dtype(moved)), e.lanes(moved))
    return tirx.if_then_else(tirx.all(*inside), moved, fill)


def _source_index(index: Expr, size: int, mode: Any) -> tuple[Expr, list[Expr]]:
    """(where to read, under which conditions)."""
    if mode == "constant":
        return index, [index >= 0, index < size]
    if mode == "circular":
        return tirx.floormod(index, size), []
    if mode == "replicate":
        return tirx.max(tirx.min(index, size - 1), 0), []
    folded = tirx.Select(index < 0, -index, index)
    return tirx.Select(folded >= size, 2 * (size - 1) - folded, folded), []


def im2col_rule(w: Writer, node: Node, p: Point) -> Expr:
    """Patches that are needed as such; word by word."""
    bits, channels, groups, kernel, stride, padding, dilation, pad_value = arguments(node)
    layout = w.layout(bits)
    own = layout.channels // groups
    taps = math.prod(kernel)
    word = tirx.floormod(p.channel, own)
    tap = tirx.floormod(tirx.floordiv(p.channel, own), taps)
    group = tirx.floordiv(p.channel, own * taps)
    at, inside = [], []
    for d in range(len(kernel)):
        digit = tirx.floormod(tirx.floordiv(tap, math.prod(kernel[d + 1 :])), kernel[d])
        index = p.spatial[d] * stride[d] + digit * dilation[d] - padding[2 * d]
        at.append(index)
        inside += [index >= 0, index < layout.spatial[d]]
    source = group * own + word
    moved = w.read(bits, replace(p, spatial=tuple(at), channel=source))
    fill = full_word_mask(channels)
    beyond = w.constant(fill if pad_value < 0 else torch.zeros_like(fill), source)
    return tirx.if_then_else(tirx.all(*inside), moved, beyond)


def cat_offsets(w: Writer, node: Node) -> tuple[int, list[tuple[Node, int]]]:
    """(dimension as of Point.axis, each part with where it starts there)."""
    parts, dim = arguments(node)
    dim %= w.layout(node).rank
    if dim == 0:
        raise QCompileError("cat along the batch is not compiled", where=where(node))
    axis = CHANNEL if dim == 1 else dim - 2
    starts, at = [], 0
    for part in parts:
        layout = w.layout(part)
        starts.append((part, at))
        at += layout.channels if axis == CHANNEL else layout.spatial[axis]
    return axis, starts


RULES: dict[object, Rule] = {_aten.pad.default: pad_rule, _dialect.im2col.default: im2col_rule}
