"""What `evaluate` feeds a model, kept so that the program can be verified on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

BUDGET = 256 << 20  # bytes of inputs that are kept; what comes after that is run and forgotten


class Recording(nn.Module):
    """A program, or a network, as a module: `evaluate` may call `eval` on it.

    Attributes:
        batches: the inputs of each call, up to a budget of memory.
    """

    def __init__(self, model: Callable[..., Any], budget: int = BUDGET) -> None:
        super().__init__()
        self._model = model
        self._left = budget
        self.batches: list[tuple[Tensor, ...]] = []

    def forward(self, *inputs: Tensor) -> Any:
        """What the program or the network gives."""
        size = sum(x.numel() * x.element_size() for x in inputs)
        if size <= self._left:
            self.batches.append(tuple(x.detach().clone() for x in inputs))
            self._left -= size
        return self._model(*inputs)
