"""How often `qcompile compare` is right: reports of one program, and of one that a tenth is planted into.

Pairs of reports are measured by `qcompile bench` and compared by `qcompile compare`, as a user would. Half of the pairs
are of one program twice: any regression is a false alarm. In the others every call of the second report busily waits
for another tenth of its own time: no regression is a miss.

    python benchmarks/check_compare.py                      20 pairs of each, some ten minutes on a quiet machine
    python benchmarks/check_compare.py --pairs 3 --network conv --batch 1
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import machine_facts
import qcompile
from qcompile import cli
from qcompile.bench import files
from qcompile.zoo.lenet import lenet
from tables import Sheet, progress, publish

TENTH = 0.1
RIGHT = {"same": 20, "slower": 19}  # of 20 pairs, what is wanted
# Python reads a module of this name when it starts. Both programs of a pair are called through it, so that the
# call itself adds to both.
WRAPPER = """
import time
from qcompile.program import Program

plain = Program.__call__

def waiting(self, *inputs):
    start = time.perf_counter()
    result = plain(self, *inputs)
    end = start + (1 + {share}) * (time.perf_counter() - start)
    while time.perf_counter() < end:
        pass
    return result

Program.__call__ = waiting
"""


@dataclass(frozen=True)
class Pair:
    """What was found of two reports.

    Attributes:
        planted: the share of its time by which the second program waited.
        code: that `compare` exits with.
        ratios, seen: of each run: how much longer it takes, and from where on that would be certain.
        load: of the machine before the first report.
    """

    planted: float
    code: int
    ratios: tuple[float, ...]
    seen: tuple[float, ...]
    load: float

    @property
    def right(self) -> bool:
        """Whether a regression was reported where there is one, and none elsewhere."""
        return self.code == (cli.FAILED if self.planted else cli.OK)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print; 1 where it is not as often right as it should be."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = folder / "program.qcp"
        with contextlib.redirect_stderr(io.StringIO()):  # that nothing is trained
            network(options.network).save(program)
        found = []
        for number in range(options.pairs):
            for planted in (0.0, TENTH):
                found.append(_pair(program, folder, planted, options))
                progress(f"pair {number + 1} of {options.pairs}: {told(found[-1])}")
    publish(
        [sheet(found, options)],
        {"machine": machine_facts.facts(), "pairs": [asdict(pair) for pair in found]},
        json_file=options.json,
        markdown_file=options.markdown,
    )
    return 0 if enough(found) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--pairs", type=int, default=20, help="of each kind")
    add("--network", choices=("lenet", "conv"), default="lenet")
    add("--batch", default="16,64")
    add("--threads", default="1")
    add("--processes", default="5")
    add("--seconds", default="0.5")
    add("--json", type=Path)
    add("--markdown", type=Path)
    return parser


def network(name: str) -> qcompile.Program:
    """A 1-bit program, untrained: LeNet, or three convolutions of 64 channels on 32 x 32."""
    torch.manual_seed(0)
    if name == "lenet":
        return qcompile.compile(lenet(), torch.randn(8, 1, 28, 28), bits=1)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return qcompile.compile(nn.Sequential(*layers), torch.randn(8, 3, 32, 32), bits=1)


# --- a pair --------------------------------------------------------------------------------------


def _pair(program: Path, folder: Path, planted: float, options: argparse.Namespace) -> Pair:
    load = os.getloadavg()[0]
    reports = [folder / "a.json", folder / "b.json"]
    for path, share in zip(reports, (0.0, planted), strict=True):
        with waiting(share, folder):
            _bench(program, path, options)
        files.load(path)
    result = folder / "comparison.json"
    code = _quietly("compare", *map(str, reports), "--json", str(result))
    rows = json.loads(result.read_text())["rows"]
    return Pair(
        planted,
        code,
        tuple(row["ratio"]["median"] for row in rows),
        tuple(row["seen"] for row in rows),
        load,
    )


@contextlib.contextmanager
def waiting(share: float, folder: Path) -> Iterator[None]:
    """While this lasts, programs in processes that are started wait for a share of their time."""
    place = folder / f"waits-{share}"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(WRAPPER.format(share=share))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(place), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _bench(program: Path, path: Path, options: argparse.Namespace) -> None:
    how = {name: getattr(options, name) for name in ("batch", "threads", "processes", "seconds")}
    words = [word for name, value in how.items() for word in (f"--{name}", value)]
    nothing = ["--against", "none", "--parts", "none"]
    code = _quietly("bench", str(program), *words, *nothing, "--json", str(path))
    if code != cli.OK:
        raise SystemExit(f"qcompile bench: exit code {code}")


def _quietly(*words: str) -> int:
    """Exit code of a command."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cli.main(words)
    if code == cli.REFUSED:
        raise SystemExit(said.getvalue())
    return code


# --- all of them ---------------------------------------------------------------------------------


def told(pair: Pair) -> str:
    """One pair in a line."""
    what = f"{pair.planted:.0%} planted" if pair.planted else "the same program"
    ratios = ", ".join(f"{ratio - 1:+.1%}" for ratio in pair.ratios)
    seen = ", ".join(f"{share:.1%}" for share in pair.seen)
    word = "regression" if pair.code == cli.FAILED else "no regression"
    wrong = "" if pair.right else ", WRONG"
    return f"{what}: {word}{wrong} ({ratios}; seen from {seen}; load {pair.load:.1f})"


def kinds(found: Sequence[Pair]) -> dict[str, list[Pair]]:
    """The pairs of each kind, by the names of RIGHT."""
    return {
        "same": [pair for pair in found if not pair.planted],
        "slower": [pair for pair in found if pair.planted],
    }


def enough(found: Sequence[Pair]) -> bool:
    """Whether as many pairs are right as should be."""
    return all(
        sum(pair.right for pair in own) * 20 >= RIGHT[kind] * len(own)
        for kind, own in kinds(found).items()
    )


def sheet(found: Sequence[Pair], options: Any) -> Sheet:
    """How often it was right, and what ratios were found."""
    rows = []
    for kind, own in kinds(found).items():
        what = "same program, no regression" if kind == "same" else "10 % slower, found"
        ratios = sorted(ratio - 1 for pair in own for ratio in pair.ratios)
        seen = sorted(share for pair in own for share in pair.seen)
        right = sum(pair.right for pair in own)
        rows.append(
            (
                what,
                f"{right} of {len(own)}",
                f"{ratios[0]:+.1%} to {ratios[-1]:+.1%}",
                f"{seen[-1]:.1%}",
            )
        )
    title = f"{options.network}, batch {options.batch}, threads {options.threads}, "
    title += f"{options.processes} processes, {options.seconds} s"
    return Sheet(title, ("pairs", "right", "B takes", "seen from, at worst"), tuple(rows))


if __name__ == "__main__":
    raise SystemExit(main())
