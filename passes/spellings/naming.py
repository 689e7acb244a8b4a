"""How a node is named to the user."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from qcompile.ir.graph import module_of


def name_of(gm: GraphModule, node: Node) -> str:
    """What the user wrote: `nn.LSTM`, `torch.fft.fft`, `.cumsum()`."""
    module = module_of(gm, node)
    if module is not None:
        return (
            f"nn.{type(module).__name__}"
            if type(module).__module__.startswith("torch.nn")
            else type(module).__name__
        )
    if node.op == "call_method":
        return f".{node.target}()"
    return str(node._pretty_print_target(node.target))
