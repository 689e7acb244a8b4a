"""What training with quantizers costs: one step of it, in units of the float network's step.

python benchmarks/bench_qat.py [--networks plain,lenet] [--batch 64] [--rounds 40] [--json out.json]

A step is forward, backward and SGD. The entrants of a network take turns; one thread, the process's
own time. torch.ao's quantization-aware training stands beside ours.
"""

from __future__ import annotations

import argparse
import copy
import runpy
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import machine_facts
import tables
from qcompile import Recipe, prepare
from qcompile.rivals.turns import take_turns
from qcompile.zoo.lenet import lenet

EXAMPLE = Path(__file__).parents[1] / "examples" / "mnist_plain.py"
RECIPES = {
    "plain": (
        *(Recipe(8, method=method) for method in ("bireal", "lsq", "pact", "dorefa")),
        Recipe(8, mode="weight-only"),
        Recipe(4),
        Recipe(1),
    ),
    "lenet": (
        *(Recipe(bits) for bits in (8, 4, 2, 1)),
        Recipe(1, method="xnor"),
        Recipe(2, method="lsq"),
    ),
}
Step = Callable[[], object]


def network(name: str) -> nn.Module:
    """A float network of that name, in train mode."""
    torch.manual_seed(0)
    model: nn.Module = lenet() if name == "lenet" else runpy.run_path(str(EXAMPLE))["model"]
    return model.train()


def step_of(model: nn.Module, x: Tensor, labels: Tensor) -> Step:
    """One step of training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


def torch_ao(model: nn.Module, x: Tensor) -> nn.Module:
    """The network as torch.ao trains it for fbgemm."""
    from torch.ao.quantization import get_default_qat_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapping = get_default_qat_qconfig_mapping("fbgemm")
        prepared: nn.Module = prepare_qat_fx(copy.deepcopy(model), mapping, (x,))
    return prepared


def label(recipe: Recipe) -> str:
    """As in "4 bits, lsq"."""
    more = [] if recipe.bits > 1 and recipe.method == "bireal" else [recipe.method]
    more += [] if recipe.mode == "qat" else [recipe.mode]
    return ", ".join([f"{recipe.bits} bit{'s' * (recipe.bits > 1)}", *more])


def measure(name: str, batch: int, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Seconds of each entrant's steps, round by round; the first is the float network."""
    model = network(name)
    x, labels = torch.rand(batch, 1, 28, 28), torch.randint(10, (batch,))
    entrants = {"float32": copy.deepcopy(model)}
    for recipe in RECIPES[name]:
        entrants[f"qcompile, {label(recipe)}"] = prepare(model, x, recipe)
    entrants["torch.ao, 8 bits, fbgemm"] = torch_ao(model, x)
    steps = [step_of(entrant.train(), x, labels) for entrant in entrants.values()]
    times = take_turns(steps, seconds=seconds, rounds=rounds, clock=time.process_time, pause=0.0)
    return dict(zip(entrants, times, strict=True))


def sheet(name: str, times: Mapping[str, Sequence[float]]) -> tables.Sheet:
    """A row for each entrant: its step, and how many float steps that is."""
    base = times["float32"]
    rows = [
        (
            entrant,
            tables.milliseconds(median(own)),
            tables.number(median(a / b for a, b in zip(own, base, strict=True))),
            tables.number(min(own) / min(base)),
        )
        for entrant, own in times.items()
    ]
    return tables.Sheet(name, ("one step", "ms", "of float", "least of least"), tuple(rows))


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--networks", type=lambda text: text.split(","), default=list(RECIPES), help="plain,lenet"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each entrant")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Print a table for each network, and write them where that was asked for."""
    chosen = options(arguments)
    facts = machine_facts.facts()
    machine_facts.pin(1)
    torch.set_num_threads(1)
    measured = {}
    for name in chosen.networks:
        tables.progress(name)
        measured[name] = measure(name, chosen.batch, chosen.seconds, chosen.rounds)
    whole: dict[str, Any] = {"machine": facts, "batch": chosen.batch, "seconds": measured}
    sheets = [sheet(name, times) for name, times in measured.items()]
    tables.publish(sheets, whole, json_file=chosen.json, markdown_file=chosen.markdown)


if __name__ == "__main__":
    main(sys.argv[1:])
