"""Every width of weights and activations: the compiler's choice beside its own int8, layer by layer.

python benchmarks/bench_widths.py [--all] [--target cpu:cascadelake] [--threads 1] [--seconds 0.5]

Which kernel computes a layer follows from a model of their costs (docs/kernels.md), and no choice of it
may be slower than products of bytes. Each layer is compiled twice, once as the compiler chooses and once
with kernel="int8"; both stand in chains of 2 and of 6 such layers, and a quarter of the difference is a
layer inside a network, what it stores and reads included. All chains take turns; ratios are medians over
the rounds of the ratio within a round, with their quartiles.

A layer is slower where its ratio is above 1.03 and three rounds of four agree; then the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import machine_facts
import tables
from binary_chain import Shape
from qcompile import kernels
from qcompile.bench.worker import CLOCKS
from qcompile.building import build_program
from qcompile.ir.graph import calls, trace, verify
from qcompile.ir.plan import LayerPlan
from qcompile.ir.stages import Stage
from qcompile.ir.target import Target
from qcompile.program import Program
from tables import Sheet, milliseconds, number
from timed_rows import Settings

SHAPES = (Shape(64, 56), Shape(128, 28), Shape(256, 14), Shape(512, 7))
WEIGHTS, ACTIVATIONS = (1, 2, 4, 8), (1, 2, 3, 4, 8)
SHORT, LONG = 2, 6
SAME = 1.03  # a ratio that may as well be noise
_INT8 = "int8"
_aten, _q = torch.ops.aten, torch.ops.qcompile


@dataclass(frozen=True)
class Row:
    """One layer at one width.

    Attributes:
        kernel: the compiler's choice, with the method; why: in its words.
        seconds, int8: of a layer, medians.
        ratio: of the two, the median over the rounds; low, high: the quartiles.
    """

    shape: Shape
    weight_bits: int
    activation_bits: int
    kernel: str
    why: str
    seconds: float
    int8: float
    ratio: float
    low: float
    high: float

    @property
    def slower(self) -> bool:
        """Whether the choice is slower than int8, beyond noise."""
        return self.ratio > SAME and self.low > 1

    def to_json(self) -> dict[str, Any]:
        """As plain values; times in milliseconds."""
        values = asdict(self) | {"slower": self.slower}
        values["ms"], values["int8_ms"] = values.pop("seconds") * 1e3, values.pop("int8") * 1e3
        return values


class _Layer(nn.Module):
    """Random weights, scales by which about half of the levels are used, and the next quantizer."""

    def __init__(self, shape: Shape, weight_bits: int, activation_bits: int, seed: int) -> None:
        super().__init__()
        self.activation_bits = activation_bits
        generator = torch.Generator().manual_seed(seed)
        half = 1 << (weight_bits - 1)
        size = (shape.channels, shape.channels, 3, 3)
        weight = torch.randint(-half, half, size, generator=generator)
        weight = 2 * weight + 1 if weight_bits <= 2 else weight  # as DoReFa-Net has them
        self.register_buffer("weight", weight.to(torch.int8))
        spread = shape.k**0.5 * half * (1 << activation_bits)
        self.register_buffer("scale", torch.full((shape.channels,), 2 / spread))
        self.register_buffer("shift", torch.randn(shape.channels, generator=generator) / 8)

    def forward(self, levels: Tensor) -> Any:
        acc = _q.conv.default(levels, self.weight, [1, 1], [1, 1, 1, 1], [1, 1], 1, 0, 0)
        return levels_of(_q.scale_shift.default(acc, self.scale, self.shift), self.activation_bits)


def levels_of(x: Tensor, bits: int) -> Any:
    """Signs of one bit, levels from 0 of more."""
    if bits == 1:
        return _q.sign.default(x)
    return _q.quantize.default(_aten.relu.default(x), 2.0**-bits, 0, 0, (1 << bits) - 1)


class _Chain(nn.Module):
    def __init__(self, shape: Shape, bits: tuple[int, int], count: int) -> None:
        super().__init__()
        self.bits = bits
        self.layers = nn.ModuleList([_Layer(shape, *bits, seed=i) for i in range(count)])

    def forward(self, x: Tensor) -> Any:
        levels = levels_of(x, self.bits[1])
        for layer in self.layers:
            levels = layer(levels)
        return levels


def chain(shape: Shape, bits: tuple[int, int], count: int, x: Tensor) -> GraphModule:
    """So many equal layers after one another, as a converted graph; the input is float."""
    gm = trace(_Chain(shape, bits, count), [x])
    gm.meta["stage"] = Stage.CONVERTED
    plans = {}
    for i, node in enumerate(n for n in gm.graph.nodes if calls(n, _q.conv.default)):
        layer = node.meta["layer"] = f"layer{i}"
        weights = shape.k * shape.channels
        plans[layer] = LayerPlan(layer, "Conv2d", bits[0], bits[1], weights)
    gm.meta["plans"] = plans
    verify(gm)
    return gm


def compiled(converted: GraphModule, target: Target, kernel: str | None) -> Program:
    """The program, with the kernels that the compiler chooses or with the one that is forced."""
    selection, lowered = kernels.lower(converted, target, kernel)
    return build_program(converted, lowered, target, (), choose=selection.choose())


def measure(
    shape: Shape, bits: tuple[int, int], target: Target, batch: int, settings: Settings
) -> Row:
    """Time one layer at one width, and compare the results."""
    tables.progress(f"{shape}, {bits[0]}/{bits[1]} bits")
    torch.manual_seed(0)
    x = torch.randn(batch, shape.channels, shape.size, shape.size)
    programs = []
    for kernel in (None, _INT8):
        for count in (SHORT, LONG):
            program = compiled(chain(shape, bits, count, x), target, kernel)
            program.num_threads = settings.threads
            programs.append(program)
    for ours, its in zip(programs[:2], programs[2:], strict=True):
        if not torch.equal(ours(x), its(x)):
            raise SystemExit(f"{shape}, {bits}: the results depend on the kernel")
    info = programs[1].info.layers[-1]
    kernel, why = info.kernel, info.why or info.reason
    if _kinds(programs[1]) == _kinds(programs[3]):
        taken = settings.take_turns([partial(p, x) for p in programs[2:]])
        seconds = _layer(*taken)
        return Row(shape, *bits, kernel, why, median(seconds), median(seconds), 1.0, 1.0, 1.0)
    taken = settings.take_turns([partial(p, x) for p in programs])
    mine, int8 = _layer(*taken[:2]), _layer(*taken[2:])
    ratios = [a / b for a, b in zip(mine, int8, strict=True) if a > 0 and b > 0]
    if len(ratios) < 2:  # noise hides a layer's time: whole networks are compared
        ratios = [a / b for a, b in zip(taken[1], taken[3], strict=True)]
    low, middle, high = quantiles(ratios, n=4)
    return Row(shape, *bits, kernel, why, median(mine), median(int8), middle, low, high)


def _kinds(program: Program) -> list[str]:
    """What each kernel computes with: two programs of one graph with the same kinds have the same code."""
    return [kernel.kind for kernel in program.info.variants[0].kernels]


def _layer(short: Sequence[float], long: Sequence[float]) -> list[float]:
    """Seconds of one layer in each round."""
    return [(b - a) / (LONG - SHORT) for a, b in zip(short, long, strict=True)]


def sheet(rows: Sequence[Row], title: str) -> Sheet:
    """The table of one shape."""
    cells = []
    for row in rows:
        spread = f"{row.low:.2f} to {row.high:.2f}" if row.kernel != _INT8 else "same code"
        times = (milliseconds(row.seconds), milliseconds(row.int8), number(row.ratio))
        bits = f"{row.weight_bits}/{row.activation_bits}"
        cells.append((bits, row.kernel, *times, spread, "SLOWER" if row.slower else "", row.why))
    columns = ("bits w/a", "kernel", "ms", "int8 ms", "× int8's time", "quartiles", "", "why")
    return Sheet(title, columns, tuple(cells))


def _widths(text: str) -> list[tuple[int, int]]:
    pairs = [part.split("/") for part in text.split(",")]
    return [(int(weight), int(activation)) for weight, activation in pairs]


def _shapes(text: str) -> list[Shape]:
    return [Shape(*(int(n) for n in part.split("x"))) for part in text.split(",")]


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--target", type=Target.parse, default=Target())
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--shapes", type=_shapes, default=list(SHAPES), help="as in 64x56,128x28")
    parser.add_argument("--widths", type=_widths, help="weights/activations, as in 1/1,2/4")
    parser.add_argument("--all", action="store_true", help="all 64 pairs of 1 to 8 bits")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each chain")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args(arguments)


def widths_of(chosen: argparse.Namespace) -> list[tuple[int, int]]:
    """The pairs of widths that the command line asks for."""
    if chosen.widths is not None:
        return list(chosen.widths)
    if chosen.all:
        return [(w, a) for w in range(1, 9) for a in range(1, 9)]
    return [(w, a) for w in WEIGHTS for a in ACTIVATIONS]


def main(arguments: Sequence[str]) -> int:
    """Print the tables, and write them where that was asked for; 1 if a layer is slower than int8."""
    chosen = options(arguments)
    facts = machine_facts.facts()
    machine_facts.pin(chosen.threads)
    torch.set_num_threads(chosen.threads)
    settings = Settings(threads=chosen.threads, seconds=chosen.seconds, clock=chosen.clock)
    measured = {
        shape: [
            measure(shape, bits, chosen.target, chosen.batch, settings)
            for bits in widths_of(chosen)
        ]
        for shape in chosen.shapes
    }
    title = f"{chosen.target}, batch {chosen.batch}, {chosen.threads} thread(s)"
    sheets = [sheet(rows, f"{shape}: {title}") for shape, rows in measured.items()]
    every = [row for rows in measured.values() for row in rows]
    whole = {"machine": facts, "target": str(chosen.target), "layers": [r.to_json() for r in every]}
    tables.publish(sheets, whole, json_file=chosen.json, markdown_file=chosen.markdown)
    slower = sum(row.slower for row in every)
    print(f"{slower} of {len(every)} layers are slower than int8")
    return 1 if slower else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
