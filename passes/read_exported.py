"""Write the aten ops of an exported program as the torch functions that they come from.

    aten.conv2d(x, w, b)      ->  F.conv2d(x, w, b)
    aten.add_(x, y)           ->  x += y

`torch.export` calls aten's ops by position, with what is at its default left out. Their order is that
of the functions, but for BatchNorm's; `canonicalize` knows the functions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch._ops import OpOverload, OpOverloadPacket
from torch.fx import GraphModule, Node

from qcompile.ir.graph import calls
from qcompile.ir.stages import Stage
from qcompile.passes.base import Declined, Pass

aten = torch.ops.aten

_SAME_NAME = (
    *(f"{name}{rank}d" for name in ("conv", "max_pool", "avg_pool") for rank in (1, 2, 3)),
    *(f"adaptive_avg_pool{rank}d" for rank in (1, 2, 3)),
    *("linear", "dropout", "alpha_dropout", "relu", "relu6", "hardtanh", "leaky_relu", "prelu"),
    *("sigmoid", "tanh", "hardsigmoid", "hardswish", "silu", "gelu", "pad"),
)
_OF_TORCH = (
    *("clamp", "abs", "neg", "add", "sub", "rsub", "mul", "div", "mean", "amax", "flatten"),
    *("squeeze", "unsqueeze", "cat"),
)
_FUNCTIONS: Mapping[OpOverloadPacket, Callable[..., Any]] = {
    **{getattr(aten, name): getattr(F, name) for name in _SAME_NAME},
    **{getattr(aten, name): getattr(torch, name) for name in _OF_TORCH},
    aten.clamp_min: torch.clamp,
    aten.feature_dropout: F.dropout2d,
    aten.add_: operator.iadd,
    aten.sub_: operator.isub,
    aten.mul_: operator.imul,
    aten.div_: operator.itruediv,
    aten.relu_: torch.relu_,
    aten.clamp_: torch.clamp_,
    aten.sigmoid_: torch.sigmoid_,
    aten.tanh_: torch.tanh_,
}
# The functions that work in place where they are told to.
_TOLD_TO: Mapping[OpOverloadPacket, Callable[..., Any]] = {
    getattr(aten, f"{name}_"): getattr(F, name)
    for name in ("dropout", "hardtanh", "leaky_relu", "relu6", "hardsigmoid", "hardswish", "silu")
}
_SOFT: Mapping[OpOverloadPacket, Callable[..., Any]] = {
    aten.softmax: F.softmax,
    aten.log_softmax: F.log_softmax,
}
_MAX_POOLS: Mapping[OpOverloadPacket, Callable[..., Any]] = {
    getattr(aten, f"adaptive_max_pool{rank}d"): getattr(F, f"adaptive_max_pool{rank}d")
    for rank in (1, 2, 3)
}
_SAME = (aten.contiguous.default, aten.clone.default)


@dataclass(frozen=True)
class ReadExported(Pass):
    """What aten calls a function has the same arguments; what is no function of torch stays."""

    name: ClassVar[str] = "read-exported"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.TRACED,)

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        if calls(node, operator.getitem) and node.args[1] == 0:
            return _first_of_pool(gm, node)
        if not isinstance(node.target, OpOverload):
            return None
        op, arguments = node.target.overloadpacket, dict(node.kwargs)
        if op is aten.batch_norm:
            x, weight, bias, mean, var, *rest = node.args
            args = (x, mean, var, weight, bias, *rest[:3])
            return gm.graph.call_function(F.batch_norm, args)
        if op in _SOFT:
            x, dim, *dtype = node.args  # in between, the functions have an argument of torch's own
            return gm.graph.call_function(_SOFT[op], (x, dim), {"dtype": (*dtype, None)[0]})
        if op in _TOLD_TO:
            return gm.graph.call_function(_TOLD_TO[op], node.args, {**arguments, "inplace": True})
        if node.target in _SAME:
            return node.all_input_nodes[0]
        function = _FUNCTIONS.get(op)
        if function is None:
            return None
        return gm.graph.call_function(function, node.args, arguments)


def _first_of_pool(gm: GraphModule, node: Node) -> Node | None:
    """The values of a pooling that gives places as well."""
    pool = node.args[0]
    if not isinstance(pool, Node) or not isinstance(pool.target, OpOverload):
        return None
    function = _MAX_POOLS.get(pool.target.overloadpacket)
    return None if function is None else gm.graph.call_function(function, pool.args)
