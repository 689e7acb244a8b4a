"""What the measuring processes get: the program, the float weights, inputs and calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file
from torch import Tensor

from qcompile import weights
from qcompile.bench import words
from qcompile.bench.built import Built
from qcompile.bench.messages import CALIBRATION, INPUTS, PROGRAM, WEIGHTS
from qcompile.program import Program
from qcompile.trial import calibration_of

CALIBRATION_BYTES = 64 << 20  # of the batches that are kept, for other engines and for layers


@dataclass(frozen=True)
class Handed:
    """What the measuring processes got.

    Attributes:
        inputs: one array for each input, as many samples as the largest batch has.
        told: where they come from, in words.
    """

    inputs: tuple[npt.NDArray[np.float32], ...]
    told: str


def hand_over(built: Built, folder: Path, samples: int, seed: int) -> Handed:
    """Write the program, the float weights, inputs and calibration data to a folder."""
    built.program.save(folder / PROGRAM)
    file = built.file
    batches: Sequence[tuple[Tensor, ...]] = ()
    if file is not None:
        weights.save(file.model, folder / WEIGHTS)
        batches = some(calibration_of(file)) if built.made is None else built.made.calibration
        names = {f"{i}.{j}": x for i, batch in enumerate(batches) for j, x in enumerate(batch)}
        save_file({k: x.contiguous().numpy() for k, x in names.items()}, folder / CALIBRATION)
    found = _inputs(built, batches, samples, seed)
    save_file({str(i): x for i, x in enumerate(found.inputs)}, folder / INPUTS)
    return found


def _inputs(built: Built, batches: Sequence[tuple[Tensor, ...]], samples: int, seed: int) -> Handed:
    """The user's own, where there are any: those that a network is calibrated on."""
    file = built.file
    if file is None or (file.made_up and not file.has("calibration_data")):
        return Handed(_random(built.program, samples, seed), f"random numbers, seed {seed}")
    own = file.has("calibration_data")
    told = "the first of calibration_data()" if own else "the example inputs"
    known = sum(len(batch[0]) for batch in batches)
    if known < samples:
        told += f", {words.plural(known, 'sample')}, again and again"
    return Handed(_first(batches, samples), told)


def _first(
    batches: Sequence[tuple[Tensor, ...]], samples: int
) -> tuple[npt.NDArray[np.float32], ...]:
    """So many samples; where there are fewer, they come again."""
    whole = [torch.cat(column) for column in zip(*batches, strict=True)]
    rows = torch.arange(samples) % len(whole[0])
    return tuple(x[rows].contiguous().numpy() for x in whole)


def _random(program: Program, samples: int, seed: int) -> tuple[npt.NDArray[np.float32], ...]:
    generator = np.random.default_rng(seed)
    return tuple(
        generator.standard_normal((samples, *value.shape)).astype(value.dtype)
        for value in program.info.inputs
    )


def some(batches: Iterable[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """As many as go into CALIBRATION_BYTES, one at least."""
    found: list[tuple[Tensor, ...]] = []
    size = 0
    for batch in batches:
        size += sum(x.nbytes for x in batch)
        if found and size > CALIBRATION_BYTES:
            break
        found.append(batch)
    return found
