"""How long compiling takes: from a float network, untrained, to a program.

python benchmarks/bench_compile.py
"""

from __future__ import annotations

import time

import torch
from rich.console import Console
from rich.table import Table

import qcompile
from qcompile.zoo.lenet import lenet
from qcompile.zoo.resnet import birealnet18, resnet18


def main() -> None:
    """Print a table."""
    networks = {
        "LeNet": (lenet().eval(), torch.rand(1, 1, 28, 28)),
        "ResNet-18": (resnet18().eval(), torch.rand(1, 3, 224, 224)),
        "Bi-Real-Net-18": (birealnet18().eval(), torch.rand(1, 3, 224, 224)),
    }
    table = Table("network", "bits", "seconds", "bytes", "of float32")
    qcompile.compile(*networks["LeNet"])  # loads the compiler
    for name, (model, x) in networks.items():
        for bits in (1, 8):
            start = time.perf_counter()
            program = qcompile.compile(model, x, bits=bits, calibration=[x])
            seconds = f"{time.perf_counter() - start:.1f}"
            whole = sum(t.nbytes for t in model.state_dict().values())
            share = f"1/{whole / program.size:.1f}"
            table.add_row(name, str(bits), seconds, f"{program.size:,}", share)
    Console().print(table)


if __name__ == "__main__":
    main()
