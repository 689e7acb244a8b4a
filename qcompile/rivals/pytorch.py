"""PyTorch: float eager, float compiled by inductor, and static int8 of its engines."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from qcompile.rivals import onednn
from qcompile.rivals.entrant import (
    Call,
    Entrant,
    Inputs,
    Once,
    Ready,
    Unavailable,
    first_tensor,
    line_of,
    unavailable_if,
)
from qcompile.rivals.quiet import quiet

PACKAGE = "torch"
ENGINES = ("fbgemm", "x86", "onednn")
INT8 = {engine: f"PyTorch int8 {engine}" for engine in ENGINES}
FBGEMM = INT8["fbgemm"]
# What torch.fx and torch.ao raise of networks that they cannot follow; TraceError is a ValueError.
_REFUSALS = (
    *(ImportError, RuntimeError, TypeError, ValueError),
    *(AttributeError, LookupError, AssertionError),
)
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def eager(model: nn.Module) -> Entrant:
    """PyTorch as it comes, in float."""
    how = "eager, channels_last"
    return Entrant("fp32", "PyTorch float32", partial(_eager, model), "float32", how, PACKAGE)


def inductor(model: nn.Module) -> Entrant:
    """Compiled by torch.compile."""
    how = "torch.compile with freezing, channels_last, for each batch by itself"
    name = "PyTorch float32, inductor"
    return Entrant("inductor", name, partial(_inductor, model), "float32", how, PACKAGE)


def int8(model: nn.Module, calibration: Sequence[Inputs], engine: str) -> Entrant:
    """Static quantization for one of PyTorch's engines."""
    how = f"static quantization in FX graph mode, default settings of {engine}, channels_last"
    quantized = Once(partial(static_int8, model, calibration, engine))
    run = partial(_int8, quantized, engine)
    return Entrant(engine, f"PyTorch int8 {engine}", run, "int8", how, PACKAGE)


def weight_bytes(model: nn.Module) -> int:
    """What a module's parameters and buffers take, those of PyTorch's quantized layers unpacked."""
    return sum(t.nbytes for value in model.state_dict().values() for t in _tensors(value))


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple):
        return [t for part in value for t in _tensors(part)]
    return _tensors(value.unpack()) if hasattr(value, "unpack") else []


def static_int8(model: nn.Module, calibration: Sequence[Inputs], engine: str) -> nn.Module:
    """PyTorch's static 8-bit quantization in FX graph mode: convolution, BatchNorm, ReLU in one.

    Args:
        model: the float network; it stays as it is.
        calibration: inputs by which it finds its ranges.
        engine: PyTorch's name of it.

    Raises:
        Unavailable: this PyTorch has no such engine, or it cannot quantize the network.
    """
    if engine not in torch.backends.quantized.supported_engines:
        raise Unavailable(f"this build of PyTorch has no engine {engine}")
    before = torch.backends.quantized.engine
    try:
        with quiet(), torch.no_grad(), unavailable_if(*_REFUSALS, saying="torch.ao cannot: "):
            torch.backends.quantized.engine = engine
            return _quantized(copy.deepcopy(model).eval(), calibration, engine)
    finally:
        torch.backends.quantized.engine = before


def _quantized(model: nn.Module, calibration: Sequence[Inputs], engine: str) -> nn.Module:
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    if not all(isinstance(leaf, Tensor) for leaf in tree_leaves(model(*calibration[0]))):
        raise Unavailable("torch.ao cannot: the network gives something else than tensors")
    settings = get_default_qconfig_mapping(engine)
    prepared = quantize_fx.prepare_fx(model, settings, calibration[0])
    for inputs in calibration:
        prepared(*inputs)
    quantized = quantize_fx.convert_fx(prepared)
    if not any(node.target is torch.quantize_per_tensor for node in quantized.graph.nodes):
        raise Unavailable("torch.ao finds nothing in it to quantize")
    return quantized


def channels_last(model: nn.Module) -> nn.Module:
    """A copy in eval mode, its weights channels last, those of planes and of volumes."""
    made = copy.deepcopy(model).eval()
    # Module.to takes one format, and refuses weights of the other rank.
    for weight in made.parameters():
        if weight.dim() in _FORMATS:
            weight.data = weight.data.contiguous(memory_format=_FORMATS[weight.dim()])
    return made


def laid_out(inputs: Inputs) -> Inputs:
    """Channels last where there are channels and planes."""
    return tuple(
        x.to(memory_format=_FORMATS[x.dim()]) if x.dim() in _FORMATS else x for x in inputs
    )


def in_best_layout(model: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs]:
    """A copy in eval mode, and the inputs: channels last, or as they are where the network forbids that.

    `x.view(n, -1)` of what a convolution gave, for one, needs torch's own order.
    """
    made, given = channels_last(model), laid_out(inputs)
    try:
        with torch.no_grad():
            made(*given)
    except RuntimeError:
        return copy.deepcopy(model).eval(), inputs
    return made, given


def _instructions(engine: str = "") -> str:
    """What PyTorch's own kernels and oneDNN's say; FBGEMM does not."""
    told = {"ATen": torch.backends.cpu.get_cpu_capability()}
    if engine != "fbgemm":
        told["oneDNN"] = onednn.instructions()
    return ", ".join(f"{library}: {isa}" for library, isa in told.items() if isa)


def _ready(model: Any, inputs: Inputs, size: int, engine: str = "") -> Ready:
    call = partial(model, *inputs)
    return Ready(call, partial(output_of, call), size, _instructions(engine))


@torch.no_grad()
def output_of(call: Call) -> Tensor | None:
    """What a call of a network in PyTorch gives: the first tensor, on the CPU."""
    return first_tensor(call())


def _eager(model: nn.Module, inputs: Inputs) -> Ready:
    return _ready(*in_best_layout(model, inputs), weight_bytes(model))


def _inductor(model: nn.Module, inputs: Inputs) -> Ready:
    from torch import _inductor

    made, inputs = in_best_layout(model, inputs)
    run = _with_code_of_its_own(made)
    try:
        with quiet(), _inductor.config.patch(freezing=True):
            ready = _ready(torch.compile(run, dynamic=False), inputs, weight_bytes(model))
            ready.output()
    except (RuntimeError, OSError) as error:
        if "C++ compiler" in str(error):
            raise Unavailable(
                "inductor needs a C++ compiler, and finds none",
                "install g++ or clang, or name one in the variable CXX",
            ) from error
        raise Unavailable(f"inductor cannot: {line_of(error)}") from error
    return ready


def _with_code_of_its_own(model: nn.Module) -> FunctionType:
    """A function that calls a model.

    torch.compile keeps what it made with the code object that it compiled, eight at most; the ninth
    of a class would run uncompiled, in silence.
    """

    def run(*inputs: Tensor) -> object:
        return model(*inputs)

    return FunctionType(run.__code__.replace(), globals(), closure=run.__closure__)


def _int8(quantized: Once[nn.Module], engine: str, inputs: Inputs) -> Ready:
    with unavailable_if(RuntimeError, saying="torch.ao cannot: "):
        ready = _ready(quantized(), laid_out(inputs), weight_bytes(quantized()), engine)
        ready.output()
    return ready
