"""The limit of dot products on this processor, for every instruction set it has; one thread.

python benchmarks/bench_limit.py [--seconds 0.5] [--json out.json] [--markdown out.md]

K are the lengths of 3 x 3 patches of 64, 128, 256 and 512 channels. The loops and what they leave
out are described in limits.py and limit/limit.h.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine_facts
import tables
from qcompile.bench import limits
from qcompile.bench.limits import BINARY, FLOAT, INT8, Limit
from tables import Sheet, number

KS = (576, 1152, 2304, 4608)


@dataclass(frozen=True)
class Measured:
    """Rates of all loops that run here, and by instruction set why the others do not."""

    limits: tuple[Limit, ...]
    reasons: dict[str, str]

    def results(self) -> dict[str, Any]:
        """As plain values; `best` has GMAC/s by kind, instruction set and K."""
        return {
            "best": {kind: limits.limits(self.limits, kind) for kind in (BINARY, INT8, FLOAT)},
            "loops": [
                {
                    "isa": limit.loop.isa,
                    "method": limit.loop.method,
                    "k": limit.loop.k,
                    "gmacs": limit.rate,
                    "best_gmacs": limit.best,
                }
                for limit in self.limits
            ],
            "absent": self.reasons,
        }


def measure(seconds: float) -> Measured:
    """Compile, check and time all loops.

    Args:
        seconds: for each loop.
    """
    found: list[Limit] = []
    reasons = {}
    for isa in limits.SETS:
        try:
            found += limits.measured(limits.loops(isa), seconds)
        except limits.Unlimited as error:
            reasons[isa.name] = str(error)
    return Measured(tuple(found), reasons)


def sheets(measured: Measured) -> list[Sheet]:
    """The rate of each loop, and the best of each instruction set."""
    columns = ("", *(f"K = {k}" for k in KS), "note")
    rows = [
        (f"{isa}: {method}", *_rates(measured, isa, method), "") for isa, method in _names(measured)
    ]
    rows += [
        (isa, *("-" for _ in KS), f"absent: {reason}") for isa, reason in measured.reasons.items()
    ]
    best = [
        (f"{kind}, {isa}", *(number(row.get(k), 0) for k in KS), "")
        for kind in (BINARY, INT8, FLOAT)
        for isa, row in limits.limits(measured.limits, kind).items()
    ]
    return [
        Sheet("every loop, GMAC/s of one thread", columns, tuple(rows)),
        Sheet("the limit: best loop of each instruction set, GMAC/s", columns, tuple(best)),
    ]


def _names(measured: Measured) -> list[tuple[str, str]]:
    return list(dict.fromkeys((x.loop.isa, x.loop.method) for x in measured.limits))


def _rates(measured: Measured, isa: str, method: str) -> list[str]:
    own = {
        x.loop.k: x.rate for x in measured.limits if (x.loop.isa, x.loop.method) == (isa, method)
    }
    return [number(own.get(k), 0) for k in KS]


def main(arguments: Sequence[str]) -> None:
    """Print the tables, and write them where that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=0.2, help="for each loop")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    chosen = parser.parse_args(arguments)
    facts = machine_facts.facts()
    machine_facts.pin(1)
    measured = measure(chosen.seconds)
    whole = {"machine": facts, **measured.results()}
    tables.publish(sheets(measured), whole, json_file=chosen.json, markdown_file=chosen.markdown)


if __name__ == "__main__":
    main(sys.argv[1:])
