"""Which schedule a group gets on a CPU: the first rule that applies wins."""

from __future__ import annotations

from collections.abc import Callable

from torch.fx import GraphModule

from qcompile.codegen.groups import (
    BITPACK,
    CAT,
    CONTRACTIONS,
    ELEMENTWISE,
    POOLS,
    REDUCTIONS,
    SAMPLE_RANGE,
    SOFTMAXES,
    Group,
)
from qcompile.codegen.kernels import dynamic, elementwise, moves
from qcompile.codegen.kernels.contraction import contraction_of
from qcompile.codegen.kernels.reduction import reduction_of
from qcompile.codegen.kernels.window import is_depthwise, window_of
from qcompile.codegen.machine import Machine
from qcompile.codegen.schedules import (
    contraction,
    pointwise,
    pooled,
    reduction,
    sample_range,
    window,
)
from qcompile.codegen.schedules.tile import Choice, tile_of
from qcompile.codegen.writer import Kernel, Writer
from qcompile.errors import QCompileError
from qcompile.ir.graph import where

NODE_RULES = {**elementwise.RULES, **dynamic.RULES, **moves.RULES}


def _contraction(w: Writer, choice: Choice | None = None) -> Kernel | None:
    if w.group.anchor.target not in CONTRACTIONS:
        return None

    def write(w: Writer) -> None:
        c = contraction_of(w, w.machine, choice.method if choice else None)
        tile = choice.tile if choice else tile_of(c, w.machine, packs=w.group.packs)
        if w.group.pool is None:
            contraction.schedule(w, c, tile)
        else:
            pooled.schedule(w, c, tile, w.group.pool)

    return w.write(write)


def _window(w: Writer) -> Kernel | None:
    if w.group.anchor.target not in POOLS and not is_depthwise(w):
        return None
    return w.write(lambda w: window.schedule(w, window_of(w)))


def _gather(w: Writer) -> Kernel | None:
    if w.group.anchor.target not in REDUCTIONS:
        return None
    return w.write(lambda w: reduction.gather(w, reduction_of(w)))


def _sample_range(w: Writer) -> Kernel | None:
    if w.group.anchor.target is not SAMPLE_RANGE:
        return None
    return w.write(sample_range.schedule, flat=True)


def _softmax(w: Writer) -> Kernel | None:
    return w.write(reduction.softmax) if w.group.anchor.target in SOFTMAXES else None


def _cat(w: Writer) -> Kernel | None:
    return w.write(pointwise.cat) if w.group.anchor.target is CAT else None


def _flat(w: Writer) -> Kernel | None:
    if w.group.anchor.target not in ELEMENTWISE or not pointwise.is_flat(w):
        return None
    return w.write(pointwise.flat, flat=True)


def _by_pixel(w: Writer) -> Kernel | None:
    if w.group.anchor.target not in NODE_RULES and w.group.anchor.target is not BITPACK:
        return None
    return w.write(pointwise.by_pixel)


RULES: tuple[Callable[[Writer], Kernel | None], ...] = (
    _window,
    _contraction,
    _gather,
    _sample_range,
    _softmax,
    _cat,
    _flat,
    _by_pixel,
)


def kernel_of(
    gm: GraphModule,
    group: Group,
    machine: Machine,
    choice: Choice | None = None,
    *,
    timed: bool = False,
) -> Kernel:
    """Write a group's kernel.

    Args:
        choice: how a contraction is computed, one of `tuning.space.choices_of`; None: the default.
        timed: it counts the cycles of its parts (`laps`).

    Raises:
        QCompileError: no rule applies.
    """
    if choice is not None:
        kernel = _contraction(Writer(gm, group, machine, NODE_RULES, timed=timed), choice)
        assert kernel is not None, f"{group.anchor} has no choices"
        return kernel
    for rule in RULES:
        kernel = rule(Writer(gm, group, machine, NODE_RULES, timed=timed))
        if kernel is not None:
            return kernel
    raise QCompileError(
        f"no schedule for {group.anchor.target} on cpu:{machine.arch}", where=where(group.anchor)
    )
