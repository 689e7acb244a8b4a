"""What is remembered of a call is what it would give: whatever can decide is part of its key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import LeNet
from small_nets import Net
from torch import Tensor, nn
from torch.fx import GraphModule

from qcompile import api
from qcompile.errors import QCompileError
from qcompile.ir import graph, known_shapes
from qcompile.quant.recipe import Recipe

aten = torch.ops.aten


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the nodes that run; at first, nothing is known."""
    names: list[str] = []
    compute = known_shapes.Shapes.compute

    def counted(self: Any, n: torch.fx.Node) -> Any:
        names.append(n.name)
        return compute(self, n)

    monkeypatch.setattr(known_shapes.Shapes, "compute", counted)
    monkeypatch.setattr(known_shapes, "_remembered", {})
    return names


def _results(gm: GraphModule) -> list[str]:
    graph.propagate(gm)
    return [str(node.meta["spec"]) for node in gm.graph.nodes if node.op.startswith("call")]


def _traced(forward: Callable[..., Any], *inputs: Tensor) -> GraphModule:
    return graph.trace(Net(forward), inputs)


def test_a_call_runs_once_and_is_known_in_other_graphs(ran: list[str]) -> None:
    first = _traced(lambda x: aten.relu.default(aten.neg.default(x)), torch.ones(2, 3))
    assert ran == ["x", "neg_default", "relu_default", "output"]
    ran.clear()
    assert _results(first) == ["f32[2,3]", "f32[2,3]"]
    _traced(lambda x: aten.neg.default(aten.relu.default(x)), torch.ones(2, 3))
    assert {*ran} == {"x", "output"}
    ran.clear()
    graph.propagate(first, batch=5)
    assert ran == ["x", "neg_default", "relu_default", "output"]


def test_a_number_is_known_with_its_type(ran: list[str]) -> None:
    x = torch.ones(2, 3, dtype=torch.int32)
    assert _results(_traced(lambda x: aten.add.Scalar(x, 1), x)) == ["i32[2,3]"]
    assert _results(_traced(lambda x: aten.add.Scalar(x, 1.0), x)) == ["f32[2,3]"]
    assert _results(_traced(lambda x: aten.add.Scalar(x, True), x)) == ["i32[2,3]"]


def test_torchs_settings_are_part_of_it(ran: list[str]) -> None:
    gm = _traced(lambda x: aten.add.Scalar(x, 1.0), torch.ones(2, dtype=torch.int32))
    assert _results(gm) == ["f32[2]"]
    torch.set_default_dtype(torch.float64)
    try:
        assert _results(gm) == ["f64[2]"]
    finally:
        torch.set_default_dtype(torch.float32)
    assert _results(gm) == ["f32[2]"]


def test_strides_are_part_of_it(ran: list[str]) -> None:
    assert _results(_traced(lambda x: aten.view.default(x, [6]), torch.ones(2, 3))) == ["f32[6]"]
    with pytest.raises(QCompileError, match=r"aten\.view of f32\[2,3\] fails"):
        _traced(lambda x: aten.view.default(aten.t.default(x), [6]), torch.ones(3, 2))


def test_a_call_that_fails_fails_again(ran: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(QCompileError, match=r"aten\.mm of f32\[2,3\] fails"):
            _traced(lambda x: aten.mm.default(x, x), torch.ones(2, 3))


def test_a_module_is_known_with_its_attributes(ran: list[str]) -> None:
    conv = nn.Conv2d(1, 4, 3)
    model = nn.Sequential(conv, nn.ReLU())
    gm = graph.trace(model, [torch.ones(2, 1, 9, 9)])
    ran.clear()
    assert _results(gm) == ["f32[2,4,7,7]"] * 2
    assert {*ran} == {"input_1", "output"}
    conv.stride = (2, 2)
    assert _results(gm) == ["f32[2,4,4,4]"] * 2
    conv.weight = nn.Parameter(torch.ones(5, 1, 3, 3))
    conv.bias = None
    assert _results(gm) == ["f32[2,5,4,4]"] * 2


def test_a_module_with_a_hook_runs_each_time(ran: list[str]) -> None:
    gm = graph.trace(nn.Sequential(nn.ReLU()), [torch.ones(2, 6)])
    gm.get_submodule("0").register_forward_hook(lambda module, x, y: y[:, :3])
    assert _results(gm) == ["f32[2,3]"]
    ran.clear()
    assert _results(gm) == ["f32[2,3]"]
    assert "_0" in ran
    handle = nn.modules.module.register_module_forward_hook(lambda module, x, y: y[:, :2])
    try:
        assert _results(gm) == ["f32[2,2]"]
    finally:
        handle.remove()


class _Users(nn.Module):
    width = 4

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.width]


def test_a_module_of_the_users_runs_each_time(ran: list[str]) -> None:
    gm = graph.trace(nn.Sequential(_Users()), [torch.ones(2, 6)], leaf_modules=[_Users])
    _Users.width = 3
    try:
        assert _results(gm) == ["f32[2,3]"]
    finally:
        _Users.width = 4


def test_a_forward_of_an_instance_runs_each_time(ran: list[str]) -> None:
    gm = graph.trace(nn.Sequential(nn.ReLU()), [torch.ones(2, 6)])
    width = 4
    gm.get_submodule("0").forward = lambda x: x[:, :width]
    assert _results(gm) == ["f32[2,4]"]
    width = 3
    assert _results(gm) == ["f32[2,3]"]


def test_what_changes_its_argument_runs_each_time(ran: list[str]) -> None:
    def forward(x: Tensor) -> Tensor:
        y = aten.neg.default(x)
        y.unsqueeze_(0)
        return aten.relu.default(y)

    for _ in range(2):
        gm = _traced(forward, torch.ones(2, 3))
        assert _results(gm) == ["f32[2,3]", "f32[1,2,3]", "f32[1,2,3]"]


def test_a_list_of_values_is_known_with_them(ran: list[str]) -> None:
    gm = _traced(lambda x: aten.split.Tensor(x, 2, 1)[1], torch.ones(2, 6))
    for _ in range(2):
        assert _results(gm)[-1] == "f32[2,2]"
    ran.clear()
    assert _results(_traced(lambda x: aten.split.Tensor(x, 3, 1)[1], torch.ones(2, 6)))[-1] == (
        "f32[2,3]"
    )


def test_whole_networks_have_the_shapes_that_they_have_when_all_of_it_runs(
    ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.ones(2, 1, 16, 16)
    prepared = api.prepare(LeNet(), x, Recipe(bits=1))
    known = _results(prepared)
    monkeypatch.setattr(known_shapes, "key_of", lambda *_: None)
    ran.clear()
    assert _results(prepared) == known
    assert len(ran) == len(prepared.graph.nodes)


def test_not_more_is_remembered_than_some(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_shapes, "_MOST", 3)
    for rows in range(1, 9):
        _traced(aten.neg.default, torch.ones(rows, 3))
        assert len(known_shapes._remembered) <= 3
