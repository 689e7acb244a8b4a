"""Means, maxima and softmax: values gathered along whole dimensions.

Dimensions are counted as in torch; 0, the batch, is never gathered.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.fx import Node

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import arguments
from qcompile.codegen.writer import Writer
from qcompile.errors import QCompileError
from qcompile.ir.graph import spec, where

_aten = torch.ops.aten


@dataclass(frozen=True)
class Reduction:
    """One value from all the places of some dimensions.

    Attributes:
        dims: which are gathered, each above 0, sorted.
        sizes: of all dimensions of the source but the batch.
        keeps: whether a gathered dimension stays, of size 1.
        start: the value before the first place.
        take: (value so far, element) to the value after; also joins two values.
        finish: the last value to the result.
    """

    source: Node
    dims: tuple[int, ...]
    sizes: tuple[int, ...]
    keeps: bool
    start: float
    take: Callable[[Expr, Expr], Expr]
    finish: Callable[[Expr], Expr]


def add(value: Expr, x: Expr) -> Expr:
    return value + x


def reduction_of(w: Writer) -> Reduction:
    """Read a group's mean or amax.

    Raises:
        QCompileError: it gathers over the batch, or gives another dtype.
    """
    node = w.group.anchor
    source, dims, keeps, *dtype = arguments(node)
    sizes = spec(source).shape[1:]
    if dtype and dtype[0] not in (None, torch.float32):
        raise QCompileError(f"{node.target} to {dtype[0]} is not compiled", where=where(node))
    chosen = tuple(sorted(d % (len(sizes) + 1) for d in dims or range(len(sizes) + 1)))
    if 0 in chosen:
        raise QCompileError(
            f"{node.target} over the batch is not compiled",
            where=where(node),
            hint="samples are independent of one another: name the dimensions from 1 on",
        )
    if node.target is _aten.amax.default:
        return Reduction(source, chosen, sizes, keeps, -math.inf, e.maximum, lambda value: value)
    count = e.const(math.prod(sizes[d - 1] for d in chosen), "float32")
    return Reduction(source, chosen, sizes, keeps, 0.0, add, lambda value: value / count)


@dataclass(frozen=True)
class Softmax:
    """softmax or log_softmax.

    Attributes:
        dim: along which, above 0.
        logarithm: whether the logarithm of it is meant.
    """

    source: Node
    dim: int
    logarithm: bool


def softmax_of(w: Writer) -> Softmax:
    """Read a group's softmax.

    Raises:
        QCompileError: it is over the batch, or gives another dtype.
    """
    node = w.group.anchor
    source, dim, dtype = arguments(node)
    dim %= w.layout(node).rank
    if dim == 0 or dtype not in (None, torch.float32):
        raise QCompileError(
            f"{node.target} over the batch, or to another dtype, is not compiled", where=where(node)
        )
    return Softmax(source, dim, node.target is _aten.log_softmax.int)
