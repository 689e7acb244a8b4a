"""The process that measures: python -m qcompile.bench.worker FOLDER.

It has as many processors as threads, and nothing but numbers and names comes in or goes out: see
`qcompile.bench.messages`. Libraries that print do so on stderr.
"""

from __future__ import annotations

import gc
import importlib.metadata
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from qcompile.bench import machine_facts
from qcompile.bench.messages import (
    CALIBRATION,
    INPUTS,
    PROGRAM,
    TURN,
    TURN_WIDTH,
    WEIGHTS,
    At,
    Measured,
    Message,
    Prepared,
    Refused,
    Task,
    Waits,
)
from qcompile.bench.results import AGAIN, OURS, Engine
from qcompile.errors import QCompileError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from qcompile.rivals.entrant import Entrant

    Array = np.ndarray[Any, Any]

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
PAUSE = 0.005  # seconds for other engines' threads to stop spinning, where there are any
Call = Callable[[], object]
Tell = Callable[[Message], None]
Wait = Callable[[], None]


def main(folder: Path) -> None:
    """Do what is told on what is stdin now, and tell of it on what is stdout now."""
    with os.fdopen(os.dup(0), "rb") as orders, os.fdopen(os.dup(1), "wb", buffering=0) as channel:
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)

        def tell(message: Message) -> None:
            channel.write(msgspec.json.encode(message) + b"\n")

        def wait() -> None:
            if not orders.readline():
                raise SystemExit("nobody is there to go on for")

        task = msgspec.json.decode(orders.readline(), type=Task)
        machine_facts.pin(task.threads)
        try:
            measure(task, folder, tell, wait)
        except QCompileError as error:
            tell(Refused(error.what, error.where, error.hint))


def measure(task: Task, folder: Path, tell: Tell, wait: Wait) -> None:
    """Make the engines ready and let them take turns, for each batch.

    Args:
        wait: called before engines are prepared for a batch, and before they are measured.

    Raises:
        QCompileError: the model file or the program does not work.
    """
    tell(At("load the network"))
    network = _network(task, folder)
    for batch in task.batches:
        wait()
        _run(task, folder, network, batch, tell, wait)


@dataclass(frozen=True)
class _Network:
    """What there is to run.

    Attributes:
        ours: the program, once for each of its two keys.
        model: the float network, if there is one.
        entrants: of the other engines, by key.
        inputs: as many samples as the largest batch has.
    """

    ours: Mapping[str, Callable[..., Any]]
    model: nn.Module | None
    entrants: Mapping[str, Entrant]
    inputs: tuple[Array, ...]


def _network(task: Task, folder: Path) -> _Network:
    from safetensors.numpy import load_file

    from qcompile.program import load

    kept = load_file(folder / INPUTS)
    inputs = tuple(kept[str(i)] for i in range(len(kept)))
    # Loaded twice: where its memory lies is a part of the noise.
    keys = [key for key in (OURS, AGAIN) if key in task.engines]
    programs = {key: load(folder / PROGRAM, arch=task.arch) for key in keys}
    for program in programs.values():
        program.num_threads = task.threads
    if task.model is None:
        return _Network(programs, None, {}, inputs)
    model, entrants = _rivals(task, folder)
    return _Network(programs, model, entrants, inputs)


def _rivals(task: Task, folder: Path) -> tuple[nn.Module, dict[str, Entrant]]:
    import torch

    from qcompile import model_file, weights
    from qcompile.rivals import engines

    torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    assert task.model is not None
    model = model_file.read(task.model, task.input_shape).model
    weights.load(model, folder / WEIGHTS)
    model.eval()
    keys = [key for key in task.engines if key not in (OURS, AGAIN)]
    found = engines.entrants(keys, model, _calibration(folder), task.threads, folder)
    return model, {entrant.key: entrant for entrant in found}


def _calibration(folder: Path) -> list[tuple[Tensor, ...]]:
    """Batches of inputs; their names are "batch.input"."""
    from safetensors.torch import load_file

    kept = load_file(folder / CALIBRATION)
    places = sorted(tuple(map(int, name.split("."))) for name in kept)
    batches: dict[int, list[Tensor]] = {}
    for batch, i in places:
        batches.setdefault(batch, []).append(kept[f"{batch}.{i}"])
    return [tuple(inputs) for inputs in batches.values()]


# --- a run ---------------------------------------------------------------------------------------


def _run(task: Task, folder: Path, network: _Network, batch: int, tell: Tell, wait: Wait) -> None:
    arrays = tuple(x[:batch].copy() for x in network.inputs)
    reference = _reference(network.model, arrays)
    calls: dict[str, Call] = {}
    for key in task.engines:
        tell(At("prepare", batch, key))
        engine: Engine
        call: Call | None
        if key in network.ours:
            engine, call = _ours(key, network.ours[key], arrays, reference)
        else:
            engine, call = _rival(network.entrants[key], arrays, reference)
        if call is not None:
            calls[key] = call
        tell(Prepared(batch, engine))
    tell(Waits(batch))
    wait()
    tell(At("measure", batch))
    tell(Measured(batch, dict(zip(calls, _timed(task, folder, calls), strict=True))))


def _ours(
    key: str, program: Callable[..., Any], arrays: Sequence[Array], reference: Array | None
) -> tuple[Engine, Call]:
    result = program(*arrays)
    first = result[0] if isinstance(result, tuple) else result
    return Engine(key, "", sqnr_db=sqnr(reference, first)), partial(program, *arrays)


def _rival(
    entrant: Entrant, arrays: Sequence[Array], reference: Array | None
) -> tuple[Engine, Call | None]:
    """What is known of an engine, and what runs it, or None and the reason."""
    import warnings

    import torch

    from qcompile.rivals.entrant import Unavailable

    known = Engine(
        entrant.key, entrant.name, _version(entrant.package), entrant.precision, entrant.how
    )
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what frameworks find deprecated in themselves
            ready = entrant.prepare(tuple(torch.from_numpy(x.copy()) for x in arrays))
            output = ready.output()
    except Unavailable as error:
        return replace(known, reason=error.reason, hint=error.hint), None
    against = None if output is None else sqnr(reference, output.numpy())
    made = replace(known, size=ready.size, instructions=ready.instructions, sqnr_db=against)
    return made, ready.call


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package) if package else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _reference(model: nn.Module | None, arrays: Sequence[Array]) -> Array | None:
    """What the float network gives, the first output."""
    if model is None:
        return None
    import torch

    from qcompile.rivals.entrant import first_tensor

    with torch.no_grad():
        found = first_tensor(model(*(torch.from_numpy(x) for x in arrays)))
    return None if found is None else found.numpy()


def sqnr(reference: Array | None, output: Array) -> float | None:
    """10 log10(signal power / power of the difference); None where they are equal, or not alike."""
    import numpy as np

    if reference is None or reference.shape != output.shape:
        return None
    expected = reference.astype(np.float64)
    signal = float(np.square(expected).sum())
    noise = float(np.square(output - expected).sum())
    if not 0 < noise < math.inf or not 0 < signal < math.inf:
        return None
    return 10 * math.log10(signal / noise)


def _timed(task: Task, folder: Path, calls: Mapping[str, Call]) -> list[list[float]]:
    """Seconds of each, in the order of the rounds."""
    from qcompile.rivals.turns import take_turns

    with _no_gradients(task), _marked(folder, list(calls)) as turn:
        return take_turns(
            list(calls.values()),
            seconds=task.seconds,
            rounds=task.rounds,
            clock=CLOCKS[task.clock],
            pause=PAUSE if task.threads > 1 else 0.0,
            turn=turn,
        )


@contextmanager
def _no_gradients(task: Task) -> Iterator[None]:
    """Neither those of PyTorch, where it is loaded, nor garbage collection."""
    gc.collect()
    gc.disable()
    try:
        if task.model is None:
            yield
            return
        import torch

        with torch.no_grad():
            yield
    finally:
        gc.enable()


@contextmanager
def _marked(folder: Path, keys: Sequence[str]) -> Iterator[Callable[[int], None]]:
    """Keeps in a file whose turn it is: nobody else can say so of a process that died."""
    names = [key.ljust(TURN_WIDTH).encode() for key in keys]
    handle = os.open(folder / TURN, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        yield lambda number: _write(handle, names[number])
    finally:
        os.close(handle)


def _write(handle: int, name: bytes) -> None:
    os.pwrite(handle, name, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
