"""Signal and noise: what quantized networks give, beside what float gives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves


@dataclass
class Noise:
    """Sums of squares over tensors: of the float values, and of the errors.

    What is told of it is `ratio`, noise power over signal power; 10 log10(1 / ratio) is the
    signal-to-quantization-noise ratio (SQNR), in decibels.
    """

    signal: float = 0.0
    error: float = 0.0

    def add(self, expected: Any, got: Any) -> None:
        """Take in values: tensors, or tuples of tensors, of equal shapes."""
        for a, b in zip(tree_leaves(expected), tree_leaves(got), strict=True):
            self.signal += a.double().square().sum().item()
            self.error += (b.double() - a.double()).square().sum().item()

    @property
    def ratio(self) -> float:
        """Noise over signal, 0 where nothing differs; infinity for noise on a signal of zeros."""
        if self.error == 0:
            return 0.0
        return self.error / self.signal if self.signal else math.inf


def run_and_see(network: GraphModule, place: str, inputs: Sequence[Tensor]) -> tuple[Tensor, Any]:
    """What a module gives on the way, and what the network gives."""
    with _observed(network.get_submodule(place)) as seen:
        y = network(*inputs)
    [value] = seen
    return value, y


@contextmanager
def _observed(module: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = module.register_forward_hook(partial(_keep, seen))
    try:
        yield seen
    finally:
        handle.remove()


def _keep(seen: list[Tensor], module: nn.Module, inputs: Any, result: Tensor) -> None:
    seen.append(result)
