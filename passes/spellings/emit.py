"""What a spelling works with: the place for its nodes, and its ways to ask and to refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import GraphModule, Node

from qcompile.errors import QCompileError
from qcompile.ir.graph import spec, where

Spelling = Callable[..., Node]


@dataclass(frozen=True)
class Emit:
    """Where a spelling puts its nodes; `node` is the one that it replaces."""

    gm: GraphModule
    node: Node

    def __call__(self, op: Callable[..., Any], *args: Any) -> Node:
        return self.gm.graph.call_function(op, args)

    def module(self, path: str, module: nn.Module, *inputs: Node) -> Node:
        """Call a module that stands at `path` from now on; its node answers for that layer."""
        self.gm.add_submodule(path, module.train(self.gm.training))
        node = self.gm.graph.call_module(path, inputs)
        node.meta["layer"] = path
        return node

    def free_path(self, path: str) -> str:
        """`path`, or if something is there, the first of `path_1`, `path_2`, ... that is free."""
        candidate, counter = path, 0
        while _taken(self.gm, candidate):
            counter += 1
            candidate = f"{path}_{counter}"
        return candidate

    def refuse(self, what: str, hint: str | None = None) -> QCompileError:
        """The error that names this node's place."""
        return QCompileError(what, where=where(self.node), hint=hint)

    def dims(self, x: Node, dim: int | Sequence[int]) -> list[int]:
        """Dimensions of x counted from the front; none may be the batch."""
        rank = len(spec(x).shape)
        dims = [d % rank for d in ([dim] if isinstance(dim, int) else dim)]
        if 0 in dims:
            raise self.refuse(
                "it works across dimension 0, the batch",
                hint="each sample has to be computed by itself",
            )
        return dims


def _taken(gm: GraphModule, path: str) -> bool:
    owner: Any = gm
    for part in path.split("."):
        if not hasattr(owner, part):
            return False
        owner = getattr(owner, part)
    return True


def many(value: int | Sequence[int], rank: int) -> list[int]:
    """A size for each spatial dimension, from one for all of them or one for each."""
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values
