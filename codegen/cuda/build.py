"""A lowered graph becomes CUDA C for all GPUs, and the launches that run it, for any batch size.

groups of nodes -> kernels of one or more launches -> places for their values -> source -> fatbin
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch.fx import GraphModule
from tvm.ir import GlobalVar
from tvm_ffi import StructuralKey

from qcompile.codegen.built import Built, KernelInfo, kernel_info, layouts_of, value_of
from qcompile.codegen.constants import Constants
from qcompile.codegen.cuda.gpu import FAMILY, architectures_of, gpu_of
from qcompile.codegen.cuda.nvcc import fatbin, find_nvcc, known_architectures
from qcompile.codegen.cuda.pointwise import copy
from qcompile.codegen.cuda.rules import kernel_of
from qcompile.codegen.cuda.source import source_of
from qcompile.codegen.cuda.writer import Code, CudaKernel
from qcompile.codegen.fusion import form
from qcompile.codegen.groups import macs_of
from qcompile.codegen.layout import layout_of
from qcompile.codegen.plan import Place, Plan, plan_by_sample, returned
from qcompile.cuda.launches import PLACE, Argument, Launch
from qcompile.errors import QCompileError
from qcompile.ir.target import Target

_INDICES = 2**31 - 1  # what int32 holds: no index of a kernel may exceed it
_WORKSPACE = 1 << 30  # bytes of a GPU's memory, for the values between kernels
_SAMPLES = 4096  # at once


def build(gm: GraphModule, target: Target) -> Built:
    """Compile a lowered graph that verifies; to machine code where nvcc is installed.

    Raises:
        QCompileError: an op or a shape has no kernel, or nvcc does not compile the source.
    """
    built = generate(gm, target)
    if find_nvcc() is None:
        return built
    exact, ptx = architectures_of(target, known_architectures())
    features = (*(f"sm_{number}" for number in exact), f"compute_{ptx}")
    return replace(built, library=fatbin(built.source, exact, ptx), features=features)


def generate(gm: GraphModule, target: Target) -> Built:
    """Everything but machine code.

    Raises:
        QCompileError: an op or a shape has no kernel.
    """
    gpu = gpu_of(target)
    groups = form(gm, pools=False)
    placed = plan_by_sample(gm, groups, PLACE)
    program = _Program(placed)
    for group in groups:
        kernel = kernel_of(gm, group, gpu)
        inputs = [placed.place(node) for node in group.inputs]
        results = [placed.place(node) for node in group.results]
        kind = kernel.kind or group.kind
        name = f"{kind}_{str(group.anchor.target).split('.')[1]}".replace("-", "_")
        program.add(name, kernel, inputs, results, macs_of(group.anchor))
        program.kernels.append(
            kernel_info(
                group, placed, program.name, kind, weights=kernel.weights, method=kernel.method
            )
        )
    for node, number in placed.copies:
        place = placed.place(node)
        program.add("copy", copy(layout_of(node)), [place], [Place("output", number, place.size)])
        program.kernels.append(KernelInfo(program.name, (), "", "copy", (node.name,), ()))
    return Built(
        library=b"",
        constants=tuple(program.constants.all),
        kernels=tuple(program.kernels),
        family=FAMILY,
        arch=gpu.arch,
        features=(),
        layouts=layouts_of(gm),
        outputs=tuple(value_of(n) for n in returned(gm)),
        workspace=program.workspace,
        samples=_samples(gm, program.launches, program.workspace),
        source=source_of(program.module),
        launches=tuple(program.launches),
    )


@dataclass
class _Program:
    """Collects what is launched.

    Attributes:
        module: the functions.
        workspace: bytes of a sample, scratch memory included.
        name: of the kernel that was added last: its last function.
    """

    placed: Plan
    module: dict[GlobalVar, Any] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)
    kernels: list[KernelInfo] = field(default_factory=list)
    constants: Constants = field(default_factory=Constants)
    name: str = ""

    def __post_init__(self) -> None:
        self.workspace = self.placed.workspace
        self._functions: dict[StructuralKey, GlobalVar] = {}
        self._named: Counter[str] = Counter()

    def add(
        self,
        name: str,
        kernel: CudaKernel,
        inputs: Sequence[Place],
        results: Sequence[Place],
        macs: int = 0,
    ) -> None:
        """Add the launches of the next kernel."""
        given = [_argument(place) for place in inputs]
        given += [Argument("constants", self.constants.add(c)) for c in kernel.constants]
        given += [_argument(place) for place in results]
        at = self.placed.workspace
        for size in kernel.scratch:
            given.append(Argument("workspace", at))
            at += -(-size // PLACE) * PLACE
        self.workspace = max(self.workspace, at)
        for code in kernel.codes:
            self.name = self._symbol(name, code)
            launch = _launch(self.name, len(self.kernels), tuple(given), code)
            self.launches.append(replace(launch, macs=macs))

    def _symbol(self, name: str, code: Code) -> str:
        """What a function is called; layers of one shape share one."""
        key = StructuralKey(code.function)  # type: ignore[call-arg]  # its stub is wrong
        if key not in self._functions:
            self._named[name] += 1
            count = self._named[name]
            self._functions[key] = GlobalVar(name if count == 1 else f"{name}_{count}")
            self.module[self._functions[key]] = code.function
        return str(self._functions[key].name_hint)


def _launch(symbol: str, kernel: int, arguments: tuple[Argument, ...], code: Code) -> Launch:
    g = code.grid
    blocks = {"items": g.items, "per_block": g.per_block, "y": g.y, "z": g.z}
    samples = {"least": code.least, "most": code.most}
    return Launch(symbol, kernel, arguments, **blocks, threads=g.threads, **samples)


def _argument(place: Place) -> Argument:
    return Argument(place.kind, place.at)


def _samples(gm: GraphModule, launches: Sequence[Launch], workspace: int) -> int:
    """How many samples all kernels can count, and the workspace has room for.

    Raises:
        QCompileError: one sample is more than they can count.
    """
    nodes = (n for n in gm.graph.nodes if n.op in ("placeholder", "call_function"))
    most = max([*(layout_of(n).size for n in nodes), *(one.items for one in launches)])
    # A sample less: the last block counts beyond the batch.
    counted = _INDICES // max(1, most) - 1
    if counted < 1:
        raise QCompileError(
            f"a sample has a value of {most:,} elements, and kernels for GPUs count to {_INDICES:,}",
            hint="give the network smaller inputs, a part of them at a time",
        )
    return max(1, min(_SAMPLES, counted, _WORKSPACE // max(1, workspace)))
