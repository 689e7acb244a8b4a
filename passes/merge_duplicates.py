"""Compute the same thing once.

    f(x), f(x)  ->  f(x)

Every function of a converted or lowered graph depends on its arguments alone, so that two calls of
one function with the same arguments have the same value. Two constants are the same where dtype,
shape and every bit are: 0.0 is not -0.0, and a NaN is itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qcompile.ir.graph import constant_of
from qcompile.ir.stages import Stage
from qcompile.passes.base import Pass


@dataclass(frozen=True)
class MergeDuplicates(Pass):
    """Common subexpressions among functions and constants."""

    name: ClassVar[str] = "merge-duplicates"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.CONVERTED, Stage.LOWERED)

    def rewrite(self, gm: GraphModule, node: Node) -> Node | None:
        # Nodes come in order: the arguments of this one are merged already.
        for earlier in _candidates(gm, node):
            if earlier < node and _equal(gm, earlier, node):
                return earlier
        return None


def _candidates(gm: GraphModule, node: Node) -> Iterable[Node]:
    if node.op == "get_attr":
        return gm.graph.find_nodes(op="get_attr")
    if node.op == "call_function" and node.all_input_nodes:
        return node.all_input_nodes[0].users
    return ()


def _equal(gm: GraphModule, a: Node, b: Node) -> bool:
    if a.op != b.op:
        return False
    if a.op != "get_attr":
        return a.target == b.target and _key(a) == _key(b)
    first, second = constant_of(gm, a), constant_of(gm, b)
    return first is not None and second is not None and _same_bits(first, second)


def _key(node: Node) -> str:
    # repr tells 0.0 from -0.0 and 1 from 1.0 and True, where == does not.
    return repr((node.args, node.kwargs))


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (a, b)))
