"""A float network as a traced graph with every BatchNorm folded into the layer before it."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from torch.fx import GraphModule, Node, symbolic_trace
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def folded(model: nn.Module) -> GraphModule:
    """Trace a copy in eval mode; a BatchNorm that follows neither Conv2d nor Linear stays."""
    graph = symbolic_trace(copy.deepcopy(model).eval())
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        before = node.args[0] if node.args else None
        if not isinstance(before, Node) or not isinstance(modules.get(str(node.target)), NORMS):
            continue
        layer: Any = modules.get(str(before.target))
        fuse: Any = {nn.Conv2d: fuse_conv_bn_eval, nn.Linear: fuse_linear_bn_eval}.get(type(layer))
        if fuse is None or len(before.users) > 1:
            continue
        graph.set_submodule(str(before.target), fuse(layer, modules[str(node.target)]))
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
    graph.recompile()
    return graph
