"""What a network would be compiled to, layer by layer, and why. Nothing is trained, nothing compiled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from qcompile import api, kernels
from qcompile.building import layers_of
from qcompile.calibration import calibrate, knows_ranges, needs_calibration
from qcompile.codegen.costs.survey import Expected, survey
from qcompile.explanation_hints import hint
from qcompile.ir.graph import where
from qcompile.ir.plan import FLOAT_BITS, LayerPlan
from qcompile.ir.target import Target, Targets, described
from qcompile.kernels import Kernels
from qcompile.program_info import LayerInfo
from qcompile.quant.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import RenderableType

_LINE = re.compile(r" \((.*:\d+)\)$")  # as `where` ends
_NO_TIMES = (
    "There are no times: a GPU's have no model. Of a compiled program, qcompile inspect --target cuda "
    "says how fast its kernels can be at most."
)


@dataclass(frozen=True)
class Note:
    """Why something is not as it was asked to be.

    Attributes:
        what: the reason.
        change: what would change it, or "".
    """

    what: str
    change: str = ""


@dataclass(frozen=True)
class Item:
    """A layer of the user's, or another module or operation that gets a kernel.

    Attributes:
        path: of the module, or the name of the operation.
        kinds: of its kernels, in the order in which they run.
        layer: what becomes of its weights; None if it has none.
        method: how its product is computed, or "".
        where: the user's source line, "file:line", or "".
        seconds: of a sample, on one thread, about; None where nothing can be said.
        measured: whether that follows from measured costs alone.
        macs: multiply-accumulates of a sample.
        notes: why it is not at the bits that were asked for, or not as fast as it could be.
    """

    path: str
    kinds: tuple[str, ...]
    layer: LayerInfo | None = None
    method: str = ""
    where: str = ""
    seconds: float | None = None
    measured: bool = False
    macs: int = 0
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """A network's.

    Attributes:
        model: its name.
        bits: that were asked for, weights and activations; 32 is float.
        mode: of the recipe.
        target: as the user wrote it; arch: the first variant of it, which is explained.
        items: in the order in which they run.
        basis: what times follow from, or why there are none.
        notes: what else the user should know.
    """

    model: str
    bits: tuple[int, int]
    mode: str
    target: str
    arch: str
    items: tuple[Item, ...]
    basis: str
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """Of a sample, on one thread, about; None where nothing can be said."""
        known = [item.seconds for item in self.items if item.seconds is not None]
        return sum(known) if known else None

    def share(self, item: Item) -> float | None:
        """The share of the time that an item is expected to take."""
        return item.seconds / self.seconds if item.seconds is not None and self.seconds else None

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """Those that have weights."""
        return tuple(item.layer for item in self.items if item.layer is not None)

    def __rich__(self) -> RenderableType:
        from qcompile.explanation_report import tree

        return tree(self)


def explain(
    model: nn.Module | ExportedProgram,
    example_inputs: Tensor | Sequence[Tensor],
    recipe: Recipe,
    *,
    target: Targets = "cpu",
    kernel: Kernels = None,
    name: str = "model",
) -> Explanation:
    """Say what `compile` would make of a network that was trained as the recipe says.

    What decides is the network, the recipe and the target, not what the weights are trained to. Where
    ranges are needed, those of the example inputs do.

    Args:
        target: of several, or of a portable one, the first is explained.
        kernel: as for `compile`.

    Raises:
        QCompileError: as of `prepare` and `compile`.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    targets = Target.parse_all(target)
    prepared = api.prepare(model, inputs, recipe)
    if needs_calibration(prepared) and not knows_ranges(prepared):
        # Two rows, without which BatchNorm has no variance.
        calibrate(prepared, [tuple(torch.cat([x, x]) for x in inputs)])
    converted = api.convert(prepared)
    selection, lowered = kernels.lower(converted, targets, kernel)
    one = targets[0].variants()[0]
    found = survey(lowered, one, selection.choose())
    layers = layers_of(lowered, converted, [expected.kernel for expected in found.kernels])
    plans: Mapping[str, LayerPlan] = prepared.meta["plans"]
    by_path: dict[str, list[Expected]] = {}
    for expected in found.kernels:
        by_path.setdefault(expected.kernel.layer, []).append(expected)
    declined: Mapping[str, str] = lowered.meta["declined"]
    lines = lines_of(lowered) | {path: plan.where for path, plan in plans.items()}
    reasons = Reasons(recipe, plans, declined)
    known = {layer.layer: layer for layer in layers}
    paths = dict.fromkeys([*by_path, *plans, *declined])
    items = tuple(
        _item(path, by_path.get(path, ()), known.get(path), lines.get(path, ""), reasons)
        for path in paths
    )
    basis = f"Times are estimates, nothing was run: {found.basis}." if found.basis else _NO_TIMES
    what = api.untrained(prepared)
    notes = (f"{what} have to be trained with their quantizers.",) if what else ()
    return Explanation(
        name,
        recipe.body_bits(),
        recipe.mode,
        described(targets),
        found.arch,
        items,
        basis,
        tuple(note[0].upper() + note[1:] for note in notes),
    )


def lines_of(gm: GraphModule) -> dict[str, str]:
    """The user's source lines, by layer."""
    found: dict[str, str] = {}
    for node in gm.graph.nodes:
        match = _LINE.search(where(node))
        if match is not None:
            found.setdefault(str(node.meta.get("layer") or node.name), match[1])
    return found


def _item(
    path: str,
    expected: Sequence[Expected],
    layer: LayerInfo | None,
    line: str,
    reasons: Reasons,
) -> Item:
    known = [one.seconds for one in expected if one.seconds is not None]
    return Item(
        path,
        tuple(one.kernel.kind for one in expected),
        layer,
        next((one.kernel.method for one in expected if one.kernel.method), ""),
        line,
        sum(known) if known else None,
        bool(expected) and all(one.measured for one in expected),
        sum(one.macs for one in expected),
        tuple(reasons.of(path)),
    )


@dataclass(frozen=True)
class Reasons:
    """Why layers are as they are.

    Attributes:
        declined: by passes: layer, or operation, to reason.
    """

    recipe: Recipe
    plans: Mapping[str, LayerPlan]
    declined: Mapping[str, str]

    def of(self, path: str) -> Iterator[Note]:
        """All that there are for a layer or operation."""
        plan = self.plans.get(path)
        reason, declined = plan.reason if plan else "", self.declined.get(path, "")
        for what in dict.fromkeys(filter(None, (reason, declined))):
            yield Note(what, hint(what, path))
        if plan is not None and not reason:
            yield from self._asked(plan)

    def _asked(self, plan: LayerPlan) -> Iterator[Note]:
        """A layer of more bits than the rest, or in float, because the user said so."""
        body = self.recipe.body_bits()
        bits = (plan.weight_bits, plan.activation_bits)
        if bits[0] == FLOAT_BITS == body[0]:
            yield Note("float was asked for", "--bits N quantizes it")
        elif any(b > asked for b, asked in zip(bits, body, strict=True)):
            yield Note("an override says so", "another --override, or none")
