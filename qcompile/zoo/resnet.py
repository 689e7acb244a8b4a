"""ResNet-18 (arXiv 1512.03385), and the same convolutions in the order of Bi-Real Net (1808.00278)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Block = Callable[[int, int, int], nn.Module]


class BasicBlock(nn.Module):
    """`relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))`."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride > 1 or channels != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + shortcut)


class BiRealBlock(nn.Module):
    """`bn(conv(clip(x))) + shortcut(x)`: one convolution for each real-valued shortcut, no ReLU.

    The clip to [-1, 1] is what the paper trains the float network with; its sign is that of x. The
    shortcut pools before its 1 x 1 convolution, which stays in float.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.clip = nn.Hardtanh()
        self.conv = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride > 1 or channels != width:
            self.downsample = nn.Sequential(
                nn.AvgPool2d(stride),
                nn.Conv2d(channels, width, 1, bias=False),
                nn.BatchNorm2d(width),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.bn(self.conv(self.clip(x))) + shortcut


class ResNet(nn.Module):
    """Stem, four stages of blocks of 64 to 512 channels, global pooling and one linear layer.

    `[N, channels, H, W]` to `[N, classes]`; Bi-Real Net needs H and W to be multiples of 32.
    """

    def __init__(
        self, block: Block, depth: int, activation: nn.Module, classes: int, channels: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = activation
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = _stage(block, depth, 64, 64, 1)
        self.layer2 = _stage(block, depth, 64, 128, 2)
        self.layer3 = _stage(block, depth, 128, 256, 2)
        self.layer4 = _stage(block, depth, 256, 512, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _stage(block: Block, depth: int, channels: int, width: int, stride: int) -> nn.Sequential:
    rest = [block(width, width, 1) for _ in range(depth - 1)]
    return nn.Sequential(block(channels, width, stride), *rest)


def resnet18(classes: int = 1000, channels: int = 3) -> ResNet:
    """ResNet-18; its parameters are named as torchvision's, so that those weights load."""
    return ResNet(BasicBlock, 2, nn.ReLU(), classes, channels)


def birealnet18(classes: int = 1000, channels: int = 3) -> ResNet:
    """Bi-Real-Net-18: the convolutions of ResNet-18, each with a shortcut of its own."""
    return ResNet(BiRealBlock, 4, nn.Identity(), classes, channels)
