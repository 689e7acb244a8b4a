"""Calibrate: let a prepared model see real inputs, without training it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from qcompile.errors import QCompileError
from qcompile.ir.graph import TensorSpec, stage_of
from qcompile.ir.stages import Stage
from qcompile.passes.correct_bias import shift_means
from qcompile.quant.activations import AffineActivation, GridActivation
from qcompile.quant.batchnorm import BatchNorm
from qcompile.quant.training import quant_layers

NAMED = 4  # layers that a note names; of more it says how many
_HINT = "a batch is a tensor, or a tuple of which the first are the model's inputs"


def needs_calibration(prepared: GraphModule) -> bool:
    """Whether what it sees decides anything: ranges, learned steps, new BatchNorms, biases."""
    grids = any(isinstance(module, GridActivation) for module in prepared.modules())
    return grids or _measures_more(prepared)


def _measures_more(prepared: GraphModule) -> bool:
    """Whether anything but the ranges of activations follows from what it sees."""
    return any(prepared.meta.get(key) for key in ("fresh_norms", "correct_bias"))


def _affine(prepared: GraphModule) -> dict[str, AffineActivation]:
    """The affine activations, by layer."""
    activations = {path: layer.activation for path, layer in quant_layers(prepared).items()}
    return {path: a for path, a in activations.items() if isinstance(a, AffineActivation)}


def _unseen(prepared: GraphModule) -> dict[str, AffineActivation]:
    """Those of which no range was observed."""
    return {path: a for path, a in _affine(prepared).items() if not a.observer.seen}


def knows_ranges(prepared: GraphModule) -> bool:
    """Whether another tool's observers saw what ours did not see yet, so that nothing is a guess."""
    known, unseen = prepared.meta.get("ranges", {}), _unseen(prepared)
    return bool(unseen) and unseen.keys() <= known.keys() and not _measures_more(prepared)


def take_ranges(prepared: GraphModule) -> None:
    """Where no observer of ours saw anything, take what another tool's saw, if one did."""
    for path, activation in _unseen(prepared).items():
        if known := prepared.meta.get("ranges", {}).get(path):
            activation.observer.eval()(torch.tensor(known))  # as if it had seen both ends


def constant_note(prepared: GraphModule) -> str | None:
    """What the user should know where observers saw one number and no other; None if none did.

    A range of no width is widened to hold 0, and that of 0 alone gets the scale 1: such a layer
    computes, but what it is to distinguish it has not seen.
    """
    found = [path for path, activation in _affine(prepared).items() if _flat(activation)]
    if not found:
        return None
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return (
        f"calibration saw one number only, everywhere, in front of {', '.join(found[:NAMED])}{more}: "
        "their range is a guess. Calibrate on real inputs, which differ."
    )


def _flat(activation: AffineActivation) -> bool:
    observer = activation.observer
    return bool(observer.seen) and torch.equal(observer.low, observer.high)


def calibrate(prepared: GraphModule, batches: Iterable[Any]) -> int:
    """Give observers their ranges, and BatchNorms that prepare put in their statistics.

    Then biases are corrected, if the recipe says so: once, the first time.

    Args:
        prepared: changed in place, and left in eval mode. BatchNorms of the user's model keep the
            statistics that they have.
        batches: each an input, or a tuple or list that begins with the model's inputs; what follows
            them, labels for instance, is not looked at.

    Returns:
        How many samples were seen.

    Raises:
        QCompileError: it is not prepared; no batch, or one that is not what the model takes.
    """
    if not isinstance(prepared, GraphModule) or stage_of(prepared) is not Stage.PREPARED:
        raise QCompileError(
            "calibrate takes a prepared model",
            hint="make one with qcompile.prepare(model, example_inputs, recipe)",
        )
    specs: tuple[TensorSpec, ...] = prepared.meta["inputs"]
    checked = list(inputs_of_each(batches, specs))
    if not checked:
        raise QCompileError("there is no calibration batch", hint=_HINT)
    prepared.eval()
    with torch.no_grad():
        _estimate_norms(prepared, checked)
        for inputs in checked:
            prepared(*inputs)
    if prepared.meta.get("correct_bias"):
        shift_means(prepared, checked)
    return sum(inputs[0].shape[0] for inputs in checked)


def _estimate_norms(prepared: GraphModule, batches: Sequence[tuple[Tensor, ...]]) -> None:
    """Average the batches' statistics, on a copy: no observer shall see what is not final."""
    paths = prepared.meta.get("fresh_norms", ())
    if not paths:
        return
    twin = copy.deepcopy(prepared)
    norms = {path: twin.get_submodule(path) for path in paths}
    for norm in norms.values():
        assert isinstance(norm, BatchNorm)
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of all batches
        norm.train()
    for inputs in batches:
        twin(*inputs)
    for path, norm in norms.items():
        prepared.get_submodule(path).load_state_dict(norm.state_dict())


def inputs_of_each(
    batches: Iterable[Any], specs: Sequence[TensorSpec]
) -> Iterator[tuple[Tensor, ...]]:
    """The batches' inputs, checked one by one.

    Raises:
        QCompileError: they are no batches, or one is not what the model takes.
    """
    try:
        numbered = enumerate(batches)
    except TypeError as error:
        raise QCompileError(f"the calibration data is {batches!r}", hint=_HINT) from error
    for number, batch in numbered:
        yield inputs_of(batch, specs, number)


def inputs_of(batch: Any, specs: Sequence[TensorSpec], number: int) -> tuple[Tensor, ...]:
    """A batch's inputs, checked.

    Raises:
        QCompileError: they are no tensors, or of another shape or dtype, or hold NaN or infinity.
    """
    where = f"calibration batch {number}"
    values = batch if isinstance(batch, (tuple, list)) else (batch,)
    inputs = tuple(values[: len(specs)])
    if len(inputs) < len(specs):
        raise QCompileError(
            f"it has {len(inputs)} inputs, the model takes {len(specs)}", where=where, hint=_HINT
        )
    for x, spec in zip(inputs, specs, strict=True):
        if not isinstance(x, Tensor):
            raise QCompileError(f"{type(x).__name__} is no tensor", where=where, hint=_HINT)
        sizes = tuple(x.shape)
        if sizes[1:] != spec.shape[1:] or len(sizes) != len(spec.shape) or x.dtype != spec.dtype:
            wanted = TensorSpec(("N", *spec.shape[1:]), spec.dtype)  # type: ignore[arg-type]
            given = TensorSpec(sizes, x.dtype)
            raise QCompileError(f"an input is {given}, the model takes {wanted}", where=where)
        if sizes[0] == 0:
            raise QCompileError("it is empty", where=where)
        if not x.isfinite().all():
            raise QCompileError("an input holds NaN or infinity", where=where)
    return inputs
