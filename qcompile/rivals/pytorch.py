"""PyTorch: float eager, float compiled by inductor, and static int8 of its engines."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.proxy import TraceError

from qcompile.rivals.entrant import (
    Call,
    Entrant,
    Inputs,
    Once,
    Ready,
    Unavailable,
    first_tensor,
    unavailable_if,
)

PACKAGE = "torch"
ENGINES = ("fbgemm", "x86", "onednn")
INT8 = {engine: f"PyTorch int8 {engine}" for engine in ENGINES}
FBGEMM = INT8["fbgemm"]
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
    run = partial(_int8, quantized)
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
    errors = (ImportError, RuntimeError, TraceError, TypeError, ValueError, AttributeError)
    try:
        with (
            warnings.catch_warnings(),
            torch.no_grad(),
            unavailable_if(*errors, saying="PyTorch cannot: "),
        ):
            warnings.simplefilter("ignore")  # it is deprecated, and still what is widely used
            from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

            torch.backends.quantized.engine = engine
            settings = get_default_qconfig_mapping(engine)
            prepared = quantize_fx.prepare_fx(copy.deepcopy(model).eval(), settings, calibration[0])
            for inputs in calibration:
                prepared(*inputs)
            quantized = quantize_fx.convert_fx(prepared)
            quantized(*calibration[0])
    finally:
        torch.backends.quantized.engine = before
    return quantized


def channels_last(model: nn.Module) -> nn.Module:
    """A copy in eval mode, its weights channels last."""
    made: Any = copy.deepcopy(model).eval()  # Module.to has no overload for a memory format
    return made.to(memory_format=torch.channels_last)


def laid_out(inputs: Inputs) -> Inputs:
    """Channels last where there are channels and planes."""
    return tuple(
        x.to(memory_format=_FORMATS[x.dim()]) if x.dim() in _FORMATS else x for x in inputs
    )


def _ready(model: Any, inputs: Inputs, size: int) -> Ready:
    call = partial(model, *laid_out(inputs))
    instructions = torch.backends.cpu.get_cpu_capability()
    return Ready(call, partial(output_of, call), size, instructions)


@torch.no_grad()
def output_of(call: Call) -> Tensor | None:
    """What a call of a network in PyTorch gives: the first tensor, on the CPU."""
    return first_tensor(call())


def _eager(model: nn.Module, inputs: Inputs) -> Ready:
    return _ready(channels_last(model), inputs, weight_bytes(model))


def _inductor(model: nn.Module, inputs: Inputs) -> Ready:
    from torch import _inductor

    torch._dynamo.reset()
    with unavailable_if(RuntimeError, OSError), _inductor.config.patch(freezing=True):
        compiled = torch.compile(channels_last(model), dynamic=False)
        ready = _ready(compiled, inputs, weight_bytes(model))
        ready.output()
    return ready


def _int8(quantized: Once[nn.Module], inputs: Inputs) -> Ready:
    return _ready(quantized(), inputs, weight_bytes(quantized()))
