"""What a program knows about itself: plain data, saved beside the compiled library as JSON."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from qcompile.cuda.launches import Launch, Room, fault

CUDA = "cuda"  # machine of variants that run on an NVIDIA GPU
MAX_RANK = 16
DTYPES = ("float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")

_ARCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")  # it names a member of the file
_CUDA_ARCH = re.compile(r"cuda|sm_[1-9][0-9]{1,2}[af]?")
_CUDA_VERSION = re.compile(r"([0-9]{1,3}\.[0-9]{1,3})?")
_CUDA_FEATURE = re.compile(r"(sm|compute)_[1-9][0-9]{1,2}[af]?")

T = TypeVar("T")


class InfoError(ValueError):
    """What was read is no ProgramInfo; the message names the field."""


@dataclass(frozen=True)
class ValueInfo:
    """An input or output of the program.

    Attributes:
        name: the argument of the model's `forward`, or "output".
        shape: sizes after the batch, which is dimension 0 and may be any number from 1 up.
        dtype: as numpy spells it: "float32", "int32", ...
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def nbytes(self) -> int:
        """Bytes of a sample."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(['N', *map(str, self.shape)])}]"


@dataclass(frozen=True)
class StoredInfo:
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
    """One call of a function of the library.

    Attributes:
        name: its symbol.
        nodes: names of the lowered graph's nodes that it computes, in their order.
        layer: the user's layer that it stands for, or "".
        kind: "xnor-popcount", "int8", "lookup", "bit-planes", "float32", ...: what the arithmetic is.
        results: what it stores.
        tuned: what tuning chose for it (method and tile), or "" where it is the default.
        method: the method and the tile, whoever chose them, or "" where there is no choice.
        macs: multiply-accumulates of a sample, 0 if it is no product.
    """

    name: str
    nodes: tuple[str, ...]
    layer: str = ""
    kind: str = ""
    results: tuple[StoredInfo, ...] = ()
    tuned: str = ""
    method: str = ""
    macs: int = 0


@dataclass(frozen=True)
class Variant:
    """The network's code for one family of processors.

    Attributes:
        machine: the family, as `platform.machine()` spells it, or "cuda".
        arch: LLVM's name of the processor that it was compiled for; "cuda" for all GPUs, "sm_86"
            for one kind; it names the variant.
        features: what a processor must have to run it ("avx512f", ...), as Linux spells them. Of
            GPUs, those that the file holds machine code for ("sm_80", ...) and PTX ("compute_90");
            none where it holds CUDA C alone.
        kernels: in the order in which they run.
        workspace: bytes that each thread needs for values between kernels; on a GPU each sample.
        samples: how many are run at once; larger batches in parts.
        launches: on a GPU, in the order of the kernels; a kernel may have several.
        toolkit: the version of CUDA that compiled the machine code for GPUs, "13.0", or "".
    """

    machine: str
    arch: str
    features: tuple[str, ...]
    kernels: tuple[KernelInfo, ...]
    workspace: int = 0
    samples: int = 1
    launches: tuple[Launch, ...] = ()
    toolkit: str = ""


@dataclass(frozen=True)
class LayerInfo:
    """What became of one conv or linear layer.

    Attributes:
        layer: module path in the user's model.
        kind: "Conv2d", "Linear", ...
        weight_bits, activation_bits: 1 to 8, or 32 for float.
        weights: how many weights it has.
        bytes_before: of the float weights.
        bytes_after: of the packed weights, as the program's file stores them.
        kernel: what computes it: "xnor-popcount", "int8", "lookup", "bit-planes", "float32", ...
        reason: why it is not at the bits that were asked for, or "".
        why: that kernel was chosen, in a few words, or "" where there was no choice.
        dynamic: whether each sample's activations get their range when the program runs.
    """

    layer: str
    kind: str
    weight_bits: int
    activation_bits: int
    weights: int
    bytes_before: int
    bytes_after: int
    kernel: str = ""
    reason: str = ""
    why: str = ""
    dynamic: bool = False


@dataclass(frozen=True)
class ProgramInfo:
    """Everything about a program but its code.

    Attributes:
        model: name of the user's model.
        target: what it was compiled for, as the user wrote it ("cpu", "cpu:portable").
        variants: code for one processor each; the first that a machine can run is used there.
        inputs, outputs: in order.
        returns_tuple: whether a call gives a tuple (of any length) or a bare tensor.
        layers: the conv and linear layers, in graph order.
        fingerprint: of the converted graph, see `qcompile.fingerprint`.
        notes: what the user should know, a sentence each.
        versions: of what compiled it ("qcompile", "tvm", "torch").
    """

    model: str
    target: str
    variants: tuple[Variant, ...]
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    returns_tuple: bool
    layers: tuple[LayerInfo, ...]
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def to_json(info: ProgramInfo) -> dict[str, Any]:
    """The info as what `json.dumps` takes."""
    return dataclasses.asdict(info)


def from_json(value: object) -> ProgramInfo:
    """The inverse of `to_json` after a trip through JSON.

    Raises:
        InfoError: a field is missing, unknown or of another type.
    """
    info = dataclass_from_json(ProgramInfo, value, "program")
    for spec in (*info.inputs, *info.outputs):
        if len(spec.shape) > MAX_RANK or any(size < 0 for size in spec.shape):
            raise InfoError(f"{spec.name} has the shape {spec.shape}")
        if spec.dtype not in DTYPES:
            raise InfoError(f"{spec.name} has the dtype {spec.dtype!r}")
    for variant in info.variants:
        if variant.workspace < 0 or variant.samples < 1:
            raise InfoError(f"{variant.arch} runs {variant.samples} samples at once")
    if not info.inputs or not info.outputs:
        raise InfoError("a program has inputs and outputs")
    _check_variants(info.variants)
    for variant in info.variants:
        if variant.machine == CUDA:
            check_cuda(variant, info)
        elif variant.launches:
            raise InfoError(f"{variant.arch} has launches, but is for {variant.machine}")
    return info


def check_cuda(variant: Variant, info: ProgramInfo) -> None:
    """Look at what a variant for GPUs launches, before anything is.

    Raises:
        InfoError: it leads to what is not there, or no GPU can do it.
    """
    arch, workspace, samples = variant.arch, variant.workspace, variant.samples
    if not _CUDA_ARCH.fullmatch(arch):
        raise InfoError(f"a variant for GPUs is called {arch!r}")
    for name in variant.features:
        if not _CUDA_FEATURE.fullmatch(name):
            raise InfoError(f"{arch} holds code for {name!r}")
    if not _CUDA_VERSION.fullmatch(variant.toolkit):
        raise InfoError(f"{arch} was compiled by CUDA {variant.toolkit!r}")
    room = Room(len(info.inputs), len(info.outputs), len(variant.kernels), workspace, samples)
    if why := fault(variant.launches, room):
        raise InfoError(f"{arch}: {why}")
    for stored in (value for kernel in variant.kernels for value in kernel.results):
        if not _within(stored, workspace, info.outputs):
            raise InfoError(f"{arch}: {stored.node} is stored where nothing is")


def _within(stored: StoredInfo, workspace: int, outputs: tuple[ValueInfo, ...]) -> bool:
    if not (-1 <= stored.output < len(outputs) and stored.offset >= 0 and stored.size >= 0):
        return False
    if stored.output >= 0:
        return stored.offset == 0 and stored.size == outputs[stored.output].nbytes
    return stored.offset + stored.size <= workspace


def _check_variants(variants: tuple[Variant, ...]) -> None:
    if not variants:
        raise InfoError("a program has variants")
    names = [variant.arch for variant in variants]
    for name in names:
        if not _ARCH.fullmatch(name):
            raise InfoError(f"a variant is called {name!r}")
        if names.count(name) > 1:
            raise InfoError(f"{names.count(name)} variants are called {name!r}")


def dataclass_from_json(cls: type[T], value: object, where: str) -> T:
    """An object of a dataclass of plain fields, tuples, strings by strings, and such dataclasses.

    Raises:
        InfoError: a field is missing, unknown or of another type; `where` is what the object is.
    """
    if not isinstance(value, dict):
        raise InfoError(f"{where} is no object")
    hints = typing.get_type_hints(cls)
    required = {
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - value.keys()):
        raise InfoError(f"{where} lacks {missing[0]}")
    if unknown := sorted(value.keys() - hints.keys()):
        raise InfoError(f"{where} has the unknown field {unknown[0]!r}")
    return cls(**{k: _value(hints[k], v, f"{where}.{k}") for k, v in value.items()})


def _value(hint: Any, value: object, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return dataclass_from_json(typing.cast(type, hint), value, where)
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise InfoError(f"{where} is no list")
        item = typing.get_args(hint)[0]
        return tuple(_value(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is not None:
        strings = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
        if not strings:
            raise InfoError(f"{where} does not map strings to strings")
        return dict(typing.cast("dict[str, str]", value))
    if type(value) is not hint:
        raise InfoError(f"{where} is of type {type(value).__name__}, not {hint.__name__}")
    return value
