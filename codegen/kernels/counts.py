"""What follows a count of differing signs, said of the count itself.

A dot product of signs is k - 2 * count; a correction at the border takes a table away from it, and a
threshold compares it. With count, k and the table on one side and constants on the other,

    direction * (k - table - 2 * count) >= tau

is `count <= limit` where the direction is +1, and `~count <= ~limit` where it is -1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import Node

from qcompile.codegen import expr as e
from qcompile.codegen.expr import Expr
from qcompile.codegen.groups import arguments
from qcompile.codegen.kernels.elementwise import at_border_class
from qcompile.codegen.writer import Point, Writer

_dialect = torch.ops.qcompile
_INT32 = torch.iinfo(torch.int32)


def of_counts(w: Writer, k: int) -> tuple[Node, Callable[[Expr, Point], Expr]]:
    """The node of a group whose value is found of the counts at once, and how.

    It is the product itself, or its correction at the border, or the threshold of either.

    Returns:
        The node; and of counts, int32, and their point, its value.
    """
    product = w.group.anchor
    corrected = _next(w, product, _dialect.border_correction.default)
    base = torch.tensor([k]) if corrected is None else k - w.tensor(arguments(corrected)[1])
    last = corrected or product
    threshold = _next(w, last, _dialect.threshold.default)
    if threshold is None:
        return last, lambda count, p: _at(w, corrected, base, p) - count * e.const(2, "int32")
    tau, direction, low = (arguments(threshold)[i] for i in (1, 2, 3))
    limit, down = limits(base.to(torch.int64), w.tensor(tau), w.tensor(direction))
    dtype = w.layout(threshold).dtype

    def level(count: Expr, p: Point) -> Expr:
        if bool(down.any()):
            count = count ^ w.constant(down, p.channels if down.numel() > 1 else 0)
        hot = count <= _at(w, corrected, limit, p)
        return e.select(hot, e.const(1, dtype), e.const(low, dtype))

    return threshold, level


def _next(w: Writer, node: Node, target: object) -> Node | None:
    """The node that takes a value alone, if it is of a kind and of the group."""
    users = list(node.users)
    found = len(users) == 1 and users[0].target is target and users[0] in w.group.nodes
    return users[0] if found else None


def _at(w: Writer, corrected: Node | None, values: Tensor, p: Point) -> Expr:
    """Constants `[O]` or `[1]`, or those of the place's class at the border."""
    if corrected is not None:
        return at_border_class(w, corrected, values, p)
    if values.numel() == 1:
        return e.const(int(values), "int32")
    return w.constant(values, p.channels)


def limits(base: Tensor, tau: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Such limits that direction * (base - 2 * count) >= tau where (count ^ down) <= limit.

    Args:
        base: int64 `[1]` or `[O, *classes]`.
        tau, direction: int32 `[O]` or `[1]`; a direction is +1 or -1.

    Returns:
        limit: int32, of the shape to which they broadcast.
        down: int32 `[O]` or `[1]`, all ones where the direction is -1, else 0.
    """
    tau, direction = torch.broadcast_tensors(tau, direction)
    trailing = [1] * (base.dim() - 1)
    t, up = (x.to(torch.int64).reshape(-1, *trailing) for x in (tau, direction))
    most = torch.div(base - t, 2, rounding_mode="floor")
    least = -torch.div(-(base + t), 2, rounding_mode="floor")
    limit = torch.where(up > 0, most, ~least).clamp(_INT32.min, _INT32.max)
    return limit.to(torch.int32), torch.where(direction > 0, 0, -1).to(torch.int32)
