"""Which schedule a group gets on a GPU: the first rule that applies wins."""

from __future__ import annotations

from collections.abc import Callable

from torch.fx import GraphModule

from qcompile.codegen.cuda.direct import direct
from qcompile.codegen.cuda.moves import cat
from qcompile.codegen.cuda.pointwise import pointwise
from qcompile.codegen.cuda.reduction import reduction
from qcompile.codegen.cuda.sample_range import sample_range
from qcompile.codegen.cuda.softmax import softmax
from qcompile.codegen.cuda.tensor_cores import tensor_cores
from qcompile.codegen.cuda.window import window
from qcompile.codegen.cuda.writer import CudaKernel, CudaWriter
from qcompile.codegen.groups import BITPACK, Group
from qcompile.codegen.machine import Machine
from qcompile.codegen.schedules.cpu import NODE_RULES
from qcompile.errors import QCompileError
from qcompile.ir.graph import where


def _pointwise(w: CudaWriter) -> CudaKernel | None:
    applies = w.group.anchor.target in NODE_RULES or w.group.anchor.target is BITPACK
    return pointwise(w) if applies else None


RULES: tuple[Callable[[CudaWriter], CudaKernel | None], ...] = (
    window,
    tensor_cores,
    direct,
    reduction,
    sample_range,
    softmax,
    cat,
    _pointwise,
)


def kernel_of(gm: GraphModule, group: Group, machine: Machine) -> CudaKernel:
    """Write a group's kernel.

    Raises:
        QCompileError: no rule applies.
    """
    for rule in RULES:
        kernel = rule(CudaWriter(gm, group, machine, NODE_RULES))
        if kernel is not None:
            return kernel
    raise QCompileError(
        f"no schedule for {group.anchor.target} on {machine.arch}", where=where(group.anchor)
    )
