"""What building gives: code, and what is known of its kernels."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import GraphModule, Node

from qcompile.codegen.groups import Group, macs_of
from qcompile.codegen.layout import Layout, layout_of
from qcompile.codegen.plan import Plan
from qcompile.constants import Constant
from qcompile.cuda.launches import Launch


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
        macs: multiply-accumulates of a sample, 0 if it is no product.
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
    macs: int = 0


@dataclass(frozen=True)
class Built:
    """A compiled network.

    Attributes:
        library: the bytes of the shared library; of a fatbin; or empty, where there is only source.
        constants: what it reads, in their order in memory (`qcompile.constants.expanded`).
        kernels: in the order in which they run. A result that is an input, or a view of one, is
            copied at the end: those copies are not listed.
        family: of processors that the code is for, as `platform.machine()` spells it on Linux; or
            "cuda".
        arch: LLVM's name of the processor that the code is for; or "cuda", or a GPU's architecture.
        features: the instructions that the processor must have, as Linux spells them; or what the
            library holds ("sm_80", "compute_100").
        layouts: how the values between kernels lie in memory, by node name.
        outputs: shapes after the batch, and dtypes.
        workspace: bytes that each thread needs; on a GPU, of each sample.
        samples: how many a workspace holds; on a GPU, how many are run at once at most.
        source: CUDA C, else "".
        launches: on a GPU, of those functions, in the order in which they run.
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
    source: str = ""
    launches: tuple[Launch, ...] = ()


def kernel_info(
    group: Group,
    placed: Plan,
    name: str,
    kind: str = "",
    *,
    tuned: str = "",
    weights: Constant | None = None,
    method: str = "",
    why: str = "",
) -> KernelInfo:
    """What is known of a group's kernel.

    Args:
        name: its symbol; kind: what the arithmetic is, if not the group's.
    """
    return KernelInfo(
        name,
        tuple(n.name for n in group.nodes),
        str(group.anchor.meta.get("layer") or group.anchor.name),
        kind or group.kind,
        tuple(n.name for n in group.inputs),
        tuple(_stored(n, placed) for n in group.results),
        tuned,
        weights,
        method,
        why,
        macs_of(group.anchor),
    )


def layouts_of(gm: GraphModule) -> dict[str, Layout]:
    """How values lie in memory, by node name."""
    nodes = (n for n in gm.graph.nodes if n.op in ("placeholder", "call_function"))
    return {n.name: layout_of(n) for n in nodes}


def value_of(node: Node) -> tuple[tuple[int, ...], str]:
    """Sizes after the batch as they lie, and dtype."""
    layout = layout_of(node)
    return layout.shape, layout.dtype


def _stored(node: Node, placed: Plan) -> Stored:
    place = placed.place(node)
    outside = place.kind == "output"
    return Stored(node.name, place.size, place.at if outside else -1, 0 if outside else place.at)
