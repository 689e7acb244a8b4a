"""What the base class does for every pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from rewriting import converted
from small_nets import Net, normal
from torch import Tensor
from torch.fx import GraphModule, Node

from qcompile.errors import QCompileError
from qcompile.ir.graph import add_constant, calls, spec, text, trace
from qcompile.ir.stages import Stage, aten, dialect
from qcompile.passes import Declined, Pass, Result, run

X = normal(2, 3)


@dataclass(frozen=True)
class ReluToSign(Pass):
    """For tests: relu becomes a scaled sign; tanh is declined."""

    name: ClassVar[str] = "relu-to-sign"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.CONVERTED,)
    gives: ClassVar[Stage | None] = Stage.LOWERED

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        if calls(node, aten.tanh.default):
            return Declined("tanh is dear to us")
        if not calls(node, aten.relu.default):
            return None
        sign = gm.graph.call_function(dialect.sign.default, node.args)
        scale = add_constant(gm, "scale", torch.ones(1))
        return gm.graph.call_function(dialect.scale_shift.default, (sign, scale, None))


@dataclass(frozen=True)
class Bits(Pass):
    """For tests: relu becomes an op that only lowered graphs have."""

    name: ClassVar[str] = "bits"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.CONVERTED,)

    def rewrite(self, gm: GraphModule, node: Node) -> Node | None:
        if not calls(node, aten.relu.default):
            return None
        sign = gm.graph.call_function(dialect.sign.default, node.args)
        return gm.graph.call_function(dialect.bitpack.default, (sign,))


def graph(layer: str = "block.act") -> GraphModule:
    def forward(x: Tensor, v: Tensor) -> Tensor:
        return aten.tanh.default(aten.relu.default(aten.mul.Tensor(x, v)))

    gm = converted(Net(forward, v=torch.ones(3)), X)
    for node in gm.graph.nodes:
        if node.op == "call_function":
            node.meta["layer"] = f"{layer}.{node.name}"
    return gm


def test_the_result_says_what_was_rewritten_and_declined() -> None:
    result = ReluToSign()(graph())
    assert result.rewrote == ["block.act.relu_default"]
    assert result.declined == {"block.act.tanh_default": "tanh is dear to us"}


def test_new_nodes_get_layer_source_line_and_shape() -> None:
    gm = graph()
    [relu] = [n for n in gm.graph.nodes if calls(n, aten.relu.default)]
    nodes = ReluToSign()(gm).graph.graph.nodes
    [sign] = [n for n in nodes if calls(n, dialect.sign.default)]
    assert sign.meta["layer"] == "block.act.relu_default"
    assert sign.stack_trace == relu.stack_trace
    assert relu.stack_trace
    assert spec(sign).dtype == torch.int8


def test_the_argument_stays_and_the_stage_moves() -> None:
    gm = graph()
    before = text(gm)
    result = ReluToSign()(gm)
    assert text(gm) == before
    assert gm.meta["stage"] is Stage.CONVERTED
    assert result.graph.meta["stage"] is Stage.LOWERED
    assert not hasattr(gm, "scale")


def test_a_graph_of_another_stage_is_refused() -> None:
    gm = trace(Net(aten.relu.default), [X])
    with pytest.raises(QCompileError, match="relu-to-sign takes a converted graph, not a traced"):
        ReluToSign()(gm)


def test_a_result_that_does_not_verify_is_refused() -> None:
    with pytest.raises(QCompileError, match="does not belong in a converted graph") as caught:
        Bits()(graph())
    assert caught.value.where is not None
    assert caught.value.where.startswith("block.act.relu_default (")


def test_what_nobody_uses_any_more_goes() -> None:
    @dataclass(frozen=True)
    class SkipProduct(Pass):
        name: ClassVar[str] = "skip-product"
        stages: ClassVar[tuple[Stage, ...]] = (Stage.CONVERTED,)

        def rewrite(self, gm: GraphModule, node: Node) -> Node | None:
            source = node.args[0] if calls(node, aten.mul.Tensor) else None
            return source if isinstance(source, Node) else None

    after = SkipProduct()(graph()).graph
    assert "get_attr" not in text(after)
    assert dict(after.named_buffers()) == {}


def test_an_input_that_nobody_uses_stays() -> None:
    gm = converted(Net(lambda x, v: aten.relu.default(v), v=torch.ones(3)), X)
    assert ReluToSign()(gm).graph.graph.find_nodes(op="placeholder")


def test_run_gathers_and_calls_back() -> None:
    seen: list[tuple[str, list[str]]] = []

    def after_each(pass_: Pass, result: Result) -> None:
        seen.append((pass_.name, result.rewrote))

    gm = graph()
    gm.meta["declined"] = {"stem": "an earlier reason"}
    total = run([ReluToSign()], gm, after_each)
    assert seen == [("relu-to-sign", ["block.act.relu_default"])]
    assert total.rewrote == ["block.act.relu_default"]
    assert total.graph.meta["declined"] == {
        "stem": "an earlier reason",
        "block.act.tanh_default": "tanh is dear to us",
    }
    assert gm.meta["declined"] == {"stem": "an earlier reason"}


def test_run_of_nothing_gives_the_graph() -> None:
    gm = graph()
    result = run([], gm)
    assert result.graph is gm
    assert result.rewrote == []
