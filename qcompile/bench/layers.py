"""Layers of a network before and after: what each takes, moves and weighs, what reaches it, what it loses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qcompile import api
from qcompile.bench.before import eager, owners
from qcompile.bench.built import Built, Made
from qcompile.bench.ranges import Seen, observe
from qcompile.bench.results import Layer, Parts
from qcompile.bench.traffic import moved
from qcompile.explanation import Reasons, lines_of
from qcompile.ir.graph import module_of
from qcompile.program import Program
from qcompile.program_info import KernelInfo, LayerInfo
from qcompile.rivals.pytorch import in_best_layout

CALL = "(call)"  # path of the last row: what a call takes beside its layers
SECONDS = 2.0
_NEAR = 0.1  # share of a call by which its parts may be more than the whole
_ZERO = Parts()


def layers(
    built: Built, *, seconds: float = SECONDS, phases: Sequence[Parts] | None = None
) -> tuple[Layer, ...]:
    """A program's layers in the order in which they run, and at last what a call takes beside them.

    Times are of a sample, on one thread. What PyTorch computes counts for the layer whose kernel computes
    it in the program, or what became of it, so that the two times of a layer compare.

    Args:
        built: of a program alone, what is known of its kernels is all that there is.
        seconds: to time the program, and as much the float network.
        phases: shares of packing, products and epilogue in each kernel, in their order; None counts
            kernels of products as products alone.

    Raises:
        QCompileError: the program runs on a GPU, whose kernels are not timed one by one.
    """
    program, made = built.program, built.made
    sample = sample_of(built)
    found = _compiled(program, sample, phases, seconds)
    if made is None:
        return found
    return _with_model(found, made, program, sample, seconds)


def sample_of(built: Built) -> tuple[Tensor, ...]:
    """One to run the program on: of the calibration data, or random where there is none."""
    if built.made is not None:
        return tuple(x[:1].contiguous() for x in built.made.calibration[0])
    random = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, *v.shape, generator=random) for v in built.program.info.inputs)


# --- what is known of a program alone ------------------------------------------------------------


def _compiled(
    program: Program, sample: Sequence[Tensor], phases: Sequence[Parts] | None, seconds: float
) -> tuple[Layer, ...]:
    """Its layers, and the call."""
    kernels = program.variant.kernels
    profile = program.profile(*sample, seconds=seconds)
    seconds_of = [kernel.seconds.median for kernel in profile.kernels]
    shares = phases or [Parts(matmul=1.0)] * len(kernels)
    spent: dict[str, Parts] = {}
    for kernel, share, taken in zip(kernels, shares, seconds_of[: len(kernels)], strict=True):
        parts = share if kernel.macs else _whole(kernel, kernels)
        spent[kernel.layer] = plus(spent.get(kernel.layer, _ZERO), times(parts, taken))
    inside = sum(seconds_of[: len(kernels)])
    what = "the program's kernels and calling them"
    notes = [
        _adds_up(what, profile.explained, profile.call.median, profile.rounds),
        _inside(phases),
    ]
    found = [replace(row, after=spent.get(row.path)) for row in _rows(program)]
    rest = Parts(other=max(0.0, profile.call.median - inside))
    return *found, Layer(CALL, after=rest, note="; ".join(notes))


def _inside(phases: Sequence[Parts] | None) -> str:
    """How the parts of kernels are known."""
    if phases is None:
        return "packing and epilogues inside of kernels of products count as products"
    return (
        "the parts of kernels are shares of the cycles that other code of theirs counts, which blurs "
        "their borders"
    )


def _rows(program: Program) -> list[Layer]:
    """What kernels stand for, in their order; at last layers that none computes."""
    kernels = program.variant.kernels
    known = {layer.layer: layer for layer in program.info.layers}
    paths = dict.fromkeys([*(kernel.layer for kernel in kernels), *known])
    return [_row(path, known.get(path), kernels) for path in paths]


def _row(path: str, known: LayerInfo | None, kernels: Sequence[KernelInfo]) -> Layer:
    products = [kernel for kernel in kernels if kernel.layer == path and kernel.macs]
    row = Layer(
        path,
        method=_method(max(products, key=lambda kernel: kernel.macs)) if products else "",
        macs=sum(kernel.macs for kernel in products),
    )
    if known is None:
        return row
    return replace(
        row,
        kind=known.kind,
        bits=(known.weight_bits, known.activation_bits),
        weights_before=known.bytes_before,
        weights_after=known.bytes_after,
        note="; ".join(filter(None, (known.reason, _why(known)))),
    )


def _why(known: LayerInfo) -> str:
    return known.why and f"{known.kernel}: {known.why}"


def _method(kernel: KernelInfo) -> str:
    """The kind of its arithmetic, then how it is done, but for the sizes of its tile."""
    words = (word for word in kernel.method.split() if not word[0].isdigit())
    return " ".join(dict.fromkeys((kernel.kind, *words)))


def _whole(kernel: KernelInfo, kernels: Sequence[KernelInfo]) -> Parts:
    """What a kernel that is no product counts as: before its layer's product, packing."""
    own = [other for other in kernels if other.layer == kernel.layer]
    after = own[own.index(kernel) + 1 :]
    if kernel.kind in ("pack", "range") or any(other.macs for other in after):
        return Parts(pack=1.0)
    if kernel.kind in ("pool", "elementwise"):
        return Parts(epilogue=1.0)
    return Parts(other=1.0)


def _adds_up(what: str, parts: float, whole: float, rounds: int) -> str:
    """How near the parts of a call come to it."""
    share = parts / whole if whole else math.nan
    off = "; measure longer, or when nothing else runs" if share > 1 + _NEAR else ""
    return f"{what} add up to {share:.0%} of a call (medians of {rounds:,} rounds){off}"


# --- what is known with the model ----------------------------------------------------------------


def _with_model(
    found: Sequence[Layer],
    made: Made,
    program: Program,
    sample: tuple[Tensor, ...],
    seconds: float,
) -> tuple[Layer, ...]:
    """The same layers, with what the float network and the stages tell of them."""
    network, inputs = in_best_layout(made.file.model, sample)
    traced = api.traced(network, inputs)
    before, how = _before(found, network, traced, made, program, inputs, seconds)
    traffic = moved(made, program.variant.arch)
    seen = observe(made.prepared, made.calibration)
    lines = lines_of(made.lowered) | lines_of(traced)
    kinds = {str(node.meta["layer"]): _class(traced, node) for node in traced.graph.nodes}
    declined = made.lowered.meta.get("declined", {})
    reasons = Reasons(made.recipe, made.prepared.meta["plans"], declined)
    *rows, call = (replace(row, before=before.get(row.path, _ZERO)) for row in found)
    told = [
        replace(
            row,
            kind=row.kind or kinds.get(row.path, ""),
            where=lines.get(row.path, ""),
            moved=traffic.get(row.path, 0),
            activations=seen.ranges.get(row.path),
            sqnr_db=seen.sqnr_db.get(row.path),
            note=_noted(row.note, [reason.what for reason in reasons.of(row.path)]),
        )
        for row in rows
    ]
    notes = (call.note, how, *_unseen(seen))
    return *told, replace(call, note="; ".join(notes))


def _noted(note: str, reasons: Sequence[str]) -> str:
    """What the program says, and what it leaves out."""
    return "; ".join(filter(None, (*(r for r in reasons if r not in note), note)))


def _class(traced: GraphModule, node: Node) -> str:
    module = module_of(traced, node)
    return "" if module is None else type(module).__name__


def _unseen(seen: Seen) -> list[str]:
    if seen.samples == seen.of:
        return []
    return [f"ranges are those of the first {seen.samples:,} of {seen.of:,} calibration samples"]


def _before(
    found: Sequence[Layer],
    network: nn.Module,
    traced: GraphModule,
    made: Made,
    program: Program,
    sample: tuple[Tensor, ...],
    seconds: float,
) -> tuple[dict[str, Parts], str]:
    """What the float network takes, by layer, and how near the sum comes to a call."""
    kernels = program.variant.kernels
    measured = eager(network, traced, sample, seconds)
    paths = {row.path for row in found}
    of = owners(traced.graph, made.lowered.graph, kernels, paths)
    spent: dict[str, Parts] = {}
    for node, taken in measured.nodes.items():
        path = of[node] or CALL
        whole = _counts_as(node, path, found, kernels)
        spent[path] = plus(spent.get(path, _ZERO), times(whole, taken))
    inside = sum(measured.nodes.values())
    rest = Parts(other=max(0.0, measured.call - inside))
    spent[CALL] = plus(spent.get(CALL, _ZERO), rest)
    return spent, _adds_up("PyTorch's operations", inside, measured.call, measured.rounds)


def _counts_as(
    node: Node, path: str, found: Sequence[Layer], kernels: Sequence[KernelInfo]
) -> Parts:
    """What an operation of the float network is in its layer."""
    row = next(row for row in found if row.path == path)
    if row.bits is not None or row.macs:
        own = node.meta["layer"] == path
        return Parts(matmul=1.0) if own else Parts(epilogue=1.0)
    kernel = next((kernel for kernel in kernels if kernel.layer == path), None)
    return Parts(other=1.0) if kernel is None else _whole(kernel, kernels)


def plus(a: Parts, b: Parts) -> Parts:
    """The sum, part by part."""
    return Parts(a.pack + b.pack, a.matmul + b.matmul, a.epilogue + b.epilogue, a.other + b.other)


def times(parts: Parts, factor: float) -> Parts:
    """Each part times a factor."""
    return Parts(
        parts.pack * factor, parts.matmul * factor, parts.epilogue * factor, parts.other * factor
    )
