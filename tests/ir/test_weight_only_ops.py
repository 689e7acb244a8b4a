"""Weight-only products against torch's, with the levels as floats."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_nets import levels, normal

from qcompile.ir.stages import dialect


@pytest.mark.parametrize("highest", [7, 255])
def test_linear_is_the_product_with_the_levels_as_floats(highest: int) -> None:
    x, weight = normal(3, 20), levels(-highest, highest, 5, 20)
    assert weight.dtype == (torch.int8 if highest == 7 else torch.int16)
    got = dialect.weight_only_linear.default(x, weight)
    assert got.dtype == torch.float32
    wanted = x.double() @ weight.double().T
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_pads_each_side_by_its_own(rank: int) -> None:
    x, weight = normal(2, 4, *[6] * rank), levels(-7, 7, 6, 2, *[2] * rank)
    padding = [0, 1, 2, 0, 1, 1][: 2 * rank]
    got = dialect.weight_only_conv.default(x, weight, [2] * rank, padding, [1] * rank, 2)
    before_last = [side for d in reversed(range(rank)) for side in padding[2 * d : 2 * d + 2]]
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    wanted = function(F.pad(x.double(), before_last), weight.double(), stride=2, groups=2)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-4)
