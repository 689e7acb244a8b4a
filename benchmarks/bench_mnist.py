"""Accuracy on MNIST: the examples trained in float and at few bits, compiled, and verified.

QCOMPILE_DATA=mnist python benchmarks/bench_mnist.py [--epochs N] [--plain-epochs N]

`qcompile digits mnist` downloads the whole set; without QCOMPILE_DATA the sample is used. Every row
is compiled, and verified on all test digits.
"""

from __future__ import annotations

import argparse
import copy
import runpy
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import qcompile
from qcompile import digits

EXAMPLES = Path(__file__).parents[1] / "examples"
RECIPES = {
    "mnist.py": (
        qcompile.Recipe(1),
        qcompile.Recipe(1, method="xnor"),
        qcompile.Recipe(1, method="dorefa"),
        qcompile.Recipe(8),
    ),
    "mnist_plain.py": (qcompile.Recipe(8), qcompile.Recipe(1)),
}
COLUMNS = ("example", "bits", "method", "epochs", "training", "accuracy", "bytes", "verified")


def rows(example: str, epochs: int) -> list[tuple[str, ...]]:
    """The float network's row, and one for each recipe, trained from it."""
    names: dict[str, Any] = runpy.run_path(str(EXAMPLES / example))
    torch.manual_seed(0)
    model, train, evaluate = names["model"], names["train"], names["evaluate"]
    test, _ = digits.load("test").tensors()
    seconds = _timed(train, model, epochs)
    size = sum(t.nbytes for t in model.state_dict().values())
    accuracy = f"{evaluate(model):.2%}"
    table: list[tuple[str, ...]]
    table = [(example, "32", "float", str(epochs), seconds, accuracy, f"{size:,}", "")]
    for recipe in RECIPES[example]:
        prepared = qcompile.prepare(copy.deepcopy(model), names["example_inputs"], recipe)
        seconds = _timed(train, prepared, epochs)
        converted = qcompile.convert(prepared)
        program = qcompile.compile(converted)
        found = qcompile.verify(program, converted, list(test.split(500)))
        accuracy = f"{evaluate(_Module(program)):.2%}"
        verified = f"{found.samples:,} of {len(test):,}" if found.ok else "NO"
        size_ = f"{program.size:,}"
        bits = str(recipe.bits)
        table.append(
            (example, bits, recipe.method, str(epochs), seconds, accuracy, size_, verified)
        )
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
    parser.add_argument("--epochs", type=int, default=8, help="of mnist.py")
    parser.add_argument("--plain-epochs", type=int, default=3, help="of mnist_plain.py")
    options = parser.parse_args()
    table = Table(*COLUMNS, title=f"{len(digits.load('train').labels):,} training digits")
    for example, epochs in (("mnist.py", options.epochs), ("mnist_plain.py", options.plain_epochs)):
        for row in rows(example, epochs):
            table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
