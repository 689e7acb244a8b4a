"""Dynamic quantization: levels, and what follows their products, by each sample's scale and zero point.

The expressions are those of `ir.dynamic_ops`, operation by operation.
"""

from __future__ import annotations

import torch
from torch.fx import Node

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import arguments
from qcompile.codegen.writer import Point, Rule, Writer

_dialect = torch.ops.qcompile
_TINY = torch.finfo(torch.float32).tiny
SCALE, ZERO_POINT = 0, 1  # columns of the parameters


def qparams_of(w: Writer, low: Expr, high: Expr, bits: int) -> tuple[Expr, Expr]:
    """Scale and zero point of a range `low <= 0 <= high` that holds no zero but +0.

    The number of steps is read from memory, so that one code serves all widths.
    """
    zero, top = e.const(0, "float32"), w.scalar(2**bits - 1)
    scale = e.keep((high - low) / top)
    scale = e.keep(e.select(scale > e.const(_TINY, "float32"), scale, e.const(1, "float32")))
    level = e.keep(e.round_even((zero - low) / scale))
    # The level is NaN where both are infinite, and 0 then.
    level = e.keep(e.larger(zero, level))
    return scale, e.select(level > top, top, level)


def _parameter(w: Writer, qparams: Node, p: Point, column: int) -> Expr:
    """A sample's scale or zero point."""
    return e.bind(w.read(qparams, Point(p.n, (), e.const(column, "int32"))))


def _dynamic_quantize(w: Writer, node: Node, p: Point) -> Expr:
    source, qparams, bits = arguments(node)
    x = w.read(source, p)
    count = e.lanes(x)
    scale, zero_point = (
        e.splat(_parameter(w, qparams, p, column), count) for column in (SCALE, ZERO_POINT)
    )
    level = e.keep(e.round_even(x / scale) + zero_point)
    level = e.keep(e.larger(e.splat(e.const(0, "float32"), count), level))  # 0 where it is NaN
    top = e.splat(w.scalar(2**bits - 1), count)
    return e.cast(e.select(level > top, top, level), "uint8")


def _dynamic_scale_shift(w: Writer, node: Node, p: Point) -> Expr:
    acc, qparams, weight_sum, scale, shift = arguments(node)
    zero_point = e.cast(_parameter(w, qparams, p, ZERO_POINT), "int32")
    centred = w.read(acc, p) - e.splat(zero_point, p.lanes) * w.channel(weight_sum, p)
    factor = e.splat(_parameter(w, qparams, p, SCALE), p.lanes) * w.channel(scale, p)
    product = e.fence(e.cast(centred, "float32") * factor)
    return product if shift is None else product + w.channel(shift, p)


RULES: dict[object, Rule] = {
    _dialect.dynamic_quantize.default: _dynamic_quantize,
    _dialect.dynamic_scale_shift.default: _dynamic_scale_shift,
}
