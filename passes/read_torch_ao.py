"""Understand what torch.ao put into a model: its stubs, observers and fake-quantized layers.

    QuantStub(x), DeQuantStub(x)      ->  x               where they stand says what stays float
    observer(x), fake_quantize(x)     ->  x               its range is kept for the layer that reads it
    qat.ConvBnReLU2d(x)               ->  relu(conv(x))   the float layer that torch.ao makes of it

A layer stays float that torch.ao would leave in float: one outside of QuantStub .. DeQuantStub, or one
whose qconfig is None where others have one. Widths are the recipe's affair: torch.ao knows 8 bits.

Written to the graph: `meta["float_layers"]`, layer to reason, and `meta["ranges"]`, layer to the least
and the largest value that was observed at its input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import nn
from torch.ao.quantization import DeQuantStub, QuantStub
from torch.fx import GraphModule, Node

from qcompile.ir.graph import module_of
from qcompile.ir.stages import Stage
from qcompile.ir.torch_ao import STUBS, Observed, is_qat
from qcompile.passes.base import Declined, Pass
from qcompile.passes.choose_quantized import LAYERS
from qcompile.passes.spellings.emit import Emit

OUTSIDE = "it is outside of the model's QuantStub .. DeQuantStub"
NO_QCONFIG = "its qconfig is None"


@dataclass(frozen=True)
class ReadTorchAo(Pass):
    """Nothing to do for most models."""

    name: ClassVar[str] = "read-torch-ao"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.TRACED,)

    def prepare(self, gm: GraphModule) -> None:
        layers = list(_layers(gm))
        reasons = {
            **_outside(gm, layers),
            **_without_qconfig(gm, layers),
        }
        gm.meta["float_layers"] = {**gm.meta.get("float_layers", {}), **reasons}
        gm.meta["ranges"] = {**gm.meta.get("ranges", {}), **_ranges(gm, layers)}
        _make_float(gm)

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        module = module_of(gm, node)
        if isinstance(module, (*STUBS, Observed)):
            return node.all_input_nodes[0]
        then_relu = node.meta.get("then_relu")
        if then_relu is None:
            return None
        return _then_relu(gm, node) if then_relu else node


def _layers(gm: GraphModule) -> Iterator[Node]:
    for node in gm.graph.nodes:
        module = module_of(gm, node)
        if is_qat(module) or isinstance(module, LAYERS):
            yield node


def _make_float(gm: GraphModule) -> None:
    """Layers without their fake quantization, BatchNorm folded into them; their ReLUs are notes."""
    modules = {str(n.target): m for n in gm.graph.nodes if (m := module_of(gm, n)) is not None}
    for path, module in ((path, m) for path, m in modules.items() if is_qat(m)):
        layer, *rest = _parts(module)
        assert all(isinstance(part, nn.ReLU) for part in rest), f"{type(module)} ends in {rest}"
        gm.set_submodule(path, layer.train(module.training))
        for node in gm.graph.find_nodes(op="call_module", target=path):
            node.meta["then_relu"] = bool(rest)


def _parts(module: Any) -> list[nn.Module]:
    plain = module.to_float()
    return list(plain) if isinstance(plain, nn.Sequential) else [plain]


def _then_relu(gm: GraphModule, node: Node) -> Node:
    """The layer, of which its module is left, and its ReLU."""
    path = str(node.target)
    result = gm.graph.call_module(path, node.args)
    result.meta["layer"] = path
    relu = gm.graph.call_function(F.relu, (result,))
    relu.meta["layer"] = Emit(gm, node).free_path(f"{path}_relu")
    return relu


# --- what torch.ao would leave in float ----------------------------------------------------------


def _outside(gm: GraphModule, layers: list[Node]) -> dict[str, str]:
    """Layers whose input did not pass a QuantStub, or a DeQuantStub after it."""
    if not any(isinstance(module_of(gm, n), STUBS) for n in gm.graph.nodes):
        return {}
    inside: set[Node] = set()
    for node in gm.graph.nodes:
        module = module_of(gm, node)
        if isinstance(module, DeQuantStub):
            continue
        if isinstance(module, QuantStub) or not inside.isdisjoint(node.all_input_nodes):
            inside.add(node)
    return {str(node.target): OUTSIDE for node in layers if node not in inside}


def _without_qconfig(gm: GraphModule, layers: list[Node]) -> dict[str, str]:
    """Layers, or modules they lie in, with a qconfig that is None, where others have one."""
    none = gm.meta.get("no_qconfig", ())
    paths = {str(node.target) for node in layers}
    return {p: NO_QCONFIG for p in paths if any(p == n or p.startswith(f"{n}.") for n in none)}


def _observed(gm: GraphModule, layer: Node) -> Observed | None:
    """What was observed at a layer's input."""
    module = module_of(gm, layer.all_input_nodes[0])
    return module if isinstance(module, Observed) else None


def _ranges(gm: GraphModule, layers: list[Node]) -> dict[str, tuple[float, float]]:
    observed = {str(node.target): _observed(gm, node) for node in layers}
    return {layer: o.range for layer, o in observed.items() if o is not None and o.range}
