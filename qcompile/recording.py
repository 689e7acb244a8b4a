"""What `evaluate` feeds a model, kept so that the program can be verified on it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qcompile.program import Program

BUDGET = 256 << 20  # bytes of inputs that are kept; what comes after that is run and forgotten


class Recording(nn.Module):
    """A program as a module: `evaluate` may call `eval` on it.

    Attributes:
        batches: the inputs of each call, up to a budget of memory.
    """

    def __init__(self, program: Program, budget: int = BUDGET) -> None:
        super().__init__()
        self._program = program
        self._left = budget
        self.batches: list[tuple[Tensor, ...]] = []

    def forward(self, *inputs: Tensor) -> Any:
        """What the program gives."""
        size = sum(x.numel() * x.element_size() for x in inputs)
        if size <= self._left:
            self.batches.append(tuple(x.detach().clone() for x in inputs))
            self._left -= size
        return self._program(*inputs)
