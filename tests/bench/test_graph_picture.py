"""Pictures of graphs: what is in the HTML, whatever the report's texts hold."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import sample_reports

from qcompile import QCompileError
from qcompile.bench.html import picture as module
from qcompile.bench.html.picture import MARGIN, SCRIPT, STYLE, picture
from qcompile.bench.results import Edge, Graph, Node

ODD = "conv<0> & \"b\" 'c' </script>"
CHAIN = tuple(Node(f"n{i}", "conv2d", f"layer{i}", "low-bit") for i in range(150))
LONG = Graph("long", CHAIN, tuple(Edge(f"n{i}", f"n{i + 1}") for i in range(149)))


def parsed(graphs: tuple[Graph, ...]) -> ElementTree.Element:
    """The fragment as XML, which it is but for attributes without a value."""
    text = picture(graphs).replace(" hidden>", ">").replace("\n", " ")
    return ElementTree.fromstring(text)


def one(*nodes: Node, edges: tuple[Edge, ...] = ()) -> Graph:
    return Graph("a graph", nodes, edges)


def found(tree: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [e for e in tree.iter() if name in e.get("class", "").split()]


def text_of(element: ElementTree.Element) -> str:
    return "".join(element.itertext())


def test_all_nodes_and_edges_of_both_graphs_are_there() -> None:
    graphs = sample_reports.graphs()
    tree = parsed(graphs)
    assert len(found(tree, "qc-graph")) == 2
    assert len(found(tree, "qc-node")) == sum(len(graph.nodes) for graph in graphs)
    assert len(found(tree, "qc-edge")) == sum(len(graph.edges) for graph in graphs)
    ids = [e.get("id") for e in tree.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    references = [e.get("href", "").removeprefix("#") for e in tree.iter() if e.tag == "use"]
    assert references
    assert set(references) <= set(ids)


def test_everything_known_of_a_node_is_in_its_title() -> None:
    facts = (("bits w/a", "1/1"), ("settings", "a\n  b"))
    conv = Node("c", "conv2d", "layer1.conv", "low-bit", facts, also=("bn", "relu"), share=0.442)
    relu = Node("r", "relu")
    tree = parsed((one(conv, relu, edges=(Edge("c", "r", "float32[N, 8, 4, 4], 512 B"),)),))
    shape, other = found(tree, "qc-node")
    text = picture((one(conv),))
    [title] = re.findall("<title>(conv2d.*?)</title>", text, re.DOTALL)
    assert title.split("\n") == [
        *("conv2d", "layer: layer1.conv", "bits w/a: 1/1", "settings: a b", "with it: bn, relu"),
    ]
    assert "gives: float32[N, 8, 4, 4], 512 B" in text_of(shape)
    assert "reads: float32[N, 8, 4, 4], 512 B, from layer1.conv" in text_of(other)
    assert json.loads(shape.get("data-layers", "")) == ["layer1.conv", "bn", "relu"]
    assert json.loads(other.get("data-layers", "")) == []
    assert text_of(found(shape, "qc-percent")[0]) == "44 %"
    box, bar = found(shape, "qc-box")[0], found(shape, "qc-share")[0]
    assert float(bar.get("width", "")) == pytest.approx(
        0.442 * float(box.get("width", "")), abs=0.1
    )
    assert text_of(found(tree, "qc-edge-label")[0]) == "8×4×4 float32"


@pytest.mark.parametrize(
    ("label", "drawn"),
    [
        ("float32[N, 64, 56, 56]", "64×56×56 float32"),
        ("1-bit[N, 64, 56, 56], 24.5 KiB as int32[N, 56, 56, 2]", "64×56×56 1-bit"),
        ("float32[N]", "float32"),
        ("what no one foresaw, at some length", "what no one fores…"),
        ("", ""),
    ],
)
def test_labels_of_edges_are_short(label: str, drawn: str) -> None:
    assert module._short(label) == drawn


def test_texts_of_the_report_are_escaped() -> None:
    nodes = Node("a", ODD, ODD, facts=((ODD, ODD),), also=(ODD,)), Node(ODD, "b", category=ODD)
    graph = Graph(ODD, nodes, (Edge("a", ODD, ODD),), ODD)
    text = picture((graph,))
    assert "</script>" not in text
    assert "conv<0>" not in text
    tree = parsed((graph,))
    assert ODD in text_of(tree)
    assert json.loads(found(tree, "qc-node")[0].get("data-layers", "")) == [ODD, ODD]
    # A category that nobody knows is drawn as any other node.
    assert "qc-float" in found(tree, "qc-node")[1].get("class", "")


def test_long_names_are_cut_and_shares_stay_within_their_box() -> None:
    path = ".".join(f"block{i}" for i in range(30))
    tree = parsed((one(Node("a", "l" * 80, path, share=7.0), Node("b", "b", share=-1.0)),))
    first, second = found(tree, "qc-node")
    label, layer = text_of(found(first, "qc-label")[0]), text_of(found(first, "qc-path")[0])
    assert label.endswith("…")
    assert layer.startswith("…")
    assert path.endswith(layer[1:])
    width = found(first, "qc-box")[0].get("width")
    assert found(first, "qc-share")[0].get("width") == width == "196"
    assert found(second, "qc-share")[0].get("width") == "0"


def test_a_long_chain_prints_in_columns_that_fit_a_page() -> None:
    tree = parsed((LONG,))
    [paper] = found(tree, "qc-paper")
    parts = list(paper)
    boxes = [[float(n) for n in part.get("viewBox", "").split()] for part in parts]
    assert len(parts) > 3
    for part, (_, _, width, height) in zip(parts, boxes, strict=True):
        assert float(part.get("height", "")) <= 900
        scale = float(part.get("width", "")) / width
        assert scale == pytest.approx(float(part.get("height", "")) / height, rel=0.01)
        assert 0.6 <= scale <= 0.75
    ends = [top + height for _, top, _, height in boxes]
    assert boxes[0][1] == -MARGIN
    assert ends[:-1] == pytest.approx([top for _, top, _, _ in boxes[1:]], abs=0.2)
    shapes = [(s.box.y, s.box.y + s.box.height) for s in module._drawn("g", LONG).shapes]
    assert not any(low < end < high for low, high in shapes for end in ends)


def test_a_wide_graph_prints_as_narrow_as_the_page() -> None:
    nodes = [Node("x", "x"), *(Node(f"b{i}", "conv2d", f"branch{i}") for i in range(12))]
    edges = tuple(Edge("x", node.id) for node in nodes[1:])
    [part] = list(found(parsed((one(*nodes, edges=edges),)), "qc-paper")[0])
    assert float(part.get("width", "")) <= 660


def test_before_and_after_of_a_resnet_are_small() -> None:
    facts = tuple((f"fact {i}", "a text of some forty characters, or more") for i in range(12))
    many = tuple(replace(node, facts=facts, also=("bn", "relu"), share=0.1) for node in CHAIN[:70])
    graph = Graph("resnet18", many, LONG.edges[:69])
    assert len(picture((graph, graph)).encode()) < 400_000


def test_the_legend_names_what_there_is() -> None:
    legend = found(parsed((LONG,)), "qc-legend")[0]
    assert text_of(legend).split() == ["low-bit"]
    both = parsed((one(Node("x", "x", category="input"), Node("a", "a", share=0.5)),))
    names = [text_of(entry).strip() for entry in found(both, "qc-legend")[0]]
    assert names == ["input, output", "float", "share of the time"]


def test_no_graphs_no_picture() -> None:
    assert picture(()) == ""
    assert picture((one(),)) == ""
    assert len(found(parsed((one(), one(Node("a", "a")))), "qc-graph")) == 1


@pytest.mark.parametrize(
    ("graph", "what"),
    [
        (one(Node("a", "a"), Node("a", "b")), "two nodes of the graph have the same id"),
        (one(Node("a", "a"), edges=(Edge("a", "b"),)), "and no node 'b'"),
        (one(Node("a", "a"), edges=(Edge("a", "a"),)), "against the order of its nodes"),
    ],
)
def test_a_graph_that_is_none_is_refused_by_its_title(graph: Graph, what: str) -> None:
    with pytest.raises(QCompileError, match=what) as error:
        picture((graph,))
    assert error.value.where == "a graph"


def test_nothing_runs_but_the_script() -> None:
    """No handlers or styles in attributes, no storage, no network: the page's policy allows none."""

    class Attributes(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            names.update(name for name, _ in attrs)

    names: set[str] = set()
    Attributes().feed(picture(sample_reports.graphs()))
    assert not {name for name in names if name.startswith("on") or name == "style"}
    assert not re.search(
        r"\b(fetch|XMLHttpRequest|localStorage|sessionStorage|eval|innerHTML)\b", SCRIPT
    )
    assert not re.search(r"url\(|@import|https?:", STYLE)
