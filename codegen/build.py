"""A lowered graph becomes one library, whose function `run` runs the whole network, for any batch size.

groups of nodes -> a PrimFunc each -> places for their values -> `run`, which calls them -> LLVM -> a
shared library
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from torch.fx import GraphModule
from tvm.ir import GlobalVar
from tvm_ffi import StructuralKey

from qcompile.codegen import laps
from qcompile.codegen.built import Built, KernelInfo, kernel_info, layouts_of, value_of
from qcompile.codegen.constants import Constants
from qcompile.codegen.entry import Step, entry, stride_of
from qcompile.codegen.fusion import form
from qcompile.codegen.groups import INTEGER_CONTRACTIONS, Group
from qcompile.codegen.layout import check_batch, layout_of
from qcompile.codegen.linker import link
from qcompile.codegen.machine import Machine, machine_of
from qcompile.codegen.pipeline import KERNELS
from qcompile.codegen.plan import Place, Plan, plan, returned
from qcompile.codegen.schedules.copy import copy
from qcompile.codegen.schedules.cpu import kernel_of
from qcompile.codegen.schedules.tile import Choice
from qcompile.codegen.writer import Kernel
from qcompile.constants import Constant
from qcompile.errors import QCompileError
from qcompile.ir.graph import stage_of, verify
from qcompile.ir.stages import Stage
from qcompile.ir.target import Target

Choose = Callable[[GraphModule, Group, Machine], Choice | None]


def by_default(gm: GraphModule, group: Group, machine: Machine) -> Choice | None:
    """What nothing was tuned for: every kernel keeps its default."""
    return None


def build(
    gm: GraphModule, target: Target, choose: Choose = by_default, *, timed: bool = False
) -> Built:
    """Compile a lowered graph.

    Args:
        choose: how a contraction is computed on a machine; None means its default.
        timed: for a processor, with kernels that count the cycles of their parts (`laps`).

    Raises:
        QCompileError: the graph is not lowered, the processor is unknown, an op or a shape has no
            kernel, there is no linker, or such kernels cannot be timed.
    """
    if stage_of(gm) is not Stage.LOWERED:
        raise QCompileError(f"build takes a lowered graph, not a {stage_of(gm).value} one")
    verify(gm)
    check_batch(gm)
    if target.kind == "cuda":
        # Only now: few programs are for GPUs.
        from qcompile.codegen.cuda.build import build as build_for_gpus

        return build_for_gpus(gm, target)
    machine = machine_of(target)
    if timed:
        laps.check(machine.family)
    placed, written = write(gm, machine, choose, timed=timed)
    module, steps, constants = _module(gm, written, placed, timed)
    with tvm.transform.PassContext(opt_level=3):
        library = tvm.tirx.build(module, machine.target, KERNELS)
    with tempfile.TemporaryDirectory(prefix="qcompile-") as folder:
        path = Path(folder) / "library.so"
        link(tvm.runtime.Executable(library), path, machine.family)
        code = path.read_bytes()
    kernels = tuple(
        one.described(placed, str(step.symbol.name_hint))
        for one, step in zip(written, steps, strict=True)
    )
    return Built(
        code,
        constants,
        kernels,
        machine.family,
        machine.arch,
        machine.features,
        layouts_of(gm),
        tuple(value_of(n) for n in returned(gm)),
        stride_of(placed.workspace),
        placed.samples,
    )


@dataclass(frozen=True)
class Written:
    """A group of nodes and its kernel; `choice` is how it is computed, None for the only way."""

    group: Group
    choice: Choice | None
    kernel: Kernel

    @property
    def kind(self) -> str:
        """What the arithmetic is; there are several for integers."""
        method = self.choice.method if self.choice is not None else None
        integers = self.group.anchor.target in INTEGER_CONTRACTIONS
        return method if method and integers else self.group.kind

    def described(self, placed: Plan, name: str = "") -> KernelInfo:
        """What is known of the kernel; `name` is its symbol."""
        choice = self.choice
        return kernel_info(
            self.group,
            placed,
            name,
            self.kind,
            tuned=str(choice) if choice is not None and not choice.why else "",
            weights=self.kernel.weights,
            method=str(choice or ""),
            why=choice.why if choice is not None else "",
        )


def write(
    gm: GraphModule, machine: Machine, choose: Choose, *, timed: bool = False
) -> tuple[Plan, list[Written]]:
    """The kernels of a lowered graph, in the order in which they run, and where their values lie.

    Raises:
        QCompileError: as of `build`, but for what LLVM finds.
    """
    groups = form(gm)
    choices = [choose(gm, group, machine) for group in groups]
    written = [
        Written(group, choice, kernel_of(gm, group, machine, choice, timed=timed))
        for group, choice in zip(groups, choices, strict=True)
    ]
    return plan(gm, groups), written


def _module(
    gm: GraphModule,
    written: Sequence[Written],
    placed: Plan,
    timed: bool,
) -> tuple[Any, list[Step], tuple[Constant, ...]]:
    """All functions of the library, the call of each group's kernel, and the constants."""
    functions: dict[StructuralKey, GlobalVar] = {}
    module: dict[GlobalVar, Any] = {}
    named: Counter[str] = Counter()
    constants = Constants()

    def step(name: str, kernel: Kernel, inputs: list[Place], results: list[Place]) -> Step:
        key = StructuralKey(kernel.function)  # type: ignore[call-arg]  # its stub is wrong
        if key not in functions:
            named[name] += 1
            functions[key] = GlobalVar(name if named[name] == 1 else f"{name}_{named[name]}")
            module[functions[key]] = kernel.function
        offsets = tuple(constants.add(value) for value in kernel.constants)
        return Step(functions[key], kernel, tuple(inputs), offsets, tuple(results))

    steps = []
    for one in written:
        group = one.group
        name = f"{one.kind}_{str(group.anchor.target).split('.')[1]}".replace("-", "_")
        inputs = [placed.place(node) for node in group.inputs]
        results = [placed.place(node) for node in group.results]
        steps.append(step(name, one.kernel, inputs, results))
    for node, number in placed.copies:
        source, size = placed.place(node), layout_of(node).bytes
        copied = copy(layout_of(node))
        steps.append(step("copy_result", copied, [source], [Place("output", number, size)]))
    inputs_ = [value_of(node) for node in gm.graph.find_nodes(op="placeholder")]
    outputs = [value_of(node) for node in returned(gm)]
    module |= entry(steps, inputs_, outputs, placed.workspace, placed.samples, timed=timed)
    return tvm.IRModule(module), steps[: len(written)], tuple(constants.all)
