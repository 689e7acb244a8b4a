"""Decide how many bits every convolution and linear layer gets.

    conv  ->  conv, and a LayerPlan for it in meta["plans"]

Nothing is computed otherwise yet. A layer is first if no other lies before it on any path, last if
none lies after it. A weight that two calls share would have to be trained for two kinds of inputs
and be stored twice: it stays float, with a reason. In mode "dynamic" a convolution stays float,
unless an override makes it weight-only: no sample's range is known before all of it was seen, and
that would be one pass over a feature map more for each layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.fx import GraphModule, Node

from qcompile.errors import QCompileError
from qcompile.ir.graph import constant_of, module_of, spec, where
from qcompile.ir.plan import FLOAT_BITS, LayerPlan
from qcompile.ir.stages import Stage
from qcompile.passes.base import Declined, Pass
from qcompile.quant.recipe import Recipe

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
FIRST, LAST = "first layer", "last layer"  # reasons of a plan that is not as was asked


@dataclass(frozen=True)
class ChooseQuantized(Pass):
    """Write `meta["plans"]` as the recipe says, and `meta["edge"]` of first and last nodes."""

    name: ClassVar[str] = "choose-quantized"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.TRACED,)
    recipe: Recipe

    def prepare(self, gm: GraphModule) -> None:
        layers = [node for node in gm.graph.nodes if isinstance(module_of(gm, node), LAYERS)]
        paths = [str(node.target) for node in layers]
        kinds = [type(module).__name__ for module in gm.modules()]
        self.recipe.check_overrides(paths, [*dict(gm.named_modules()), *kinds])
        first, last = _without_layer_before(gm, layers), _without_layer_after(gm, layers)
        plans: dict[str, LayerPlan] = {}
        for node in layers:
            node.meta["edge"] = node in first or node in last
            plan = self._plan(gm, node, node in first, node in last)
            plans[plan.layer] = plan
        gm.meta["plans"] = plans

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        if not isinstance(module_of(gm, node), LAYERS):
            return None
        bits = self._bits(gm, node)
        reason = self._obstacle(gm, node, bits[1])
        return Declined(reason) if reason and bits[0] < FLOAT_BITS else None

    def _bits(self, gm: GraphModule, node: Node, *ends: bool) -> tuple[int, int]:
        weight_bits, activation_bits = self.recipe.for_layer(
            str(node.target), kind_of(gm, node), *ends
        )
        if weight_bits == FLOAT_BITS > activation_bits:
            raise QCompileError(
                f"{weight_bits}-bit weights with {activation_bits}-bit activations "
                "cannot be computed on integers",
                where=where(node),
                hint="quantize the weights too, or leave both in float",
            )
        return weight_bits, activation_bits

    def _plan(self, gm: GraphModule, node: Node, first: bool, last: bool) -> LayerPlan:
        body, bits = self._bits(gm, node), self._bits(gm, node, first, last)
        reason = ""
        if bits != body:
            reason = FIRST if first else LAST
        obstacle = self._obstacle(gm, node, bits[1])
        if obstacle and bits[0] < FLOAT_BITS:
            bits, reason = (FLOAT_BITS, FLOAT_BITS), obstacle
        layer, weight = str(node.target), gm.get_parameter(f"{node.target}.weight")
        line = where(node).removeprefix(layer).strip(" ()")
        dynamic = self.recipe.mode == "dynamic" and bits[1] < FLOAT_BITS
        kind = kind_of(gm, node)
        return LayerPlan(layer, kind, *bits, weight.numel(), line, reason, dynamic)

    def _obstacle(self, gm: GraphModule, node: Node, activation_bits: int) -> str:
        linear = isinstance(module_of(gm, node), nn.Linear)
        if self.recipe.mode == "dynamic" and activation_bits < FLOAT_BITS and not linear:
            return "dynamic quantization is for linear layers"
        hint: str = gm.meta.get("float_layers", {}).get(str(node.target), "")
        named = self.recipe.overrides_of(str(node.target), kind_of(gm, node))
        return _obstacle(gm, node) or ("" if named else hint)


def kind_of(gm: GraphModule, node: Node) -> str:
    """ "Conv2d", "Linear", ...: what a layer is, whatever its class is called."""
    module = module_of(gm, node)
    return next(kind.__name__ for kind in LAYERS if isinstance(module, kind))


def plan_of(gm: GraphModule, node: Node) -> LayerPlan | None:
    """The plan for a node that calls a layer to be quantized, or None.

    Raises:
        QCompileError: nothing was planned.
    """
    if "plans" not in gm.meta:
        raise QCompileError("no layer was planned", hint="run choose-quantized first")
    if not isinstance(module_of(gm, node), LAYERS):
        return None
    plan: LayerPlan | None = gm.meta["plans"].get(str(node.target))
    return plan if plan is not None and plan.quantized else None


def _obstacle(gm: GraphModule, node: Node) -> str:
    """Why a layer cannot be quantized, or ""."""
    calls = [n for n in gm.graph.nodes if n.op == "call_module" and n.target == node.target]
    if len(calls) > 1:
        times = "twice" if len(calls) == 2 else f"{len(calls)} times"
        return f"{node.target} is called {times}, with one weight for inputs of different ranges"
    weight = gm.get_parameter(f"{node.target}.weight")
    for other in gm.graph.nodes:
        if other is node:
            continue
        module = module_of(gm, other)
        if getattr(module, "weight", None) is weight or constant_of(gm, other) is weight:
            return f"it shares its weight with {other.target}"
    rank = len(spec(node).shape)
    if isinstance(module_of(gm, node), nn.Linear) and rank != 2:
        return f"its input has {rank} dimensions, a quantized linear layer takes 2"
    return ""


def _without_layer_before(gm: GraphModule, layers: list[Node]) -> set[Node]:
    behind: set[Node] = set()  # nodes that a layer's result reaches
    for node in gm.graph.nodes:
        if any(source in behind or source in layers for source in node.all_input_nodes):
            behind.add(node)
    return set(layers) - behind


def _without_layer_after(gm: GraphModule, layers: list[Node]) -> set[Node]:
    ahead: set[Node] = set()  # nodes whose value reaches a layer
    for node in reversed(gm.graph.nodes):
        if any(user in ahead or user in layers for user in node.users):
            ahead.add(node)
    return set(layers) - ahead
