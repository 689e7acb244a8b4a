"""Quantization-aware training on MNIST: float, torch.ao, and qcompile at 8, 4, 2 and 1 bits.

QCOMPILE_DATA=mnist python benchmarks/mnist_qat.py [--epochs 3] [--bits 8,4,2,1]

The network is that of examples/mnist_plain.py, and so is its training: every row begins with the same
random weights and sees the same batches in the same order. `qcompile digits mnist` downloads all of
MNIST; without QCOMPILE_DATA the sample that qcompile ships is used, and the title says so.

torch.ao wants the network with stubs, modules in place of functions, and a list of what to fuse: that
is `Stubbed`. qcompile takes the example as it stands, and each of its programs is verified, bit for
bit, on all test digits. Inference is that of all test digits in batches of 100; entrants take turns.
"""

from __future__ import annotations

import argparse
import copy
import runpy
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao import quantization as ao
from torch.nn import functional as F

import machine_facts
import qcompile
import tables
from qcompile import digits
from qcompile.rivals.pytorch import weight_bytes
from tables import Sheet
from timed_rows import Settings

EXAMPLE = Path(__file__).parents[1] / "examples" / "mnist_plain.py"
BATCH = 100
# Of the same experiment as it was published, on another machine: accuracy, seconds of training and
# of inference.
PUBLISHED = {"float32": (0.9759, 57.3, 9.19), "torch.ao": (0.9810, 88.4, 8.55)}


class Stubbed(nn.Module):
    """The example's network as torch.ao's eager mode needs it, with the example's weights."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
        parts = [copy.deepcopy(part) for part in plain.children()]
        self.conv1, self.conv2, self.dropout1, self.dropout2, self.fc1, self.fc2 = parts
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.conv1(self.quant(x)))
        x = self.dropout1(self.pool(self.relu2(self.conv2(x))))
        x = self.dropout2(self.relu3(self.fc1(torch.flatten(x, 1))))
        return F.log_softmax(self.dequant(self.fc2(x)), dim=1)


FUSED = [["conv1", "relu1"], ["conv2", "relu2"], ["fc1", "relu3"]]


@dataclass
class Entrant:
    """One row: what was trained, and what of it is run.

    Attributes:
        train_seconds: of `epochs` epochs.
        size: bytes; of qcompile's programs the whole file, of others the weights alone.
        seconds: of inference on all test digits, filled in later.
    """

    name: str
    accuracy: float
    train_seconds: float
    size: int
    run: Callable[[Tensor], Any]
    verified: str = ""
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {k: v for k, v in self.__dict__.items() if k != "run"}


@dataclass(frozen=True)
class Experiment:
    """What all rows share."""

    model: nn.Module
    train: Callable[..., None]
    evaluate: Callable[[nn.Module], float]
    epochs: int
    images: Tensor

    def trained(self, model: nn.Module) -> float:
        """Train a model in place; gives the seconds that took."""
        torch.manual_seed(1)
        start = time.perf_counter()
        self.train(model, epochs=self.epochs)
        model.eval()
        return time.perf_counter() - start

    def batches(self) -> tuple[Tensor, ...]:
        """All test digits."""
        return self.images.split(BATCH)


def float_row(e: Experiment) -> Entrant:
    """PyTorch, float32."""
    model = copy.deepcopy(e.model)
    seconds = e.trained(model)
    return Entrant("PyTorch, float32", e.evaluate(model), seconds, weight_bytes(model), model)


def torch_ao_row(e: Experiment) -> Entrant:
    """torch.ao's eager mode quantization-aware training, for fbgemm."""
    torch.backends.quantized.engine = "fbgemm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its own choices, and that it will move
        model: Any = ao.fuse_modules_qat(Stubbed(e.model).train(), FUSED)
        model.qconfig = ao.get_default_qat_qconfig("fbgemm")
        ao.prepare_qat(model, inplace=True)
        seconds = e.trained(model)
        int8 = ao.convert(model)
    return Entrant("torch.ao QAT, int8", e.evaluate(int8), seconds, weight_bytes(int8), int8)


def qcompile_row(e: Experiment, bits: int) -> Entrant:
    """The example as it stands, at some bits."""
    prepared = qcompile.prepare(e.model, e.images[:1], qcompile.Recipe(bits)).train()
    seconds = e.trained(prepared)
    converted = qcompile.convert(prepared)
    program = qcompile.compile(converted)
    found = qcompile.verify(program, converted, list(e.batches()))
    verified = f"{found.samples:,} of {len(e.images):,}" if found.ok else "NO"
    accuracy = e.evaluate(_Module(program))
    return Entrant(f"qcompile, {bits} bit", accuracy, seconds, program.size, program, verified)


class _Module(nn.Module):
    def __init__(self, program: qcompile.Program) -> None:
        super().__init__()
        self.program = program

    def forward(self, x: Tensor) -> Any:
        return self.program(x)


def experiment(epochs: int) -> Experiment:
    """The example's network and training; the same random weights at every call."""
    torch.manual_seed(0)
    names: dict[str, Any] = runpy.run_path(str(EXAMPLE))
    images, _ = digits.load("test").tensors()
    return Experiment(names["model"], names["train"], names["evaluate"], epochs, images)


def measure(epochs: int, bits: Sequence[int], settings: Settings) -> list[Entrant]:
    """Train all, then time their inference in turns."""
    e = experiment(epochs)
    rows: list[Entrant] = []
    makers: list[Callable[[Experiment], Entrant]] = [
        float_row,
        torch_ao_row,
        *(partial(qcompile_row, bits=b) for b in bits),
    ]
    for make in makers:
        tables.progress(f"row {len(rows) + 1} of {len(makers)}")
        rows.append(make(e))
    with torch.no_grad():
        taken = settings.take_turns([partial(_run, row, e.batches()) for row in rows])
    for row, seconds in zip(rows, taken, strict=True):
        row.seconds = sorted(seconds)[len(seconds) // 2]
    return rows


def _run(row: Entrant, batches: Sequence[Tensor]) -> None:
    for x in batches:
        row.run(x)


def sheet(rows: Sequence[Entrant], epochs: int) -> Sheet:
    """The table, with the published figures below."""
    trained, tested = len(digits.load("train")), len(digits.load("test"))
    whole = "all of MNIST" if trained == 60_000 else "the sample of MNIST that qcompile ships"
    title = f"{whole}: {trained:,} training digits, {epochs} epochs, {tested:,} test digits"
    columns = ("", "accuracy", "training s", "× float", "inference s", "bytes", "verified")
    base = rows[0].train_seconds
    lines = [
        (
            row.name,
            f"{row.accuracy:.2%}",
            f"{row.train_seconds:.1f}",
            f"{row.train_seconds / base:.2f}",
            tables.number(row.seconds, 3),
            f"{row.size:,}",
            row.verified,
        )
        for row in rows
    ]
    for name, (accuracy, training, inference) in PUBLISHED.items():
        ratio = training / PUBLISHED["float32"][1]
        cells = (f"{accuracy:.2%}", f"{training:.1f}", f"{ratio:.2f}", f"{inference:.2f}", "", "")
        lines.append((f"as published, {name}", *cells))
    return Sheet(title, columns, tuple(lines))


def main(arguments: Sequence[str]) -> None:
    """Print the table, and write it where that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--bits", type=lambda text: [int(b) for b in text.split(",")], default=[8, 4, 2, 1]
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of inference, for each row")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    facts = machine_facts.facts()
    settings = Settings(threads=torch.get_num_threads(), seconds=options.seconds)
    rows = measure(options.epochs, options.bits, settings)
    results = {"machine": facts, "rows": [row.to_json() for row in rows], "published": PUBLISHED}
    table = sheet(rows, options.epochs)
    tables.publish([table], results, json_file=options.json, markdown_file=options.markdown)


if __name__ == "__main__":
    main(sys.argv[1:])
