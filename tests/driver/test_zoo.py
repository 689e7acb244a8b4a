"""Shapes, sizes and names of the reference networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from qcompile.ir.graph import trace
from qcompile.zoo.lenet import lenet
from qcompile.zoo.resnet import BasicBlock, BiRealBlock, ResNet, birealnet18, resnet18

NETWORKS = {"lenet": lenet, "resnet18": resnet18, "birealnet18": birealnet18}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_lenet() -> None:
    model = lenet().eval()
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    convolutions, linears = 32 * 25 + 64 * 32 * 25, 1024 * 512 + 512 * 10 + 10
    assert parameters(model) == convolutions + linears + 2 * (32 + 64 + 512)
    assert lenet(classes=7, channels=3)(torch.randn(2, 3, 28, 28)).shape == (2, 7)


@pytest.mark.parametrize("build", [resnet18, birealnet18])
@pytest.mark.parametrize("size", [32, 64])
def test_resnets(build: Callable[..., ResNet], size: int) -> None:
    model = build().eval()
    assert parameters(model) == 11_689_512
    with torch.no_grad():
        assert model(torch.randn(1, 3, size, size)).shape == (1, 1000)
    small = build(classes=10, channels=1).eval()
    with torch.no_grad():
        assert small(torch.randn(2, 1, size, size)).shape == (2, 10)


def test_resnet18_has_the_usual_names() -> None:
    names = list(resnet18().state_dict())
    assert len(names) == 122
    assert names[:2] == ["conv1.weight", "bn1.weight"]
    for name in (
        "layer1.0.conv1.weight",
        "layer1.1.bn2.running_var",
        "layer2.0.downsample.0.weight",
        "layer4.0.downsample.1.num_batches_tracked",
        "fc.bias",
    ):
        assert name in names
    assert not [name for name in names if name.startswith("layer1.0.downsample")]


def test_basic_block_is_its_formula() -> None:
    block = BasicBlock(4, 8, 2).eval()
    x = torch.randn(1, 4, 6, 6)
    assert block.downsample is not None
    y = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(block(x), torch.relu(y + block.downsample(x)), rtol=0, atol=0)


def test_bireal_block_is_its_formula() -> None:
    x = 2 * torch.randn(1, 4, 6, 6)
    same = BiRealBlock(4, 4, 1).eval()
    y = same.bn(same.conv(x.clamp(-1, 1))) + x
    torch.testing.assert_close(same(x), y, rtol=0, atol=0)
    assert BiRealBlock(4, 8, 2).eval()(x).shape == (1, 8, 3, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_they_trace(name: str) -> None:
    shape = (2, 1, 28, 28) if name == "lenet" else (2, 3, 64, 64)
    gm = trace(NETWORKS[name]().eval(), [torch.empty(shape)])
    assert gm.graph.find_nodes(op="output")
