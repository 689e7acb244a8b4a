"""What each layer costs at each width, measured: networks of one width each, compiled and timed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from qcompile import api
from qcompile.errors import QCompileError
from qcompile.machine import choose
from qcompile.program import Program
from qcompile.rivals.turns import take_turns
from qcompile.sensitivity_analysis import Progress
from qcompile.sensitivity_network import Network
from qcompile.sensitivity_widths import FLOAT, Width

SECONDS = 1.0  # that each program is called in all, and as much kernel by kernel
ROUNDS = 200


@dataclass(frozen=True)
class Calls:
    """Calls that are timed.

    Attributes:
        batch: samples of one.
        threads: that it may use; None is the program's own.

    Raises:
        QCompileError: they are no such numbers.
    """

    batch: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        if type(self.batch) is not int or self.batch < 1:
            raise QCompileError(f"batch is {self.batch!r}", hint="a number of samples, from 1 up")
        if self.threads is not None and (type(self.threads) is not int or self.threads < 1):
            raise QCompileError(f"threads is {self.threads!r}", hint="a number from 1 up, or None")


@dataclass(frozen=True)
class Uniform:
    """The network with one width for all layers that can have it; the others are float.

    Attributes:
        widths: layer path to width.
        seconds: of a call, median.
        size: of the file, in bytes.
        layer_seconds, layer_bytes: of each layer; their sums are the two above.
    """

    width: Width
    widths: Mapping[str, Width]
    seconds: float
    size: int
    layer_seconds: Mapping[str, float]
    layer_bytes: Mapping[str, float]


def uniform_costs(
    network: Network,
    widths: Sequence[Width],
    calls: Calls,
    progress: Progress | None = None,
) -> tuple[Uniform, ...]:
    """Compile the network once for each width, for this machine, and time its kernels.

    Raises:
        QCompileError: this machine cannot run what it compiles.
    """
    assigned = [allowed(network, width) for width in widths]
    programs = []
    for done, widths_of_layers in enumerate(assigned, 1):
        programs.append(compiled(network, widths_of_layers, calls))
        if progress is not None:
            progress(done, len(assigned) + 1)
    layers = [plan.layer for plan in network.quantizable]
    seconds = latencies(programs, network, calls)
    kernels = _kernel_seconds(programs, network)
    found = []
    for i, program in enumerate(programs):
        by_layer = _by_layer(program, layers, _shares(kernels[i], seconds[i]))
        sizes = _sizes(program, layers)
        found.append(Uniform(widths[i], assigned[i], seconds[i], program.size, by_layer, sizes))
    return tuple(found)


def allowed(network: Network, width: Width) -> dict[str, Width]:
    """All layers at a width, but float where a layer cannot have it."""
    refused = network.refused(width)
    return {p.layer: FLOAT if p.layer in refused else width for p in network.quantizable}


def compiled(network: Network, widths: Mapping[str, Width], calls: Calls) -> Program:
    """The program of the quantized network, for this machine."""
    program = api.compile(api.convert(network.quantize(widths)), target="cpu")
    choose(program.info)
    if calls.threads is not None:
        program.num_threads = calls.threads
    return program


# --- time ----------------------------------------------------------------------------------------


def latencies(programs: Sequence[Program], network: Network, calls: Calls) -> list[float]:
    """Median seconds of a call of each; they take turns."""
    inputs = _sample(network, calls.batch)
    samples = take_turns([partial(p, *inputs) for p in programs], seconds=SECONDS)
    return [median(s) for s in samples]


def _sample(network: Network, batch: int) -> list[Any]:
    """The first sample, repeated: numpy arrays, which need no torch to be looked at."""
    return [
        x[:1].repeat(batch, *[1] * (x.dim() - 1)).contiguous().numpy() for x in network.batches[0]
    ]


def _kernel_seconds(programs: Sequence[Program], network: Network) -> list[list[float]]:
    """Median seconds of each program's kernels, one after another as in a call, on one thread."""
    inputs = _sample(network, 1)
    steps = [[run for _, run in program.steps(*inputs)] for program in programs]
    samples: list[list[list[float]]] = [[[] for _ in kernels] for kernels in steps]
    end = time.perf_counter() + SECONDS * len(programs)
    rounds = 0
    while rounds < 5 or (rounds < ROUNDS and time.perf_counter() < end):
        rounds += 1
        for kernels, taken in zip(steps, samples, strict=True):
            for run in kernels:
                run()  # not counted: brings code and data near, as a call after a call finds them
            for run, one in zip(kernels, taken, strict=True):
                start = time.perf_counter()
                run()
                one.append(time.perf_counter() - start)
    return [[median(one) for one in taken] for taken in samples]


def _shares(kernels: Sequence[float], call: float) -> list[float]:
    """Kernels' shares of a call's time.

    Each was timed with the same overhead of calling it, the call with one such overhead for all: it
    is what explains the difference of the sums, where that is positive.
    """
    extra = (sum(kernels) - call) / max(len(kernels) - 1, 1)
    overhead = min(max(extra, 0.0), 0.99 * min(kernels))
    own = [seconds - overhead for seconds in kernels]
    return [call * seconds / sum(own) for seconds in own]


def _by_layer(
    program: Program, layers: Sequence[str], seconds: Sequence[float]
) -> dict[str, float]:
    """Kernels that are of no quantized layer count for the one before them, or the first."""
    found = dict.fromkeys(layers, 0.0)
    named = [k.layer for k in program.variant.kernels if k.layer in found]
    current = named[0] if named else layers[0]
    for kernel, taken in zip(program.variant.kernels, seconds, strict=True):
        current = kernel.layer if kernel.layer in found else current
        found[current] += taken
    return found


# --- size ----------------------------------------------------------------------------------------


def _sizes(program: Program, layers: Sequence[str]) -> dict[str, float]:
    """Bytes of the layers' weights; of what else is in the file, each has the same share."""
    weights = {x.layer: float(x.bytes_after) for x in program.info.layers if x.layer in layers}
    rest = program.size - sum(weights.values())
    if rest < 0:  # the file is packed
        return {
            layer: program.size * size / sum(weights.values()) for layer, size in weights.items()
        }
    return {layer: size + rest / len(layers) for layer, size in weights.items()}
