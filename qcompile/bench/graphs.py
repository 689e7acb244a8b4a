"""The network as the user wrote it, and as the kernels that it is compiled to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch.fx import GraphModule
from torch.fx import Node as FxNode

from qcompile import api
from qcompile.bench.before import owners
from qcompile.bench.built import Built
from qcompile.bench.graph_before import before
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
from qcompile.bench.results import Edge, Graph, Layer, Node
from qcompile.bench.words import size
from qcompile.codegen.groups import activations, whole
from qcompile.codegen.layout import is_packed, layout_of
from qcompile.explanation import lines_of
from qcompile.ir.graph import calls, spec
from qcompile.ir.plan import FLOAT_BITS
from qcompile.ir.stages import dialect
from qcompile.program_info import KernelInfo, LayerInfo
from qcompile.program_summary import bits

TITLE = "as it is compiled"
CHAIN = "Kernels in the order in which they run: a program alone does not say which of them reads what another gives."
_LOW_BIT = ("xnor-popcount", "lookup", "bit-planes", "pack")
_INTEGERS = ("int8", "weight-only")
# Beginnings of the names of nodes, which are those of their operations.
_TO_SIGNS = ("bitpack", "bit_maxpool")
_TO_INTEGERS = ("sign", "quantize", "dynamic_quantize", "threshold")


def graphs(built: Built, layers: Sequence[Layer]) -> tuple[Graph, ...]:
    """Draw up the network before and after.

    Args:
        layers: what was measured of them; or none.

    Returns:
        The float network, where there is one, and then the kernels. Those of a program that was given are
        drawn in their order: which of them reads what another gives is not known.

    Raises:
        QCompileError: as of `qcompile.prepare`, where the float network cannot be traced.
    """
    measured = {layer.path: layer for layer in layers}
    if built.file is None:
        return (_Kernels(built, Known(measured)).chain(),)
    traced = api.traced(built.file.model, built.file.example_inputs)
    lines = lines_of(traced)
    if built.made is None:
        known = Known(measured, lines)
        return before(traced, known, {}), _Kernels(built, known).chain()
    lowered, kernels = built.made.lowered, built.program.variant.kernels
    known = Known(measured, lines_of(lowered) | lines)
    owner = owners(traced.graph, lowered.graph, kernels, {kernel.layer for kernel in kernels})
    return before(traced, known, owner), _Kernels(built, known).graph(lowered, owner)


class _Kernels:
    """The kernels of the variant that runs, and what is known of them."""

    def __init__(self, built: Built, known: Known) -> None:
        self._info, self._known = built.program.info, known
        self._kernels = built.program.variant.kernels
        self._layers = {layer.layer: layer for layer in self._info.layers}
        self._main = _main(self._kernels)
        arch = built.program.variant.arch
        self._for = f"for {arch}" if len(self._info.variants) > 1 else ""

    def graph(self, lowered: GraphModule, owner: Owners) -> Graph:
        """A node a kernel, an edge a value between them."""
        of = {name: i for i, kernel in enumerate(self._kernels) for name in kernel.nodes}
        values = _Values({node.name: node for node in lowered.graph.nodes}, of)
        nodes = [input_node(node) for node in lowered.graph.find_nodes(op="placeholder")]
        edges = []
        also = self._also(owner)
        for number, kernel in enumerate(self._kernels):
            computed = [values.nodes[name] for name in kernel.nodes]
            stored = [values.nodes[value.node] for value in kernel.results]
            nodes.append(self._node(number, also[number], computed, stored))
            edges += [Edge(values.home(v), str(number), _lying(v)) for v in _reads(computed)]
        made = Graph(TITLE, tuple(nodes), tuple(edges), self._for)
        return with_outputs(made, lowered, values.home)

    def chain(self) -> Graph:
        """A node a kernel, one after another."""
        inputs = [
            Node(f"in{i}", value.name, category="input", facts=(("value", str(value)),))
            for i, value in enumerate(self._info.inputs)
        ]
        outputs = [
            Node(f"out{i}", value.name, category="output", facts=(("value", str(value)),))
            for i, value in enumerate(self._info.outputs)
        ]
        nodes = [self._node(number) for number in range(len(self._kernels))]
        order = [inputs, *([node] for node in nodes), outputs]
        pairs = ((a, b) for above, below in pairwise(order) for a in above for b in below)
        edges = tuple(Edge(a.id, b.id) for a, b in pairs)
        note = f"{CHAIN[:-1]} ({self._for})." if self._for else CHAIN
        return Graph(TITLE, (*inputs, *nodes, *outputs), edges, note)

    def _also(self, owner: Owners) -> list[dict[str, None]]:
        """What else each kernel computes: layers that belong to its own, at that layer's main kernel."""
        also: list[dict[str, None]] = [{} for _ in self._kernels]
        for node, path in owner.items():
            if path in self._main and layer_of(node) not in self._main:
                also[self._main[path]][layer_of(node)] = None
        return also

    def _node(
        self,
        number: int,
        also: Iterable[str] = (),
        computed: Sequence[FxNode] = (),
        stored: Sequence[FxNode] = (),
    ) -> Node:
        kernel = self._kernels[number]
        main = self._main[kernel.layer] == number
        info = self._product(kernel)
        width = bits(info) if info is not None and info.weight_bits < FLOAT_BITS else ""
        return Node(
            str(number),
            f"{kernel.kind} {width}".strip() or "kernel",
            kernel.layer,
            _category(kernel, stored),
            (
                *self._choice(kernel),
                *(self._measured(kernel) if main else ()),
                *_code(kernel, computed),
                *self._known.line(kernel.layer),
            ),
            tuple(also),
            self._known.share(kernel.layer, after=True) if main else None,
        )

    def _product(self, kernel: KernelInfo) -> LayerInfo | None:
        """The layer whose weights a kernel multiplies, if it does."""
        return self._layers.get(kernel.layer) if kernel.macs else None

    def _choice(self, kernel: KernelInfo) -> Facts:
        """How a layer's weights are multiplied, and why."""
        info = self._product(kernel)
        if info is not None:
            yield "bits w/a", bits(info)
        if kernel.method or kernel.tuned:
            yield "method", f"tuned: {kernel.tuned}" if kernel.tuned else kernel.method
        if kernel.macs:
            yield "MACs", f"{kernel.macs:,} a sample"
        if info is None:
            return
        yield "weights", f"{size(info.bytes_before)} → {size(info.bytes_after)}"
        noted = self._known.layers.get(kernel.layer)
        if (info.why or info.reason) and not (noted and noted.note):
            yield "why", "; ".join(filter(None, (info.reason, info.why)))

    def _measured(self, kernel: KernelInfo) -> Facts:
        count = sum(other.layer == kernel.layer for other in self._kernels)
        beside = f", in {count} kernels" if count > 1 else ""
        yield from self._known.times(kernel.layer, after=True, beside=beside)
        yield from self._known.compiled(kernel.layer)


def _main(kernels: Sequence[KernelInfo]) -> dict[str, int]:
    """By layer the number of its kernel with the products; else of its first."""
    found: dict[str, int] = {}
    for number, kernel in enumerate(kernels):
        if kernel.macs > kernels[found.setdefault(kernel.layer, number)].macs:
            found[kernel.layer] = number
    return found


def _category(kernel: KernelInfo, stored: Sequence[FxNode]) -> str:
    """What colours a kernel: its arithmetic; else what it stores."""
    if kernel.kind in _LOW_BIT:
        return "low-bit"
    if kernel.kind == "copy":
        return "move"
    if kernel.macs:
        return "int8" if kernel.kind in _INTEGERS else "float"
    if not stored:  # of a program alone only the names are known
        names = [value.node for value in kernel.results]
        if any(name.startswith(_TO_SIGNS) for name in names):
            return "low-bit"
        return "int8" if names and all(n.startswith(_TO_INTEGERS) for n in names) else "float"
    if any(map(is_packed, stored)):
        return "low-bit"
    return "float" if any(spec(v).dtype.is_floating_point for v in stored) else "int8"


def _code(kernel: KernelInfo, computed: Sequence[FxNode]) -> Facts:
    names = list(map(operation, computed))
    yield "computes", " → ".join(names) if names else ", ".join(kernel.nodes)
    yield "function", kernel.name


# --- values ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Values:
    """Those of the lowered graph, by name.

    Attributes:
        of: the number of the kernel that computes each.
    """

    nodes: Mapping[str, FxNode]
    of: Mapping[str, int]

    def home(self, value: FxNode) -> str:
        """The id of what gives a value: a kernel, or an input."""
        source = whole(value).name
        return str(self.of[source]) if source in self.of else source


def _reads(computed: Sequence[FxNode]) -> list[FxNode]:
    """The values that a kernel reads, each once."""
    read = (value for node in computed for value in activations(node))
    return list(dict.fromkeys(value for value in read if value not in computed))


def _lying(value: FxNode) -> str:
    """A value as it lies between kernels: what it is, and the bytes of a sample."""
    stored = size(layout_of(value).bytes)
    signs = _signs(whole(value))
    if signs is None:
        return f"{described(value)}, {stored}"
    return f"1-bit[{', '.join(['N', *map(str, signs)])}], {stored} as {described(whole(value))}"


def _signs(value: FxNode) -> tuple[int, ...] | None:
    """Sizes of what words of signs stand for, in torch's order, without the batch; None of other values."""
    if calls(value, dialect.bitpack.default):
        return spec(activations(value)[0]).shape[1:]
    if calls(value, dialect.bit_maxpool.default):
        signs = _signs(activations(value)[0])
        return None if signs is None else (signs[0], *spec(value).shape[1:-1])
    return None
