"""Whole networks: 1-bit programs beside the float network in PyTorch, ONNX Runtime and OpenVINO.

python benchmarks/bench_network.py --threads 1,2 --batch 1,8 --networks birealnet18,resnet18,lenet

Weights are random: this is about speed. ResNet-18 and Bi-Real-Net-18 have the same convolutions, so
both stand in one table, beside ResNet-18 in the other frameworks. All entrants of a table take turns;
times are medians over the rounds, and a ratio is the median of the ratios within a round.
Every number of threads is measured by a process of its own, on so many processors.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import machine_facts
import qcompile
import tables
import timed_rows
from qcompile.bench.worker import CLOCKS
from qcompile.errors import QCompileError
from qcompile.rivals import engines, ov, ov_binary, pytorch
from qcompile.rivals.entrant import Entrant, Inputs, Ready, unavailable_if
from qcompile.zoo.lenet import lenet
from qcompile.zoo.resnet import birealnet18, resnet18
from tables import Sheet, milliseconds, number
from timed_rows import Settings

BEST_TORCH = "best PyTorch int8"


@dataclass(frozen=True)
class Contest:
    """Networks that stand in one table.

    Attributes:
        plain: makes the network that the other frameworks run.
        ours: by name, what makes a network of ours, and its recipe; the part before the comma is
            the network's name on the command line.
        batches: those that are measured unless others are asked for.
        binary: makes the network whose convolutions OpenVINO runs in 1 bit, if there is one.
    """

    name: str
    shape: tuple[int, int, int]
    plain: Any
    ours: dict[str, tuple[Any, qcompile.Recipe]]
    batches: tuple[int, ...] | None = None
    binary: Any = None


IMAGENET = Contest(
    "ResNet-18, 224 x 224",
    (3, 224, 224),
    resnet18,
    {
        "birealnet18, 1 bit": (birealnet18, qcompile.Recipe(1)),
        "resnet18, 1 bit, xnor": (resnet18, qcompile.Recipe(1, method="xnor")),
        "resnet18, 8 bits": (resnet18, qcompile.Recipe(8)),
    },
    binary=birealnet18,
)
LENET = Contest(
    "LeNet, 28 x 28",
    (1, 28, 28),
    lenet,
    {
        "lenet, 1 bit": (lenet, qcompile.Recipe(1)),
        "lenet, 1 bit, dorefa": (lenet, qcompile.Recipe(1, method="dorefa")),
        "lenet, 8 bits": (lenet, qcompile.Recipe(8)),
    },
    batches=(1, 64),
)
CONTESTS = (IMAGENET, LENET)
NETWORKS = tuple(dict.fromkeys(name.split(",")[0] for c in CONTESTS for name in c.ours))


def entrants(contest: Contest, networks: Sequence[str], threads: int, target: str) -> list[Entrant]:
    """Ours, then all others of a contest; none if no network of ours was asked for."""
    wanted = {k: v for k, v in contest.ours.items() if k.split(",")[0] in networks}
    if not wanted:
        return []
    torch.manual_seed(0)
    calibration = [torch.rand(4, *contest.shape)]
    plain = contest.plain().eval()
    return [
        *(
            Entrant(
                "qcompile",
                f"qcompile {name}",
                partial(_ours, build, recipe, calibration, threads, target),
            )
            for name, (build, recipe) in wanted.items()
        ),
        *engines.entrants(engines.NAMES, plain, [(x,) for x in calibration], threads),
        *([ov_binary.entrant(contest.binary, threads)] if contest.binary else []),
    ]


def _ours(
    build: Any,
    recipe: qcompile.Recipe,
    calibration: Sequence[Tensor],
    threads: int,
    target: str,
    inputs: Inputs,
) -> Ready:
    model: nn.Module = build().eval()
    logging.getLogger("qcompile").setLevel(logging.ERROR)  # that nothing is trained is known
    with unavailable_if(QCompileError):
        program = qcompile.compile(
            model, calibration[0], recipe=recipe, calibration=calibration, target=target
        )
        program.num_threads = threads
        program.library()
    return Ready(partial(program, *inputs), size=program.size)


def run(
    contest: Contest, networks: Sequence[str], batch: int, settings: Settings, target: str
) -> dict[str, Any] | None:
    """Measure one table; None if no network of the contest was asked for."""
    found = entrants(contest, networks, settings.threads, target)
    if not found:
        return None
    tables.progress(f"{contest.name}, batch {batch}, threads {settings.threads}")
    x = torch.rand(batch, *contest.shape)
    names = [e.name for e in found]
    rows = timed_rows.compare(found, x, settings, names)
    torch_best = timed_rows.fastest(rows, tuple(pytorch.INT8.values()))
    return {
        "network": contest.name,
        "threads": settings.threads,
        "batch": batch,
        "target": target,
        "clock": settings.clock,
        "best_pytorch_int8": torch_best,
        "rows": [row.to_json() for row in rows],
    }


def sheet(result: dict[str, Any], one_thread: dict[str, float]) -> Sheet:
    """The table of one result.

    Args:
        one_thread: milliseconds of rows by name with one thread, where that was measured.
    """
    against = {"fbgemm": pytorch.FBGEMM, BEST_TORCH: result["best_pytorch_int8"], ov.INT8: ov.INT8}
    scaling = result["threads"] > 1
    columns = ["", "bytes", "ms", "least ms", *(f"× {name}" for name in against)]
    columns += ["× 1 thread"] if scaling else []
    rows = []
    for row in result["rows"]:
        cells = [row["name"], number(row["size"], 0), _ms(row["ms"]), _ms(row["best_ms"])]
        cells += [number(row["times"].get(name)) for name in against.values()]
        if scaling:
            alone = one_thread.get(row["name"])
            cells.append(number(alone / row["ms"] if alone and row["ms"] else None))
        rows.append((*cells, row["reason"] or note(row)))
    plural = "s" if scaling else ""
    title = f"{result['network']}, batch {result['batch']}, {result['threads']} thread{plural}"
    return Sheet(f"{title} ({result['target']})", (*columns, "note"), tuple(rows))


def _ms(value: float | None) -> str:
    return milliseconds(None if value is None else value / 1e3)


def note(row: dict[str, Any]) -> str:
    """What a reader should know of a row."""
    unsteady = f"unsteady, {row['spread']:.1f} times" if row["spread"] > 1.5 else ""
    return "; ".join(part for part in (row["note"], unsteady) if part)


def numbers(text: str) -> list[int]:
    """An option such as 1,2."""
    return [int(part) for part in text.split(",")]


def network_names(text: str) -> list[str]:
    """An option such as lenet,resnet18."""
    names = text.split(",")
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {unknown[0]}; there are {', '.join(NETWORKS)}")
    return names


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--threads", type=numbers, default=[1], help="as in 1,2")
    parser.add_argument("--batch", type=numbers, help="default: 1, and 64 of LeNet")
    parser.add_argument("--networks", type=network_names, default=list(NETWORKS))
    parser.add_argument("--target", default="cpu", help="what qcompile compiles for")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each entrant of a table")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args(arguments)


def measure(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """All tables of one number of threads, in this process."""
    threads = chosen.threads[0]
    machine_facts.pin(threads)
    torch.set_num_threads(threads)
    settings = Settings(threads=threads, seconds=chosen.seconds, clock=chosen.clock)
    results = []
    for contest in CONTESTS:
        for batch in chosen.batch or contest.batches or (1,):
            result = run(contest, chosen.networks, batch, settings, chosen.target)
            results += [] if result is None else [result]
    return results


def _in_processes(arguments: Sequence[str], threads: Sequence[int]) -> list[dict[str, Any]]:
    results = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for count in threads:
            path = Path(folder, f"{count}.json")
            own = ["--threads", str(count), "--json", str(path)]
            command = [sys.executable, __file__, *arguments, *own]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            results += json.loads(path.read_text(encoding="utf-8"))["runs"]
    return results


def main(arguments: Sequence[str]) -> None:
    """Print the tables, and write them where that was asked for."""
    chosen = options(arguments)
    facts = machine_facts.facts()
    several = len(chosen.threads) > 1
    results = _in_processes(arguments, chosen.threads) if several else measure(chosen)
    sheets = []
    for result in results:
        same = [r for r in results if all(r[k] == result[k] for k in ("network", "batch"))]
        alone = {row["name"]: row["ms"] for r in same if r["threads"] == 1 for row in r["rows"]}
        sheets.append(sheet(result, alone))
    whole = {"machine": facts, "runs": results}
    tables.publish(sheets, whole, json_file=chosen.json, markdown_file=chosen.markdown)


if __name__ == "__main__":
    main(sys.argv[1:])
