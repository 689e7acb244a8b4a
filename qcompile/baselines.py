"""How fast is it really: the program beside what PyTorch does with the same float network.

The rivals take turns, so that a busy machine is busy for all of them; what counts is the median.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles

import torch
from torch import Tensor, nn
from torch.fx.proxy import TraceError

from qcompile.program import Program

Inputs = tuple[Tensor, ...]
Call = Callable[..., object]
ENGINES = ("x86", "fbgemm")


@dataclass(frozen=True)
class Rival:
    """One way to run the network: a name and what to call, or why it cannot be had.

    `size` is in bytes: of the file, or of all parameters and buffers.
    """

    name: str
    call: Call | None
    reason: str = ""
    size: int | None = None


@dataclass(frozen=True)
class Timing:
    """Median seconds of one call of a rival, or None where it cannot be had.

    `spread` is how many times the fast quarter's time the slow quarter's is: 1 on a quiet machine.
    """

    name: str
    batch: int
    seconds: float | None
    spread: float = 1.0


def ours(program: Program) -> Rival:
    """The program itself, which the others are held against."""
    return Rival("qcompile", program, size=program.size)


def eager(model: nn.Module) -> Rival:
    """PyTorch as it comes, in float."""
    return Rival("PyTorch float32", copy.deepcopy(model).eval(), size=weight_bytes(model))


def weight_bytes(model: nn.Module) -> int:
    """What a module's parameters and buffers take, those of PyTorch's quantized layers unpacked."""
    return sum(t.nbytes for value in model.state_dict().values() for t in _tensors(value))


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple):
        return [t for part in value for t in _tensors(part)]
    return _tensors(value.unpack()) if hasattr(value, "unpack") else []


def static_int8(
    model: nn.Module, calibration: Sequence[Inputs], engines: Sequence[str] = ENGINES
) -> list[Rival]:
    """PyTorch's static 8-bit quantization, for each of those engines that this machine has.

    Args:
        model: the float network; it stays as it is.
        calibration: inputs by which it finds its ranges.
        engines: PyTorch's names of them.
    """
    able = [e for e in engines if e in torch.backends.quantized.supported_engines]
    return [_static_int8(copy.deepcopy(model).eval(), calibration, e) for e in able]


def _static_int8(model: nn.Module, calibration: Sequence[Inputs], engine: str) -> Rival:
    """In FX graph mode, which fuses convolution, BatchNorm and ReLU."""
    name = f"PyTorch int8 {engine}"
    before = torch.backends.quantized.engine
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # it is deprecated, and still what is widely used
            from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

            torch.backends.quantized.engine = engine
            settings = get_default_qconfig_mapping(engine)
            prepared = quantize_fx.prepare_fx(model, settings, calibration[0])
            for inputs in calibration:
                prepared(*inputs)
            quantized = quantize_fx.convert_fx(prepared)
            quantized(*calibration[0])
    except (ImportError, RuntimeError, TraceError, TypeError, ValueError, AttributeError) as error:
        return Rival(name, None, f"PyTorch cannot: {str(error).splitlines()[0][:80]}")
    finally:
        torch.backends.quantized.engine = before
    return Rival(name, quantized, size=weight_bytes(quantized))


def measure(
    entrants: Sequence[Rival], examples: Inputs, batch: int, *, seconds: float = 2.0
) -> list[Timing]:
    """Time one call of each, at one batch size.

    Args:
        examples: inputs; their first row is repeated to the batch.
        seconds: how long each may take, about.
    """
    inputs = tuple(x[:1].repeat(batch, *[1] * (x.dim() - 1)).contiguous() for x in examples)
    able = [r for r in entrants if r.call is not None]
    with torch.no_grad():
        samples = take_turns([partial(r.call, *inputs) for r in able if r.call], seconds=seconds)
    timed = {r.name: _timing(r.name, batch, s) for r, s in zip(able, samples, strict=True)}
    return [timed.get(r.name, Timing(r.name, batch, None)) for r in entrants]


def _timing(name: str, batch: int, samples: Sequence[float]) -> Timing:
    fast, _, slow = quantiles(samples, n=4)
    return Timing(name, batch, median(samples), slow / fast)


def take_turns(
    calls: Sequence[Call],
    *,
    seconds: float,
    rounds: int = 200,
    clock: Callable[[], float] = time.perf_counter,
    pause: float = 0.0,
) -> list[list[float]]:
    """Time functions without arguments, one sample of each a round, for rounds on end.

    Samples of one round lie close together in time, so their ratio holds on a busy machine too.

    Args:
        seconds: how long each may take, about; there are at least five rounds.
        rounds: and this many at most.
        clock: gives seconds; `time.process_time` leaves out what other processes took.
        pause: seconds before each sample, for the threads of the one before to fall asleep.

    Returns:
        For each function the seconds of a call, in the order of the rounds. A sample is a run of
        calls of about a millisecond or more, after one that is not counted.
    """
    repeats = [_repeats(call) for call in calls]
    samples: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds * len(calls)
    while calls and (
        len(samples[0]) < 5 or (time.perf_counter() < end and len(samples[0]) < rounds)
    ):
        for call, count, taken in zip(calls, repeats, samples, strict=True):
            if pause:
                time.sleep(pause)
            call()  # the other's threads go to sleep, and ours wake up
            start = clock()
            for _ in range(count):
                call()
            taken.append((clock() - start) / count)
    return samples


def _repeats(call: Call) -> int:
    call()
    start = time.perf_counter()
    call()
    return max(1, round(1e-3 / max(time.perf_counter() - start, 1e-7)))
