"""Rewire an ordinary network around its binarized layers.

    conv(pool(relu(x)))    ->  conv(norm(pool(x)))      signs of a ReLU's result are all +1
    norm2(conv(x))         ->  norm2(conv(x)) + x       Bi-Real Net's shortcut, where shapes allow

This changes the network on purpose: it is what a user of XNOR-Net, DoReFa-Net or Bi-Real Net would
have written. Where nothing is binarized nothing changes.

On the way up from a layer, through pooling, padding, flattening and Dropout, ReLUs and their kin
are left out; others that read them keep theirs. If what is found there is not the sum or the
result of a BatchNorm, a fresh one goes after the pooling and before the flattening: XNOR-Net's
order, norm -> sign -> conv -> pool. DoReFa-Net's levels clip at 0 and 1 themselves: leaving out a
clip below 0 changes nothing there, but only while no averaging lies between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.fx import GraphModule, Node
from torch.nn.modules.batchnorm import _BatchNorm

from qcompile.ir.graph import calls, module_of, spec
from qcompile.ir.stages import Stage, aten
from qcompile.passes.base import Declined, Pass
from qcompile.passes.choose_quantized import plan_of
from qcompile.passes.normalized import State, is_relu, state_of
from qcompile.passes.remove_dropout import DROPOUTS
from qcompile.passes.spellings.emit import Emit
from qcompile.quant.activations import SignActivation, UnitActivation
from qcompile.quant.batchnorm import BatchNorm
from qcompile.quant.recipe import Recipe

MAX_POOLS = (
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    aten.amax.default,
)
AVERAGES = (
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.avg_pool3d.default,
    aten.mean.dim,
)
MOVES = (aten.flatten.using_ints, aten.pad.default)


@dataclass(frozen=True)
class BinarizeBlocks(Pass):
    """For every layer whose activations are signs, or DoReFa-Net's levels."""

    name: ClassVar[str] = "binarize-blocks"
    stages: ClassVar[tuple[Stage, ...]] = (Stage.TRACED,)
    recipe: Recipe

    def rewrite(self, gm: GraphModule, node: Node) -> Node | Declined | None:
        if is_relu(node) and self.recipe.method == "bireal" and self._feeds_signs(gm, node):
            return node.all_input_nodes[0]
        kind = self._activation(gm, node)
        if kind is None:
            return None
        changed = self._rewire_input(gm, node, kind)
        if self.recipe.method == "bireal" and kind is SignActivation:
            changed |= _add_shortcut(gm, node)
        return node if changed else None

    def _activation(self, gm: GraphModule, node: Node) -> type[nn.Module] | None:
        """The class of the layer's activation quantizer, if the network has to suit it."""
        plan = plan_of(gm, node)
        if plan is None:
            return None
        kind = type(self.recipe.activation(plan.activation_bits, edge=bool(node.meta["edge"])))
        return kind if issubclass(kind, (SignActivation, UnitActivation)) else None

    def _feeds_signs(self, gm: GraphModule, node: Node) -> bool:
        """Whether a ReLU is read by signs and residual additions only, and by one sign at least."""
        readers = _readers(gm, node)
        signs = [self._activation(gm, r) is SignActivation for r in readers]
        added = [calls(r, aten.add.Tensor) for r in readers]
        return any(signs) and all(s or a for s, a in zip(signs, added, strict=True))

    def _rewire_input(self, gm: GraphModule, node: Node, kind: type[nn.Module]) -> bool:
        """Leave out the ReLUs above a layer, and see to a BatchNorm there."""
        passed = (*MAX_POOLS, *MOVES) if kind is UnitActivation else (*MAX_POOLS, *AVERAGES, *MOVES)
        chain: list[Node] = []
        source = node.all_input_nodes[0]
        while is_relu(source, kind) or calls(source, *passed) or _is_dropout(gm, source):
            chain.insert(0, source)
            source = source.all_input_nodes[0]
        kept = [n for n in chain if not is_relu(n, kind)]
        pools = [i for i, n in enumerate(kept) if calls(n, *MAX_POOLS, *AVERAGES)]
        after_pools = pools[-1] + 1 if pools else 0
        state = state_of(gm, source)
        needs_norm = state is State.RAW or (state is State.POSITIVE and kind is SignActivation)
        value = _follow(gm, source, kept[:after_pools])
        if needs_norm:
            value = _norm(gm, node, value, f"{node.target}_norm")
        value = _follow(gm, value, kept[after_pools:])
        node.replace_input_with(node.all_input_nodes[0], value)
        return needs_norm or len(kept) < len(chain)


def _follow(gm: GraphModule, value: Node, steps: list[Node]) -> Node:
    """Apply steps to a value: the nodes that are there, or copies where others read them too."""
    for step in steps:
        [old] = step.all_input_nodes
        if old is value:
            value = step
        elif len(step.users) == 1 and value < step:
            step.replace_input_with(old, value)
            value = step
        else:
            copy = gm.graph.node_copy(step, lambda n, old=old, new=value: new if n is old else n)  # type: ignore[misc]
            copy.meta = dict(step.meta)
            value = copy
    return value


def _norm(gm: GraphModule, layer: Node, value: Node, path: str) -> Node:
    emit = Emit(gm, layer)
    norm = emit.module(emit.free_path(path), BatchNorm(spec(value).shape[1]), value)
    norm.meta["spec"] = spec(value)
    gm.meta["fresh_norms"] = (*gm.meta.get("fresh_norms", ()), str(norm.target))
    return norm


def _add_shortcut(gm: GraphModule, layer: Node) -> bool:
    """y = norm(conv(x)) + x, unless a residual addition follows already."""
    x = layer.all_input_nodes[0]
    if isinstance(module_of(gm, layer), nn.Linear) or spec(x) != spec(layer):
        return False
    users = list(layer.users)
    has_norm = len(users) == 1 and isinstance(module_of(gm, users[0]), _BatchNorm)
    out = users[0] if has_norm else layer
    if any(calls(user, aten.add.Tensor) for user in out.users):
        return False
    with gm.graph.inserting_after(out):
        if not has_norm:
            out = _norm(gm, layer, layer, f"{layer.target}_out_norm")
            layer.replace_all_uses_with(out, delete_user_cb=lambda user: user is not out)
    with gm.graph.inserting_after(out):
        y = gm.graph.call_function(aten.add.Tensor, (out, x))
    y.meta["spec"] = spec(layer)
    out.replace_all_uses_with(y, delete_user_cb=lambda user: user is not y)
    return True


def _is_dropout(gm: GraphModule, node: Node) -> bool:
    return isinstance(module_of(gm, node), DROPOUTS)


def _readers(gm: GraphModule, node: Node) -> list[Node]:
    """Who reads a value, seen through pooling, moves and Dropout."""
    readers = []
    for user in node.users:
        through = calls(user, *MAX_POOLS, *AVERAGES, *MOVES) or _is_dropout(gm, user)
        readers += _readers(gm, user) if through else [user]
    return readers
