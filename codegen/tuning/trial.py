"""One kernel by itself: built, given random numbers, run and timed, here or on another machine."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import tvm
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule

from qcompile.codegen.entry import alone
from qcompile.codegen.groups import Group
from qcompile.codegen.kernels.contraction import contraction_of
from qcompile.codegen.layout import layout_of
from qcompile.codegen.linker import link
from qcompile.codegen.machine import Machine
from qcompile.codegen.pipeline import KERNELS
from qcompile.codegen.schedules.cpu import NODE_RULES, kernel_of
from qcompile.codegen.schedules.tile import Choice
from qcompile.codegen.writer import Kernel, Writer

SAMPLE = 2e-3  # seconds that one sample takes at least: many calls of a quick kernel
_NAME = "kernel"
_RANGES = {"uint8": (0, 255), "int8": (-128, 127), "int16": (-256, 256)}
_SMALL = (-1000, 1000)  # of other integers: far from overflow, whatever follows

Array = NDArray[Any]


class Bench(Protocol):
    """Where kernels run. All that one thread measures, it measures on one bench."""

    @property
    def device(self) -> Any:
        """TVM's handle of the CPU there."""

    @property
    def threads(self) -> int:
        """How many threads kernels use."""

    def load(self, library: Path) -> Any:
        """The module of a library."""

    def close(self) -> None:
        """Nothing more is measured here."""


class LocalBench:
    """This process. Kernels use the threads that the calling thread was given."""

    device = tvm.cpu()

    @property
    def threads(self) -> int:
        return int(tvm.get_global_func("runtime.NumThreads")())

    def load(self, library: Path) -> Any:
        return tvm.runtime.load_module(str(library))

    def close(self) -> None:
        """There is nothing to give back."""


@dataclass(frozen=True)
class Problem:
    """A contraction of a network, and what it is fed.

    Attributes:
        inputs: one for each activation that it reads, the batch first.
        outputs: shapes and dtypes of its results, in memory.
    """

    gm: GraphModule
    group: Group
    machine: Machine
    inputs: tuple[Array, ...]
    outputs: tuple[tuple[tuple[int, ...], str], ...]


def problem(gm: GraphModule, group: Group, machine: Machine, batch: int) -> Problem:
    """A contraction with random inputs, the same ones on every call."""
    generator = np.random.default_rng(0)
    c = contraction_of(Writer(gm, group, machine, NODE_RULES), machine)
    inputs = []
    for node in group.inputs:
        layout = layout_of(node)
        values = _random(generator, (batch, *layout.shape), layout.dtype, packed=layout.packed)
        inputs.append(values & _used(c.weight) if node is c.source and layout.packed else values)
    layouts = map(layout_of, group.results)
    outputs = tuple(((batch, *layout.shape), layout.dtype) for layout in layouts)
    return Problem(gm, group, machine, tuple(inputs), outputs)


def _random(
    generator: np.random.Generator, shape: Sequence[int], dtype: str, *, packed: bool
) -> Array:
    if dtype == "float32":
        return generator.standard_normal(shape, np.float32)
    if packed:
        low, high = -(1 << 31), (1 << 31) - 1
    else:
        low, high = _RANGES.get(dtype, _SMALL)
    return generator.integers(low, high, shape, dtype, endpoint=True)


def _used(weight: Tensor) -> Array:
    """The bits of each word that are not filling, which is 0 in every filter: `[groups * W]`."""
    words = weight.flatten(1, -2)
    used = torch.zeros_like(words[:, 0])
    for i in range(words.shape[1]):
        used |= words[:, i]
    return used.flatten().numpy()


class Contestant:
    """One way to compute a contraction, built and loaded on a bench."""

    def __init__(self, given: Problem, choice: Choice, bench: Bench) -> None:
        """Build it.

        Raises:
            QCompileError: there is no linker, or it fails.
            RuntimeError: LLVM or the bench refuses it.
        """
        kernel = kernel_of(given.gm, given.group, given.machine, choice)
        with tempfile.TemporaryDirectory(prefix="qcompile-") as folder:
            library = Path(folder) / "kernel.so"
            _build(kernel, given, library)
            self._module = bench.load(library)
        self.choice = choice
        self._device = bench.device
        constants = (
            *given.inputs,
            *(constant.value().reshape(-1) for constant in kernel.constants),
        )
        self._arguments: list[Any] = [
            tvm.runtime.tensor(value, device=bench.device) for value in constants
        ]
        self._results = [
            tvm.runtime.empty(shape, dtype, device=bench.device) for shape, dtype in given.outputs
        ]
        self._arguments += [*self._results, bench.threads]
        self._calls = 1

    def results(self) -> tuple[Array, ...]:
        """What it computes."""
        self._module[_NAME](*self._arguments)
        return tuple(result.numpy() for result in self._results)

    def seconds(self) -> float:
        """Mean seconds of a call, of one sample."""
        mean = self._sample()
        if mean * self._calls < SAMPLE / 2:
            self._calls = min(math.ceil(SAMPLE / max(mean, 1e-9)), 1 << 16)
            mean = self._sample()
        return mean

    def _sample(self) -> float:
        return self.run(self._calls)

    def run(self, calls: int) -> float:
        """Compute it once, and then so often again; the mean seconds of the latter."""
        timer = self._module.time_evaluator(_NAME, self._device, number=calls, repeat=1)
        return float(timer(*self._arguments).mean)


def _build(kernel: Kernel, given: Problem, path: Path) -> None:
    """Write one kernel as a library, compiled as `build` compiles whole networks."""
    inputs = [(value.shape[1:], str(value.dtype)) for value in given.inputs]
    outputs = [(shape[1:], dtype) for shape, dtype in given.outputs]
    functions = alone(kernel, _NAME, inputs, outputs)
    with tvm.transform.PassContext(opt_level=3):
        built = tvm.tirx.build(tvm.IRModule(functions), given.machine.target, KERNELS)
    link(tvm.runtime.Executable(built), path, given.machine.family)
