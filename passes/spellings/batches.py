"""What depends on the batch, and what does not: found by running at two batch sizes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from qcompile.errors import QCompileError
from qcompile.ir.graph import TensorSpec, input_layouts, shapes_only, where
from qcompile.ir.known_shapes import Layout, Shapes


class _Values(Shapes):
    """Runs a graph for shapes; keeps the shapes of tensors, and sizes themselves."""

    def __init__(self, gm: GraphModule) -> None:
        super().__init__(gm)
        self.specs: dict[Node, TensorSpec] = {}
        self.sizes: dict[Node, Any] = {}

    def run_node(self, n: Node) -> Any:
        try:
            value = super().run_node(n)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise QCompileError(
                f"{n} fails for another batch size: {str(error).splitlines()[0]}",
                where=where(n),
                hint="keep dimension 0 open: torch.flatten(x, 1) or x.view(x.size(0), -1)",
            ) from error
        if isinstance(value, (Tensor, Layout)):
            self.specs[n] = TensorSpec(tuple(value.shape), value.dtype)
        elif n.op != "output" and _is_size(value):
            self.sizes[n] = value
        return value


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_size, value))
    return isinstance(value, (int, float))


def _values(gm: GraphModule, batch: int) -> _Values:
    values = _Values(gm)
    with shapes_only(gm):
        values.run(*input_layouts(gm, batch))
    return values


def grown_specs(gm: GraphModule) -> dict[Node, TensorSpec]:
    """The spec of every tensor for one sample more than the examples have.

    Raises:
        QCompileError: something works with the examples' batch size only.
    """
    return _values(gm, gm.meta["inputs"][0].shape[0] + 1).specs


def look_at_two_batches(gm: GraphModule) -> None:
    """Note every shape for one sample more, and put numbers where sizes leave the batch alone."""
    batch = gm.meta["inputs"][0].shape[0]
    other = _values(gm, batch + 1)
    for node, grown in other.specs.items():
        node.meta["grown"] = grown
    if not other.sizes:
        return
    one = _values(gm, batch)
    fixed = {node: size for node, size in one.sizes.items() if size == other.sizes.get(node)}
    for node in gm.graph.nodes:
        node.args = map_arg(node.args, lambda n: fixed.get(n, n))
        node.kwargs = map_arg(node.kwargs, lambda n: fixed.get(n, n))
