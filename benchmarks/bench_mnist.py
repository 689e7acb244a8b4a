"""Accuracy on MNIST: the examples trained in float and at few bits, compiled, and verified.

QCOMPILE_DATA=mnist python benchmarks/bench_mnist.py [--epochs N] [--plain-epochs N] [--bits 8,4,2,1]

`qcompile digits mnist` downloads the whole set; without QCOMPILE_DATA the sample is used. Every row
is compiled, and verified on all test digits.
"""

from __future__ import annotations

import argparse
import copy
import runpy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import qcompile
from qcompile import digits
from qcompile.calibration import calibrate

EXAMPLES = Path(__file__).parents[1] / "examples"
RECIPES = {
    "mnist.py": (
        qcompile.Recipe(1),
        qcompile.Recipe(1, method="xnor"),
        qcompile.Recipe(1, method="dorefa"),
        qcompile.Recipe(2),
        qcompile.Recipe(4),
        qcompile.Recipe(8),
        qcompile.Recipe(8, mode="static"),
    ),
    "mnist_plain.py": (qcompile.Recipe(8), qcompile.Recipe(1)),
}
COLUMNS = ("example", "bits", "method", "epochs", "training", "accuracy", "bytes", "verified")


def rows(example: str, epochs: int, bits: Sequence[int]) -> list[tuple[str, ...]]:
    """The float network's row, and one for each recipe of these bits, trained from it or calibrated."""
    names: dict[str, Any] = runpy.run_path(str(EXAMPLES / example))
    torch.manual_seed(0)
    model, train, evaluate = names["model"], names["train"], names["evaluate"]
    test, _ = digits.load("test").tensors()
    seconds = _timed(train, model, epochs)
    size = sum(t.nbytes for t in model.state_dict().values())
    accuracy = f"{evaluate(model):.2%}"
    table: list[tuple[str, ...]]
    table = [(example, "32", "float", str(epochs), seconds, accuracy, f"{size:,}", "")]
    for recipe in [recipe for recipe in RECIPES[example] if recipe.bits in bits]:
        prepared = qcompile.prepare(copy.deepcopy(model), names["example_inputs"], recipe)
        static = recipe.mode == "static"
        if static:
            calibrate(prepared, names["calibration_data"]())
        seconds = "" if static else _timed(train, prepared, epochs)
        converted = qcompile.convert(prepared)
        program = qcompile.compile(converted)
        found = qcompile.verify(program, converted, list(test.split(500)))
        accuracy = f"{evaluate(_Module(program)):.2%}"
        verified = f"{found.samples:,} of {len(test):,}" if found.ok else "NO"
        size_ = f"{program.size:,}"
        how = "static" if static else recipe.method
        done = "0" if static else str(epochs)
        table.append((example, str(recipe.bits), how, done, seconds, accuracy, size_, verified))
    return table


class _Module(torch.nn.Module):
    def __init__(self, program: qcompile.Program) -> None:
        super().__init__()
        self.program = program

    def forward(self, x: torch.Tensor) -> Any:
        return self.program(x)


def _timed(train: Any, model: torch.nn.Module, epochs: int) -> str:
    start = time.perf_counter()
    train(model, epochs=epochs)
    return f"{time.perf_counter() - start:.0f} s"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--epochs", type=int, default=8, help="of mnist.py; 0 leaves it out")
    parser.add_argument("--plain-epochs", type=int, default=3, help="of mnist_plain.py")
    parser.add_argument("--bits", default="1,2,4,8", help="which recipes (default: all)")
    options = parser.parse_args()
    bits = [int(b) for b in options.bits.split(",")]
    table = Table(*COLUMNS, title=f"{len(digits.load('train').labels):,} training digits")
    for example, epochs in (("mnist.py", options.epochs), ("mnist_plain.py", options.plain_epochs)):
        for row in rows(example, epochs, bits) if epochs else ():
            table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
