"""How fast is it really: the program beside what PyTorch does with the same float network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median, quantiles

import torch
from torch import nn

from qcompile.program import Program
from qcompile.rivals import engines, torch_cuda
from qcompile.rivals.entrant import Call, Entrant, Inputs, Ready, Unavailable
from qcompile.rivals.pytorch import weight_bytes
from qcompile.rivals.turns import take_turns

OURS = "qcompile"
BESIDE = ("fp32", "x86", "fbgemm")  # engines that the program is held against on a CPU


@dataclass(frozen=True)
class Rival:
    """One way to run the network, or why it cannot be had.

    `size` is in bytes: of the file, or of all parameters and buffers.
    """

    name: str
    size: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Timing:
    """Median seconds of one call of a rival, or None where it cannot be had.

    `spread` is how many times the fast quarter's time the slow quarter's is: 1 on a quiet machine.
    """

    name: str
    batch: int
    seconds: float | None
    spread: float = 1.0


def sizes(program: Program, model: nn.Module) -> list[Rival]:
    """The program beside the float network, where nothing can be timed."""
    return [Rival(OURS, program.size), Rival(torch_cuda.FP32, weight_bytes(model))]


def ours(program: Program) -> Entrant:
    """The program itself, which the others are held against."""
    return Entrant(OURS, OURS, partial(_ready, program))


def _ready(program: Program, inputs: Inputs) -> Ready:
    return Ready(partial(program, *inputs), size=program.size)


def on_cpu(program: Program, model: nn.Module, calibration: Sequence[Inputs]) -> list[Entrant]:
    """Beside PyTorch in float and in 8 bits; `calibration` is where those find their ranges."""
    return [ours(program), *engines.entrants(BESIDE, model, calibration, program.num_threads)]


def on_gpu(program: Program, model: nn.Module) -> list[Entrant]:
    """Beside PyTorch in float32 and float16, all on tensors there; calls end with their results.

    Where PyTorch has no CUDA, ours gets tensors on the CPU.
    """
    if not torch.cuda.is_available():
        return [ours(program), Entrant("fp32", torch_cuda.FP32, _no_cuda)]
    device = _device()
    own = Entrant(OURS, OURS, partial(_ready_on, program, device))
    rivals = [own, *torch_cuda.eager(model, device)]
    return [replace(rival, prepare=partial(_waiting, rival)) for rival in rivals]


def _no_cuda(inputs: Inputs) -> Ready:
    raise Unavailable("this PyTorch has no CUDA; ours copies from the CPU and back")


def _ready_on(program: Program, device: torch.device, inputs: Inputs) -> Ready:
    return _ready(program, tuple(x.to(device) for x in inputs))


def _waiting(entrant: Entrant, inputs: Inputs) -> Ready:
    ready = entrant.prepare(inputs)
    return replace(ready, call=partial(_wait_for, ready.call))


def _wait_for(call: Call) -> object:
    result = call()
    torch.cuda.synchronize()
    return result


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def gpu_name() -> str:
    """As a table's title says it."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "GPU"


def measure(
    entrants: Sequence[Entrant], examples: Inputs, batches: Sequence[int], *, seconds: float = 2.0
) -> tuple[list[Rival], list[Timing]]:
    """Time one call of each, at some batch sizes.

    Args:
        examples: inputs; their first row is repeated to the batch.
        seconds: how long each may take at each batch size, about.
    """
    rivals: dict[str, Rival] = {}
    timings: list[Timing] = []
    for batch in batches:
        inputs = tuple(x[:1].repeat(batch, *[1] * (x.dim() - 1)).contiguous() for x in examples)
        calls: dict[str, Call] = {}
        with torch.no_grad():
            for entrant in entrants:
                rivals[entrant.name] = _prepared(entrant, inputs, calls)
            taken = take_turns(list(calls.values()), seconds=seconds)
        samples = dict(zip(calls, taken, strict=True))
        timings += [_timing(e.name, batch, samples.get(e.name)) for e in entrants]
    return list(rivals.values()), timings


def _prepared(entrant: Entrant, inputs: Inputs, calls: dict[str, Call]) -> Rival:
    try:
        ready = entrant.prepare(inputs)
    except Unavailable as refusal:
        return Rival(entrant.name, reason=refusal.reason)
    calls[entrant.name] = ready.call
    return Rival(entrant.name, ready.size)


def _timing(name: str, batch: int, samples: Sequence[float] | None) -> Timing:
    if samples is None:
        return Timing(name, batch, None)
    fast, _, slow = quantiles(samples, n=4)
    return Timing(name, batch, median(samples), slow / fast)
