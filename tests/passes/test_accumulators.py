"""Bounds of accumulators: never left, and for a dot product without padding reached."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rewriting import staged
from small_nets import Net, conv, levels, normal, signs
from torch import Tensor
from torch.fx import GraphModule

from qcompile.ir.stages import Stage, aten, dialect
from qcompile.passes.accumulators import accumulator_range
from qcompile.passes.correct_zero_padding import CorrectZeroPadding
from qcompile.passes.lower_binary_conv import LowerBinaryConv
from qcompile.passes.one_bit import argument


def bounds(gm: GraphModule) -> tuple[Tensor, Tensor] | None:
    [output] = gm.graph.find_nodes(op="output")
    return accumulator_range(gm, argument(output))


QUANTIZERS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "sign": (dialect.sign.default, 0),
    "unit1": (lambda x: dialect.quantize_unit.default(x, 1), 0),
    "unit3": (lambda x: dialect.quantize_unit.default(x, 3), 0),
    "affine": (lambda x: dialect.quantize.default(x, 0.1, 3, 0, 15), 3),
    "symmetric": (lambda x: dialect.quantize.default(x, 0.1, 0, -7, 7), 0),
}


@pytest.mark.parametrize("name", QUANTIZERS)
@given(seed=st.integers(0, 99), pad_value=st.sampled_from([-1, 0, 1]))
def test_a_convolution_stays_within_its_bounds(name: str, seed: int, pad_value: int) -> None:
    quantizer, zero_point = QUANTIZERS[name]

    def forward(x: Tensor, w: Tensor) -> Tensor:
        return conv(quantizer(x), w, 1, 1, zero_point=zero_point, pad_value=pad_value)

    x = normal(8, 2, 4, seed=seed) * 3
    gm = staged(Stage.CONVERTED, Net(forward, w=levels(-3, 3, 4, 2, 2, seed=seed)), x)
    found = bounds(gm)
    assert found is not None
    acc = gm(x)
    assert (acc >= found[0][:, None]).all()
    assert (acc <= found[1][:, None]).all()


def test_a_dot_product_of_dynamic_levels_reaches_its_bounds() -> None:
    def forward(x: Tensor, w: Tensor) -> Tensor:
        qparams = dialect.dynamic_qparams.default(x, 3)
        return dialect.linear.default(dialect.dynamic_quantize.default(x, qparams, 3), w, 0)

    w = torch.tensor([[3, -2, 0], [-1, -1, -1]], dtype=torch.int8)
    found = bounds(staged(Stage.CONVERTED, Net(forward, w=w), normal(1, 3)))
    assert found is not None
    assert found[0].tolist() == [-2 * 7, -3 * 7]
    assert found[1].tolist() == [3 * 7, 0]


def test_a_dot_product_reaches_its_bounds() -> None:
    w = torch.tensor([[3, -2, 0], [-1, -1, -1]], dtype=torch.int8)
    net = Net(
        lambda x, w: dialect.linear.default(dialect.quantize.default(x, 1.0, 4, 0, 15), w, 4), w=w
    )
    found = bounds(staged(Stage.CONVERTED, net, normal(1, 3)))
    assert found is not None
    # x - 4 runs from -4 to 11.
    assert found[0].tolist() == [3 * -4 + -2 * 11, 3 * -11]
    assert found[1].tolist() == [3 * 11 + -2 * -4, 3 * 4]


@pytest.mark.parametrize("unit", [False, True])
def test_lowered_convolutions_stay_within_theirs(unit: bool) -> None:
    def forward(x: Tensor, w: Tensor) -> Tensor:
        q = dialect.quantize_unit.default(x, 1) if unit else dialect.sign.default(x)
        return conv(q, w, 1, 1)

    x = normal(64, 2, 4, 4)
    gm = staged(Stage.CONVERTED, Net(forward, w=signs(4, 2, 3, 3)), x)
    found = bounds(LowerBinaryConv()(CorrectZeroPadding()(gm).graph).graph)
    assert found is not None
    acc = gm(x).transpose(0, 1).flatten(1)
    assert (acc.amin(1) >= found[0]).all()
    assert (acc.amax(1) <= found[1]).all()


def test_a_flatten_that_moves_nothing_is_looked_through() -> None:
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return aten.flatten.using_ints(conv(dialect.sign.default(x), w), 1)

    net = Net(forward, w=signs(4, 2, 3))
    found = bounds(staged(Stage.CONVERTED, net, normal(1, 2, 3)))
    assert found is not None
    assert found[1].tolist() == [6] * 4
    assert bounds(staged(Stage.CONVERTED, net, normal(1, 2, 5))) is None


def test_sums_that_may_leave_int32_are_none() -> None:
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return dialect.linear.default(dialect.quantize.default(x, 1.0, 0, 0, 255), w, 0)

    for k, known in ((257, True), (258, False)):
        w = torch.full((1, k), 32767, dtype=torch.int16)
        found = bounds(staged(Stage.CONVERTED, Net(forward, w=w), normal(1, k)))
        assert (found is not None) is known


def test_floats_are_none() -> None:
    assert bounds(staged(Stage.CONVERTED, Net(aten.relu.default), normal(1, 3))) is None
