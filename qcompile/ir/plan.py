"""What is to become of each layer: decided once, carried by the graph to the final report."""

from __future__ import annotations

from dataclasses import dataclass

FLOAT_BITS = 32


@dataclass(frozen=True)
class LayerPlan:
    """How one conv or linear layer is quantized; `gm.meta["plans"]` maps its path to it.

    Attributes:
        layer: module path in the user's model.
        kind: "Conv2d", "Linear", ...
        weight_bits, activation_bits: 1 to 8, or 32 for float.
        weights: how many weights it has.
        where: the user's source line, "file:line", or "".
        reason: why it is not at the bits that were asked for, or "".
        dynamic: whether each sample's activations get their range when the program runs.
    """

    layer: str
    kind: str
    weight_bits: int
    activation_bits: int
    weights: int
    where: str = ""
    reason: str = ""
    dynamic: bool = False

    @property
    def quantized(self) -> bool:
        """Whether its weights are integers; its activations need not be (weight-only)."""
        return self.weight_bits < FLOAT_BITS
