"""The graphs of a report: what the user wrote, what runs, and what is said of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from small_built import Residual, built
from torch import Tensor, nn

from qcompile.bench import graph_before
from qcompile.bench.built import Built
from qcompile.bench.graph_facts import Known
from qcompile.bench.graphs import CHAIN, graphs
from qcompile.bench.html.layout import layout
from qcompile.bench.results import Edge, Graph, Layer, Node, Parts
from qcompile.ir.graph import trace
from qcompile.model_file import ModelFile
from qcompile.program_info import KernelInfo
from qcompile.quant.recipe import Recipe

LAYERS = (
    Layer("stem", before=Parts(matmul=2e-4, epilogue=1e-4), after=Parts(matmul=1e-5)),
    Layer(
        "body",
        before=Parts(matmul=1e-4),
        after=Parts(pack=1e-5, matmul=2e-5),
        moved=2048,
        sqnr_db=9.1,
        note="as it was asked for",
    ),
)


@pytest.fixture(scope="module")
def net() -> Built:
    return built(Recipe(1, mode="static"))


@pytest.fixture(scope="module")
def pair(net: Built) -> tuple[Graph, Graph]:
    before, after = graphs(net, LAYERS)
    return before, after


def node(graph: Graph, layer: str, label: str | None = None) -> Node:
    return next(n for n in graph.nodes if n.layer == layer and label in (None, n.label))


def label(kernel: KernelInfo) -> str:
    """What stands in its box: its kind, and the bits of weights and activations of a product."""
    bits = {"stem": " 8/8", "body": " 1/1", "head": " 8/8"}
    return kernel.kind + (bits[kernel.layer] if kernel.macs else "")


def named_edges(graph: Graph) -> list[tuple[str, str]]:
    names = {n.id: n.layer or n.label for n in graph.nodes}
    return [(names[edge.source], names[edge.target]) for edge in graph.edges]


def written(model: nn.Module, *inputs: Tensor) -> Graph:
    return graph_before.before(trace(model.eval(), inputs), Known(), {})


# --- before --------------------------------------------------------------------------------------


def test_before_are_the_users_modules_and_functions(pair: tuple[Graph, Graph]) -> None:
    before, _ = pair
    labels = [n.label for n in before.nodes]
    assert labels == [
        *(
            "x",
            "Conv2d",
            "BatchNorm2d",
            "ReLU",
            "MaxPool2d",
            "Conv2d",
            "BatchNorm2d",
            "add",
            "ReLU",
        ),
        *("Dropout", "AdaptiveAvgPool2d", "flatten", "Linear", "output"),
    ]
    assert [n.category for n in before.nodes if n.category != "float"] == [
        "input",
        "move",
        "output",
    ]
    assert ("pool", "body") in named_edges(before)
    assert ("pool", "add") in named_edges(before)
    assert {edge.label for edge in before.edges if edge.target == "body"} == {
        "float32[N, 32, 4, 4]"
    }


def test_what_is_said_of_a_layer_before(pair: tuple[Graph, Graph]) -> None:
    facts = dict(node(pair[0], "stem").facts)
    assert facts.pop("source").rpartition(":")[0].endswith("small_built.py")
    assert facts == {
        "settings": "1, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)",
        "parameters": "320, 1.2 KiB",
        "MACs": f"{8 * 8 * 32 * 9:,} a sample",
        "time": "300 µs, 75.0 % of all, with norm, relu, pool",
        "of which": "matmul 200 µs, epilogue 100 µs",
    }
    assert node(pair[0], "stem").share == pytest.approx(0.75)
    assert node(pair[0], "head").share is None
    assert node(pair[0], "norm").share is None


class Parted(nn.Module):
    """Two inputs, three results, a tuple on the way, sizes, `+=`, a constant, one result twice."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        a, b = torch.chunk(x * self.scale, 2, dim=1)
        a += y
        c = b.view(b.size(0), -1)
        return a, c, a


def test_parts_of_tuples_sizes_and_constants_are_no_nodes() -> None:
    graph = written(Parted(), torch.zeros(2, 4), torch.zeros(2, 2))
    labels = [n.label for n in graph.nodes]
    assert labels == [*("x", "y", "mul", "chunk", "add", "view", "output0", "output1", "output2")]
    assert [s for s, t in named_edges(graph) if t.startswith("output")] == ["add", "view", "add"]
    assert ("chunk", "add") in named_edges(graph)
    assert ("chunk", "view") in named_edges(graph)
    assert {e.label for e in graph.edges if e.source == "chunk"} == {"float32[N, 2]"}
    layout({n.id: (1.0, 1.0) for n in graph.nodes}, [(e.source, e.target) for e in graph.edges])


def test_multiplications_of_a_batch_are_counted_for_a_sample() -> None:
    graph = written(nn.Sequential(nn.Linear(6, 5)), torch.zeros(3, 6))
    assert dict(node(graph, "0").facts)["MACs"] == "30 a sample"


# --- after ---------------------------------------------------------------------------------------


def test_after_is_a_node_for_each_kernel(net: Built, pair: tuple[Graph, Graph]) -> None:
    _, after = pair
    kernels = net.program.variant.kernels
    assert [n.label for n in after.nodes] == ["x", *map(label, kernels), "output"]
    assert [n.layer for n in after.nodes[1:-1]] == [k.layer for k in kernels]
    categories = {n.layer: n.category for n in after.nodes if dict(n.facts).get("MACs")}
    assert categories == {"stem": "int8", "body": "low-bit", "head": "int8"}
    assert node(after, "mean").category == "float"


def test_edges_are_the_values_between_kernels(pair: tuple[Graph, Graph]) -> None:
    _, after = pair
    [stem], [body] = (
        [n.id for n in after.nodes if n.layer == p and n.facts[0][0] == "bits w/a"]
        for p in ("stem", "body")
    )
    between = sorted(e.label for e in after.edges if (e.source, e.target) == (stem, body))
    assert between == [
        "1-bit[N, 32, 4, 4], 64 B as int32[N, 4, 4, 1]",
        "float32[N, 32, 4, 4], 2.0 KiB",
    ]
    assert after.edges[0] == Edge("x", "0", "float32[N, 1, 8, 8], 256 B")
    assert after.edges[-1].label == "float32[N, 5]"
    layout({n.id: (1.0, 1.0) for n in after.nodes}, [(e.source, e.target) for e in after.edges])


def test_what_is_said_of_a_layer_after(net: Built, pair: tuple[Graph, Graph]) -> None:
    body = node(pair[1], "body")
    facts = dict(body.facts)
    assert facts.pop("source").rpartition(":")[0].endswith("small_built.py")
    assert facts.pop("computes").startswith("im2col → xnor_matmul → ")
    assert facts.pop("function").startswith("xnor_popcount")
    assert facts.pop("method")
    assert facts == {
        "bits w/a": "1/1",
        "MACs": f"{4 * 4 * 32 * 32 * 9:,} a sample",
        "weights": "36.0 KiB → 1.1 KiB",
        "time": "30.0 µs, 75.0 % of all",
        "of which": "pack 10.0 µs, matmul 20.0 µs",
        "moves": "2.0 KiB a call, weights included",
        "SQNR": "9.1 dB",
        "note": "as it was asked for",
    }
    assert body.share == pytest.approx(0.75)
    [known] = [layer for layer in net.program.info.layers if layer.layer == "body"]
    bare = dict(node(graphs(net, ())[1], "body").facts)
    assert known.why in bare["why"]
    assert not {"time", "of which", "moves", "SQNR", "note"} & bare.keys()


def test_what_was_folded_into_a_kernel_is_found_with_it(pair: tuple[Graph, Graph]) -> None:
    before, after = pair
    places = [path for n in after.nodes for path in (n.layer, *n.also) if path]
    folded = [path for n in after.nodes for path in n.also]
    assert {"norm", "pool", "norm2", "add"} <= set(folded)
    assert folded.count("relu") == 2  # the module is called twice
    assert {n.layer for n in before.nodes if n.layer} <= set(places)
    assert "norm2" in node(after, "body").also
    quantizes, multiplies = [n for n in after.nodes if n.layer == "stem"]
    assert (quantizes.also, quantizes.share) == ((), None)
    assert "norm" in multiplies.also
    assert dict(multiplies.facts)["time"] == "10.0 µs, 25.0 % of all, in 2 kernels"


def test_layers_that_stay_float_bear_no_bits() -> None:
    _, after = graphs(built(Recipe(1, mode="static", first_last_bits=32)), ())
    found = {n.layer: (n.label, n.category) for n in after.nodes if dict(n.facts).get("MACs")}
    assert found["stem"] == found["head"] == ("float32", "float")
    assert found["body"] == ("xnor-popcount 1/1", "low-bit")
    assert dict(node(after, "stem", "float32").facts)["bits w/a"] == "float"


# --- a program alone -----------------------------------------------------------------------------


def test_of_a_program_alone_the_kernels_in_their_order(net: Built) -> None:
    [after] = graphs(Built(net.program, "net.qcp"), LAYERS)
    kernels = net.program.variant.kernels
    assert after.note == CHAIN
    assert [n.label for n in after.nodes] == ["x", *map(label, kernels), "output"]
    assert [(e.source, e.target) for e in after.edges] == [
        (a.id, b.id) for a, b in zip(after.nodes, after.nodes[1:], strict=False)
    ]
    assert not any(edge.label for edge in after.edges)
    categories = [n.category for n in after.nodes]
    assert categories == ["input", "int8", "int8", "low-bit", "float", "int8", "output"]
    body = node(after, "body")
    assert dict(body.facts)["weights"] == "36.0 KiB → 1.1 KiB"
    assert body.share == pytest.approx(0.75)


def test_of_a_program_beside_a_network_both(net: Built) -> None:
    file = ModelFile(
        "m", Path("m.py"), Residual().eval(), (torch.zeros(1, 1, 8, 8),), ModuleType("m")
    )
    before, after = graphs(replace(net, made=None, beside=file), ())
    assert len(before.nodes) == 14
    assert after.note == CHAIN
