"""PyTorch on a GPU: float32 and float16, eager and compiled, and its product of int8 matrices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qcompile.rivals.entrant import (
    Entrant,
    Inputs,
    Ready,
    Unavailable,
    unavailable_if,
)
from qcompile.rivals.pytorch import PACKAGE, channels_last, laid_out, output_of, weight_bytes

FP32, FP16 = "PyTorch float32", "PyTorch float16"
FP32_COMPILED, FP16_COMPILED = f"{FP32}, compiled", f"{FP16}, compiled"
FP16_GRAPHS = f"{FP16_COMPILED}, CUDA graph"
INT_MM = "PyTorch int8 torch._int_mm"
EAGER, COMPILED, GRAPHS = "eager", "torch.compile", 'torch.compile(mode="reduce-overhead")'


def eager(model: nn.Module, device: str | torch.device) -> list[Entrant]:
    """PyTorch as it comes, in float32 and in float16; weights and inputs are channels_last."""
    return [
        _entrant("fp32", FP32, torch.float32, EAGER, model, device),
        _entrant("fp16", FP16, torch.float16, EAGER, model, device),
    ]


def entrants(model: nn.Module, device: str | torch.device) -> list[Entrant]:
    """PyTorch's ways to run a float network on a device; weights and inputs are channels_last."""
    half = torch.float16
    return [
        *eager(model, device),
        _entrant("fp32-compiled", FP32_COMPILED, torch.float32, COMPILED, model, device),
        _entrant("fp16-compiled", FP16_COMPILED, half, COMPILED, model, device),
        _entrant("fp16-graphs", FP16_GRAPHS, half, GRAPHS, model, device),
    ]


def int_mm(rows: int, depth: int, columns: int, count: int, device: str) -> Entrant:
    """So many products of int8 matrices, `[rows, depth]` by `[depth, columns]`, to int32."""
    how = "the products alone: without patches, bias, ReLU, and requantization"
    run = partial(_int_mm, (rows, depth, columns), count, device)
    return Entrant("int-mm", INT_MM, run, "int8", how, PACKAGE)


def _entrant(
    key: str,
    name: str,
    dtype: torch.dtype,
    way: str,
    model: nn.Module,
    device: str | torch.device,
) -> Entrant:
    tf32 = ", TF32 in convolutions" if dtype is torch.float32 else ""
    compiled = "" if way == EAGER else f", {way}"
    run = partial(_float, model, device, dtype, way)
    precision = str(dtype).removeprefix("torch.")
    return Entrant(key, name, run, precision, f"channels_last{tf32}{compiled}", PACKAGE)


def _float(
    model: nn.Module, device: str | torch.device, dtype: torch.dtype, way: str, inputs: Inputs
) -> Ready:
    if way != EAGER and str(device) == "cpu":
        raise Unavailable("needs a GPU")
    made: Any = channels_last(model).to(device=device, dtype=dtype)
    given = [x.to(device=device, dtype=dtype) for x in laid_out(inputs)]
    size = weight_bytes(made)
    with unavailable_if(RuntimeError, OSError):
        if way != EAGER:
            torch._dynamo.reset()
            mode = "reduce-overhead" if way == GRAPHS else None
            made = torch.compile(made, dynamic=False, mode=mode)
        made(*given)
    call = partial(made, *given)
    return Ready(call, partial(output_of, call), size)


def _int_mm(sizes: Sequence[int], count: int, device: str, inputs: Inputs) -> Ready:
    rows, depth, columns = sizes
    generator = torch.Generator().manual_seed(0)

    def matrix(*shape: int) -> Tensor:
        drawn = torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)
        return drawn.to(device)

    a, weights = matrix(rows, depth), [matrix(columns, depth).t() for _ in range(count)]

    def call() -> Tensor:
        for b in weights:
            found = torch._int_mm(a, b)
        return found

    with unavailable_if(RuntimeError):
        call()
    return Ready(call)
