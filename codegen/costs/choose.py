"""How each contraction of a network is computed: as it was forced to be, or tuned, or by the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch.fx import GraphModule

from qcompile.codegen.build import Choose, by_default
from qcompile.codegen.costs.ranking import INT8, Pick, pick
from qcompile.codegen.groups import INTEGER_CONTRACTIONS, Group
from qcompile.codegen.kernels.contraction import contraction_of, methods_of
from qcompile.codegen.machine import Machine
from qcompile.codegen.schedules.cpu import NODE_RULES
from qcompile.codegen.schedules.tile import Choice, tile_of
from qcompile.codegen.tuning.space import is_tunable
from qcompile.codegen.writer import Writer

XNOR = "xnor-popcount"
FORCED = "forced"
_TABLES = "lookup"  # of signs; products of integers have a method of that name too
XNOR_TABLES = "xnor-lookup"
_ONLY_WAYS = ("float32", "weight-only")
# What a user may force: of packed signs, in any way or in one; and of everything.
SIGN_KERNELS = (
    XNOR,
    *("carry-save", "carry-save-bytes", XNOR_TABLES, "popcount", "count", "count-bytes"),
)
KERNELS = (XNOR, INT8, "lookup", "bit-planes", *_ONLY_WAYS, *SIGN_KERNELS[1:])


def offered(gm: GraphModule, group: Group, machine: Machine) -> tuple[str, ...]:
    """The names of the kernels that a group may be forced to, as a user spells them."""
    if not is_tunable(gm, group, machine):
        return (group.kind,)
    methods = methods_of(Writer(gm, group, machine, NODE_RULES), machine)
    named = tuple(method for method in methods if method is not None)
    if group.anchor.target in INTEGER_CONTRACTIONS:
        return named
    if group.anchor.target is torch.ops.qcompile.xnor_matmul.default:
        return (XNOR, *(XNOR_TABLES if method == _TABLES else method for method in named))
    return (group.kind,)


@dataclass(frozen=True)
class KernelChooser:
    """Chooses for the compiler: `KernelChooser(forced, tuned)(gm, group, machine)`.

    Attributes:
        forced: names of kernels, as in `offered`, by layer; where a machine lacks one, the model
            chooses there.
        tuned: what was measured.
    """

    forced: Mapping[str, str] = field(default_factory=dict)
    tuned: Choose = by_default

    def __call__(self, gm: GraphModule, group: Group, machine: Machine) -> Choice | None:
        """The method and the tile of a contraction; None where there is nothing to choose."""
        if not is_tunable(gm, group, machine):
            return None
        forced = self.forced.get(layer_of(group))
        tuned = self.tuned(gm, group, machine)
        if forced in offered(gm, group, machine) and forced not in (XNOR, *_ONLY_WAYS):
            method = _TABLES if forced == XNOR_TABLES else forced
            if tuned is not None and tuned.method == method:
                return tuned
            return _choice(gm, group, machine, Pick(method, FORCED))
        return tuned or _choice(gm, group, machine, pick(gm, group, machine))


def layer_of(group: Group) -> str:
    """The user's layer that a group computes."""
    return str(group.anchor.meta.get("layer") or group.anchor.name)


def _choice(gm: GraphModule, group: Group, machine: Machine, taken: Pick) -> Choice | None:
    if taken.method is None or not taken.why:
        return None
    c = contraction_of(Writer(gm, group, machine, NODE_RULES), machine, taken.method)
    return Choice(taken.method, tile_of(c, machine, packs=group.packs), taken.why)
