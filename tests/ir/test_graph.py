"""Tracing, verifying, printing, and saying where something is."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from rewriting import staged
from small_nets import Net, conv, signs
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from qcompile.errors import QCompileError
from qcompile.ir.graph import (
    Leaf,
    TensorSpec,
    add_constant,
    calls,
    constant_of,
    infer,
    module_of,
    propagate,
    spec,
    stage_of,
    text,
    trace,
    verify,
    where,
)
from qcompile.ir.stages import Stage, aten, dialect


class Double(Leaf):
    def forward(self, x: Tensor) -> Tensor:
        return x + x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.twice = Double()
        self.offset = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.twice(self.block(x))
        return y + self.offset, y.chunk(2, dim=1)[0]


X = torch.zeros(2, 3, 5, 5)


def node_named(gm: GraphModule, name: str) -> torch.fx.Node:
    [node] = [n for n in gm.graph.nodes if n.name == name]
    return node


# --- trace -----------------------------------------------------------------------------------------


def test_a_trace_keeps_leaves_whole_and_knows_shapes_and_layers() -> None:
    gm = trace(Model(), [X])
    assert stage_of(gm) is Stage.TRACED
    assert gm.meta["inputs"] == (TensorSpec((2, 3, 5, 5), torch.float32),)
    layers = {n.name: n.meta["layer"] for n in gm.graph.nodes if n.op != "output"}
    assert layers["block_conv"] == "block.conv"
    assert layers["relu"] == "block.relu"
    assert layers["twice"] == "twice"
    assert layers["offset"] == "offset"
    assert spec(node_named(gm, "twice")) == TensorSpec((2, 4, 3, 3), torch.float32)
    assert isinstance(module_of(gm, node_named(gm, "twice")), Double)
    pieces = node_named(gm, "chunk").meta["spec"]
    assert pieces == (TensorSpec((2, 2, 3, 3), torch.float32),) * 2


def test_a_trace_keeps_the_mode_and_the_parameters() -> None:
    model = Model().eval()
    gm = trace(model, [X])
    assert not gm.training
    assert gm.get_parameter("offset") is model.offset
    assert trace(model.train(), [X]).training


def test_named_classes_become_leaves() -> None:
    gm = trace(Model(), [X], leaf_modules=[Block])
    assert isinstance(module_of(gm, node_named(gm, "block")), Block)


class Decides(nn.Module):
    def forward(self, x: Tensor, sharp: bool = False) -> Tensor:
        if sharp:
            return x * 2
        if x.sum() > 0:
            return x
        return -x


def test_a_decision_by_value_names_the_line_and_the_ways_out() -> None:
    with pytest.raises(QCompileError, match="cannot trace Decides") as caught:
        trace(Decides(), [X], concrete_args={"sharp": False})
    error = caught.value
    assert error.where is not None
    assert error.where.startswith(__file__)
    assert "if x.sum() > 0:" in error.where
    for way in ("concrete_args", "leaf_modules", "torch.where"):
        assert way in str(error)


def test_concrete_args_decide() -> None:
    gm = trace(Decides(), [X], concrete_args={"sharp": True})
    assert torch.equal(gm(torch.ones(1)), torch.full((1,), 2.0))


def test_a_forward_that_fails_names_the_layer_and_the_line() -> None:
    with pytest.raises(QCompileError, match=r"Conv2d of f32\[2,7,5,5\] fails: ") as caught:
        trace(Model(), [torch.zeros(2, 7, 5, 5)])
    assert caught.value.where is not None
    assert re.match(r"block\.conv \(.*test_graph\.py:\d+\)", caught.value.where)


# --- shapes ----------------------------------------------------------------------------------------


def test_propagate_takes_another_batch() -> None:
    gm = trace(Model(), [X])
    propagate(gm, batch=7)
    assert spec(node_named(gm, "twice")).shape == (7, 4, 3, 3)


def test_infer_gives_a_new_node_its_spec() -> None:
    gm = trace(Model(), [X])
    double = node_named(gm, "twice")
    with gm.graph.inserting_after(double):
        new = gm.graph.call_function(aten.flatten.using_ints, (double, 1))
    infer(gm, new)
    assert spec(new) == TensorSpec((2, 36), torch.float32)


def test_infer_reads_one_of_several_values() -> None:
    gm = trace(Model(), [X])
    pieces = node_named(gm, "chunk")
    with gm.graph.inserting_after(pieces):
        new = gm.graph.call_function(torch.cat, (pieces, 1))
    infer(gm, new)
    assert spec(new).shape == (2, 4, 3, 3)


# --- verify ----------------------------------------------------------------------------------------


def test_a_graph_from_elsewhere_has_no_stage() -> None:
    gm = GraphModule(nn.Module(), Graph())
    with pytest.raises(QCompileError, match="did not come from qcompile") as caught:
        stage_of(gm)
    assert "qcompile.prepare" in str(caught.value)


def test_verify_refuses_an_op_of_a_later_stage() -> None:
    gm = staged(Stage.LOWERED, Net(dialect.bitpack.default), torch.ones(1, 2, dtype=torch.int8))
    verify(gm)
    gm.meta["stage"] = Stage.CONVERTED
    with pytest.raises(QCompileError, match=r"bitpack.*does not belong in a converted graph"):
        verify(gm)


def test_verify_refuses_modules_after_conversion() -> None:
    gm = trace(nn.Sequential(Double()), [X])
    gm.meta["stage"] = Stage.PREPARED
    verify(gm)
    gm.meta["stage"] = Stage.CONVERTED
    with pytest.raises(QCompileError, match="does not belong in a converted graph"):
        verify(gm)


def test_verify_refuses_shapes_that_do_not_fit() -> None:
    gm = staged(
        Stage.CONVERTED, Net(lambda x, b: aten.add.Tensor(x, b), b=torch.ones(3)), X[0, 0, :, :3]
    )
    gm.b = torch.ones(4)
    with pytest.raises(QCompileError, match=r"aten.add.Tensor of f32\[\d,3\] fails: "):
        verify(gm)


def test_verify_refuses_a_value_used_before_it_is_made() -> None:
    gm = staged(Stage.CONVERTED, Net(lambda x: aten.relu.default(aten.neg.default(x))), X)
    first, second = node_named(gm, "neg_default"), node_named(gm, "relu_default")
    second.append(first)
    with pytest.raises(RuntimeError, match="used before it has been defined"):
        verify(gm)


# --- accessors, text, where ------------------------------------------------------------------------


def test_add_constant_takes_a_free_name() -> None:
    gm = staged(Stage.CONVERTED, Net(aten.relu.default), X)
    with gm.graph.inserting_before(node_named(gm, "relu_default")):
        nodes = [add_constant(gm, "layer1.0/bits", torch.full((2,), float(i))) for i in range(3)]
    assert [n.target for n in nodes] == ["layer1_0_bits", "layer1_0_bits_1", "layer1_0_bits_2"]
    for i, node in enumerate(nodes):
        value = constant_of(gm, node)
        assert value is not None
        assert value.tolist() == [i, i]
        assert spec(node) == TensorSpec((2,), torch.float32)


def test_constant_of_reads_nested_constants_and_nothing_else() -> None:
    gm = staged(Stage.CONVERTED, Net(lambda x, v: aten.mul.Tensor(x, v), v=torch.ones(5)), X)
    [read] = gm.graph.find_nodes(op="get_attr")
    assert constant_of(gm, read) is gm.v
    assert constant_of(gm, node_named(gm, "x")) is None


def test_calls() -> None:
    gm = staged(Stage.CONVERTED, Net(aten.relu.default), X)
    relu = node_named(gm, "relu_default")
    assert calls(relu, aten.neg.default, aten.relu.default)
    assert not calls(relu, aten.neg.default)
    assert not calls(node_named(gm, "x"), aten.relu.default)
    assert not calls(3, aten.relu.default)


def test_text_does_not_depend_on_names() -> None:
    def build(prefix: str) -> str:
        gm = staged(
            Stage.CONVERTED,
            Net(lambda x, w: conv(dialect.sign.default(x), w), w=signs(2, 3, 3, 3)),
            X,
        )
        for node in gm.graph.nodes:
            if node.op == "call_function":
                node.name = f"{prefix}_{node.name}"
        return text(gm)

    assert build("a") == build("b")
    assert build("a").splitlines()[-2:] == [
        "%3 = call_function qcompile.conv(%1, %2, [1, 1], [0, 0, 0, 0], [1, 1], 1, 0, 0) : i32[2,2,3,3]",
        "return %3",
    ]


def test_text_shows_modules_keywords_and_several_values() -> None:
    lines = text(trace(Model(), [X])).splitlines()
    assert "%1 = call_module block.conv:Conv2d(%0) : f32[2,4,3,3]" in lines
    assert "%3 = call_module twice:Double(%2) : f32[2,4,3,3]" in lines
    assert "%6 = call_method chunk(%3, 2, dim=1)" in lines
    assert lines[-1] == "return [%5, %7]"


@pytest.mark.parametrize(
    ("shape", "dtype", "shown"),
    [
        ((2, 3), torch.uint8, "u8[2,3]"),
        ((), torch.int64, "i64[]"),
        ((1,), torch.half, "float16[1]"),
    ],
)
def test_specs_print_short(shape: tuple[int, ...], dtype: torch.dtype, shown: str) -> None:
    assert str(TensorSpec(shape, dtype)) == shown


def test_where_names_the_users_line_not_torchs() -> None:
    gm = trace(Model(), [X])
    assert re.fullmatch(r"block\.relu \(.*test_graph\.py:\d+\)", where(node_named(gm, "relu")))


def test_where_without_a_line_is_the_layer() -> None:
    gm = trace(Model(), [X])
    node = node_named(gm, "relu")
    node.stack_trace = None
    assert where(node) == "block.relu"
