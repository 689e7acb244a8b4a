"""Layered drawings: what holds for any graph, and how some look."""

from __future__ import annotations

import time
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompile import QCompileError
from qcompile.bench.html.layout import Box, Drawing, layout

BOX = (120.0, 40.0)
Edges = list[tuple[str, str]]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, tuple[float, float]], Edges]:
    """Up to twenty boxes of several sizes, and edges along their order."""
    heights = draw(st.lists(st.sampled_from([26.0, 40.0, 64.0]), min_size=1, max_size=20))
    sizes = {f"n{i}": (100.0 + i, height) for i, height in enumerate(heights)}
    pairs = list(combinations(sizes, 2))
    edges = draw(st.lists(st.sampled_from(pairs), max_size=40)) if pairs else []
    return sizes, edges


def dense(layers: int) -> tuple[list[str], Edges]:
    """As a DenseNet: each of its layers reads what all those before it gave."""
    names, edges, features = ["x"], list[tuple[str, str]](), ["x"]
    for i in range(layers):
        chain = [f"{kind}{i}" for kind in ("cat", "bn", "relu", "conv")]
        edges += [(feature, chain[0]) for feature in features]
        edges += pairwise(chain)
        names += chain
        features.append(chain[-1])
    return names, edges


def middle(box: Box) -> float:
    return box.x + box.width / 2


def apart(a: Box, b: Box) -> bool:
    beside = a.x + a.width < b.x or b.x + b.width < a.x
    return beside or a.y + a.height < b.y or b.y + b.height < a.y


def check(drawing: Drawing, sizes: dict[str, tuple[float, float]], edges: Edges) -> None:
    """What holds for any drawing."""
    boxes = drawing.boxes
    assert {name: (box.width, box.height) for name, box in boxes.items()} == sizes
    assert all(apart(a, b) for a, b in combinations(boxes.values(), 2))
    assert drawing.routes.keys() == set(edges)
    for box in boxes.values():
        assert -1e-6 <= box.x <= drawing.width - box.width + 1e-6
        assert 0 <= box.y <= drawing.height - box.height
        assert not any(box.y < cut < box.y + box.height for cut in drawing.cuts)
    for (source, target), points in drawing.routes.items():
        above, below = boxes[source], boxes[target]
        ends = [*points[0], *points[-1]]
        assert ends == pytest.approx(
            [middle(above), above.y + above.height, middle(below), below.y]
        )
        assert all(y < lower for (_, y), (_, lower) in pairwise(points))
        for first, last in pairwise(points):
            assert not any(meets(first, last, box) for box in boxes.values())


def meets(a: tuple[float, float], b: tuple[float, float], box: Box) -> bool:
    """Whether a piece of an edge runs through a box; a curve may be anywhere between its ends."""
    left, right = sorted((a[0], b[0]))
    across = left < box.x + box.width and right > box.x
    return across and a[1] < box.y + box.height and b[1] > box.y


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_boxes_are_apart_and_edges_go_downward_around_them(
    graph: tuple[dict[str, tuple[float, float]], Edges],
) -> None:
    sizes, edges = graph
    drawing = layout(sizes, edges)
    check(drawing, sizes, edges)
    assert drawing == layout(sizes, edges)


def test_nothing_and_one_box() -> None:
    assert layout({}, []) == Drawing({}, {}, 0.0, 0.0, (0.0,))
    assert layout({"x": BOX}, []).boxes == {"x": Box(0.0, 0.0, *BOX)}


def test_a_chain_is_straight_and_shortcuts_run_beside_it() -> None:
    chain = [f"n{i}" for i in range(7)]
    edges = [*pairwise(chain), ("n0", "n3"), ("n3", "n6")]
    drawing = layout(dict.fromkeys(chain, BOX), edges)
    assert {middle(box) for box in drawing.boxes.values()} == {middle(drawing.boxes["n0"])}
    assert len(drawing.routes["n0", "n1"]) == 2
    bends = {x for x, _ in drawing.routes["n0", "n3"][1:-1]}
    assert len(bends) == 1
    assert min(bends) > drawing.boxes["n1"].x + BOX[0]


def test_two_branches_stand_beside_one_another() -> None:
    edges = [("x", "a"), ("x", "b"), ("a", "sum"), ("b", "sum")]
    boxes = layout(dict.fromkeys(("x", "a", "b", "sum"), BOX), edges).boxes
    assert boxes["a"].y == boxes["b"].y
    assert boxes["x"].y < boxes["a"].y < boxes["sum"].y


def test_crossings_that_need_not_be_are_not() -> None:
    # As it comes, a1 to b2 and a2 to b1 would cross.
    edges = [("a1", "b2"), ("a2", "b1"), ("a3", "b3"), ("b2", "c"), ("b1", "c"), ("b3", "c")]
    names = ("a1", "a2", "a3", "b1", "b2", "b3", "c")
    boxes = layout(dict.fromkeys(names, BOX), edges).boxes
    for source, target in edges[:3]:
        for other, end in edges[:3]:
            left = boxes[source].x < boxes[other].x
            assert not left or boxes[target].x < boxes[end].x


def test_an_input_stands_above_its_first_reader() -> None:
    chain = ["x", "a", "b", "c"]
    edges = [*pairwise(chain), ("y", "c")]
    boxes = layout(dict.fromkeys([*chain[:3], "y", "c"], BOX), edges).boxes
    assert boxes["y"].y == boxes["b"].y


def test_the_edges_of_a_node_share_their_way() -> None:
    names, edges = dense(6)
    drawing = layout(dict.fromkeys(names, BOX), edges)
    ways = [route for (source, _), route in drawing.routes.items() if source == "x"]
    longest = max(ways, key=len)
    assert len(ways) == 6
    assert all(route[:-2] == longest[: len(route) - 2] for route in ways[1:])


def test_four_hundred_boxes_are_quick() -> None:
    names, edges = dense(25)
    chain = [f"m{i}" for i in range(300)]
    edges += [("conv24", "m0"), *pairwise(chain), *zip(chain, chain[3:], strict=False)]
    sizes = dict.fromkeys([*names, *chain], BOX)
    start = time.process_time()
    drawing = layout(sizes, edges)
    assert time.process_time() - start < 1
    assert len(drawing.boxes) == 401


def test_an_edge_to_no_node_is_named() -> None:
    with pytest.raises(QCompileError, match="edge 'a' to 'z', and no node 'z'"):
        layout({"a": BOX}, [("a", "z")])


@pytest.mark.parametrize("edge", [("b", "a"), ("a", "a")])
def test_an_edge_against_the_order_is_named(edge: tuple[str, str]) -> None:
    with pytest.raises(QCompileError, match="goes against the order of its nodes"):
        layout({"a": BOX, "b": BOX}, [edge])
