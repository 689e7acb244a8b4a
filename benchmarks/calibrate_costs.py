"""Measure how long each kind of kernel takes, and fit the coefficients of the compiler's cost model.

python benchmarks/calibrate_costs.py [--targets cpu,cpu:cascadelake,...] [-o measured.json]

For each target that this machine can run, layers of many shapes are built with every method that they
have. The methods of one layer take turns; a time is the least of the rounds, of the processor's time for
one thread. Coefficients are those, none below zero, whose predictions are off by the least squares of the
relative errors. Classes of processors that are not measured keep what the file has on them.

The margin that is written is the largest advantage that the fit predicts for the best kernel of a layer
over one that was measured to be faster: the compiler asks for more than that.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

import machine_facts
import tables
from qcompile.codegen.costs import model
from qcompile.codegen.costs.effort import TERMS, Effort, effort_of
from qcompile.codegen.costs.layers import LayerShape, contraction_in, conv, graph_of
from qcompile.codegen.costs.model import Coefficients
from qcompile.codegen.kernels.contraction import contraction_of, methods_of
from qcompile.codegen.machine import Machine, machine_of
from qcompile.codegen.schedules.cpu import NODE_RULES
from qcompile.codegen.schedules.tile import Choice, tile_of
from qcompile.codegen.tuning.trial import Contestant, LocalBench, problem
from qcompile.codegen.writer import Writer
from qcompile.ir.target import Target
from qcompile.machine import obstacle
from qcompile.program_info import Variant
from qcompile.runtime import use_threads
from tables import Sheet, number

TARGETS = ("cpu", "cpu:cascadelake", "cpu:skylake-avx512", "cpu:alderlake", "cpu:haswell")
ROUNDS, SAMPLE = 11, 5e-4  # how often each is measured, for so many seconds
_TAIL = 0.95
_SAME = 1.03  # ratio of times that may as well be noise
WIDTHS = ((1, 1), (1, 4), (2, 2), (2, 1))

# channels, outputs, size, kernel
_CONVS = (
    (1, 8, 28, 5),
    (64, 64, 56, 3),
    (3, 16, 32, 3),
    (128, 128, 28, 3),
    (8, 16, 14, 5),
    (512, 512, 7, 3),
    (16, 16, 28, 3),
    (256, 256, 14, 3),
    (24, 40, 13, 3),
    (32, 32, 28, 3),
    (32, 64, 8, 1),
    (48, 96, 9, 3),
    (64, 256, 14, 1),
    (96, 96, 14, 5),
    (256, 256, 7, 3),
    (512, 128, 7, 1),
)
_LINEARS = ((84, 10), (256, 120), (800, 500), (1024, 1024), (2048, 1000))


@dataclass(frozen=True)
class Sample:
    """One kernel's time.

    Attributes:
        layer: which layer it computes; samples of one layer may be compared.
        seconds: for a sample of the batch.
    """

    layer: str
    kernel: str
    effort: Effort
    seconds: float


def shapes(widths: Sequence[tuple[int, int]] = WIDTHS) -> list[LayerShape]:
    """What is measured: all layers of one bit, and every third one at each other width, in turns."""
    every = [conv(*one) for one in _CONVS] + [LayerShape(*one) for one in _LINEARS]
    found = []
    for i, (weight, activation) in enumerate(widths):
        some = every if (weight, activation) == (1, 1) else every[i % 3 :: 3]
        found += [replace(s, weight_bits=weight, activation_bits=activation) for s in some]
        if weight == 2 and activation == 1:
            found += [replace(s, ternary=True) for s in found[-len(some) :]]
    return found


def measure(shape: LayerShape, machine: Machine, rounds: int, sample: float) -> list[Sample]:
    """The times of all kernels that a layer has, in words and in bytes, in turns."""
    entrants = []
    for words in (False, True) if shape.binary else (False,):
        gm = graph_of(shape, words=words)
        group = contraction_in(gm)
        given = problem(gm, group, machine, 1)
        for method in methods_of(Writer(gm, group, machine, NODE_RULES), machine):
            c = contraction_of(Writer(gm, group, machine, NODE_RULES), machine, method)
            tile = tile_of(c, machine, packs=group.packs)
            kernel, effort = effort_of(Writer(gm, group, machine, NODE_RULES), machine, method)
            try:
                contestant = Contestant(given, Choice(method, tile), LocalBench())
            except RuntimeError as error:
                tables.progress(
                    f"{kernel} of {shape} does not build: {str(error).splitlines()[-1]}"
                )
                continue
            entrants.append((kernel, effort, contestant))
    calls = [max(1, math.ceil(sample / max(one.run(1), 1e-7))) for _, _, one in entrants]
    least = [math.inf] * len(entrants)
    for _ in range(rounds):
        for i, (_, _, one) in enumerate(entrants):
            begun = time.process_time_ns()
            one.run(calls[i])
            least[i] = min(least[i], (time.process_time_ns() - begun) * 1e-9 / (calls[i] + 1))
    return [
        Sample(str(shape), kernel, effort, seconds)
        for (kernel, effort, _), seconds in zip(entrants, least, strict=True)
    ]


def fitted(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Nanoseconds for each term, by kernel."""
    found = {}
    for kernel in sorted({s.kernel for s in samples}):
        own = [s for s in samples if s.kernel == kernel]
        seconds = np.array([s.seconds for s in own])
        efforts = np.array([[getattr(s.effort, term) for term in TERMS] for s in own])
        relative = efforts / (seconds[:, None] * 1e9)
        scale = np.maximum(relative.max(0), 1e-30)  # columns of one size
        solved, _ = nnls(relative / scale, np.ones(len(own)))
        costs = solved / scale
        found[kernel] = {
            term: float(f"{cost:.4g}") for term, cost in zip(TERMS, costs, strict=True) if cost > 0
        }
    return found


def margin_of(samples: Sequence[Sample], known: Coefficients) -> float:
    """The largest advantage that is predicted for the best kernel of a layer, where another is faster."""
    wrong = [0.0]
    for _, of_layer in itertools.groupby(samples, lambda s: s.layer):
        both = ((s, known.seconds(s.kernel, s.effort)) for s in of_layer)
        predicted = {s: seconds for s, seconds in both if seconds is not None}
        best = min(predicted, key=predicted.__getitem__)
        wrong += [
            predicted[s] / predicted[best] - 1
            for s in predicted
            if s.seconds * _SAME < best.seconds
        ]
    return float(f"{max(wrong):.3g}")


def calibrate(
    target: Target, layers: Sequence[LayerShape], rounds: int, sample: float
) -> tuple[str, Coefficients, list[Sample]]:
    """Measure and fit one target: its class, its coefficients, and what was measured."""
    machine = machine_of(target)
    samples: list[Sample] = []
    for i, shape in enumerate(layers):
        if i % 10 == 0:
            tables.progress(f"{target}: {i} of {len(layers)} layers")
        samples += measure(shape, machine, rounds, sample)
    facts = machine_facts.facts()
    processor = f"{facts['processor']}, as {machine.arch}"
    today = datetime.date.today().isoformat()
    known = Coefficients(processor, today, 0.0, fitted(samples))
    known = Coefficients(processor, today, margin_of(samples, known), known.kernels)
    return model.class_of(machine), known, samples


def sheet(name: str, known: Coefficients, samples: Sequence[Sample]) -> Sheet:
    """How well the times of each kernel are predicted."""
    rows = []
    for kernel, terms in known.kernels.items():
        own = [s for s in samples if s.kernel == kernel]
        if not own:  # known before
            continue
        off = [abs(math.log((known.seconds(kernel, s.effort) or 1) / s.seconds)) for s in own]
        quantiles = [math.expm1(float(np.quantile(off, q))) for q in (0.5, _TAIL, 1)]
        costs = ", ".join(f"{term} {cost:.3g}" for term, cost in terms.items())
        rows.append((kernel, str(len(own)), *(number(100 * q, 0) for q in quantiles), costs))
    columns = ("", "layers", "median % off", "95 % off", "worst % off", "ns")
    return Sheet(f"{name}: a margin of {100 * known.margin:.0f} %", columns, tuple(rows))


def added(before: Coefficients, known: Coefficients, samples: Sequence[Sample]) -> Coefficients:
    """What was known, and the kernels that were not."""
    both = replace(before, kernels={**known.kernels, **before.kernels})
    return replace(both, margin=max(before.margin, margin_of(samples, both)))


def _widths(text: str) -> list[tuple[int, int]]:
    pairs = [part.split("/") for part in text.split(",")]
    return [(int(weight), int(activation)) for weight, activation in pairs]


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    shipped = Path(model.__file__).parent / model.FILE
    parser.add_argument("--targets", type=lambda text: text.split(","), default=list(TARGETS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SAMPLE, help="of one sample")
    parser.add_argument("--widths", type=_widths, default=WIDTHS, help="as in 1/1,2/4")
    parser.add_argument("--add", action="store_true", help="only kernels that the file lacks")
    parser.add_argument("--layers", type=int, help="at most so many, for a quick look")
    parser.add_argument("-o", "--output", type=Path, default=shipped)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Measure, fit, and write the file."""
    chosen = options(arguments)
    facts = machine_facts.facts()
    machine_facts.pin(1)
    use_threads(1)
    path: Path = chosen.output
    measured = model.read(path.read_text("utf-8"), str(path)) if path.exists() else {}
    sheets = []
    for text in chosen.targets:
        target = Target.parse(text)
        machine = machine_of(target)
        why_not = obstacle(Variant(machine.family, machine.arch, machine.features, ()))
        if why_not:
            tables.progress(f"{target} is left out: its code {why_not}")
            continue
        layers = shapes(chosen.widths)[: chosen.layers]
        name, known, samples = calibrate(target, layers, chosen.rounds, chosen.seconds)
        before = measured.get(name)
        if chosen.add and before is not None:
            known = added(before, known, samples)
        measured[name] = known
        sheets.append(sheet(name, known, samples))
        path.write_text(model.write(measured), encoding="utf-8")
    tables.publish(sheets, {"machine": facts})


if __name__ == "__main__":
    main(sys.argv[1:])
