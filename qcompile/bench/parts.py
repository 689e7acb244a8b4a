"""What a report has beside times: layers, roofs, widths, graphs; or why it lacks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from qcompile.bench.built import Built
from qcompile.bench.graphs import graphs
from qcompile.bench.layers import layers
from qcompile.bench.phases import phases
from qcompile.bench.results import Graph, Layer, Parts, Roof, Width
from qcompile.bench.roofs import roofs
from qcompile.bench.traffic import running
from qcompile.bench.verb import PARTS
from qcompile.bench.widths import widths
from qcompile.errors import QCompileError
from qcompile.steps import Steps

_LEFT_OUT = "not asked for (--parts)"
_NO_MODEL = "a program alone has no float network to compile at other widths"


@dataclass
class Found:
    """Those that there are; of the others, `absent` says why by name."""

    layers: tuple[Layer, ...] = ()
    roofs: tuple[Roof, ...] = ()
    widths: tuple[Width, ...] = ()
    graphs: tuple[Graph, ...] = ()
    absent: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str, steps: Steps) -> Iterator[None]:
        """A part that may turn out not to be had: what was measured before is kept."""
        try:
            yield
        except QCompileError as error:
            self.absent[name] = error.what
            steps.note(f"No {name}: {error.what}.")


@dataclass(frozen=True)
class Wanted:
    """What is to be looked into.

    Attributes:
        names: of parts, from `verb.PARTS`.
        widths: bits that are tried.
        train: whether networks of other widths are trained, with so many `epochs`.
    """

    names: tuple[str, ...]
    widths: tuple[int, ...] = ()
    train: bool = False
    epochs: int | None = None
    seed: int = 0


def look(
    built: Built,
    wanted: Wanted,
    inputs: tuple[Tensor, ...],
    steps: Steps,
    clock: Callable[[], float],
) -> Found:
    """Look into a program; each part takes seconds.

    Args:
        inputs: that the engines had, in the largest batch: other widths are compared on them.
        clock: that other widths are timed by.
    """
    found = Found(absent={name: _LEFT_OUT for name in PARTS if name not in wanted.names})
    if "layers" in wanted.names:
        with found.part("layers", steps), steps("time the layers"):
            found.layers = layers(built, phases=_phases(built, steps))
    if "roofs" in wanted.names:
        with found.part("roofs", steps), steps("measure what the machine can do"):
            found.roofs, why = roofs(built.program.variant.features)
            if why:
                found.absent["roofs"] = "; ".join(why)
    if "widths" in wanted.names:
        _widths(found, built, wanted, inputs, steps, clock)
    if "graphs" in wanted.names:
        with found.part("graphs", steps), steps("draw up the graphs"):
            found.graphs = graphs(built, found.layers)
    return found


def _widths(
    found: Found,
    built: Built,
    wanted: Wanted,
    inputs: tuple[Tensor, ...],
    steps: Steps,
    clock: Callable[[], float],
) -> None:
    if built.made is None:
        found.absent["widths"] = _NO_MODEL
    elif not wanted.widths:
        found.absent["widths"] = "not asked for (--widths none)"
    else:
        with found.part("widths", steps):
            found.widths = widths(
                built,
                wanted.widths,
                inputs=inputs,
                steps=steps,
                train=wanted.train,
                epochs=wanted.epochs,
                clock=clock,
                seed=wanted.seed,
            )


def _phases(built: Built, steps: Steps) -> tuple[Parts, ...] | None:
    """Shares inside each kernel of a program that was made here; None where they cannot be had."""
    made = built.made
    if made is None:
        return None
    inputs = [x[:1] for x in made.calibration[0]]
    try:
        target = running(made, built.program.variant.arch)
        return phases(made.lowered, target, made.choose, inputs)
    except QCompileError as error:
        steps.note(f"Time inside kernels is not told apart: {error.what}.")
        return None
