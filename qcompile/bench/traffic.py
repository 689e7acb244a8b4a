"""Bytes that the kernels of a program read and write in a call of one sample."""

from __future__ import annotations

from qcompile.bench.built import Made
from qcompile.codegen.built import KernelInfo
from qcompile.codegen.costs.survey import survey
from qcompile.codegen.layout import layout_of
from qcompile.codegen.machine import machine_of
from qcompile.errors import QCompileError
from qcompile.ir.target import Target


def moved(made: Made, arch: str) -> dict[str, int]:
    """By layer: values as they lie in memory, each read and written once, and weights.

    What a kernel reads beside that, thresholds for instance, is small, and left out.

    Args:
        arch: of the variant that is asked about.

    Raises:
        QCompileError: there is none of that name; or as of `survey`.
    """
    lowered = made.lowered
    sizes = {
        node.name: layout_of(node).bytes
        for node in lowered.graph.nodes
        if node.op in ("placeholder", "call_function")
    }
    found: dict[str, int] = {}
    for expected in survey(lowered, running(made, arch), made.choose).kernels:
        kernel = expected.kernel
        found[kernel.layer] = found.get(kernel.layer, 0) + _bytes(kernel, sizes)
    return found


def _bytes(kernel: KernelInfo, sizes: dict[str, int]) -> int:
    read = sum(sizes[name] for name in kernel.inputs)
    written = sum(stored.size for stored in kernel.results)
    return read + written + (kernel.weights.form.nbytes if kernel.weights is not None else 0)


def running(made: Made, arch: str) -> Target:
    """Of all that was compiled for, the processor whose code runs.

    Raises:
        QCompileError: it is none of them.
    """
    for target in made.targets:
        for variant in target.variants():
            if machine_of(variant).arch == arch:
                return variant
    raise QCompileError(f"nothing was compiled for {arch}")
