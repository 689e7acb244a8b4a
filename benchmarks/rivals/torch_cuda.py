"""PyTorch on a GPU: float32 and float16, eager and compiled, and its product of int8 matrices."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qcompile import baselines
from rivals.entrant import Entrant, Ready, Unavailable, unavailable_if

FP16 = "PyTorch fp16 eager"
FP16_COMPILED = "PyTorch fp16 compiled"
FLOATS = ("PyTorch fp32 eager", FP16, "PyTorch fp32 compiled", FP16_COMPILED)
FP16_GRAPHS = "PyTorch fp16 compiled, CUDA graph"
INT_MM = "PyTorch int8 torch._int_mm"
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def entrants(model: nn.Module, device: str) -> list[Entrant]:
    """PyTorch's ways to run a float network on a device; weights and inputs are channels_last."""
    return [
        *(Entrant(name, partial(_float, model, device, name), _note(name)) for name in FLOATS),
        Entrant(
            FP16_GRAPHS,
            partial(_float, model, device, FP16_GRAPHS),
            'channels_last, torch.compile(mode="reduce-overhead")',
        ),
    ]


def int_mm(rows: int, depth: int, columns: int, count: int, device: str) -> Entrant:
    """So many products of int8 matrices, `[rows, depth]` by `[depth, columns]`, to int32."""
    return Entrant(
        INT_MM,
        partial(_int_mm, (rows, depth, columns), count, device),
        "the products alone: without patches, bias, ReLU, and requantization",
    )


def _note(name: str) -> str:
    how = ", torch.compile" if "compiled" in name else ""
    return f"channels_last{', TF32 in convolutions' if 'fp32' in name else ''}{how}"


def _float(model: nn.Module, device: str, name: str, x: Tensor) -> Ready:
    if "compiled" in name and device == "cpu":
        raise Unavailable("needs a GPU")
    dtype = _DTYPES[name.split()[1]]
    made: Any = copy.deepcopy(model).eval()  # Module.to has no overload for a memory format
    made = made.to(device=device, dtype=dtype, memory_format=torch.channels_last)
    given = x.to(device=device, dtype=dtype, memory_format=torch.channels_last)
    size = baselines.eager(model).size
    with unavailable_if(RuntimeError, OSError):
        if "compiled" in name:
            torch._dynamo.reset()
            mode = "reduce-overhead" if name == FP16_GRAPHS else None
            made = torch.compile(made, dynamic=False, mode=mode)
        made(given)
    return Ready(partial(made, given), size)


def _int_mm(sizes: Sequence[int], count: int, device: str, x: Tensor) -> Ready:
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
