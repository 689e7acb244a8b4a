"""What there is to tune: the distinct contractions of a network, and the ways to compute each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from qcompile.codegen.costs.ranking import ordered
from qcompile.codegen.fusion import form
from qcompile.codegen.groups import CONTRACTIONS, Group, arguments
from qcompile.codegen.kernels.contraction import contraction_of
from qcompile.codegen.kernels.window import is_depthwise
from qcompile.codegen.layout import Layout, layout_of
from qcompile.codegen.machine import Machine
from qcompile.codegen.schedules.cpu import NODE_RULES
from qcompile.codegen.schedules.tile import Choice, candidates
from qcompile.codegen.writer import Writer
from qcompile.ir.graph import constant_of


@dataclass(frozen=True)
class Workload:
    """Kernels of one shape.

    Attributes:
        text: what they compute, a line each for inputs, nodes and result: the same for the same code.
        group: one of them.
        choices: the ways to compute it; the first is the default.
        layers: the user's layers that run it, one for each call.
        work: products of all calls for one sample, to tell large kernels from small ones.
    """

    text: tuple[str, ...]
    group: Group
    choices: tuple[Choice, ...]
    layers: tuple[str, ...]
    work: int


def workloads(gm: GraphModule, machine: Machine) -> tuple[Workload, ...]:
    """The distinct contractions of a lowered graph, in the order of their first calls.

    Raises:
        QCompileError: an op or a shape has no kernel.
    """
    found: dict[tuple[str, ...], list[Group]] = {}
    for group in form(gm):
        if is_tunable(gm, group, machine):
            found.setdefault(describe(gm, group), []).append(group)
    return tuple(
        Workload(
            text,
            groups[0],
            choices_of(gm, groups[0], machine),
            tuple(str(g.anchor.meta.get("layer") or g.anchor.name) for g in groups),
            len(groups) * _products(gm, groups[0], machine),
        )
        for text, groups in found.items()
    )


def is_tunable(gm: GraphModule, group: Group, machine: Machine) -> bool:
    """Whether the group is a contraction that is computed in tiles."""
    if group.anchor.target not in CONTRACTIONS:
        return False
    return not is_depthwise(Writer(gm, group, machine, NODE_RULES))


def choices_of(gm: GraphModule, group: Group, machine: Machine) -> tuple[Choice, ...]:
    """All ways to compute a contraction, the default first, then the likeliest of each method."""
    w = Writer(gm, group, machine, NODE_RULES)
    columns = []
    for method in ordered(gm, group, machine):
        c = contraction_of(w, machine, method)
        tiles = candidates(c, machine, packs=group.packs)
        columns.append([Choice(method, tile) for tile in tiles])
    rows = itertools.zip_longest(*columns)
    return tuple(choice for row in rows for choice in row if choice is not None)


def _products(gm: GraphModule, group: Group, machine: Machine) -> int:
    c = contraction_of(Writer(gm, group, machine, NODE_RULES), machine)
    return c.steps * c.groups * c.weight.shape[1] * math.prod(c.outputs)


# --- a kernel in words ---------------------------------------------------------------------------


def describe(gm: GraphModule, group: Group) -> tuple[str, ...]:
    """What a group computes, without names, values of constants, or the numbers that are data.

    Groups with the same description have the same code.
    """
    names = {node: f"x{i}" for i, node in enumerate(group.inputs)}
    lines = [f"{name} = {_memory(layout_of(node))}" for node, name in names.items()]
    for i, node in enumerate(group.nodes):
        operands = ", ".join(_text(gm, value, names) for value in arguments(node))
        names[node] = f"y{i}"
        lines.append(f"y{i} = {str(node.target).removesuffix('.default')}({operands})")
    lines += [f"return {names[node]}: {_memory(layout_of(node))}" for node in group.results]
    return tuple(lines)


def _memory(layout: Layout) -> str:
    order = "channels first" if layout.torch_order else "channels last"
    words = ", packed" if layout.packed else ""
    return f"{layout.dtype}[{', '.join(map(str, layout.shape))}], {order}{words}"


def _text(gm: GraphModule, value: Any, names: dict[Node, str]) -> str:
    if isinstance(value, Node):
        constant = constant_of(gm, value)
        if constant is None:
            return names[value]
        kind = str(constant.dtype).removeprefix("torch.")
        return f"{kind}[{', '.join(map(str, constant.shape))}]"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_text(gm, v, names) for v in value)}]"
    return "float" if isinstance(value, float) else str(value)


# --- what was found ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chooser:
    """Looks up how a contraction is computed: `Chooser(known)(gm, group, machine)`.

    Attributes:
        known: a choice for `(processor, description)`, where one is known.
    """

    known: Mapping[tuple[str, tuple[str, ...]], Choice]

    def __call__(self, gm: GraphModule, group: Group, machine: Machine) -> Choice | None:
        """A choice that is not the default, or None; what does not fit the kernel is not taken."""
        if not self.known or not is_tunable(gm, group, machine):
            return None
        choice = self.known.get((processor(machine), describe(gm, group)))
        if choice is None or choice not in choices_of(gm, group, machine)[1:]:
            return None
        return choice


def processor(machine: Machine) -> str:
    """All that code depends on, in words: the name, and the instructions in use."""
    return " ".join([machine.arch, *machine.features])
