"""Operations that write where their argument was, told from those that do not.

`y = f_(x)` stores f(x) where x was, so whoever reads x later in the program sees y: reading y itself
and computing f out of place is the same, as long as x has no other name (a view) that is read later.
"""

from __future__ import annotations

from torch import nn
from torch.fx import GraphModule, Node

from qcompile.errors import QCompileError
from qcompile.ir.graph import TensorSpec, module_of, where
from qcompile.passes.spellings import IN_PLACE_OPERATORS
from qcompile.passes.spellings.naming import name_of

_ALIASING = frozenset({"view", "reshape", "flatten", "squeeze", "unsqueeze", "contiguous", "to"})


def is_in_place(gm: GraphModule, node: Node) -> bool:
    if not isinstance(node.meta["spec"], TensorSpec):
        return False
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if node.op == "call_module":
        return bool(getattr(module_of(gm, node), "inplace", False))
    return (
        node.target in IN_PLACE_OPERATORS
        or node.kwargs.get("inplace") is True
        or (node.op != "placeholder" and str(name).endswith("_") and not str(name).endswith("__"))
    )


def read_result_instead(gm: GraphModule, node: Node) -> None:
    """Let what reads the argument of `y = f_(x)` later read y."""
    order = {n: i for i, n in enumerate(gm.graph.nodes)}
    x = node.args[0]
    assert isinstance(x, Node)
    for user in list(x.users):
        if order[user] > order[node]:
            user.replace_input_with(x, node)
    memory = _memory(gm, x)
    for other in gm.graph.nodes:
        shares = other not in (x, node) and _memory(gm, other) is memory
        if shares and any(order[user] > order[node] for user in other.users):
            raise QCompileError(
                f"{name_of(gm, node)} works in place on memory that {other} reads later",
                where=where(node),
                hint="use the form that is not in place",
            )
    module = module_of(gm, node)
    if isinstance(module, nn.modules.dropout._DropoutNd):
        module.inplace = False


def _memory(gm: GraphModule, node: Node) -> Node:
    """The node that made the memory which this node's value lies in."""
    while node.args and isinstance(node.args[0], Node) and _is_alias(gm, node):
        node = node.args[0]
    return node


def _is_alias(gm: GraphModule, node: Node) -> bool:
    """Whether a node's value may lie where its first argument's does."""
    kinds = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)
    if isinstance(module_of(gm, node), kinds):
        return True
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    return name in _ALIASING or is_in_place(gm, node)
