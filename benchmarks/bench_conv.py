"""Binary 3 x 3 convolutions, packed bits in and out, beside int8 and fp32 layers of other frameworks.

python benchmarks/bench_conv.py --targets cpu,cpu:cascadelake,cpu:haswell [--threads 1] [--batch 1]

A layer alone cannot be timed alike everywhere: calls, conversions of the input and of the result cost
each framework something else. So every entrant runs a chain of 2 layers and one of 6, each layer with
weights of its own, and what is shown is a quarter of the difference: one layer inside a network. It is

- qcompile: convolution over zeros (so with the correction of its border), threshold, packing;
- fp32 and int8: convolution, bias, ReLU, and for int8 the requantization;
- OpenVINO 1 bit: BinaryConvolution with the binarization of its result.

All take turns; times are medians over the rounds, and ratios medians of the ratios within a round.
The limit is the fastest reference loop (limits.py) for the target's instructions and the layer's K,
timed in the same rounds, times the number of threads.

The split is of one layer whose accumulators are read twice, so that packing the float input (which
lies in torch's order), the bare convolution to int32 and the threshold with packing are kernels of
their own; each is timed inside the program, call by call. Together they take longer than the fused
layer, which stores no accumulators.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import bench_limit
import binary_chain
import machine_facts
import tables
import timed_rows
from binary_chain import Shape
from qcompile.bench import limits
from qcompile.bench.worker import CLOCKS
from qcompile.rivals import engines, ov, pytorch
from qcompile.rivals.entrant import Call, Entrant, Inputs, Ready, Unavailable
from tables import Sheet, milliseconds, number
from timed_rows import Row, Settings

SHAPES = (Shape(64, 56), Shape(128, 28), Shape(256, 14), Shape(512, 7))
SHORT, LONG = 2, 6
TARGETS = ("cpu", "cpu:cascadelake", "cpu:haswell")
# What the loops of the limit may use, by LLVM's name of the processor; others have no limit here.
_ISAS = {
    limits.AVX2: ("haswell", "broadwell", "skylake", "znver1", "znver2", "znver3", "x86-64-v3"),
    limits.AVX512: ("skylake-avx512", "cascadelake", "cooperlake", "x86-64-v4"),
    limits.AVX512_VPOPCNTDQ: ("icelake-server", "sapphirerapids", "emeraldrapids", "znver4"),
}
_BEST_FIRST = (limits.AVX512_VPOPCNTDQ, limits.AVX512, limits.AVX2)
_SPLIT_ROUNDS = 50


@dataclass(frozen=True)
class Measurement:
    """One shape: rows by entrant, and the limit's row for each of ours."""

    shape: Shape
    settings: Settings
    batch: int
    rows: tuple[Row, ...]
    limit_of: dict[str, str]
    splits: dict[str, dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """As plain values; times in milliseconds."""
        rows = []
        for row in self.rows:
            share = row.faster_than(self.limit_of.get(row.name, ""))
            rate = None if row.seconds is None else self.macs / row.seconds / 1e9
            rows.append(row.to_json() | {"gmacs": rate, "of_limit": share})
        return {
            "channels": self.shape.channels,
            "size": self.shape.size,
            "batch": self.batch,
            "threads": self.settings.threads,
            "clock": self.settings.clock,
            "rows": rows,
            "split_ms": {
                name: {part: seconds * 1e3 for part, seconds in parts.items()}
                for name, parts in self.splits.items()
            },
        }

    @property
    def macs(self) -> int:
        """Of one layer."""
        return self.batch * self.shape.macs


def ours(target: str) -> str:
    """The row's name."""
    return f"qcompile 1 bit, {target}"


def isa_of(target: str, available: Sequence[str]) -> str | None:
    """The instruction set whose limit a target is held against."""
    arch = target.partition(":")[2]
    if not arch:
        return next((isa.name for isa in _BEST_FIRST if isa.name in available), None)
    named = next((isa.name for isa, archs in _ISAS.items() if arch in archs), None)
    return named if named in available else None


class Layers(nn.Sequential):
    """Equal convolutions, each with a ReLU, that keep the size of the values."""

    def __init__(self, shape: Shape, count: int) -> None:
        torch.manual_seed(count)
        layers: list[nn.Module] = []
        for _ in range(count):
            conv = nn.Conv2d(shape.channels, shape.channels, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            layers += [conv, nn.ReLU()]
        super().__init__(*layers)


def chains(shape: Shape, count: int, targets: Sequence[str], threads: int) -> list[Entrant]:
    """All entrants for a chain of so many layers."""
    model = Layers(shape, count).eval()
    calibration = [torch.rand(1, shape.channels, shape.size, shape.size)]
    return [
        *(
            Entrant("qcompile", ours(t), partial(_program, shape, count, t, threads))
            for t in targets
        ),
        *engines.entrants(engines.NAMES, model, [(x,) for x in calibration], threads),
        ov.binary_chain(count, threads),
    ]


def _program(shape: Shape, count: int, target: str, threads: int, inputs: Inputs) -> Ready:
    (x,) = inputs
    program = binary_chain.chain(shape, count, x, target)
    program.num_threads = threads
    return Ready(partial(program, x), size=program.size)


def measure(
    shape: Shape,
    batch: int,
    targets: Sequence[str],
    settings: Settings,
    found: Sequence[limits.Limit],
) -> Measurement:
    """Time all entrants at one shape."""
    tables.progress(str(shape))
    torch.manual_seed(0)
    x = torch.randn(batch, shape.channels, shape.size, shape.size)
    entrants = chains(shape, SHORT, targets, settings.threads)
    rows, short = timed_rows.prepared(entrants, x)
    _, long = timed_rows.prepared(chains(shape, LONG, targets, settings.threads), x)
    pairs = [
        (i, a, b) for i, (a, b) in enumerate(zip(short, long, strict=True)) if a and b is not None
    ]
    limit_of, loops = _limits(targets, shape, found)
    repeats = [max(1, batch * shape.macs // loop.macs) for loop in loops.values()]
    calls: list[Call] = [call for _, a, b in pairs for call in (a, b)]
    calls += [partial(loop.run, n) for loop, n in zip(loops.values(), repeats, strict=True)]
    taken = settings.take_turns(calls)
    samples: list[list[float] | None] = [None] * len(rows)
    for n, (i, _, _) in enumerate(pairs):
        both = zip(taken[2 * n], taken[2 * n + 1], strict=True)
        samples[i] = [(b - a) / (LONG - SHORT) for a, b in both]
    for n, loop in enumerate(loops.values()):
        scale = batch * shape.macs / (loop.macs * repeats[n] * settings.threads)
        samples.append([seconds * scale for seconds in taken[2 * len(pairs) + n]])
    rows += [Row(name, note=loop.method) for name, loop in loops.items()]
    rows = timed_rows.timed(rows, samples, [row.name for row in rows])
    rows = [replace(row, best=None) for row in rows]  # the least difference is an accident
    splits = {ours(t): split(shape, x, t, settings) for t in targets}
    return Measurement(
        shape, settings, batch, tuple(rows), limit_of, {k: v for k, v in splits.items() if v}
    )


def _limits(
    targets: Sequence[str], shape: Shape, found: Sequence[limits.Limit]
) -> tuple[dict[str, str], dict[str, limits.Loop]]:
    """The limit's row of each of ours, by name, and the loop of each limit's row."""
    limit_of: dict[str, str] = {}
    loops: dict[str, limits.Loop] = {}
    available = list(dict.fromkeys(limit.loop.isa for limit in found))
    for target in targets:
        isa = isa_of(target, available)
        loop = None if isa is None else limits.best_loop(found, isa, shape.k)
        if loop is not None:
            limit_of[ours(target)] = f"limit, {isa}"
            loops[f"limit, {isa}"] = loop
    return limit_of, loops


def split(shape: Shape, x: Tensor, target: str, settings: Settings) -> dict[str, float]:
    """Median seconds of packing, bare convolution, and thresholds; empty if it cannot be had."""
    try:
        program = binary_chain.split(shape, x, target)
    except Unavailable:
        return {}
    program.num_threads = settings.threads
    clock = CLOCKS[settings.clock]
    parts = {"pack_sign": "pack", "xnor_popcount": "matmul", "copy_pad": "epilogue"}
    taken: dict[str, list[float]] = {part: [] for part in parts.values()}
    for _ in range(_SPLIT_ROUNDS):
        for kernel, run in program.steps(x):
            part = next((p for prefix, p in parts.items() if kernel.name.startswith(prefix)), None)
            started = clock()
            run()
            if part is not None:
                taken[part].append(clock() - started)
    return {part: median(seconds) for part, seconds in taken.items() if seconds}


def sheet(measured: Measurement, targets: Sequence[str]) -> Sheet:
    """The table of one shape."""
    mine = ours(targets[0])
    columns = ("", "ms", "GMAC/s", "× fbgemm", f"× {mine}", "% of limit", "note")
    rows = []
    for row, values in zip(measured.rows, measured.to_json()["rows"], strict=True):
        share = values["of_limit"]
        cells = (
            row.name,
            milliseconds(row.seconds),
            number(values["gmacs"], 0),
            number(row.faster_than(pytorch.FBGEMM)),
            number(row.faster_than(mine)),
            number(None if share is None else 100 * share, 0),
            row.reason or row.note,
        )
        rows.append(cells)
    threads = measured.settings.threads
    title = f"{measured.shape}, batch {measured.batch}, {threads} thread{'s' * (threads > 1)}"
    return Sheet(title, columns, tuple(rows))


def split_sheet(measured: Sequence[Measurement]) -> Sheet:
    """Where the time goes, if the parts are kernels of their own."""
    parts = ("pack", "matmul", "epilogue")
    rows = []
    for one in measured:
        whole = {row.name: row.seconds for row in one.rows}
        for name, times in one.splits.items():
            cells = (*(times.get(part) for part in parts), whole[name])
            rows.append((f"{one.shape}: {name}", *map(milliseconds, cells), ""))
    columns = ("", *(f"{part} ms" for part in parts), "fused layer ms", "note")
    return Sheet("the parts of a layer as kernels of their own", columns, tuple(rows))


def shapes(text: str) -> list[Shape]:
    """An option such as 64x56,128x28."""
    return [Shape(*(int(n) for n in part.split("x"))) for part in text.split(",")]


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--targets", type=lambda text: text.split(","), default=list(TARGETS))
    parser.add_argument("--shapes", type=shapes, default=list(SHAPES), help="as in 64x56,128x28")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each chain of a table")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Print the tables, and write them where that was asked for."""
    chosen = options(arguments)
    facts = machine_facts.facts()
    machine_facts.pin(chosen.threads)
    torch.set_num_threads(chosen.threads)
    settings = Settings(threads=chosen.threads, seconds=chosen.seconds, clock=chosen.clock)
    tables.progress("the limit")
    limit = bench_limit.measure(seconds=0.02)
    measured = [
        measure(shape, chosen.batch, chosen.targets, settings, limit.limits)
        for shape in chosen.shapes
    ]
    sheets = [sheet(m, chosen.targets) for m in measured] + [split_sheet(measured)]
    whole = {
        "machine": facts,
        "layers": [m.to_json() for m in measured],
        "limit": limit.results(),
    }
    tables.publish(sheets, whole, json_file=chosen.json, markdown_file=chosen.markdown)


if __name__ == "__main__":
    main(sys.argv[1:])
