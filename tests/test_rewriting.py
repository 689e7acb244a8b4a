"""The verbs of rewriting.py fail when they should."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from rewriting import check_declines, check_ignores, check_rewrite, converted
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qcompile.ir.graph import add_constant, calls
from qcompile.ir.stages import Stage, aten, dialect
from qcompile.passes.base import Declined, Pass, Result


class TwoNegations(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return aten.neg.default(aten.neg.default(x))


class Negation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return aten.neg.default(x)


X = torch.tensor([[1.5, -2.0]])
BEFORE = """
    %0 = placeholder x() : f32[1,2]
    %1 = call_function aten.neg(%0) : f32[1,2]
    %2 = call_function aten.neg(%1) : f32[1,2]
    return %2
"""
AFTER = """
    %0 = placeholder x() : f32[1,2]
    return %0
"""
RELU = """
    %0 = placeholder x() : f32[1,2]
    %1 = call_function aten.relu(%0) : f32[1,2]
    return %1
"""


@dataclass(frozen=True)
class OfNegations(Pass):
    """A base for tests: sees each `neg`."""

    name: ClassVar[str] = "of-negations"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.CONVERTED,)

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        return self.of_neg(gm, node) if calls(node, aten.neg.default) else None

    def of_neg(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        return None


class Cancel(OfNegations):
    def of_neg(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        inner = node.args[0]
        if not isinstance(inner, Node) or not calls(inner, aten.neg.default):
            return Declined("a negation alone")
        argument = inner.args[0]
        assert isinstance(argument, Node)
        return argument


class CancelQuietly(Cancel):
    def of_neg(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        new = super().of_neg(gm, node)
        return None if isinstance(new, Declined) else new


class ToRelu(OfNegations):
    def of_neg(self, gm: GraphModule, node: Node) -> Node:
        return gm.graph.call_function(aten.relu.default, node.args)


class Flatten(OfNegations):
    """Right for the examples' batch size only."""

    def of_neg(self, gm: GraphModule, node: Node) -> Node:
        batch = gm.meta["inputs"][0].shape[0]
        zero = add_constant(gm, "zero", torch.zeros(batch, 2))
        return gm.graph.call_function(aten.sub.Tensor, (zero, node.args[0]))


class Endless(OfNegations):
    def of_neg(self, gm: GraphModule, node: Node) -> Node:
        inner = gm.graph.call_function(aten.neg.default, node.args)
        middle = gm.graph.call_function(aten.neg.default, (inner,))
        return gm.graph.call_function(aten.neg.default, (middle,))


class SpoilsItsArgument(CancelQuietly):
    def __call__(self, gm: GraphModule, *, discard: bool = False) -> Result:
        result = super().__call__(gm, discard=discard)
        gm.meta["inputs"] = ()
        return result


def test_a_right_rewrite_passes() -> None:
    check_rewrite(CancelQuietly(), TwoNegations(), AFTER, X)
    check_rewrite(CancelQuietly(), converted(TwoNegations(), X), AFTER, X)


def test_another_graph_than_expected_fails() -> None:
    with pytest.raises(AssertionError, match="of-negations gave"):
        check_rewrite(CancelQuietly(), TwoNegations(), BEFORE, X)


def test_rewriting_nothing_fails() -> None:
    with pytest.raises(AssertionError, match="rewrote nothing"):
        check_rewrite(OfNegations(), TwoNegations(), BEFORE, X)


def test_another_result_fails_unless_it_is_by_design() -> None:
    with pytest.raises(AssertionError, match="not equal"):
        check_rewrite(ToRelu(), Negation(), RELU, X)
    check_rewrite(ToRelu(), Negation(), RELU, X, same_result=False)


def test_a_result_for_one_batch_size_fails() -> None:
    expected = """
        %0 = placeholder x() : f32[2,2]
        %1 = get_attr zero() : f32[2,2]
        %2 = call_function aten.sub.Tensor(%1, %0) : f32[2,2]
        return %2
    """
    with pytest.raises(RuntimeError, match="size of tensor"):
        check_rewrite(Flatten(), Negation(), expected, torch.cat([X, X]))


def test_a_rewrite_that_never_ends_fails() -> None:
    expected = """
        %0 = placeholder x() : f32[1,2]
        %1 = call_function aten.neg(%0) : f32[1,2]
        %2 = call_function aten.neg(%1) : f32[1,2]
        %3 = call_function aten.neg(%2) : f32[1,2]
        return %3
    """
    with pytest.raises(AssertionError, match="not idempotent"):
        check_rewrite(Endless(), Negation(), expected, X)


def test_a_spoilt_argument_fails() -> None:
    with pytest.raises(AssertionError, match="meta changed"):
        check_rewrite(SpoilsItsArgument(), TwoNegations(), AFTER, X)


def test_the_right_reason_passes() -> None:
    check_declines(Cancel(), Negation(), X, neg_default="a negation alone")
    check_declines(Cancel(), Negation(), X, reasons={"neg_default": "a negation alone"})


@pytest.mark.parametrize(
    ("pass_", "reasons"),
    [
        (Cancel(), {"neg_default": "another reason"}),
        (Cancel(), {"other": "a negation alone"}),
        (Cancel(), {"neg_default": "a negation alone", "other": "more"}),
        (ToRelu(), {"neg_default": "a negation alone"}),
        (OfNegations(), {"neg_default": "a negation alone"}),
    ],
)
def test_wrong_reasons_fail(pass_: Pass, reasons: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match="of-negations"):
        check_declines(pass_, Negation(), X, reasons=reasons)


def test_declining_without_a_reason_to_check_fails() -> None:
    with pytest.raises(AssertionError, match="name a layer"):
        check_declines(Cancel(), Negation(), X)


def test_ignoring_passes_and_fails() -> None:
    check_ignores(OfNegations(), Negation(), X)
    with pytest.raises(AssertionError, match="declined"):
        check_ignores(Cancel(), Negation(), X)
    with pytest.raises(AssertionError, match="gave"):
        check_ignores(ToRelu(), Negation(), X)


def test_converted_refuses_what_the_stage_lacks() -> None:
    class Packs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return dialect.bitpack.default(x)

    with pytest.raises(Exception, match="does not belong in a converted graph"):
        converted(Packs(), torch.ones(1, 2, dtype=torch.int8))
