"""Float networks that several passes are tried on, and how to bring them to a stage."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from qcompile.ir.graph import trace
from qcompile.passes.base import run
from qcompile.passes.binarize_blocks import BinarizeBlocks
from qcompile.passes.canonicalize import Canonicalize
from qcompile.passes.choose_quantized import ChooseQuantized
from qcompile.passes.insert_fake_quant import InsertFakeQuant
from qcompile.passes.insert_observers import InsertObservers
from qcompile.quant.recipe import Recipe


class Body(nn.Module):
    """A stem and a head that stay at 8 bits, and between them what the test is about."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1)
        self.body = forward
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.head = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self, self.stem(x))
        return self.head(torch.flatten(y, 1))


class LeNet(nn.Module):
    """As in PyTorch's MNIST example, smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.drop = nn.Dropout2d()
        self.fc1 = nn.Linear(72, 20)
        self.fc2 = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.drop(self.conv2(x)), 2))
        x = F.relu(self.fc1(x.view(-1, 72)))
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


LENET_INPUT = (1, 14, 14)


class Block(nn.Module):
    """ResNet's basic block; `stride` 2 brings a shortcut of its own."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.down: nn.Module | None = None
        if stride != 1:
            self.down = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.down is None else self.down(x)
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        self.layer1 = Block(8, 8, 1)
        self.layer2 = Block(8, 16, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.stem(x)))
        return self.fc(torch.flatten(self.pool(x), 1))


RESNET_INPUT = (3, 12, 12)


def planned(model: nn.Module, recipe: Recipe, *inputs: Tensor) -> GraphModule:
    """A canonical graph with plans, ready for binarize-blocks."""
    model(*inputs)  # gives lazy layers their shapes
    return run([Canonicalize(), ChooseQuantized(recipe)], trace(model, inputs)).graph


def prepared(model: nn.Module, recipe: Recipe, *inputs: Tensor) -> GraphModule:
    """What is trained."""
    passes = [BinarizeBlocks(recipe), InsertObservers(recipe), InsertFakeQuant(recipe)]
    return run(passes, planned(model, recipe, *inputs)).graph


def train_a_little(model: nn.Module, *inputs: Tensor, steps: int = 3) -> None:
    """Move every parameter and every running statistic."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        y = model(*inputs)
        (y.square().mean() - y[:, 0].mean()).backward()
        optimizer.step()
