"""One network at several widths: what accuracy, time and size they trade for each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import GraphModule

from qcompile import api
from qcompile.bench import words
from qcompile.bench.before import one_thread
from qcompile.bench.built import Built, Made
from qcompile.bench.layers import sample_of
from qcompile.bench.results import AS_GIVEN, NOT_TRAINED, OURS, Width
from qcompile.bench.worker import sqnr
from qcompile.calibration import calibrate, knows_ranges, needs_calibration
from qcompile.errors import QCompileError
from qcompile.ir.plan import FLOAT_BITS
from qcompile.program import Program
from qcompile.quant.recipe import Recipe
from qcompile.recording import Recording
from qcompile.rivals.entrant import Unavailable, first_tensor, unavailable_if
from qcompile.rivals.pytorch import FBGEMM, in_best_layout, laid_out, static_int8, weight_bytes
from qcompile.rivals.quiet import quiet
from qcompile.rivals.turns import take_turns
from qcompile.steps import Steps
from qcompile.trial import evaluate

BITS = (1, 2, 4, 8)
SECONDS = 1.0


@dataclass(frozen=True)
class _Point:
    """What is timed and judged.

    Attributes:
        told: what is known of it beforehand.
        network: given inputs, gives outputs; None where there is none.
        inputs: that it is timed with.
        worth: whether its accuracy says anything.
    """

    told: Width
    network: Callable[..., Any] | None = None
    inputs: tuple[Tensor, ...] = ()
    worth: bool = False


def widths(
    built: Built,
    bits: Sequence[int] = BITS,
    *,
    inputs: tuple[Tensor, ...],
    steps: Steps,
    train: bool = True,
    epochs: int | None = None,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
    seed: int = 0,
) -> tuple[Width, ...]:
    """Compile the float network at each width, and time all of them in turns: one sample, one thread.

    Everything but the bits is as the program's recipe says. The program itself is among them; behind them
    come PyTorch's float network, and its static int8.

    Args:
        built: with its model; of a program alone there is nothing to compile.
        bits: of weights and activations, each from 1 to 8, or 32 for float.
        inputs: on which outputs are compared, those of the largest batch: as the engines' are.
        train: whether each width is trained by the model file, if the program was. Else it is calibrated,
            and its accuracy is only looked at where that is enough.
        epochs: of training; None leaves that to the model file.
        seconds: to time each, about.
        clock: gives seconds.
        seed: of each training.

    Returns:
        By bits; those that cannot be had say why.
    """
    made = built.made
    if made is None:
        return ()
    sample = sample_of(built)
    points = [
        _ours(built, made, width, train, sample, partial(_quantized, made, steps, epochs, seed))
        for width in _wanted(made.recipe, bits)
    ]
    points += [_float(made, sample), _int8(made, sample, steps)]
    for text in larger(points):
        steps.note(text)
    with steps("time the widths"):
        timed = _timed(points, seconds, clock)
    expected = _output(made.file.model.eval(), inputs)
    return tuple(_judged(point, made, inputs, expected, steps) for point in timed)


def _wanted(own: Recipe, bits: Sequence[int]) -> list[tuple[int, int]]:
    """The widths, and the program's own, by bits; where activations are float, they stay that."""
    floats = own.mode == "weight-only"
    tried = ((b, FLOAT_BITS if floats else b) for b in bits)
    return sorted({own.body_bits(), *tried})


def trained_at(own: Recipe, bits: Sequence[int]) -> list[str]:
    """Names of the widths that are trained where a program's recipe says so, its own the first."""
    found = [_name(own.body_bits())] if own.mode == "qat" else []
    for width in _wanted(own, bits):
        if width == own.body_bits():
            continue
        with suppress(QCompileError):  # such a width cannot be had, and `_ours` says why
            found += [_name(width)] if recipe_of(own, width, True).mode == "qat" else []
    return found


def _name(bits: tuple[int, int]) -> str:
    words = ["float" if b == FLOAT_BITS else f"{b}" for b in dict.fromkeys(bits)]
    unit = "" if words[-1] == "float" else " bit" if words == ["1"] else " bits"
    return "/".join(words) + unit


# --- programs of ours ----------------------------------------------------------------------------


def _ours(
    built: Built,
    made: Made,
    bits: tuple[int, int],
    trains: bool,
    sample: tuple[Tensor, ...],
    quantized: Callable[[Recipe], GraphModule],
) -> _Point:
    """The program of a width, or why there is none."""
    told = Width(_name(bits), OURS, bits)
    try:
        if bits == made.recipe.body_bits():
            recipe, prepared, program = made.recipe, made.prepared, built.program
        else:
            recipe = recipe_of(made.recipe, bits, trains)
            prepared = quantized(recipe)
            program = api.compile(api.convert(prepared), target=made.targets)
            program.library()
    except QCompileError as error:
        return _Point(replace(told, reason=error.what))
    trained = recipe.mode == "qat"
    told = replace(told, bits=recipe.body_bits(), size=program.size, trained=trained)
    enough = api.untrained(prepared) is None and _knows_weights(made)
    program = program.as_variant(program.variant.arch)  # with a number of threads of its own
    program.num_threads = 1
    return _Point(told, program, sample, trained or enough)


def recipe_of(base: Recipe, bits: tuple[int, int], trains: bool) -> Recipe:
    """A recipe at another width, all else alike.

    Raises:
        QCompileError: its method, or its mode, has no such width.
    """
    return replace(
        base,
        bits=bits[0],
        weight_bits=None,
        activation_bits=None,
        mode="static" if base.mode == "qat" and not trains else base.mode,
        ternary_weights=base.ternary_weights and bits[0] == 2,
    )


def _quantized(
    made: Made, steps: Steps, epochs: int | None, seed: int, recipe: Recipe
) -> GraphModule:
    """The network with its quantizers, trained or calibrated as the recipe says."""
    file = made.file
    name = _name(recipe.body_bits())
    prepared = api.prepare(file.model, file.example_inputs, recipe)
    prepared.meta["model"] = file.name
    if recipe.mode == "qat":
        torch.manual_seed(seed)
        with steps(f"train it at {name}") as advance:
            file.train(prepared, epochs, advance)
        return prepared
    known = knows_ranges(prepared) and not file.has("calibration_data")
    if needs_calibration(prepared) and not known:
        with steps(f"calibrate it at {name}"):
            calibrate(prepared, made.calibration)
    return prepared


def _knows_weights(made: Made) -> bool:
    """Whether the float network is more than random numbers, as far as can be told."""
    return made.trained != NOT_TRAINED


def larger(points: Sequence[_Point]) -> list[str]:
    """Where fewer bits take more bytes, and of what: machine code may outweigh the weights of a small network."""
    ours = [(p.told, p.network) for p in points if isinstance(p.network, Program)]
    found = []
    for (few, small), (many, large) in pairwise(ours):
        if small.size <= large.size:
            continue
        (code, rest), (less, more) = (_code_and_rest(program) for program in (small, large))
        found.append(
            f"{few.name}: {words.size(small.size)}, more than at {many.name}: {words.size(code)} of machine code "
            f"beside {words.size(less)}, {words.size(rest)} of weights and all else beside {words.size(more)}."
        )
    return found


def _code_and_rest(program: Program) -> tuple[int, int]:
    code = sum(program.summary().sizes.code)
    return code, program.size - code


# --- PyTorch -------------------------------------------------------------------------------------


def _float(made: Made, sample: tuple[Tensor, ...]) -> _Point:
    model = made.file.model
    told = Width("PyTorch float32", "fp32", (FLOAT_BITS, FLOAT_BITS), size=weight_bytes(model))
    trained = replace(told, trained=made.trained not in (NOT_TRAINED, AS_GIVEN))
    return _Point(trained, *in_best_layout(model, sample), _knows_weights(made))


def _int8(made: Made, sample: tuple[Tensor, ...], steps: Steps) -> _Point:
    told, inputs = Width(FBGEMM, "fbgemm", (8, 8)), laid_out(sample)
    try:
        with steps(f"quantize it for {FBGEMM}"):
            network = static_int8(made.file.model, made.calibration, "fbgemm")
            with quiet(), torch.no_grad(), unavailable_if(RuntimeError, saying="torch.ao cannot: "):
                network(*inputs)
    except Unavailable as refusal:
        return _Point(replace(told, reason=refusal.reason))
    told = replace(told, size=weight_bytes(network))
    return _Point(told, network, inputs, _knows_weights(made))


# --- measured ------------------------------------------------------------------------------------


def _timed(points: Sequence[_Point], seconds: float, clock: Callable[[], float]) -> list[_Point]:
    """With the median seconds of a call; they take turns."""
    calls = [partial(p.network, *p.inputs) for p in points if p.network is not None]
    with one_thread(), torch.no_grad():
        samples = iter(take_turns(calls, seconds=seconds, clock=clock))
    return [
        p if p.network is None else replace(p, told=replace(p.told, seconds=median(next(samples))))
        for p in points
    ]


def _output(
    network: Callable[..., Any], inputs: tuple[Tensor, ...]
) -> npt.NDArray[np.float32] | None:
    """The first one."""
    with torch.no_grad():
        found = first_tensor(network(*inputs))
    return None if found is None else found.numpy()


def _judged(
    point: _Point,
    made: Made,
    inputs: tuple[Tensor, ...],
    expected: npt.NDArray[np.float32] | None,
    steps: Steps,
) -> Width:
    """With its accuracy and its noise, as far as they say anything."""
    told, network = point.told, point.network
    if network is None:
        return told
    if told.engine != "fp32":
        output = _output(network, inputs)
        told = replace(told, sqnr_db=None if output is None else sqnr(expected, output))
    if not point.worth:
        return told
    title = f"evaluate {told.name}"
    return replace(told, accuracy=evaluate(made.file, Recording(network, 0), title, steps))
