"""Bytes that the kernels of a program read and write in a call of one sample."""

from __future__ import annotations

from torch.fx import GraphModule

from qcompile.codegen.built import KernelInfo
from qcompile.codegen.costs.choose import KernelChooser
from qcompile.codegen.costs.survey import survey
from qcompile.codegen.layout import layout_of
from qcompile.codegen.machine import machine_of
from qcompile.ir.target import Target
from qcompile.program import Program


def moved(lowered: GraphModule, program: Program) -> dict[str, int]:
    """By layer: values as they lie in memory, each read and written once, and weights.

    What a kernel reads beside that, thresholds for instance, is small, and left out.

    Args:
        lowered: what the program was compiled from.

    Raises:
        QCompileError: as of `survey`.
    """
    taken = {kernel.layer: kernel.kind for kernel in program.variant.kernels if kernel.macs}
    found: dict[str, int] = {}
    sizes = {
        node.name: layout_of(node).bytes
        for node in lowered.graph.nodes
        if node.op in ("placeholder", "call_function")
    }
    for expected in survey(lowered, processor(program), KernelChooser(taken)).kernels:
        kernel = expected.kernel
        found[kernel.layer] = found.get(kernel.layer, 0) + _bytes(kernel, sizes)
    return found


def _bytes(kernel: KernelInfo, sizes: dict[str, int]) -> int:
    read = sum(sizes[name] for name in kernel.inputs)
    written = sum(stored.size for stored in kernel.results)
    return read + written + (kernel.weights.form.nbytes if kernel.weights is not None else 0)


def processor(program: Program) -> Target:
    """The processor that the variant was compiled for that runs here."""
    every = Target.parse_all(program.info.target)
    variants = [one for target in every for one in target.variants() if not one.is_gpu]
    return next(one for one in variants if machine_of(one).arch == program.variant.arch)
