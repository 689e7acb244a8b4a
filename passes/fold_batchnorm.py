"""Let a quantized layer compute the BatchNorm behind it at inference.

    y = norm(layer(x))  ->  y = layer(x), y passed on        in eval mode; in train mode as before

    layer:  float(acc) * m + b                               m, b, s, t: float32 [O]
    norm:   v * s + t                                        s, t = norm.scale_shift()
    both:   float(acc) * (m * s) + (b * s + t)

In real numbers (acc * m + b) * s + t = acc * (m * s) + (b * s + t). The levels of weights and
activations, and with them the integer acc, are what they were: scaling a filter's weights by s
would scale its step by |s| and leave its levels, so that this is the usual folding of BatchNorm
into weights, at every width and for any sign of s. In float32 one multiplication and one addition
remain of two each; the last bits differ from those of two steps, which is why it is done to the
prepared model, whose eval mode is the specification. Training computes the two modules one after
the other, to the same bits, with the same gradients and names in the state dict.

With XNOR-Net's K, which varies from place to place, one expression does not hold both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.fx import GraphModule, Node

from qcompile.ir.graph import module_of
from qcompile.ir.stages import Stage
from qcompile.passes.base import Declined, Pass
from qcompile.quant.batchnorm import BatchNorm
from qcompile.quant.layers import QuantLayer


@dataclass(frozen=True)
class FoldBatchnorm(Pass):
    """Quantized layers whose result goes to one BatchNorm and nowhere else."""

    name: ClassVar[str] = "fold-batchnorm"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.PREPARED,)

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        layer = module_of(gm, node)
        norms = [user for user in node.users if isinstance(module_of(gm, user), BatchNorm)]
        if not isinstance(layer, QuantLayer) or not norms:
            return None
        norm = module_of(gm, norms[0])
        assert isinstance(norm, BatchNorm)
        if layer.k_map:
            return Declined("its BatchNorm stays a step of its own: XNOR-Net's K stands before it")
        if len(node.users) > 1:
            others = [user for user in node.users if user is not norms[0]]
            reader = _name(others[0])
            return Declined(f"its BatchNorm stays a step of its own: {reader} reads what is before")
        path = norms[0].target
        if sum(n.op == "call_module" and n.target == path for n in gm.graph.nodes) > 1:
            return Declined(
                f"its BatchNorm stays a step of its own: {path} is called elsewhere too"
            )
        layer.absorb(norm)
        return node


def _name(node: Node) -> str:
    return "the output" if node.op == "output" else str(node.meta.get("layer") or node.name)
