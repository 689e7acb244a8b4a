"""A convolution and its scale in one: the plain expression's bits, and its gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qcompile.ir import ops
from qcompile.quant.scaled import Geometry, scaled_conv, scaled_shifted


@pytest.mark.parametrize("with_shift", [True, False])
@pytest.mark.parametrize(
    "geometry",
    [
        Geometry([1, 1], [1, 1], [1, 1], 1),
        Geometry([2, 1], [0, 2], [1, 2], 2),
        Geometry([1, 1], [1, 1], [1, 1], 4),
    ],
)
def test_plain_expression(geometry: Geometry, with_shift: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def integers(*shape: int) -> Tensor:
        return torch.randint(-7, 8, shape, generator=generator).float().requires_grad_()

    leaves = [integers(2, 4, 9, 8), integers(8, 4 // geometry.groups, 3, 3)]
    leaves += [torch.rand(8, generator=generator).requires_grad_() for _ in range(2)]
    levels, weight, scale, shift = leaves
    acc = F.conv2d(
        levels,
        weight,
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        geometry.groups,
    )
    wanted = leaves if with_shift else leaves[:3]
    expected = ops.scaled_shifted(acc, scale, shift if with_shift else None)
    ours = scaled_conv(levels, weight, scale, shift if with_shift else None, geometry)
    assert torch.equal(ours, expected)
    g = torch.randn(expected.shape, generator=generator)
    pairs = zip(
        torch.autograd.grad(ours, wanted, g), torch.autograd.grad(expected, wanted, g), strict=True
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)  # float32 sums in another order


def test_what_needs_no_gradient_gets_none() -> None:
    levels, weight = torch.ones(1, 1, 3, 3), torch.ones(2, 1, 3, 3).requires_grad_()
    geometry = Geometry([1, 1], [0, 0], [1, 1], 1)
    scaled_conv(levels, weight, torch.full((2,), 0.5), None, geometry).sum().backward()
    assert weight.grad is not None
    assert (weight.grad == 0.5).all()
    assert levels.grad is None


@pytest.mark.parametrize("learned", [True, False])
def test_sums_are_written_over_where_they_can_be(learned: bool) -> None:
    acc, scale = torch.tensor([[3.0, 5.0]]), torch.tensor([0.1, 0.3]).requires_grad_(learned)
    expected = ops.scaled_shifted(acc.clone(), scale, torch.ones(2))
    assert torch.equal(scaled_shifted(acc.clone(), scale, torch.ones(2)), expected)
    wide = scaled_shifted(acc.double(), scale, torch.ones(2))
    assert wide.dtype is torch.float32
    assert torch.equal(wide, expected)
