"""Even out the ranges of channels between one layer and the next.

    second(f(first(x)))  ->  second_s(f(first_1/s(x)))      f(v / s) = f(v) / s,  s > 0

for each channel i of f: row i of the first layer's weights and its bias are divided by s_i, column i
of the second's is multiplied by it, with

    s_i = sqrt(r1_i / r2_i)         r1_i = max |row i|, r2_i = max |column i|

after which both ranges are sqrt(r1_i * r2_i): cross-layer equalization (Nagel et al., arXiv 1906.04721,
section 4.1). Where a BatchNorm follows the first layer, its weight and bias are divided instead, and
row i is what it makes of it. One scale for all channels of an activation then suits each of them.

f may be made of ReLU, LeakyReLU, PReLU, pooling, padding with zeros, flattening and Dropout, all of
which scale with their input. The network computes the same in real numbers, and with float32's
rounding in floats: this is for the network that is about to be prepared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.modules.batchnorm import _BatchNorm

from qcompile.ir.graph import calls, constant_of, module_of, spec
from qcompile.ir.plan import FLOAT_BITS
from qcompile.ir.stages import Stage, aten
from qcompile.passes.base import Declined, Pass
from qcompile.passes.choose_quantized import LAYERS, plan_of
from qcompile.passes.remove_dropout import DROPOUTS

_SCALING = (aten.relu.default, aten.leaky_relu.default, aten.flatten.using_ints)
_POOLS = {  # to how many dimensions their input has; of one less they take channels for places
    aten.max_pool1d.default: 3,
    aten.max_pool2d.default: 4,
    aten.max_pool3d.default: 5,
    aten.avg_pool1d.default: 3,
    aten.avg_pool2d.default: 4,
    aten.avg_pool3d.default: 5,
}
_REDUCTIONS = (aten.mean.dim, aten.amax.default)
_ROUNDS = 20  # over all pairs: a layer in the middle of two is changed by both
_ENOUGH = 1e-3  # largest |log s| of a round that changes nothing any more


@dataclass(frozen=True)
class EqualizeLayers(Pass):
    """Of layers that follow one another, where the second one's activations are quantized affinely."""

    name: ClassVar[str] = "equalize-layers"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.TRACED,)

    def prepare(self, gm: GraphModule) -> None:
        pairs = [pair for node in gm.graph.nodes if (pair := _pair(gm, node)) is not None]
        for _ in range(_ROUNDS):
            if max((pair.equalize() for pair in pairs), default=0.0) < _ENOUGH:
                break

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        if _pair(gm, node) is not None:
            return node
        if not isinstance(module_of(gm, node), LAYERS):
            return None
        clip = next((n for n in _behind(gm, node) if calls(n, aten.hardtanh.default)), None)
        return None if clip is None else Declined("is not equalized: a clip does not scale")


@dataclass(frozen=True)
class _Pair:
    """Two layers, and what may stand directly behind the first."""

    first: nn.Module
    norm: _BatchNorm | None
    second: nn.Module

    @torch.no_grad()
    def equalize(self) -> float:
        """Move scales from one to the other; gives the largest |log s|."""
        rows, columns = self._rows(), self._columns()
        r1, r2 = rows.abs().amax(1), columns.abs().amax(1)
        live = (r1 > 0) & (r2 > 0) & r1.isfinite() & r2.isfinite()
        s = torch.where(live, (r1 / r2).sqrt(), torch.ones_like(r1))
        s = torch.where(s.isfinite() & (s > 0), s, torch.ones_like(s))
        for value in self._outputs():
            value.div_(s.reshape(-1, *[1] * (value.dim() - 1)))
        self._put(columns * s[:, None])
        return float(s.log().abs().max())

    def _outputs(self) -> Iterator[Tensor]:
        """What gives a channel its size."""
        layer = self.first if self.norm is None else self.norm
        for value in (layer.weight, layer.bias):
            if isinstance(value, Tensor):
                yield value

    def _rows(self) -> Tensor:
        """What the first layer, and its BatchNorm, multiply the input by: `[channels, ...]`."""
        weight = self.first.weight
        assert isinstance(weight, Tensor)
        rows = weight.flatten(1)
        if self.norm is None:
            return rows
        assert self.norm.running_var is not None
        assert self.norm.weight is not None
        scale = self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps)
        return rows * scale[:, None]

    @property
    def channels(self) -> int:
        weight = self.first.weight
        assert isinstance(weight, Tensor)
        return weight.shape[0]

    def _columns(self) -> Tensor:
        """What the second layer multiplies each channel by: `[channels, ...]`."""
        weight = self.second.weight
        assert isinstance(weight, Tensor)
        if isinstance(self.second, nn.Linear):
            return weight.reshape(weight.shape[0], self.channels, -1).movedim(1, 0).flatten(1)
        groups = _groups(self.second)
        split = weight.unflatten(0, (groups, -1))  # [groups, O / groups, C / groups, *kernel]
        return split.transpose(1, 2).flatten(0, 1).flatten(1)

    def _put(self, columns: Tensor) -> None:
        weight = self.second.weight
        assert isinstance(weight, Tensor)
        if isinstance(self.second, nn.Linear):
            shape = (self.channels, weight.shape[0], -1)
            weight.copy_(columns.reshape(shape).movedim(0, 1).reshape(weight.shape))
            return
        groups = _groups(self.second)
        outputs, inputs, *kernel = weight.shape
        split = columns.reshape(groups, inputs, outputs // groups, *kernel)
        weight.copy_(split.transpose(1, 2).reshape(weight.shape))


def _groups(conv: nn.Module) -> int:
    assert isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    return conv.groups


def _pair(gm: GraphModule, second: Node) -> _Pair | None:
    """The layer in front of a quantized one, if everything between them scales and nobody else reads."""
    plan = plan_of(gm, second)
    if plan is None or not 1 < plan.activation_bits < FLOAT_BITS or _is_shared(gm, second):
        return None
    node, norm = second.all_input_nodes[0], None
    while len(node.users) == 1 and (_scales(gm, node) or _is_norm(gm, node)):
        if _is_norm(gm, node):
            norm = node
        node = node.all_input_nodes[0]
        if norm is not None:
            break
    layer = module_of(gm, node)
    if not isinstance(layer, LAYERS) or len(node.users) > 1 or _is_shared(gm, node):
        return None
    if isinstance(layer, nn.Linear) and len(spec(node).shape) != 2:  # channels come last
        return None
    if norm is not None and _is_shared(gm, norm):
        return None
    first_norm, last = None if norm is None else module_of(gm, norm), module_of(gm, second)
    assert first_norm is None or isinstance(first_norm, _BatchNorm)
    assert last is not None
    return _Pair(layer, first_norm, last)


def _scales(gm: GraphModule, node: Node) -> bool:
    """Whether f(v / s) = f(v) / s for a positive s of each channel."""
    module = module_of(gm, node)
    if isinstance(module, (nn.PReLU, *DROPOUTS)):
        return not isinstance(module, (nn.AlphaDropout, nn.FeatureAlphaDropout))
    if calls(node, aten.pad.default):
        return bool(node.args[2] != "constant" or node.args[3] == 0)
    if calls(node, *_POOLS):
        return len(spec(node).shape) == _POOLS[node.target]  # type: ignore[index]
    if calls(node, *_REDUCTIONS):
        return 1 not in node.args[1]  # type: ignore[operator]  # over channels it mixes them
    return calls(node, *_SCALING)


def _is_norm(gm: GraphModule, node: Node) -> bool:
    module = module_of(gm, node)
    return isinstance(module, _BatchNorm) and isinstance(module.weight, Tensor)


def _is_shared(gm: GraphModule, node: Node) -> bool:
    """Whether a module is called twice, or a parameter of it is read elsewhere too."""
    own = {id(value) for value in _parameters(gm, node)}
    others = (other for other in gm.graph.nodes if other is not node)
    return any(id(value) in own for other in others for value in _parameters(gm, other))


def _parameters(gm: GraphModule, node: Node) -> list[Tensor]:
    module, constant = module_of(gm, node), constant_of(gm, node)
    if module is not None:
        return list(module.parameters())
    return [] if constant is None else [constant]


def _behind(gm: GraphModule, node: Node) -> Iterator[Node]:
    """What follows a layer, up to what does not scale."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        yield node
        if not (_scales(gm, node) or _is_norm(gm, node)):
            return
