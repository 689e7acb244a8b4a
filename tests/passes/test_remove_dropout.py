"""At inference Dropout is not there."""

from __future__ import annotations

import pytest
import torch
from rewriting import check_ignores, check_rewrite
from torch import nn

from qcompile.ir.stages import Stage
from qcompile.passes.remove_dropout import DROPOUTS, RemoveDropout

EXPECTED = """
    %0 = placeholder input() : f32[{0}]
    %1 = call_module 1:{1}(%0) : f32[{0}]
    return %1"""


@pytest.mark.parametrize("kind", DROPOUTS)
def test_dropout_goes(kind: type[nn.Module]) -> None:
    rank = int(kind.__name__[-2]) if kind.__name__.endswith("d") else 1
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    x = torch.randn(2, 3, *[4] * rank)
    expected = EXPECTED.format(",".join(map(str, x.shape)), conv.__name__)
    model = nn.Sequential(kind(), conv(3, 3, 1), kind()).eval()
    after = check_rewrite(RemoveDropout(), model, expected, x)
    assert "0" not in dict(after.named_modules())
    assert after.meta["stage"] is Stage.PREPARED


def test_other_modules_stay() -> None:
    check_ignores(RemoveDropout(), nn.Sequential(nn.Conv1d(3, 3, 1)), torch.randn(2, 3, 4))
