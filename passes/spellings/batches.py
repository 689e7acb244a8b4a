"""What depends on the batch, and what does not: found by shapes at two batch sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg

from qcompile.ir.graph import eval_mode, propagate


class _Values(Interpreter):
    """Runs a graph and keeps what is a size or made of sizes."""

    def __init__(self, gm: GraphModule) -> None:
        super().__init__(gm)
        self.sizes: dict[Node, Any] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op != "output" and _is_size(value):
            self.sizes[n] = value
        return value


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_size, value))
    return isinstance(value, (int, float))


def _sizes(gm: GraphModule, batch: int) -> dict[Node, Any]:
    values = _Values(gm)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), eval_mode(gm):
        values.run(*(torch.empty((batch, *s.shape[1:]), dtype=s.dtype) for s in gm.meta["inputs"]))
    return values.sizes


def look_at_two_batches(gm: GraphModule) -> None:
    """Note every shape for one sample more, and put numbers where sizes leave the batch alone."""
    batch = gm.meta["inputs"][0].shape[0]
    for node, grown in grown_specs(gm).items():
        node.meta["grown"] = grown
    one, other = _sizes(gm, batch), _sizes(gm, batch + 1)
    fixed = {node: value for node, value in one.items() if value == other.get(node)}
    for node in gm.graph.nodes:
        node.args = map_arg(node.args, lambda n: fixed.get(n, n))
        node.kwargs = map_arg(node.kwargs, lambda n: fixed.get(n, n))


def grown_specs(gm: GraphModule) -> dict[Node, Any]:
    """The spec of every node for one sample more than the examples have."""
    propagate(gm, gm.meta["inputs"][0].shape[0] + 1)
    grown = {node: node.meta["spec"] for node in gm.graph.nodes}
    propagate(gm)
    return grown
