"""What the nodes of a report's graphs say: values, lines, times and quality of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch.fx import GraphModule
from torch.fx import Node as FxNode
from torch.utils._pytree import tree_leaves

from qcompile.bench.results import Edge, Graph, Layer, Node, Parts
from qcompile.bench.words import decibels, percent, seconds, size
from qcompile.ir.graph import TensorSpec

Facts = Iterator[tuple[str, str]]
Owners = Mapping[FxNode, str]  # the layer whose kernel computes what an operation became
_PARTS = ("pack", "matmul", "epilogue", "other")


@dataclass(frozen=True)
class Known:
    """What was measured of layers, and where they are.

    Attributes:
        layers: by path.
        lines: the user's, by path.
    """

    layers: Mapping[str, Layer] = field(default_factory=dict)
    lines: Mapping[str, str] = field(default_factory=dict)

    def share(self, path: str, *, after: bool) -> float | None:
        """A layer's share of the time of all."""
        parts, total = self._parts(path, after=after), self._totals[after]
        return parts.total / total if parts is not None and total else None

    @cached_property
    def _totals(self) -> tuple[float, float]:
        """The time of all layers, before and after."""
        found = [
            [self._parts(path, after=after) for path in self.layers] for after in (False, True)
        ]
        before, after = (sum(p.total for p in parts if p is not None) for parts in found)
        return before, after

    def _parts(self, path: str, *, after: bool) -> Parts | None:
        layer = self.layers.get(path)
        return None if layer is None else layer.after if after else layer.before

    def times(self, path: str, *, after: bool, beside: str = "") -> Facts:
        """What a layer takes; `beside` says more of what that is."""
        parts = self._parts(path, after=after)
        if parts is None:
            return
        batch = self.layers[path].batch
        samples = f", batch {batch}" if batch > 1 else ""
        share = percent(self.share(path, after=after), 1)
        yield "time", f"{seconds(parts.total)}, {share} of all{samples}{beside}"
        each = [
            f"{name} {seconds(getattr(parts, name))}" for name in _PARTS if getattr(parts, name)
        ]
        if len(each) > 1:
            yield "of which", ", ".join(each)

    def compiled(self, path: str) -> Facts:
        """What else was found of a layer as it is compiled."""
        layer = self.layers.get(path)
        if layer is None:
            return
        if layer.moved:
            yield "moves", f"{size(layer.moved)} a call, weights included"
        if layer.sqnr_db is not None:
            yield "SQNR", decibels(layer.sqnr_db)
        if layer.note:
            yield "note", layer.note

    def line(self, path: str) -> Facts:
        """Where the user's code calls it."""
        if path in self.lines:
            yield "source", self.lines[path]


def layer_of(node: FxNode) -> str:
    """The path of the user's module that it stands for, or the name of the operation."""
    return str(node.meta.get("layer") or node.name)


def described(node: FxNode) -> str:
    """A tensor's dtype and sizes: "float32[N, 64, 56, 56]"; "" of other values."""
    found = node.meta.get("spec")
    if not isinstance(found, TensorSpec):
        return ""
    sizes = ", ".join(["N", *map(str, found.shape[1:])]) if found.shape else ""
    return f"{str(found.dtype).removeprefix('torch.')}[{sizes}]"


def operation(node: FxNode) -> str:
    """The name of what a node calls, without its library's."""
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet))


def input_node(node: FxNode) -> Node:
    """An input of a graph."""
    value = (("value", described(node)),)
    return Node(node.name, str(node.target), category="input", facts=value)


def with_outputs(graph: Graph, gm: GraphModule, source: Callable[[FxNode], str]) -> Graph:
    """The graph with a node for each value that is returned.

    Args:
        source: the id of what gives a value; there may be no node of it.
    """
    [output] = gm.graph.find_nodes(op="output")
    values = [value for value in tree_leaves(output.args) if isinstance(value, FxNode)]
    names = [f"output{i}" for i in range(len(values))] if len(values) > 1 else ["output"]
    there = {node.id for node in graph.nodes}
    nodes, edges = [], []
    for name, value in zip(names, values, strict=True):
        id_, text = f"{output.name}.{name}", described(value)
        nodes.append(Node(id_, name, category="output", facts=(("value", text),)))
        edges += [Edge(source(value), id_, text)] if source(value) in there else []
    return replace(graph, nodes=(*graph.nodes, *nodes), edges=(*graph.edges, *edges))
