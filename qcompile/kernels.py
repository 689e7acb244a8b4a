"""Which kernel computes which layer: what the user forces, and what the cost model takes elsewhere.

    --kernel int8                 every layer that can be computed with products of bytes
    --kernel 'layer1.*=lookup'    these layers; a path, a glob, or a class such as Linear

A layer of one-bit levels and weights is lowered to words or left as bytes first, once for all processors
of a target; how each contraction is computed is chosen afterwards, for each processor by itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain

from torch.fx import GraphModule, Node

from qcompile import pipelines
from qcompile.codegen.build import Choose, by_default
from qcompile.codegen.costs.choose import (
    FORCED,
    KERNELS,
    SIGN_KERNELS,
    KernelChooser,
    layer_of,
    offered,
)
from qcompile.codegen.costs.layers import LayerShape
from qcompile.codegen.costs.words import Comparison, compare, methods_in_bytes, shape_of
from qcompile.codegen.fusion import form
from qcompile.codegen.groups import CONTRACTIONS
from qcompile.codegen.machine import Machine, machine_of
from qcompile.errors import QCompileError
from qcompile.ir.plan import LayerPlan
from qcompile.ir.target import Target, Targets, described, processors
from qcompile.passes.base import AfterEach
from qcompile.quant.overrides import which_layers

_ALIKE = 1.05  # ratio of times that is not worth a number
FOR_GPUS = "packed for the GPU"
_NAMED = 4  # layers that a hint names; of more it says how many
Kernels = str | Sequence[str] | Mapping[str, str] | None


@dataclass(frozen=True)
class Wanted:
    """A kernel that is forced on a layer.

    Attributes:
        kernel: its name.
        pattern: the user's, that matched the layer; "" for a kernel that was named without one, which
            only counts where a layer can have it.
    """

    kernel: str
    pattern: str = ""


def wanted(kernels: Kernels, plans: Mapping[str, LayerPlan]) -> dict[str, Wanted]:
    """What is forced on which layer, the last word on each.

    Args:
        kernels: a name; or "PATTERN=NAME", several of them; or names by pattern.

    Raises:
        QCompileError: a name that no kernel has, or a pattern that no layer matches.
    """
    found: dict[str, Wanted] = {}
    for pattern, kernel in _pairs(kernels):
        if kernel not in KERNELS:
            near = difflib.get_close_matches(kernel, KERNELS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KERNELS)}"
            raise QCompileError(f"no kernel is called {kernel!r}", hint=hint)
        layers = [name for name, plan in plans.items() if _matches(pattern, plan)]
        if not layers:
            raise QCompileError(
                f"no layer is called {pattern!r}, and kernel {kernel!r} was for it",
                hint=which_layers(pattern, list(plans)),
            )
        found |= dict.fromkeys(layers, Wanted(kernel, pattern))
    return found


def _pairs(kernels: Kernels) -> list[tuple[str, str]]:
    """Patterns, "" for all layers, and names of kernels.

    Raises:
        QCompileError: what was given is nothing of that kind.
    """
    if kernels is None:
        return []
    if isinstance(kernels, str) or not isinstance(kernels, (Mapping, Sequence)):
        kernels = [kernels]
    found = []
    for one in kernels.items() if isinstance(kernels, Mapping) else kernels:
        pair = one.rpartition("=")[::2] if isinstance(one, str) else one
        texts = isinstance(pair, tuple) and all(isinstance(text, str) for text in pair)
        empty = isinstance(one, str) and "=" in one and not pair[0]
        if not texts or not pair[1] or empty:
            raise QCompileError(
                f"{one!r} names no kernel",
                hint='as in kernel="int8", or kernel={"layer1.*": "lookup"}',
            )
        found.append((str(pair[0]), str(pair[1])))
    return found


def _matches(pattern: str, plan: LayerPlan) -> bool:
    return pattern in ("", plan.kind, plan.layer) or fnmatchcase(plan.layer, pattern)


def lower(
    converted: GraphModule,
    target: Targets,
    kernels: Kernels = None,
    after_each: AfterEach | None = None,
) -> tuple[Selection, GraphModule]:
    """The graph that is compiled for all of some targets, and what decides how.

    Raises:
        QCompileError: a kernel is forced that there is not, or on a layer that cannot have it.
    """
    selection = Selection(
        Target.parse_all(target), wanted(kernels, converted.meta.get("plans", {}))
    )
    lowered = pipelines.lower(converted, after_each, selection.stays)
    lowered.meta["whys"] = selection.whys
    selection.check(lowered)
    return selection, lowered


@dataclass
class Selection:
    """All that decides which kernels a network gets.

    Kernels are chosen and forced for processors. A GPU has one for each layer, and its signs are always
    packed: one lowered graph serves all targets.

    Attributes:
        forced: by layer.
        whys: filled in while the graph is lowered: why a layer is packed.
    """

    targets: tuple[Target, ...]
    forced: Mapping[str, Wanted] = field(default_factory=dict)
    whys: dict[str, str] = field(default_factory=dict)
    _known: dict[str, str] = field(default_factory=dict)
    _compared: dict[LayerShape, Comparison | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._machines = tuple(machine_of(one) for one in processors(self.targets))
        if self.forced and not self._machines:
            raise QCompileError(
                "kernels are forced on processors, and this program is for GPUs alone",
                hint="leave --kernel (kernel=) out: a GPU has one kernel for each layer",
            )

    def stays(self, node: Node) -> str:
        """Why a convolution or matrix product of one-bit factors is not packed; "" where it is."""
        layer = str(node.meta.get("layer") or node.name)
        if layer not in self._known:
            self._known[layer] = self._reason(node, layer)
        return self._known[layer]

    def _reason(self, node: Node, layer: str) -> str:
        shape = shape_of(node)
        forced = self.forced.get(layer)
        if forced is not None and forced.kernel in SIGN_KERNELS:
            self.whys[layer] = FORCED
            return ""
        if forced is not None and any(
            forced.kernel in methods_in_bytes(shape, machine) for machine in self._machines
        ):
            return f"stays in bytes: {forced.kernel} was asked for"
        if shape not in self._compared:
            self._compared[shape] = compare(shape, self._machines)
        found = self._compared[shape]
        if found is None:
            return ""
        if found.pays:
            self.whys[layer] = f"{1 / found.int8:.1f} times as fast as int8"
            return ""
        if any(target.is_gpu for target in self.targets):
            self.whys[layer] = FOR_GPUS
            return ""
        return _reason(shape.channels // shape.groups, found)

    def check(self, lowered: GraphModule) -> None:
        """See that layers can have the kernels that are forced on them.

        Raises:
            QCompileError: one cannot; or a kernel was named for all layers, and none can have it.
        """
        groups = {layer_of(g): g for g in form(lowered) if g.anchor.target in CONTRACTIONS}
        lenient: dict[str, bool] = {}
        possible: dict[str, str] = {}
        for layer, want in self.forced.items():
            if layer not in groups:  # nobody needs its result
                continue
            names = [offered(lowered, groups[layer], machine) for machine in self._machines]
            here = [want.kernel in some for some in names]
            if not want.pattern:
                lenient[want.kernel] = lenient.get(want.kernel, False) or any(here)
                possible[layer] = ", ".join(dict.fromkeys(chain.from_iterable(names)))
            elif not all(here):
                at = here.index(False)
                raise self._refusal(layer, want, names[at], self._machines[at])
        for kernel, somewhere in lenient.items():
            if not somewhere:
                raise QCompileError(
                    f"no layer can be computed by {kernel!r} on {described(self.targets)}",
                    hint=_what_can(possible),
                )

    def _refusal(
        self, layer: str, want: Wanted, names: Sequence[str], machine: Machine
    ) -> QCompileError:
        on = f" on cpu:{machine.arch}" if len(self._machines) > 1 else ""
        return QCompileError(
            f"it cannot be computed by {want.kernel!r}{on}",
            where=layer,
            hint=f"it can be by {', '.join(names)}",
        )

    def choose(self, tuned: Choose = by_default) -> KernelChooser:
        """For the compiler: how each contraction is computed."""
        return KernelChooser({layer: want.kernel for layer, want in self.forced.items()}, tuned)


def _what_can(possible: Mapping[str, str]) -> str:
    """Layers with the names of the kernels that they can have, as a hint."""
    found: dict[str, list[str]] = {}
    for layer, names in possible.items():
        found.setdefault(names, []).append(layer)
    return "; ".join(
        f"{', '.join(layers[:_NAMED])}{', ...' * (len(layers) > _NAMED)} can be by {names}"
        for names, layers in found.items()
    )


def _reason(channels: int, found: Comparison) -> str:
    of = f"XNOR on {channels} channel{'s' * (channels > 1)}"
    if found.best < _ALIKE:
        return f"stays {found.method}: {of} would not surely be faster"
    return f"stays {found.method}: {of} would take {found.best:.1f} times as long"
