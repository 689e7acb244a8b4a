"""A lowered graph becomes one library: `main(*inputs)` runs the whole network, for any batch size.

groups of nodes -> a PrimFunc each -> a Relax function that calls them -> LLVM -> a shared library
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from torch.fx import GraphModule, Node
from tvm import relax, tirx
from tvm_ffi import StructuralKey

from qcompile.codegen.groups import FLATTEN, Group, form
from qcompile.codegen.layout import Layout, check_batch, layout_of
from qcompile.codegen.linker import link
from qcompile.codegen.machine import Machine, machine_of
from qcompile.codegen.pipeline import KERNELS, NETWORK
from qcompile.codegen.schedules.copy import copy
from qcompile.codegen.schedules.cpu import kernel_of
from qcompile.codegen.schedules.tile import Choice
from qcompile.codegen.writer import Kernel
from qcompile.errors import QCompileError
from qcompile.ir.graph import stage_of, verify, where
from qcompile.ir.stages import Stage
from qcompile.ir.target import Target

Choose = Callable[[GraphModule, Group, Machine], Choice | None]


def by_default(gm: GraphModule, group: Group, machine: Machine) -> Choice | None:
    """What nothing was tuned for: every kernel keeps its default."""
    return None


@dataclass(frozen=True)
class KernelInfo:
    """One call of a kernel, in the order in which they run.

    Attributes:
        name: its symbol in the library; layers of one shape share one.
        nodes: names of the nodes of the lowered graph that it computes, in order; its result is the
            last one's value.
        layer: the user's layer that it stands for.
        kind: "xnor-popcount", "int8", "float32", "pack", "pool", "softmax", "copy", "elementwise".
        inputs: names of the nodes whose values are its first arguments, in order. Constants follow,
            then the result.
        tuned: how it is computed, where that is not the default.
    """

    name: str
    nodes: tuple[str, ...]
    layer: str
    kind: str
    inputs: tuple[str, ...]
    tuned: str = ""


@dataclass(frozen=True)
class Built:
    """A compiled network.

    Attributes:
        library: the bytes of the shared library.
        kernels: in the order in which they run. A result that is an input, or a view of one, is
            copied at the end: those copies are not listed.
        family: of processors that the code is for, as `platform.machine()` spells it on Linux.
        arch: LLVM's name of the processor that the code is for.
        features: the instructions that the processor must have, as Linux spells them.
        layouts: how the values between kernels lie in memory, by node name.
    """

    library: bytes
    kernels: tuple[KernelInfo, ...]
    family: str
    arch: str
    features: tuple[str, ...]
    layouts: dict[str, Layout]


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
    module, kernels = _Network(gm, machine).module(groups, choices)
    with tvm.transform.PassContext(opt_level=3):
        executable = relax.build(
            module, machine.target, relax_pipeline=NETWORK, tir_pipeline=KERNELS
        )
    with tempfile.TemporaryDirectory(prefix="qcompile-") as folder:
        path = Path(folder) / "library.so"
        link(executable, path, machine.family)
        library = path.read_bytes()
    layouts = {
        n.name: layout_of(n) for n in gm.graph.nodes if n.op in ("placeholder", "call_function")
    }
    return Built(library, kernels, machine.family, machine.arch, machine.features, layouts)


class _Network:
    """The Relax module while it grows."""

    def __init__(self, gm: GraphModule, machine: Machine) -> None:
        self._gm, self._machine = gm, machine
        self._builder = relax.BlockBuilder()
        self._n = tirx.Var("n", "int64")
        self._values: dict[Node, Any] = {}
        self._functions: dict[StructuralKey, Any] = {}

    def module(
        self, groups: list[Group], choices: list[Choice | None]
    ) -> tuple[Any, tuple[KernelInfo, ...]]:
        """The whole network, and what its kernels are."""
        written = [
            (g, kernel_of(self._gm, g, self._machine, choice))
            for g, choice in zip(groups, choices, strict=True)
        ]
        symbols = [self._symbol(g, kernel) for g, kernel in written]
        at = {g.result: i for i, g in enumerate(groups)}
        inputs = [n for n in self._gm.graph.nodes if n.op == "placeholder"]
        for node in inputs:
            self._values[node] = relax.Var(node.name, self._type(node))
        builder = self._builder
        with builder.function("main", [self._values[n] for n in inputs]):
            with builder.dataflow():
                for node in self._gm.graph.nodes:
                    if node in at:
                        self._call(*written[at[node]], symbols[at[node]])
                    elif node.op == "call_function" and node.target is FLATTEN:
                        source = self._values[node.args[0]]
                        shape = relax.ShapeExpr([self._n, *layout_of(node).shape])
                        self._values[node] = builder.emit(relax.op.reshape(source, shape))
                result = builder.emit_output(self._result())
            builder.emit_func_output(result)
        infos = tuple(
            KernelInfo(
                str(symbol.name_hint),
                tuple(n.name for n in g.nodes),
                str(g.anchor.meta.get("layer") or g.anchor.name),
                g.kind,
                tuple(n.name for n in g.inputs),
                str(choice or ""),
            )
            for g, symbol, choice in zip(groups, symbols, choices, strict=True)
        )
        return builder.get(), infos

    def _type(self, node: Node) -> Any:
        layout = layout_of(node)
        return relax.TensorType((self._n, *layout.shape), layout.dtype)

    def _symbol(self, group: Group, kernel: Kernel) -> Any:
        op = str(group.anchor.target).split(".")[1]
        return self._add(kernel.function, f"{group.kind}_{op}".replace("-", "_"))

    def _add(self, function: Any, name: str) -> Any:
        """The function's name in the module; the same for functions that are the same."""
        key = StructuralKey(function)  # type: ignore[call-arg]  # its stub is wrong
        if key not in self._functions:
            self._functions[key] = self._builder.add_func(function, name)
        return self._functions[key]

    def _call(self, group: Group, kernel: Kernel, symbol: Any) -> None:
        arguments = [self._values[n] for n in group.inputs]
        arguments += [relax.const(value) for value in kernel.constants]
        call = relax.call_tir(symbol, relax.Tuple(arguments), self._type(group.result))
        self._values[group.result] = self._builder.emit(call)

    def _result(self) -> Any:
        """What `main` returns: a tensor, or a tuple of them.

        Raises:
            QCompileError: the network returns anything else.
        """
        output = next(n for n in self._gm.graph.nodes if n.op == "output")
        value = output.args[0]
        owned: set[Node] = set()
        if isinstance(value, Node) and value in self._values:
            return self._own(value, owned)
        if isinstance(value, (tuple, list)) and all(v in self._values for v in value):
            return relax.Tuple([self._own(v, owned) for v in value])
        raise QCompileError(
            f"the network returns {value}",
            where=where(output),
            hint="a network returns one computed tensor, or a tuple of them",
        )

    def _own(self, node: Node, owned: set[Node]) -> Any:
        """A value in memory of its own: not an input's, and not that of a result in `owned`."""
        whole = node
        while whole.target is FLATTEN:
            whole = whole.args[0]  # type: ignore[assignment]
        if whole.op != "placeholder" and whole not in owned:
            owned.add(whole)
            return self._values[node]
        symbol = self._add(copy(layout_of(node)), "copy_result")
        call = relax.call_tir(symbol, relax.Tuple([self._values[node]]), self._type(node))
        return self._builder.emit(call)
