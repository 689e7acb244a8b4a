"""What is called monotone is: sorted floats stay sorted, or turn round as a whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rewriting import staged
from small_nets import Net
from torch import Tensor

from qcompile.ir.stages import Stage, aten, dialect
from qcompile.passes.monotone import is_monotone
from qcompile.passes.one_bit import argument

INF, NAN = float("inf"), float("nan")


def sorted_floats() -> Tensor:
    """Floats of every size and sign, and the neighbours of some."""
    bits = torch.arange(0, 0x7F7FFFFF, 997_001, dtype=torch.int32)
    positive = bits.view(torch.float32)
    near = torch.tensor([0.5, 1.0, 3.0, 6.0])
    near = torch.cat([near, near.nextafter(torch.tensor(INF)), near.nextafter(torch.tensor(0.0))])
    return torch.cat([-positive, positive, near, -near]).sort().values


def verdict(function: Callable[..., object], x: Tensor, **constants: Tensor) -> bool:
    gm = staged(Stage.CONVERTED, Net(function, **constants), x)
    [output] = gm.graph.find_nodes(op="output")
    return is_monotone(gm, argument(output))


def never_turns(y: Tensor) -> bool:
    """Whether a sequence without NaN only rises or only falls."""
    assert not y.isnan().any()
    return bool((y[1:] >= y[:-1]).all() or (y[1:] <= y[:-1]).all())


def scale_shift(x: Tensor, m: Tensor, b: Tensor) -> Tensor:
    return dialect.scale_shift.default(x, m, b)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return aten.prelu.default(x, slope)


MONOTONE: list[Callable[[Tensor], Tensor]] = [
    aten.relu.default,
    aten.neg.default,
    lambda x: aten.hardtanh.default(x),
    lambda x: aten.hardtanh.default(x, 0.0, 6.0),
    lambda x: aten.hardtanh.default(x, -INF, 0.5),
    lambda x: aten.leaky_relu.default(x),
    lambda x: aten.leaky_relu.default(x, 0.0),
    lambda x: aten.leaky_relu.default(x, 3.0),
    lambda x: aten.add.Scalar(x, 0.1),
    lambda x: aten.mul.Scalar(x, -1e-30),
]


@pytest.mark.parametrize("function", MONOTONE)
def test_elementwise_ops(function: Callable[[Tensor], Tensor]) -> None:
    x = sorted_floats()[None]
    assert verdict(function, x)
    assert never_turns(function(x)[0])


@pytest.mark.parametrize("scale", [0.1, -0.1, 0.0, 1e-42, 1e-30])
@pytest.mark.parametrize("shift", [0.0, 0.3, -1e30])
def test_scale_shift(scale: float, shift: float) -> None:
    x = sorted_floats()[:, None]
    m, b = torch.tensor([scale]), torch.tensor([shift])
    assert verdict(scale_shift, x, m=m, b=b)
    assert never_turns(scale_shift(x, m, b)[:, 0])


@pytest.mark.parametrize(
    "function",
    [
        aten.abs.default,
        aten.sigmoid.default,
        lambda x: x,
        lambda x: aten.leaky_relu.default(x, -0.1),
        lambda x: aten.leaky_relu.default(x, NAN),
        lambda x: aten.mul.Scalar(x, INF),
        lambda x: aten.add.Scalar(x, NAN),
        lambda x: aten.add.Tensor(x, x),
    ],
)
def test_what_is_not_monotone_or_not_known_to_be(function: Callable[[Tensor], Tensor]) -> None:
    assert not verdict(function, torch.ones(2, 3))


@pytest.mark.parametrize("value", [INF, -INF, NAN])
def test_constants_that_are_not_finite(value: float) -> None:
    x, good, bad = torch.ones(2, 3), torch.ones(3), torch.tensor([1.0, value, 1.0])
    assert not verdict(scale_shift, x, m=bad, b=good)
    assert not verdict(scale_shift, x, m=good, b=bad)
    assert not verdict(prelu, x, slope=bad)
    assert verdict(prelu, x, slope=good)


def test_integers_wrap_in_all_but_scale_shift() -> None:
    x = torch.ones(2, 3, dtype=torch.int32)
    assert not verdict(lambda x: aten.mul.Scalar(x, 3), x)
    assert verdict(lambda x, m: dialect.scale_shift.default(x, m, None), x, m=torch.ones(3))
