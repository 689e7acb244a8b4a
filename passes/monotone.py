"""Chains of ops that never turn back: what may stand between an accumulator and a sign.

Each op here works on one channel by itself and is monotone there, rising or falling, in float32
with its roundings: rounding is monotone, and so are multiplying by a constant, adding one, and
clamping. A composition of monotone functions is monotone. Hence two values say all about the one-bit
quantizer at its end: it is constant between them if it is equal at both, and else it flips once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qcompile.ir.graph import calls, constant_of, spec
from qcompile.ir.stages import aten, dialect
from qcompile.passes.one_bit import argument

ELEMENTWISE = (
    dialect.scale_shift.default,
    aten.relu.default,
    aten.hardtanh.default,
    aten.leaky_relu.default,
    aten.prelu.default,
    aten.neg.default,
    aten.add.Scalar,
    aten.mul.Scalar,
)
POOLS = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)


def is_monotone(gm: GraphModule, node: Node) -> bool:
    """Whether an op is monotone in its first argument, which is float32 or goes to float32."""
    if not calls(node, *ELEMENTWISE):
        return False
    takes_integers = calls(node, dialect.scale_shift.default)
    if not takes_integers and spec(argument(node)).dtype != torch.float32:
        return False  # integers would wrap
    if calls(node, aten.hardtanh.default):
        return True  # an infinite bound is none
    values = list(_constants(gm, node))
    if calls(node, aten.leaky_relu.default, aten.prelu.default):
        return all(bool((v >= 0).all() and v.isfinite().all()) for v in values)
    return all(bool(v.isfinite().all()) for v in values)


def _constants(gm: GraphModule, node: Node) -> Iterable[Tensor]:
    if calls(node, aten.leaky_relu.default) and len(node.args) < 2:
        return
    for value in node.args[1:]:
        if isinstance(value, Node):
            tensor = constant_of(gm, value)
            yield torch.tensor(math.nan) if tensor is None else tensor
        elif isinstance(value, (int, float)):
            yield torch.tensor(float(value))


def chain_above(quantizer: Node, passes: Callable[[Node], bool]) -> list[Node]:
    """The nodes that lead to a quantizer through nodes that `passes` holds of, quantizer last."""
    chain = [quantizer]
    while passes(argument(chain[0])):
        chain.insert(0, argument(chain[0]))
    return chain


def values_along(gm: GraphModule, chain: Sequence[Node], x: Tensor) -> list[Tensor]:
    """What each node of a chain gives for `x`, `[M, C]`; pooling and reshaping pass it on."""
    values = []
    for node in chain:
        if not calls(node, *POOLS, aten.flatten.using_ints):
            constants = [constant_of(gm, a) if isinstance(a, Node) else a for a in node.args[1:]]
            assert callable(node.target)
            x = node.target(x, *constants, **node.kwargs)
        values.append(x)
    return values


def replay(
    gm: GraphModule,
    nodes: Iterable[Node],
    source: Node,
    constants: Callable[[Node], Sequence[Any]] = lambda node: node.args[1:],
) -> Node:
    """Call a chain's functions again, on another source, with the same constants or others."""
    for node in nodes:
        assert callable(node.target)
        arguments = (source, *constants(node))
        new = gm.graph.call_function(node.target, arguments, dict(node.kwargs))
        new.meta["layer"], new.stack_trace = node.meta["layer"], node.stack_trace
        source = new
    return source
