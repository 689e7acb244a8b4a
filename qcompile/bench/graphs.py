"""The network as the user wrote it, and as the kernels that it is compiled to."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter
from torch.fx import Node as FxNode
from torch.utils.flop_counter import FlopCounterMode

from qcompile import api
from qcompile.bench.built import Built
from qcompile.bench.results import Edge, Graph, Layer, Node
from qcompile.bench.words import decibels, percent, seconds, size
from qcompile.codegen.groups import activations, whole
from qcompile.codegen.layout import is_packed, layout_of
from qcompile.ir.graph import TensorSpec, calls, module_of, shapes_only, spec, where
from qcompile.ir.stages import dialect
from qcompile.program_info import KernelInfo, LayerInfo, ProgramInfo
from qcompile.program_summary import bits

BEFORE, AFTER = "as it was written", "as it is compiled"
CHAIN = (
    "In the order in which the kernels run: a program alone does not say which of them reads what another "
    "one gives."
)
_LOW_BIT = ("xnor-popcount", "lookup", "bit-planes", "pack")
_MOVES = frozenset(
    (
        "cat",
        "chunk",
        "concat",
        "contiguous",
        "expand",
        "flatten",
        "Flatten",
        "getitem",
        "pad",
        "permute",
        "repeat",
        "reshape",
        "split",
        "squeeze",
        "stack",
        "t",
        "transpose",
        "unbind",
        "unflatten",
        "Unflatten",
        "unsqueeze",
        "view",
    )
)
_LINE = re.compile(r" \((.*:\d+)\)$")  # as `where` ends

Facts = Iterator[tuple[str, str]]


def graphs(built: Built, layers: Sequence[Layer]) -> tuple[Graph, ...]:
    """Draw up the network before and after.

    Args:
        layers: what was measured of them; or none.

    Returns:
        The float network, then the kernels. Of a program alone the kernels, with no edges but their order.

    Raises:
        QCompileError: as of `qcompile.prepare`, where the float network cannot be traced.
    """
    known = _Known(built.program.info, {layer.path: layer for layer in layers})
    if built.made is None:
        return (_chain(built, known),)
    traced = api.traced(built.made.file.model, built.made.file.example_inputs)
    return _before(traced, known), _after(built, built.made.lowered, traced, known)


class _Known:
    """What is known of layers, by path."""

    def __init__(self, info: ProgramInfo, measured: Mapping[str, Layer]) -> None:
        self._infos = {layer.layer: layer for layer in info.layers}
        self._measured = measured
        self._totals = [
            sum(parts.total for parts in found if parts is not None)
            for found in (
                [layer.before for layer in measured.values()],
                [layer.after for layer in measured.values()],
            )
        ]

    def info(self, path: str) -> LayerInfo | None:
        """What the program says of a layer with weights."""
        return self._infos.get(path)

    def share(self, path: str, *, after: bool) -> float | None:
        """Of the time of all layers, before or after."""
        layer, total = self._measured.get(path), self._totals[after]
        parts = None if layer is None else layer.after if after else layer.before
        return parts.total / total if parts is not None and total else None

    def times(self, path: str, *, after: bool, what: str = "time") -> Facts:
        """A layer's time, and its parts."""
        layer = self._measured.get(path)
        parts = None if layer is None else layer.after if after else layer.before
        if layer is None or parts is None:
            return
        share = self.share(path, after=after)
        samples = f", batch {layer.batch}" if layer.batch > 1 else ""
        yield what, f"{seconds(parts.total)}, {percent(share, 1)} of all layers{samples}"
        named = ("pack", "matmul", "epilogue", "other")
        each = [f"{name} {seconds(getattr(parts, name))}" for name in named if getattr(parts, name)]
        if len(each) > 1:
            yield "parts", ", ".join(each)

    def quality(self, path: str) -> Facts:
        """How far a quantized layer is from the float one, and why it is as it is."""
        layer = self._measured.get(path)
        if layer is not None and layer.sqnr_db is not None:
            yield "SQNR", decibels(layer.sqnr_db)
        if layer is not None and layer.note:
            yield "note", layer.note


# --- before ---------------------------------------------------------------------------------------


def _before(traced: GraphModule, known: _Known) -> Graph:
    macs = _macs(traced)
    shown = [node for node in traced.graph.nodes if _is_shown(node)]
    nodes = [_written(traced, node, macs.get(node, 0), known) for node in shown]
    edges = [
        Edge(source.name, node.name, _described(value))
        for node in shown
        for value, source in dict(_sources(node)).items()
    ]
    graph = Graph(BEFORE, tuple(nodes), tuple(edges))
    return _with_outputs(graph, traced, lambda value: _source(value).name)


def _is_shown(node: FxNode) -> bool:
    """Whether it computes tensors: not sizes, nor parts of a tuple that is shown."""
    if node.op in ("get_attr", "output"):
        return False
    return node.meta.get("spec") is not None and not _is_part(node)


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
        counting.run(*(torch.empty(s.shape, dtype=s.dtype) for s in gm.meta["inputs"]))
    batch = gm.meta["inputs"][0].shape[0]
    return {node: count // batch for node, count in counting.macs.items()}


def _written(gm: GraphModule, node: FxNode, macs: int, known: _Known) -> Node:
    if node.op == "placeholder":
        facts = (("value", _described(node)),)
        return Node(node.name, str(node.target), category="input", facts=facts)
    layer, label = _layer(node), _label(gm, node)
    return Node(
        node.name,
        label,
        layer,
        "move" if label in _MOVES else "float",
        tuple(_written_facts(gm, node, macs, known)),
        share=known.share(layer, after=False),
    )


def _written_facts(gm: GraphModule, node: FxNode, macs: int, known: _Known) -> Facts:
    module = module_of(gm, node)
    if module is not None and module.extra_repr():
        yield "settings", module.extra_repr()
    if module is not None:
        values = list(module.parameters())
        count = sum(value.numel() for value in values)
        stored = sum(value.numel() * value.element_size() for value in values)
        if count:
            yield "parameters", f"{count:,}, {size(stored)}"
    if macs:
        yield "MACs", f"{macs:,} a sample"
    yield from known.times(_layer(node), after=False)
    yield from _line(node)


def _label(gm: GraphModule, node: FxNode) -> str:
    """The class of a module, or the name of a function."""
    module = module_of(gm, node)
    if module is not None:
        return type(module).__name__
    if isinstance(node.target, str):
        return node.target
    packet = getattr(node.target, "overloadpacket", node.target)
    name = str(getattr(packet, "__name__", packet))
    in_place = getattr(packet, "__module__", "") == "_operator" and hasattr(operator, name[1:])
    return name[1:] if in_place and name.startswith("i") else name


def _layer(node: FxNode) -> str:
    return str(node.meta.get("layer") or node.name)


def _line(node: FxNode) -> Facts:
    found = _LINE.search(where(node))
    if found is not None:
        yield "source", found[1]


def _described(node: FxNode) -> str:
    """A value's dtype and sizes, as long as they are those of one tensor."""
    found = node.meta.get("spec")
    if not isinstance(found, TensorSpec):
        return ""
    sizes = ", ".join(["N", *map(str, found.shape[1:])]) if found.shape else ""
    return f"{str(found.dtype).removeprefix('torch.')}[{sizes}]"


def _with_outputs(graph: Graph, gm: GraphModule, source: Callable[[FxNode], str]) -> Graph:
    """The graph with a node for each value that is returned."""
    [output] = gm.graph.find_nodes(op="output")
    values = list(output.all_input_nodes)
    names = [f"output{i}" for i in range(len(values))] if len(values) > 1 else ["output"]
    there = {node.id for node in graph.nodes}
    nodes, edges = list(graph.nodes), list(graph.edges)
    for name, value in zip(names, values, strict=True):
        id_ = f"{output.name}.{name}"
        nodes.append(Node(id_, name, category="output", facts=(("value", _described(value)),)))
        if source(value) in there:
            edges.append(Edge(source(value), id_, _described(value)))
    return Graph(graph.title, tuple(nodes), tuple(edges), graph.note)


# --- after ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Compiled:
    """The lowered graph and its kernels.

    Attributes:
        of: the number of the kernel that computes a node, by the node's name.
    """

    nodes: Mapping[str, FxNode]
    kernels: tuple[KernelInfo, ...]
    of: Mapping[str, int]

    def home(self, value: FxNode) -> str:
        """The id of what gives a value: a kernel, or an input."""
        source = whole(value)
        return str(self.of[source.name]) if source.name in self.of else source.name

    def reads(self, number: int) -> list[FxNode]:
        """The values that a kernel reads, each once."""
        own = self.kernels[number].nodes
        read = (value for name in own for value in activations(self.nodes[name]))
        return list(dict.fromkeys(value for value in read if value.name not in own))


def _after(built: Built, lowered: GraphModule, traced: GraphModule, known: _Known) -> Graph:
    kernels = built.program.variant.kernels
    of = {name: i for i, kernel in enumerate(kernels) for name in kernel.nodes}
    compiled = _Compiled({node.name: node for node in lowered.graph.nodes}, kernels, of)
    inputs = lowered.graph.find_nodes(op="placeholder")
    nodes = [
        Node(x.name, str(x.target), category="input", facts=(("value", _described(x)),))
        for x in inputs
    ]
    also = _also(traced, compiled)
    edges = []
    for number, kernel in enumerate(kernels):
        stored = [compiled.nodes[value.node] for value in kernel.results]
        computed = [compiled.nodes[name] for name in kernel.nodes]
        nodes.append(_kernel(number, kernels, known, also[number], stored, computed))
        edges += [
            Edge(compiled.home(value), str(number), _lying(value))
            for value in compiled.reads(number)
        ]
    graph = Graph(AFTER, tuple(nodes), tuple(edges), _note(built))
    return _with_outputs(graph, lowered, compiled.home)


def _note(built: Built) -> str:
    variants = built.program.info.variants
    return f"for {built.program.variant.arch}" if len(variants) > 1 else ""


def _lying(value: FxNode) -> str:
    """A value as it lies between kernels: dtype, sizes, bytes of a sample."""
    stored = size(layout_of(value).bytes)
    signs = _signs(whole(value))
    if signs is None:
        return f"{_described(value)}, {stored}"
    sizes = ", ".join(map(str, signs))
    return f"1-bit[N, {sizes}], {stored} as {_described(whole(value))}"


def _signs(value: FxNode) -> tuple[int, ...] | None:
    """Sizes of what words of signs stand for, in torch's order, without the batch; None of other values."""
    if calls(value, dialect.bitpack.default):
        return spec(activations(value)[0]).shape[1:]
    if calls(value, dialect.bit_maxpool.default):
        signs = _signs(activations(value)[0])
        return None if signs is None else (signs[0], *spec(value).shape[1:-1])
    return None


def _kernel(
    number: int,
    kernels: Sequence[KernelInfo],
    known: _Known,
    also: Iterable[str],
    stored: Sequence[FxNode] = (),
    computed: Sequence[FxNode] = (),
) -> Node:
    kernel = kernels[number]
    of_layer = [one for one in kernels if one.layer == kernel.layer]
    share = known.share(kernel.layer, after=True)
    return Node(
        str(number),
        kernel.kind or "kernel",
        kernel.layer,
        _category(kernel, stored),
        tuple(_kernel_facts(kernel, of_layer, known, computed)),
        tuple(also),
        share if kernel is _main(of_layer) else None,
    )


def _main(kernels: Sequence[KernelInfo]) -> KernelInfo:
    """Of a layer's kernels, the one with its products; else the first."""
    return max(kernels, key=lambda kernel: kernel.macs)


def _category(kernel: KernelInfo, stored: Sequence[FxNode]) -> str:
    """What colours a kernel: its arithmetic; else what it stores."""
    if kernel.kind in _LOW_BIT:
        return "low-bit"
    if kernel.kind == "copy":
        return "move"
    if kernel.macs:
        return "int8" if kernel.kind in ("int8", "weight-only") else "float"
    if any(map(is_packed, stored)):
        return "low-bit"
    dtypes = [value.meta["spec"].dtype for value in stored]
    return "int8" if dtypes and not any(dtype.is_floating_point for dtype in dtypes) else "float"


def _kernel_facts(
    kernel: KernelInfo, of_layer: Sequence[KernelInfo], known: _Known, computed: Sequence[FxNode]
) -> Facts:
    main = kernel is _main(of_layer)
    info = known.info(kernel.layer) if main and kernel.macs else None
    if info is not None:
        yield "bits w/a", bits(info)
    if kernel.method or kernel.tuned:
        yield "method", f"tuned: {kernel.tuned}" if kernel.tuned else kernel.method
    if info is not None and (info.why or info.reason):
        yield "why", "; ".join(filter(None, (info.why, info.reason)))
    if kernel.macs:
        yield "MACs", f"{kernel.macs:,} a sample"
    if info is not None:
        yield "weights", f"{size(info.bytes_before)} → {size(info.bytes_after)}"
    if main:
        several = "time" if len(of_layer) == 1 else f"time of its {len(of_layer)} kernels"
        yield from known.times(kernel.layer, after=True, what=several)
        yield from known.quality(kernel.layer)
    names = [_operation(node) for node in computed]
    yield "computes", " → ".join(names) if names else ", ".join(kernel.nodes)
    yield "function", kernel.name
    for node in computed[:1]:
        yield from _line(node)


def _operation(node: FxNode) -> str:
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet))


def _also(traced: GraphModule, compiled: _Compiled) -> list[dict[str, None]]:
    """What else each kernel computes: layers that its nodes name, and those that were folded into it.

    A layer that no kernel names went into what computes the value that it reads. One that has a kernel of
    its own belongs there, though another may make its quantized inputs.
    """
    numbers = sorted(range(len(compiled.kernels)), key=lambda i: -compiled.kernels[i].macs)
    at = {compiled.kernels[number].layer: number for number in reversed(numbers)}
    also: list[dict[str, None]] = [{} for _ in compiled.kernels]
    own = set(at)
    for number, kernel in enumerate(compiled.kernels):
        for path in (_layer(compiled.nodes[name]) for name in kernel.nodes):
            if path not in own:
                also[number][path] = None
                at.setdefault(path, number)
    for node in filter(_is_shown, traced.graph.nodes):
        homes = [at[_layer(source)] for _, source in _sources(node) if _layer(source) in at]
        if homes and _layer(node) not in at:
            at[_layer(node)] = homes[0]
            also[homes[0]][_layer(node)] = None
    return also


# --- a program alone ------------------------------------------------------------------------------


def _chain(built: Built, known: _Known) -> Graph:
    """The kernels of a program, one after another."""
    info, kernels = built.program.info, built.program.variant.kernels
    inputs = [
        Node(f"in{i}", value.name, category="input", facts=(("value", str(value)),))
        for i, value in enumerate(info.inputs)
    ]
    outputs = [
        Node(f"out{i}", value.name, category="output", facts=(("value", str(value)),))
        for i, value in enumerate(info.outputs)
    ]
    nodes = [_kernel(i, kernels, known, ()) for i in range(len(kernels))]
    order = [inputs, *([node] for node in nodes), outputs]
    pairs = pairwise(order)
    edges = [Edge(a.id, b.id) for above, below in pairs for a in above for b in below]
    return Graph(AFTER, (*inputs, *nodes, *outputs), tuple(edges), CHAIN)
