"""Signs of clipped values."""

from __future__ import annotations

import pytest
import torch
from rewriting import assert_same_result, check_declines, check_ignores, check_rewrite, converted
from small_nets import Net, normal
from torch import Tensor

from qcompile.ir.graph import calls
from qcompile.ir.stages import aten, dialect
from qcompile.passes.drop_clip import DropClip


def clipped(low: float, high: float) -> Net:
    return Net(lambda x: dialect.sign.default(aten.hardtanh.default(x, low, high)))


def test_the_clip_goes() -> None:
    expected = """
        %0 = placeholder x() : f32[2,5]
        %1 = call_function qcompile.sign(%0) : i8[2,5]
        return %1
    """
    check_rewrite(DropClip(), clipped(-1.0, 1.0), expected, normal(2, 5))


def test_bounds_that_are_not_given_are_those_of_hardtanh() -> None:
    x = normal(2, 5)
    before = converted(Net(lambda x: dialect.sign.default(aten.hardtanh.default(x))), x)
    after = DropClip()(before).graph
    assert not any(calls(node, aten.hardtanh.default) for node in after.graph.nodes)
    assert_same_result(before, after, x)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-1e-30, 0.0), (-0.5, 6.0)])
def test_every_value_keeps_its_sign(low: float, high: float) -> None:
    x = torch.tensor([[0.0, -0.0, 1e-40, -1e-40, 2.0, -2.0, low, high]])
    special = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1e-30, -1e-30, 7, -7, 0.5]])
    before = converted(clipped(low, high), x)
    after = DropClip()(before).graph
    for values in (x, special):
        assert_same_result(before, after, values)


@pytest.mark.parametrize(
    ("low", "high", "text"), [(0.0, 1.0, "0 .. 1"), (-2.0, -1.0, "-2 .. -1"), (1.0, 2.0, "1 .. 2")]
)
def test_a_clip_that_gives_other_signs_stays(low: float, high: float, text: str) -> None:
    reason = f"the clip to {text} gives other signs"
    check_declines(DropClip(), clipped(low, high), normal(2, 5), sign_default=reason)


def test_other_clips_are_not_looked_at() -> None:
    def function(x: Tensor) -> Tensor:
        return dialect.quantize.default(aten.hardtanh.default(x, -1.0, 1.0), 0.1, 0, -8, 7)

    check_ignores(DropClip(), converted(Net(function), normal(2, 5)))
