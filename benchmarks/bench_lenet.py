"""LeNet, untrained: the program at several bits beside PyTorch float and int8.

python benchmarks/bench_lenet.py [THREADS]
"""

from __future__ import annotations

import sys

import torch
from rich.console import Console

import qcompile
from qcompile import baselines, report
from qcompile.zoo.lenet import lenet

BATCHES = (1, 64)


def entrants() -> tuple[list[baselines.Rival], list[qcompile.Program]]:
    """Programs of three recipes, and what PyTorch has."""
    torch.manual_seed(0)
    model = lenet().eval()
    batch = torch.rand(64, 1, 28, 28)
    recipes = {
        "qcompile 1 bit": qcompile.Recipe(1),
        "qcompile 1 bit, dorefa": qcompile.Recipe(1, method="dorefa"),
        "qcompile 8 bits": qcompile.Recipe(8),
    }
    programs = {
        name: qcompile.compile(model, batch, recipe=recipe, calibration=[batch])
        for name, recipe in recipes.items()
    }
    rivals = [baselines.Rival(name, p, size=p.size) for name, p in programs.items()]
    rivals.append(baselines.eager(model))
    rivals += baselines.static_int8(model, [(batch,)])
    return rivals, list(programs.values())


def main() -> None:
    """Print a table."""
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads()
    torch.set_num_threads(threads)
    rivals, programs = entrants()
    for program in programs:
        program.num_threads = threads
    example = (torch.rand(1, 1, 28, 28),)
    timings = [t for batch in BATCHES for t in baselines.measure(rivals, example, batch)]
    Console().print(report.timing_table(rivals, timings, threads))


if __name__ == "__main__":
    main()
