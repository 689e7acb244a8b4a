"""Where a graph holds on to the batch that it was traced with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qcompile.ir.graph import where


def fixing(gm: GraphModule, inputs: Sequence[Tensor]) -> str | None:
    """The first operation that gives as many rows as before when it gets more; None if there is none.

    Args:
        gm: as it was traced, so that its nodes know their shapes.
        inputs: with another batch than that it was traced with.
    """
    rows = _Rows(gm, gm.meta["inputs"][0].shape[0], len(inputs[0]))
    with suppress(RuntimeError, ValueError, IndexError):  # behind what is looked for
        rows.run(*inputs)
    return rows.found


class _Rows(Interpreter):
    """Looks at the rows of each value, up to the first that should have more."""

    def __init__(self, gm: GraphModule, before: int, after: int) -> None:
        super().__init__(gm)
        self.before, self.after = before, after
        self.found: str | None = None
        self._open: set[Node] = set()  # values with a row for each sample

    def run_node(self, n: Node) -> Any:
        """As Interpreter, which has no gradients to keep."""
        follows = n.op == "placeholder" or any(x in self._open for x in n.all_input_nodes)
        if self.found is not None or not follows:
            return super().run_node(n)
        try:
            value = super().run_node(n)
        except (RuntimeError, ValueError, IndexError):
            self.found = where(n)
            raise
        if isinstance(value, Tensor) and n.op != "output":
            if value.dim() and len(value) % self.after == 0:
                self._open.add(n)
            else:
                self.found = where(n)
        return value
