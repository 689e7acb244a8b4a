"""Reference networks in plain torch.nn: nothing here knows of quantization."""

from qcompile.zoo.lenet import lenet
from qcompile.zoo.resnet import birealnet18, resnet18

__all__ = ["birealnet18", "lenet", "resnet18"]
