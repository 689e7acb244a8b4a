"""The float network as the user wrote it, as a graph of his modules and functions."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter
from torch.fx import Node as FxNode
from torch.utils.flop_counter import FlopCounterMode

from qcompile.bench.graph_facts import (
    Facts,
    Known,
    Owners,
    described,
    input_node,
    layer_of,
    operation,
    with_outputs,
)
from qcompile.bench.results import Edge, Graph, Node
from qcompile.bench.words import size
from qcompile.ir.graph import TensorSpec, module_of, shapes_only

TITLE = "as it was written"
# Modules, functions and methods that compute nothing: they name sizes anew, or put values elsewhere.
_VIEWS = {"flatten", "Flatten", "reshape", "squeeze", "unflatten", "Unflatten", "unsqueeze", "view"}
_COPIES = {"cat", "chunk", "concat", "contiguous", "pad", "permute", "split", "stack", "transpose"}


def before(traced: GraphModule, known: Known, owners: Owners) -> Graph:
    """Draw up a traced network; constants and sizes are no nodes.

    Args:
        owners: which layer's kernel computes each operation; empty where that is not known.
    """
    macs = _macs(traced)
    shown = [node for node in traced.graph.nodes if _is_shown(node)]
    nodes = [
        input_node(node)
        if node.op == "placeholder"
        else _operation(traced, node, macs.get(node, 0), known, owners)
        for node in shown
    ]
    edges = [
        Edge(source.name, node.name, described(value))
        for node in shown
        for value, source in _sources(node)
    ]
    graph = Graph(TITLE, tuple(nodes), tuple(edges))
    return with_outputs(graph, traced, lambda value: _source(value).name)


def _is_shown(node: FxNode) -> bool:
    """Whether it computes tensors: not sizes, nor parts of a tuple that is shown."""
    if node.op in ("get_attr", "output") or _is_part(node):
        return False
    return _has_tensor(node.meta.get("spec"))


def _has_tensor(specs: object) -> bool:
    if isinstance(specs, tuple):
        return any(map(_has_tensor, specs))
    return isinstance(specs, TensorSpec)


def _is_part(node: FxNode) -> bool:
    if node.target is not operator.getitem:
        return False
    return isinstance(node.all_input_nodes[0].meta.get("spec"), tuple)


def _source(value: FxNode) -> FxNode:
    """What gives a value: of a part, what gives the tuple."""
    while _is_part(value):
        value = value.all_input_nodes[0]
    return value


def _sources(node: FxNode) -> Iterator[tuple[FxNode, FxNode]]:
    """The values that a node reads, with what gives each; neither constants nor sizes."""
    for value in node.all_input_nodes:
        source = _source(value)
        if _is_shown(source):
            yield value, source


class _Counting(Interpreter):
    """Counts the multiply-accumulates of each node, of all samples."""

    def __init__(self, gm: GraphModule) -> None:
        super().__init__(gm)
        self.macs: dict[FxNode, int] = {}
        self.extra_traceback = False

    def run_node(self, n: FxNode) -> Any:
        with FlopCounterMode(display=False) as counter:
            value = super().run_node(n)
        self.macs[n] = counter.get_total_flops() // 2
        return value


def _macs(gm: GraphModule) -> dict[FxNode, int]:
    """Of a sample, by node."""
    counting = _Counting(gm)
    with shapes_only(gm):
        counting.run(*(torch.empty(spec.shape, dtype=spec.dtype) for spec in gm.meta["inputs"]))
    batch = gm.meta["inputs"][0].shape[0]
    return {node: count // batch for node, count in counting.macs.items()}


def _operation(gm: GraphModule, node: FxNode, macs: int, known: Known, owners: Owners) -> Node:
    layer, label = layer_of(node), _label(gm, node)
    return Node(
        node.name,
        label,
        layer,
        "move" if label in _VIEWS | _COPIES else "float",
        tuple(_facts(gm, node, macs, known, owners)),
        share=known.share(layer, after=False),
    )


def _facts(gm: GraphModule, node: FxNode, macs: int, known: Known, owners: Owners) -> Facts:
    layer, module = layer_of(node), module_of(gm, node)
    if module is not None and module.extra_repr():
        yield "settings", module.extra_repr()
    values = [] if module is None else list(module.parameters())
    if values:
        stored = sum(value.numel() * value.element_size() for value in values)
        yield "parameters", f"{sum(value.numel() for value in values):,}, {size(stored)}"
    if macs:
        yield "MACs", f"{macs:,} a sample"
    others = [
        layer_of(other) for other, path in owners.items() if path == layer and other is not node
    ]
    beside = f", with {', '.join(others)}" if others else ""
    yield from known.times(layer, after=False, beside=beside)
    yield from known.line(layer)


def _label(gm: GraphModule, node: FxNode) -> str:
    """The class of a module, or the name of a function; of `+=` that of `+`."""
    module = module_of(gm, node)
    if module is not None:
        return type(module).__name__
    name = operation(node)
    in_place = getattr(node.target, "__module__", "") == "_operator" and name.startswith("i")
    return name[1:] if in_place and hasattr(operator, name[1:]) else name
