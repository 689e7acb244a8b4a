"""Compile small graphs for GPUs, run them on the CPU's emulator, compare each with plain PyTorch.

As in `compiling`, many cases go into one source: g++ takes a second or two for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from compiling import Case, Run, compare, joined
from torch import Tensor
from torch.fx import GraphModule

from qcompile.codegen.built import Built
from qcompile.codegen.cuda.build import generate
from qcompile.constants import expanded
from qcompile.cuda.driver import Memory, Stream
from qcompile.cuda.library import Code, GpuLibrary, Shape
from qcompile.emulation import Emulated
from qcompile.ir.target import Target

BATCHES = (1, 2, 5)
ORDERS = (0, 1)  # of threads, warps and blocks: forwards and backwards
_POISON = 0xA5


def emulated(gm: GraphModule, built: Built, arch: int = 80, order: int = 0) -> Run:
    """What runs a program for GPUs here: from inputs to the values that the graph returns."""
    gpu = Emulated(arch, order)
    context = gpu.context(0)
    stream = Stream(context)
    given = tuple(_size(spec.shape[1:], spec.dtype) for spec in gm.meta["inputs"])
    sizes = tuple(_size(shape, getattr(torch, dtype)) for shape, dtype in built.outputs)
    shape = Shape(built.launches, given, sizes, built.workspace, built.samples)
    code = Code(gpu.image(built.source), "")
    library = GpuLibrary(context, code, expanded(built.constants), shape)

    def memory(data: np.ndarray[Any, Any]) -> Memory:
        found = Memory(context, data.nbytes)
        with context:
            stream.write(found.address, data.ctypes.data, data.nbytes)
            stream.wait()
        return found

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        n = inputs[0].shape[0]
        there = [memory(x.contiguous().numpy()) for x in inputs]
        out = [memory(np.full(n * size, _POISON, np.uint8)) for size in sizes]
        between = memory(np.full(library.workspace(n), _POISON, np.uint8))
        results = [torch.empty(n, *s, dtype=getattr(torch, d)) for s, d in built.outputs]
        addresses = [[place.address for place in places] for places in (there, out)]
        gpu.prepare()
        library.run(addresses[0], addresses[1], n, between.address, stream.handle)
        with context:
            for value, place in zip(results, out, strict=True):
                stream.read(value.data_ptr(), place.address, place.size)
            stream.wait()
        return results

    return run


def _size(shape: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes of a sample."""
    return math.prod(shape) * dtype.itemsize


def check(
    cases: Sequence[Case],
    batches: Sequence[int] = BATCHES,
    *,
    arch: int = 80,
    orders: Sequence[int] = ORDERS,
) -> Built:
    """Compile the cases, run them in each order, compare every result with PyTorch's."""
    gm = joined(cases)
    built = generate(gm, Target("cuda"))
    for order in orders:
        compare(cases, emulated(gm, built, arch, order), batches)
    return built
