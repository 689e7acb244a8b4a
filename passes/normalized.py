"""What the values of a node are like: whether signs of them say anything."""

from __future__ import annotations

from enum import Enum

from torch import nn
from torch.fx import GraphModule, Node
from torch.nn.modules.batchnorm import _BatchNorm

from qcompile.ir.graph import calls, module_of
from qcompile.ir.stages import aten
from qcompile.passes.choose_quantized import LAYERS
from qcompile.quant.activations import SignActivation, UnitActivation


class State(Enum):
    """Of the values in a tensor."""

    RAW = "not normalized"
    POSITIVE = "normalized, but not below 0"
    CENTRED = "normalized, of either sign"


POSITIVE = (
    aten.sigmoid.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.abs.default,
    aten.softmax.int,
)


def state_of(gm: GraphModule, node: Node) -> State:
    """What a BatchNorm further up has left of a value's distribution."""
    states: dict[Node, State] = {}
    waiting = [node]
    while waiting:
        sources = _sources(gm, waiting[-1])
        unknown = [source for source in sources if source not in states]
        if unknown:
            waiting += unknown
        else:
            top = waiting.pop()
            states[top] = _state(gm, top, {states[source] for source in sources})
    return states[node]


def _sources(gm: GraphModule, node: Node) -> list[Node]:
    """The values that decide a node's state: none, where it forgets what was above it."""
    if isinstance(module_of(gm, node), (_BatchNorm, *LAYERS)):
        return []
    return [source for source in node.all_input_nodes if source.op != "get_attr"]


def _state(gm: GraphModule, node: Node, states: set[State]) -> State:
    """A node's state, from those of its sources."""
    module = module_of(gm, node)
    if isinstance(module, _BatchNorm):
        return State.CENTRED
    if node.op == "placeholder" or isinstance(module, LAYERS):
        return State.RAW
    if State.RAW in states or calls(node, aten.log_softmax.int):
        return State.RAW
    if is_relu(node) or calls(node, *POSITIVE):
        return State.POSITIVE
    if calls(node, aten.cat.default) and State.POSITIVE in states:
        return State.POSITIVE
    return State.CENTRED if State.CENTRED in states else State.POSITIVE


def is_relu(node: Node, kind: type[nn.Module] = SignActivation) -> bool:
    """Whether a node cuts off what is below 0; for DoReFa-Net also, not below what it clips to."""
    if calls(node, aten.relu.default):
        return True
    if not calls(node, aten.hardtanh.default):
        return False
    low, high = (float(str(bound)) for bound in node.args[1:3])
    return low == 0 and high >= 1 if kind is UnitActivation else low >= 0
