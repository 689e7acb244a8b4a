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
from torch.fx import GraphModule, Node
from tvm.ir import GlobalVar
from tvm_ffi import StructuralKey

from qcompile.codegen.constants import Constants
from qcompile.codegen.entry import Step, entry, stride_of
from qcompile.codegen.fusion import form
from qcompile.codegen.groups import INTEGER_CONTRACTIONS, Group
from qcompile.codegen.layout import Layout, check_batch, layout_of
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


@dataclass(frozen=True)
class Stored:
    """A value that a kernel stores.

    Attributes:
        node: its name in the lowered graph.
        size: bytes of a sample.
        output: the number of the program's output that it is, or -1 if it lies in the workspace.
        offset: its first byte there, or 0.
    """

    node: str
    size: int
    output: int
    offset: int


@dataclass(frozen=True)
class KernelInfo:
    """One call of a kernel, in the order in which they run.

    Attributes:
        name: its symbol in the library; layers of one shape share one.
        nodes: names of the nodes of the lowered graph that it computes, in order.
        layer: the user's layer that it stands for.
        kind: "xnor-popcount", "int8" or another method of integers ("lookup", "bit-planes"), "float32",
            "weight-only", "pack", "pool", "softmax", "copy", "elementwise".
        inputs: names of the nodes whose values it reads, in the order of its arguments.
        results: the values that it stores, in the order of its arguments.
        tuned: how it is computed, where tuning chose that and it is not the default.
        method: how it is computed, where something was chosen; why: in a few words.
        weights: what it reads as its layer's weights, if anything.
    """

    name: str
    nodes: tuple[str, ...]
    layer: str
    kind: str
    inputs: tuple[str, ...]
    results: tuple[Stored, ...]
    tuned: str = ""
    weights: Constant | None = None
    method: str = ""
    why: str = ""


@dataclass(frozen=True)
class Built:
    """A compiled network.

    Attributes:
        library: the bytes of the shared library.
        constants: what it reads, in their order in memory (`qcompile.constants.expanded`).
        kernels: in the order in which they run. A result that is an input, or a view of one, is
            copied at the end: those copies are not listed.
        family: of processors that the code is for, as `platform.machine()` spells it on Linux.
        arch: LLVM's name of the processor that the code is for.
        features: the instructions that the processor must have, as Linux spells them.
        layouts: how the values between kernels lie in memory, by node name.
        outputs: shapes after the batch, and dtypes.
        workspace: bytes that each thread needs.
        samples: how many a workspace holds.
    """

    library: bytes
    constants: tuple[Constant, ...]
    kernels: tuple[KernelInfo, ...]
    family: str
    arch: str
    features: tuple[str, ...]
    layouts: dict[str, Layout]
    outputs: tuple[tuple[tuple[int, ...], str], ...]
    workspace: int
    samples: int


def build(gm: GraphModule, target: Target, choose: Choose = by_default) -> Built:
    """Compile a lowered graph.

    Args:
        choose: how a contraction is computed on a machine; None means its default.

    Raises:
        QCompileError: the graph is not lowered, the processor is unknown, an op or a shape has no
            kernel, or there is no linker.
    """
    if stage_of(gm) is not Stage.LOWERED:
        raise QCompileError(f"build takes a lowered graph, not a {stage_of(gm).value} one")
    verify(gm)
    check_batch(gm)
    machine = machine_of(target)
    groups = form(gm)
    choices = [choose(gm, group, machine) for group in groups]
    placed = plan(gm, groups)
    module, steps, constants = _module(gm, groups, choices, placed, machine)
    with tvm.transform.PassContext(opt_level=3):
        library = tvm.tirx.build(module, machine.target, KERNELS)
    with tempfile.TemporaryDirectory(prefix="qcompile-") as folder:
        path = Path(folder) / "library.so"
        link(tvm.runtime.Executable(library), path, machine.family)
        code = path.read_bytes()
    kernels = tuple(
        KernelInfo(
            str(step.symbol.name_hint),
            tuple(n.name for n in g.nodes),
            str(g.anchor.meta.get("layer") or g.anchor.name),
            _kind(g, choice),
            tuple(n.name for n in g.inputs),
            tuple(_stored(n, placed) for n in g.results),
            str(choice) if choice is not None and not choice.why else "",
            step.kernel.weights,
            str(choice or ""),
            choice.why if choice is not None else "",
        )
        for g, step, choice in zip(groups, steps, choices, strict=True)
    )
    layouts = {
        n.name: layout_of(n) for n in gm.graph.nodes if n.op in ("placeholder", "call_function")
    }
    return Built(
        code,
        constants,
        kernels,
        machine.family,
        machine.arch,
        machine.features,
        layouts,
        tuple(_value(n) for n in returned(gm)),
        stride_of(placed.workspace),
        placed.samples,
    )


def _kind(group: Group, choice: Choice | None) -> str:
    """What the arithmetic is; there are several for integers."""
    method = choice.method if choice is not None else None
    return method if method and group.anchor.target in INTEGER_CONTRACTIONS else group.kind


def _stored(node: Node, placed: Plan) -> Stored:
    place = placed.place(node)
    outside = place.kind == "output"
    return Stored(node.name, place.size, place.at if outside else -1, 0 if outside else place.at)


def _value(node: Node) -> tuple[tuple[int, ...], str]:
    layout = layout_of(node)
    return layout.shape, layout.dtype


def _module(
    gm: GraphModule,
    groups: Sequence[Group],
    choices: Sequence[Choice | None],
    placed: Plan,
    machine: Machine,
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
    for group, choice in zip(groups, choices, strict=True):
        name = f"{_kind(group, choice)}_{str(group.anchor.target).split('.')[1]}".replace("-", "_")
        kernel = kernel_of(gm, group, machine, choice)
        inputs = [placed.place(node) for node in group.inputs]
        steps.append(step(name, kernel, inputs, [placed.place(node) for node in group.results]))
    for node, number in placed.copies:
        source, size = placed.place(node), layout_of(node).bytes
        copied = copy(layout_of(node))
        steps.append(step("copy_result", copied, [source], [Place("output", number, size)]))
    inputs_ = [_value(node) for node in gm.graph.find_nodes(op="placeholder")]
    outputs = [_value(node) for node in returned(gm)]
    module |= entry(steps, inputs_, outputs, placed.workspace, placed.samples)
    return tvm.IRModule(module), steps[: len(groups)], tuple(constants.all)
