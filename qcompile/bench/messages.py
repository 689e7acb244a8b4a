"""What the measuring process is told, and what it tells: JSON, a line each. Imports no torch.

It is told its `Task`. Then, for each batch, an empty line lets it prepare, and another one, after it told
`Waits`, lets it measure.
"""

from __future__ import annotations

from msgspec import Struct

from qcompile.bench.results import Engine

PROGRAM, WEIGHTS = "program.qcp", "float.safetensors"
INPUTS, CALIBRATION = "inputs.safetensors", "calibration.safetensors"
TURN, TURN_WIDTH = "turn", 40  # the engine whose turn it is: a process that dies leaves it behind


class Task(Struct, frozen=True):
    """What one process is to measure.

    Attributes:
        model: as the user named it; None for a program alone.
        input_shape: that the user gave.
        engines: keys; the program's own are in it.
        batches: sizes, each an own run.
        seconds: for each engine of a run.
    """

    model: str | None
    input_shape: tuple[int, ...] | None
    engines: tuple[str, ...]
    batches: tuple[int, ...]
    threads: int
    seconds: float
    rounds: int
    clock: str
    seed: int
    arch: str | None


class At(Struct, frozen=True, tag="at"):
    """What it is about to do, in words; with an engine or without one."""

    doing: str
    batch: int = 0
    engine: str = ""


class Prepared(Struct, frozen=True, tag="prepared"):
    """An engine is ready, or its `reason` says why it is not."""

    batch: int
    engine: Engine


class Waits(Struct, frozen=True, tag="waits"):
    """All engines are ready, and nothing is done until it is told to go on."""

    batch: int


class Measured(Struct, frozen=True, tag="measured"):
    """A run is done: seconds of a call of each engine, in the order of the rounds."""

    batch: int
    samples: dict[str, list[float]]


class Refused(Struct, frozen=True, tag="refused"):
    """Something that the user gave does not work: a QCompileError."""

    what: str
    where: str | None
    hint: str | None


Message = At | Prepared | Waits | Measured | Refused
