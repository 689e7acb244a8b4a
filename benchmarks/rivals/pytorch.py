"""PyTorch: float eager, float compiled by inductor, and static int8 of its engines."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qcompile import baselines
from rivals.entrant import Call, Entrant, Ready, Unavailable, unavailable_if

ENGINES = ("fbgemm", "x86", "onednn")
FBGEMM = "PyTorch int8 fbgemm"
INT8 = tuple(f"PyTorch int8 {engine}" for engine in ENGINES)


def entrants(model: nn.Module, calibration: Sequence[Tensor]) -> list[Entrant]:
    """All of PyTorch's ways to run a float network; weights and inputs are channels_last."""
    return [
        Entrant("PyTorch fp32 eager", partial(_eager, model), "channels_last"),
        Entrant("PyTorch fp32 inductor", partial(_inductor, model), "torch.compile, freezing"),
        *(
            Entrant(name, partial(_int8, model, calibration, engine), "FX static quantization")
            for name, engine in zip(INT8, ENGINES, strict=True)
        ),
    ]


def _channels_last(model: nn.Module) -> nn.Module:
    made: Any = copy.deepcopy(model).eval()  # Module.to has no overload for a memory format
    return made.to(memory_format=torch.channels_last)


def _eager(model: nn.Module, x: Tensor) -> Ready:
    call: Call = partial(_channels_last(model), x.to(memory_format=torch.channels_last))
    return Ready(call, baselines.eager(model).size)


def _inductor(model: nn.Module, x: Tensor) -> Ready:
    from torch import _inductor

    torch._dynamo.reset()
    with unavailable_if(RuntimeError, OSError), _inductor.config.patch(freezing=True):
        compiled = torch.compile(_channels_last(model), dynamic=False)
        call = partial(compiled, x.to(memory_format=torch.channels_last))
        call()
    return Ready(call, baselines.eager(model).size)


def _int8(model: nn.Module, calibration: Sequence[Tensor], engine: str, x: Tensor) -> Ready:
    rivals = baselines.static_int8(model, [(c,) for c in calibration], [engine])
    if not rivals:
        raise Unavailable(f"this build of PyTorch has no engine {engine}")
    if rivals[0].call is None:
        raise Unavailable(rivals[0].reason)
    call: Call = partial(rivals[0].call, x.to(memory_format=torch.channels_last))
    return Ready(call, rivals[0].size)
