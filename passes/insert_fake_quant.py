"""Put quantized layers, which are trained, in the place of float ones.

    conv(observer(x))  ->  quant_conv(x)       with the observer in its activation quantizer
    batch_norm(x)      ->  quant.BatchNorm(x)  which computes one multiplication and one addition

Every module keeps its path, and with it the names in the state dict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from torch.fx import GraphModule, Node
from torch.nn.modules.batchnorm import _BatchNorm

from qcompile.errors import QCompileError
from qcompile.ir.graph import module_of, where
from qcompile.ir.plan import FLOAT_BITS, LayerPlan
from qcompile.ir.stages import Stage
from qcompile.passes.base import Declined, Pass
from qcompile.passes.choose_quantized import plan_of
from qcompile.quant.activations import AffineActivation
from qcompile.quant.batchnorm import BatchNorm
from qcompile.quant.layers import QuantConv, QuantLayer, QuantLinear
from qcompile.quant.observers import Observer
from qcompile.quant.recipe import Recipe


@dataclass(frozen=True)
class InsertFakeQuant(Pass):
    """Needs the plans of choose-quantized; the result is the prepared model."""

    name: ClassVar[str] = "insert-fake-quant"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.TRACED,)
    gives: ClassVar[Stage] = Stage.PREPARED
    recipe: Recipe

    def prepare(self, gm: GraphModule) -> None:
        gm.meta["correct_bias"] = self.recipe.correct_bias  # what is still to be done

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        module, plan = module_of(gm, node), plan_of(gm, node)
        if isinstance(module, _BatchNorm) and not isinstance(module, BatchNorm):
            gm.set_submodule(str(node.target), BatchNorm.from_float(module))
            return node
        if plan is None:
            return None
        x = node.args[0]
        assert isinstance(x, Node)
        observer = module_of(gm, x)
        if isinstance(observer, Observer):
            node.args = x.args
            # By hand: what is shared with the quantizer does not look unused.
            gm.graph.erase_node(x)
            gm.delete_submodule(str(x.target))
        layer = self._layer(gm, node, plan, observer)
        gm.set_submodule(str(node.target), layer)
        return node

    def _layer(
        self, gm: GraphModule, node: Node, plan: LayerPlan, observer: nn.Module | None
    ) -> QuantLayer:
        edge = bool(node.meta["edge"])
        activation = self.recipe.activation(plan.activation_bits, edge=edge)
        if isinstance(activation, AffineActivation) and isinstance(observer, Observer):
            activation.observer = observer
        weight = self.recipe.weight_quantizer(plan.weight_bits, edge=edge)
        gradient_bits = FLOAT_BITS if edge else self.recipe.gradient_bits
        k_map = self.recipe.k_map and plan.activation_bits == plan.weight_bits == 1
        module = module_of(gm, node)
        kind: Any = QuantLinear if isinstance(module, nn.Linear) else QuantConv
        try:
            layer = kind.from_float(
                module, activation, weight, gradient_bits=gradient_bits, k_map=k_map
            )
        except QCompileError as error:
            raise QCompileError(error.what, where=where(node), hint=error.hint) from error
        assert isinstance(layer, QuantLayer)
        return layer
