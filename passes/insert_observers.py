"""Put an observer in front of every layer whose activations get a scale from their range.

    conv(x)  ->  conv(observer(x))

An observer is the identity, so nothing changes but that it records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.fx import GraphModule, Node

from qcompile.ir.graph import module_of
from qcompile.ir.stages import Stage
from qcompile.passes.base import Declined, Pass
from qcompile.passes.choose_quantized import plan_of
from qcompile.passes.spellings.emit import Emit
from qcompile.quant.activations import AffineActivation
from qcompile.quant.observers import Observer
from qcompile.quant.recipe import Recipe


@dataclass(frozen=True)
class InsertObservers(Pass):
    """Signs and DoReFa-Net's levels have fixed scales and need no observer."""

    name: ClassVar[str] = "insert-observers"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.TRACED,)
    recipe: Recipe

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        plan = plan_of(gm, node)
        x = node.args[0] if node.args else None
        if plan is None or not isinstance(x, Node) or isinstance(module_of(gm, x), Observer):
            return None
        activation = self.recipe.activation(plan.activation_bits, edge=bool(node.meta["edge"]))
        if not isinstance(activation, AffineActivation):
            return None
        activation.observer.layer = plan.layer
        emit = Emit(gm, node)
        observer = emit.module(emit.free_path(f"{plan.layer}_observer"), activation.observer, x)
        observer.meta["spec"], observer.meta["layer"] = x.meta["spec"], plan.layer
        node.args = (observer,)
        return node
