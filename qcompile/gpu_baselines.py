"""How fast is it on a GPU: the program beside PyTorch with the same float network there."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from qcompile.baselines import Inputs, Rival, eager, ours, weight_bytes
from qcompile.program import Program

_HALF = "PyTorch float16"


def entrants(program: Program, model: nn.Module, examples: Inputs) -> tuple[list[Rival], Inputs]:
    """Who is timed, and on what: tensors on the GPU; or on the CPU, where PyTorch has no CUDA.

    A call ends when its result is there.
    """
    own, float32 = ours(program), eager(model)
    if not torch.cuda.is_available():
        why = "this PyTorch has no CUDA; ours copies from the CPU and back"
        return [own, Rival(float32.name, None, why, float32.size)], examples
    device = _device()
    half = copy.deepcopy(model).eval().to(device, torch.float16)
    assert isinstance(float32.call, nn.Module)
    timed = [
        Rival(own.name, _Waits(program), size=own.size),
        Rival(float32.name, _Waits(float32.call.to(device)), size=float32.size),
        Rival(_HALF, _Waits(half, torch.float16), size=weight_bytes(half)),
    ]
    return timed, tuple(x.to(device) for x in examples)


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def device_name() -> str:
    """The GPU's, as a table's title says it."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "GPU"


class _Waits:
    """A call that returns when the GPU has done its work."""

    def __init__(self, call: object, dtype: torch.dtype | None = None) -> None:
        self._call = call
        self._dtype = dtype

    def __call__(self, *inputs: Tensor) -> object:
        assert callable(self._call)
        if self._dtype is not None:
            inputs = tuple(x.to(self._dtype) for x in inputs)
        result = self._call(*inputs)
        torch.cuda.synchronize()
        return result
