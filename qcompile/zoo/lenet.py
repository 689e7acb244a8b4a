"""A network of LeNet's class for 28 x 28 digits."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def lenet(classes: int = 10, channels: int = 1) -> nn.Sequential:
    """Two convolutions and two linear layers with BatchNorm: `[N, channels, 28, 28]` to `[N, classes]`.

    The convolutions do not pad, so that a binarized one has no border to correct: 28, 24, 12, 8, 4.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 32, 5, bias=False),
            bn1=nn.BatchNorm2d(32),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(32, 64, 5, bias=False),
            bn2=nn.BatchNorm2d(64),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(1024, 512, bias=False),
            bn3=nn.BatchNorm1d(512),
            relu3=nn.ReLU(),
            fc2=nn.Linear(512, classes),
        )
    )
