"""From a lowered graph to a Program: the library, and everything that is known about it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from torch.fx import GraphModule, Node

import qcompile
from qcompile.codegen.build import Choose, build, by_default
from qcompile.codegen.built import Built
from qcompile.codegen.built import KernelInfo as BuiltKernel
from qcompile.codegen.cuda.gpu import ARCHITECTURES
from qcompile.codegen.cuda.nvcc import lacks_compiler, nvcc_version
from qcompile.fingerprint import fingerprint
from qcompile.ir.graph import TensorSpec, calls, spec
from qcompile.ir.plan import LayerPlan
from qcompile.ir.stages import aten, dialect
from qcompile.ir.target import Target, Targets, described
from qcompile.palettes import stored
from qcompile.program import Program
from qcompile.program_file import pack
from qcompile.program_info import (
    CUDA,
    KernelInfo,
    LayerInfo,
    ProgramInfo,
    StoredInfo,
    ValueInfo,
    Variant,
)

if TYPE_CHECKING:
    from qcompile.steps import Step

_SOURCE_ALONE = (
    "{}, so the file holds CUDA source alone, and NVRTC compiles it where the program is loaded: "
    "pip install nvidia-cuda-nvrtc on that machine. Or install {} and compile again: then the file "
    "holds machine code."
)
_NO_NVCC = ("There is no nvcc here", 'nvcc here (pip install "qcompile[cuda]")')
_NO_COMPILER = (
    "The nvcc here needs g++ beside it, which there is not",
    "g++ (Debian: apt install g++; or NVCC_CCBIN names it)",
)
_OLD_NVCC = (
    "This nvcc makes no machine code for {}: drivers of such GPUs compile the file's PTX ({}), "
    "whose tensor-core instructions may be emulated there. A newer nvcc makes code for them."
)
# What multiplies a layer's weights, the most telling first: a layer may hold float ones as well.
_PRODUCTS = (
    (dialect.xnor_matmul.default,),
    (dialect.conv.default, dialect.linear.default),
    (dialect.weight_only_conv.default, dialect.weight_only_linear.default),
    (aten.convolution.default, aten.linear.default),
)


def build_program(
    converted: GraphModule,
    lowered: GraphModule,
    target: Targets,
    notes: tuple[str, ...],
    step: Step = nullcontext,
    choose: Choose = by_default,
) -> Program:
    """Compile a lowered graph, once for each variant of the targets.

    Args:
        converted: what it was lowered from; the program carries its fingerprint.
        notes: what the user should know, a sentence each.
        step: entered around each variant's compilation, with what it is called.
        choose: how a contraction is computed on a machine; None means its default.

    Raises:
        QCompileError: an op that the target has no kernel for.
    """
    targets = Target.parse_all(target)
    made = []
    for one in (variant for target in targets for variant in target.variants()):
        with step(f"compile for {one}"):
            made.append(build(lowered, one, choose))
    info = ProgramInfo(
        model=converted.meta.get("model", "model"),
        target=described(targets),
        variants=tuple(map(_variant, made)),
        inputs=_inputs(lowered),
        outputs=_outputs(lowered),
        returns_tuple=isinstance(_result(lowered), tuple),
        layers=layers_of(lowered, converted, made[0].kernels),
        fingerprint=fingerprint(converted),
        notes=(*notes, *_source_notes(made)),
        versions=_versions(),
    )
    libraries, sources = [b.library for b in made], [b.source for b in made]
    return Program(pack(info, libraries, [b.constants for b in made], sources))


def _source_notes(made: Sequence[Built]) -> tuple[str, ...]:
    """What to know of a program whose code for GPUs is source, or PTX, where it might be machine code."""
    notes = []
    if any(built.family == CUDA and not built.features for built in made):
        notes.append(_SOURCE_ALONE.format(*(_NO_COMPILER if lacks_compiler() else _NO_NVCC)))
    for built in made:
        held = {feature.removeprefix("sm_") for feature in built.features}
        lacking = [f"sm_{one}" for one in ARCHITECTURES if str(one) not in held]
        if built.arch == CUDA and built.features and lacking:
            notes.append(_OLD_NVCC.format(", ".join(lacking), built.features[-1]))
    return tuple(notes)


def _variant(built: Built) -> Variant:
    kernels = []
    for k in built.kernels:
        results = tuple(StoredInfo(s.node, s.size, s.output, s.offset) for s in k.results)
        kernels.append(
            KernelInfo(k.name, k.nodes, k.layer, k.kind, results, k.tuned, k.method, k.macs)
        )
    return Variant(
        built.family,
        built.arch,
        tuple(built.features),
        tuple(kernels),
        built.workspace,
        built.samples,
        built.launches,
        _toolkit(built),
    )


def _toolkit(built: Built) -> str:
    """The version of CUDA that compiled the code for GPUs, if there is any."""
    compiled = built.family == CUDA and built.features
    return ".".join(map(str, nvcc_version())) if compiled else ""


def _versions() -> dict[str, str]:
    packages = {"tvm": "apache-tvm", "torch": "torch"}
    found = {name: importlib.metadata.version(package) for name, package in packages.items()}
    return {"qcompile": qcompile.__version__, **found}


def _value(name: str, of: TensorSpec) -> ValueInfo:
    return ValueInfo(name, of.shape[1:], str(of.dtype).removeprefix("torch."))


def _inputs(gm: GraphModule) -> tuple[ValueInfo, ...]:
    nodes = gm.graph.find_nodes(op="placeholder")
    return tuple(_value(str(node.target), spec(node)) for node in nodes)


def _result(gm: GraphModule) -> object:
    [output] = gm.graph.find_nodes(op="output")
    return output.args[0]


def _outputs(gm: GraphModule) -> tuple[ValueInfo, ...]:
    result = _result(gm)
    if isinstance(result, Node):
        return (_value("output", spec(result)),)
    assert isinstance(result, tuple)
    return tuple(_value(f"output{i}", spec(node)) for i, node in enumerate(result))


def layers_of(
    lowered: GraphModule, converted: GraphModule, kernels: Sequence[BuiltKernel]
) -> tuple[LayerInfo, ...]:
    """What becomes of each conv and linear layer in some kernels."""
    plans = converted.meta.get("plans", {}).values()
    return tuple(_layer(lowered, plan, kernels) for plan in plans)


def _layer(gm: GraphModule, plan: LayerPlan, made: Sequence[BuiltKernel]) -> LayerInfo:
    product = _product(gm, plan.layer)
    # A layer whose result nobody needs has no product left, and no weights.
    kernels = [k for k in made if product is not None and product.name in k.nodes]
    kind = next((k.kind for k in kernels), "")
    after = sum(stored(k.weights.values).nbytes for k in kernels if k.weights is not None)
    declined = gm.meta.get("declined", {}).get(plan.layer, "")
    return LayerInfo(
        layer=plan.layer,
        kind=plan.kind,
        weight_bits=plan.weight_bits,
        activation_bits=plan.activation_bits,
        weights=plan.weights,
        bytes_before=4 * plan.weights,
        bytes_after=after,
        kernel=kind,
        reason=plan.reason or declined,
        why=gm.meta.get("whys", {}).get(plan.layer, "")
        or next((k.why for k in kernels), "")
        or ("" if plan.reason or declined else _in_bytes(plan, kind)),
        dynamic=plan.dynamic,
    )


def _in_bytes(plan: LayerPlan, kind: str) -> str:
    """Why factors of few bits are multiplied as bytes, where there was no choice."""
    fewest = min(plan.weight_bits, plan.activation_bits)
    if kind != "int8" or fewest >= 8:
        return ""
    return f"no faster way is known: {fewest} bit{'s' * (fewest > 1)} save{'s' * (fewest == 1)} size, not time"


def _product(gm: GraphModule, layer: str) -> Node | None:
    """The node that multiplies a layer's weights."""
    nodes = [node for node in gm.graph.nodes if node.meta.get("layer") == layer]
    found = [node for ops in _PRODUCTS for node in nodes if calls(node, *ops)]
    return found[0] if found else None
