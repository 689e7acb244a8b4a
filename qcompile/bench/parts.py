"""What a report has beside times: layers, roofs, widths, graphs; or why it lacks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from qcompile.bench.built import Built
from qcompile.bench.layers import layers
from qcompile.bench.phases import phases
from qcompile.bench.results import Graph, Layer, Parts, Roof, Width
from qcompile.bench.roofs import roofs
from qcompile.bench.traffic import running
from qcompile.steps import Steps

PARTS = ("layers", "roofs", "widths", "graphs")
_LEFT_OUT = "it was not asked for (--parts)"


@dataclass
class Found:
    """Those that there are; of the others, `absent` says why by name."""

    layers: tuple[Layer, ...] = ()
    roofs: tuple[Roof, ...] = ()
    widths: tuple[Width, ...] = ()
    graphs: tuple[Graph, ...] = ()
    absent: dict[str, str] = field(default_factory=dict)


def look(built: Built, names: Sequence[str], widths: Sequence[int], steps: Steps) -> Found:
    """Look into a program; each part takes seconds."""
    found = Found(absent={name: _LEFT_OUT for name in PARTS if name not in names})
    if "layers" in names:
        with steps("time the layers"):
            found.layers = layers(built, phases=_phases(built))
    if "roofs" in names:
        with steps("measure what the machine can do"):
            found.roofs, why = roofs(built.program.variant.features)
        if why:
            found.absent["roofs"] = "; ".join(why)
    return found


def _phases(built: Built) -> tuple[Parts, ...] | None:
    """Shares inside each kernel of a program that was made here."""
    made = built.made
    if made is None:
        return None
    inputs = [x[:1] for x in made.calibration[0]]
    return phases(made.lowered, running(made, built.program.variant.arch), made.choose, inputs)
