"""Networks and binary convolutions on a GPU: qcompile beside PyTorch in float32, float16 and int8.

python benchmarks/bench_cuda.py --json cuda.json [--batch 1,64] [--networks lenet] [--shapes 256x14]

The tables are those of bench_network.py and bench_conv.py, with what runs on a GPU. Weights are
random: this is about speed. Inputs and results lie on the GPU. All entrants of a table take turns,
times are the GPU's own, medians over the rounds, and a ratio is the median of the ratios within a
round. A layer's time is a quarter of the difference between a chain of 6 and one of 2.

--emulated runs it on the CPU, on tiny sizes, to see that it runs: its times say nothing.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bench_conv
import bench_network
import binary_chain
import gpu_clock
import machine_facts
import qcompile
import tables
import timed_rows
from bench_conv import LONG, SHORT
from bench_network import Contest
from binary_chain import Shape
from qcompile.errors import QCompileError
from qcompile.rivals import torch_cuda
from qcompile.rivals.entrant import Call, Entrant, Inputs, Ready, unavailable_if
from tables import Sheet, milliseconds, number
from timed_rows import Row, Settings

BATCHES = (1, 64, 256)
OURS_1, OURS_8 = "qcompile 1 bit", "qcompile 8 bits"
AGAINST = (torch_cuda.FP16, torch_cuda.FP16_COMPILED, torch_cuda.FP16_GRAPHS, torch_cuda.INT_MM)
EMULATED = "EMULATED ON THE CPU, NOT A MEASUREMENT"
_EMULATED_ARCH = 80
_TINY = Shape(32, 4)
_TINY_IMAGE = 32  # pixels in width


@dataclass(frozen=True)
class Place:
    """Where it all runs.

    Attributes:
        target: what qcompile compiles for.
        settings: with the clock.
        emulate: the GPU that the CPU emulates, None on a GPU.
    """

    target: str
    settings: Settings
    emulate: int | None

    @property
    def device(self) -> str:
        """Of PyTorch."""
        return "cuda" if self.emulate is None else "cpu"


def place_of(chosen: argparse.Namespace) -> Place:
    """The GPU, or its emulation if that was asked for.

    Raises:
        SystemExit: there is no GPU that can be used.
    """
    if chosen.emulated:
        target = chosen.target or f"cuda:sm_{_EMULATED_ARCH}"
        return Place(target, Settings(seconds=chosen.seconds), _EMULATED_ARCH)
    if reason := gpu_clock.obstacle():
        raise SystemExit(f"nothing can be measured here: {reason} (--emulated only tries it out)")
    target = chosen.target or f"cuda:sm_{gpu_clock.arch()}"
    return Place(target, gpu_clock.GpuSettings(seconds=chosen.seconds), None)


# --- networks ------------------------------------------------------------------------------------


def entrants(contest: Contest, networks: Sequence[str], place: Place) -> list[Entrant]:
    """Ours, then PyTorch's; none if no network of ours was asked for."""
    wanted = {k: v for k, v in contest.ours.items() if k.split(",")[0] in networks}
    if not wanted:
        return []
    torch.manual_seed(0)
    calibration = [torch.rand(4, *contest.shape)]
    ours = [
        Entrant("qcompile", f"qcompile {name}", partial(_ours, build, recipe, calibration, place))
        for name, (build, recipe) in wanted.items()
    ]
    return [*ours, *torch_cuda.entrants(contest.plain().eval(), place.device)]


def _ours(
    build: Any, recipe: qcompile.Recipe, calibration: Sequence[Tensor], place: Place, inputs: Inputs
) -> Ready:
    model: nn.Module = build().eval()
    logging.getLogger("qcompile").setLevel(logging.ERROR)  # that nothing is trained is known
    with unavailable_if(QCompileError):
        program = qcompile.compile(
            model, calibration[0], recipe=recipe, calibration=calibration, target=place.target
        )
        return _ready(program, place, *inputs)


def _ready(program: qcompile.Program, place: Place, x: Tensor) -> Ready:
    if place.emulate is not None and program.emulates is None:
        program = program.emulated(place.emulate)
    given = x.to(place.device)
    program(given)
    return Ready(partial(program, given), size=program.size)


def network(contest: Contest, batch: int, found: Sequence[Entrant], place: Place) -> dict[str, Any]:
    """Measure one table."""
    tables.progress(f"{contest.name}, batch {batch}")
    x = torch.rand(batch, *contest.shape)
    rows = timed_rows.compare(found, x, place.settings, [e.name for e in found])
    return {"network": contest.name, "batch": batch, "rows": [row.to_json() for row in rows]}


# --- layers --------------------------------------------------------------------------------------


def chains(shape: Shape, count: int, batch: int, place: Place) -> list[Entrant]:
    """All entrants for a chain of so many layers."""
    model = bench_conv.Layers(shape, count).eval()
    rows = batch * shape.size**2
    return [
        Entrant("qcompile-1", OURS_1, partial(_chain, shape, count, place)),
        Entrant(
            "qcompile-8",
            OURS_8,
            partial(_ours, lambda: model, qcompile.Recipe(8), [_images(shape, 1)], place),
            how="a float input and result",
        ),
        *torch_cuda.entrants(model, place.device),
        torch_cuda.int_mm(rows, shape.k, shape.channels, count, place.device),
    ]


def _chain(shape: Shape, count: int, place: Place, inputs: Inputs) -> Ready:
    (x,) = inputs
    with unavailable_if(QCompileError):
        # What is compared with PyTorch is a small batch.
        program = binary_chain.chain(shape, count, x[:2], place.target, place.emulate)
        return _ready(program, place, x)


def _images(shape: Shape, batch: int) -> Tensor:
    return torch.rand(batch, shape.channels, shape.size, shape.size)


def layer(shape: Shape, batch: int, place: Place) -> dict[str, Any]:
    """Time one layer inside a chain, for all entrants."""
    tables.progress(f"{shape}, batch {batch}")
    torch.manual_seed(0)
    x = _images(shape, batch) - 0.5
    rows, short = timed_rows.prepared(chains(shape, SHORT, batch, place), x)
    _, long = timed_rows.prepared(chains(shape, LONG, batch, place), x)
    pairs = [(a, b) for a, b in zip(short, long, strict=True) if a is not None and b is not None]
    calls: list[Call] = [call for pair in pairs for call in pair]
    taken = iter(place.settings.take_turns(calls))
    samples = [
        None
        if a is None or b is None
        else [(q - p) / (LONG - SHORT) for p, q in zip(next(taken), next(taken), strict=True)]
        for a, b in zip(short, long, strict=True)
    ]
    timed = timed_rows.timed(rows, samples, [row.name for row in rows])
    made = [_with_rate(replace(row, best=None), batch * shape.macs) for row in timed]
    return {"channels": shape.channels, "size": shape.size, "batch": batch, "rows": made}


def _with_rate(row: Row, macs: int) -> dict[str, Any]:
    rate = None if not row.seconds or row.seconds < 0 else macs / row.seconds / 1e9
    return row.to_json() | {"gmacs": rate}


# --- tables --------------------------------------------------------------------------------------


def sheet(result: dict[str, Any], title: str) -> Sheet:
    """The table of one result."""
    rated = any("gmacs" in row for row in result["rows"])
    against = [n for n in AGAINST if any(row["name"] == n for row in result["rows"])]
    columns = ["", "bytes", "ms", *(["GMAC/s"] if rated else []), *(f"× {n}" for n in against)]
    rows = []
    for row in result["rows"]:
        ms = None if row["ms"] is None else row["ms"] / 1e3
        cells = [row["name"], number(row["size"], 0), milliseconds(ms)]
        cells += [number(row["gmacs"], 0)] if rated else []
        cells += [number(row["times"].get(name)) for name in against]
        rows.append((*cells, row["reason"] or bench_network.note(row)))
    return Sheet(title, (*columns, "note"), tuple(rows))


def sheets(whole: dict[str, Any]) -> list[Sheet]:
    """All tables; of an emulation each says so."""
    mark = f"{EMULATED}: " if whole["emulated"] else ""
    found = [
        sheet(result, f"{mark}{result['network']}, batch {result['batch']}")
        for result in whole["networks"]
    ]
    for result in whole["layers"]:
        shape = Shape(result["channels"], result["size"])
        found.append(sheet(result, f"{mark}{shape}, batch {result['batch']}"))
    return found


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add = parser.add_argument
    add("--batch", type=bench_network.numbers, help="default: 1,64,256")
    add("--networks", type=bench_network.network_names, default=list(bench_network.NETWORKS))
    add("--shapes", type=bench_conv.shapes, help="layers, as in 64x56,128x28")
    add("--target", help="what qcompile compiles for (default: this GPU)")
    add("--seconds", type=float, default=1.0, help="for each entrant of a table")
    add("--emulated", action="store_true", help="try it out on the CPU; this measures nothing")
    add("--json", type=Path)
    add("--markdown", type=Path)
    chosen = parser.parse_args(arguments)
    chosen.batch = chosen.batch or ([1] if chosen.emulated else list(BATCHES))
    chosen.shapes = chosen.shapes or ([_TINY] if chosen.emulated else list(bench_conv.SHAPES))
    return chosen


def main(arguments: Sequence[str]) -> None:
    """Print the tables, and write them where that was asked for."""
    chosen = options(arguments)
    place = place_of(chosen)
    facts = machine_facts.facts() | ({} if chosen.emulated else gpu_clock.facts())
    networks = []
    for contest in bench_network.CONTESTS:
        if chosen.emulated and contest.shape[-1] > _TINY_IMAGE:
            continue
        found = entrants(contest, chosen.networks, place)
        if found:
            networks += [network(contest, batch, found, place) for batch in chosen.batch]
    layers = [layer(shape, batch, place) for shape in chosen.shapes for batch in chosen.batch]
    whole = {
        "machine": facts,
        "target": place.target,
        "emulated": chosen.emulated,
        "networks": networks,
        "layers": layers,
    }
    tables.publish(sheets(whole), whole, json_file=chosen.json, markdown_file=chosen.markdown)


if __name__ == "__main__":
    main(sys.argv[1:])
