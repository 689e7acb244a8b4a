"""Bi-Real Net translated to OpenVINO computes what the network with signs computes."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qcompile.rivals import ov_binary
from qcompile.rivals.entrant import Unavailable
from qcompile.zoo.resnet import BiRealBlock, ResNet

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)


class SignConv(nn.Module):
    """A convolution of signs with signs, over zeros."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        signs, weight = torch.where(x > 0, 1.0, -1.0), torch.where(self.conv.weight >= 0, 1.0, -1.0)
        return F.conv2d(signs, weight, None, self.conv.stride, 1)


def network() -> ResNet:
    torch.manual_seed(0)
    model = ResNet(BiRealBlock, 1, nn.Identity(), 10, 3).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.01, 0.1)
            nn.init.uniform_(module.bias, -1, 1)
    return model


@torch.no_grad()
def test_the_translated_network_is_the_binary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3, 64, 64)
    wanted_model = network()
    for module in list(wanted_model.modules()):
        if isinstance(module, BiRealBlock):
            module.add_module("conv", SignConv(module.conv))
    wanted = wanted_model(x)
    # Eight bits of the stem turn signs of the layers behind it: as numbers, only floats compare.
    monkeypatch.setattr(ov_binary._Translation, "_levels", lambda self, value, low, high: value)
    monkeypatch.setattr(
        ov_binary._Translation,
        "_weight",
        lambda self, layer: self._op.constant(layer.weight.detach().numpy()),
    )
    got = ov_binary.entrant(network, 1, precision="f32").prepare((x,)).output()
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


def test_eight_bits_are_near_the_floats() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 7, 2, padding=3, bias=False))
    x = torch.randn(1, 3, 16, 16)
    got = ov_binary.entrant(lambda: model, 1).prepare((x,)).output()
    assert got is not None
    wanted = model(x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0.05 * wanted.abs().max().item())
    assert not torch.equal(got, wanted)


def test_what_is_not_translated_is_said() -> None:
    with pytest.raises(Unavailable, match="Sigmoid is not translated"):
        ov_binary.entrant(lambda: nn.Sequential(nn.Sigmoid()), 1).prepare((torch.ones(1, 3, 8, 8),))
