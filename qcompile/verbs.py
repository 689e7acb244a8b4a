"""Small verbs beside the main one: run a program, get the digits. None needs torch."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from qcompile.errors import QCompileError
from qcompile.program_info import CUDA

if TYPE_CHECKING:
    from qcompile.program import Program

OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


def command_parser(verb: str, description: str, **more: Any) -> argparse.ArgumentParser:
    """A parser with what all commands have; `verb` is "" for the main one."""
    parser = argparse.ArgumentParser(
        prog=f"qcompile {verb}".strip(),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **more,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_input(parser: argparse.ArgumentParser) -> None:
    """What a program is run on; `read_array` and `random_inputs` make arrays of it."""
    parser.add_argument(
        "--input",
        type=Path,
        action="append",
        default=[],
        metavar="X.npy",
        help="once for each input, the batch first; without it, random numbers",
    )


def run_parser() -> argparse.ArgumentParser:
    """Options of `qcompile run`."""
    parser = command_parser("run", "Run a saved program; torch and the compiler are not needed.")
    add = parser.add_argument
    add("program", metavar="PROGRAM", help="what qcompile wrote")
    add_input(parser)
    add("-o", "--output", type=Path, metavar="Y.npy", help="where the result goes; else printed")
    add("--threads", type=int, metavar="N", help="default: all cores")
    add("--arch", metavar="NAME", help="the variant to run (default: the best for this machine)")
    add(
        "--emulate",
        metavar="sm_80",
        help="run code for GPUs on the CPU, which emulates one: slow, for small batches",
    )
    return parser


def run(options: argparse.Namespace, out: Console, err: Console) -> int:
    """Run a program on arrays from files, or on random numbers."""
    if options.output is not None and options.output.resolve() == Path(options.program).resolve():
        raise QCompileError(
            "the result would take the program's place",
            where=str(options.output),
            hint="-o names another file",
        )
    program = _opened(options)
    if options.threads is not None:
        program.num_threads = options.threads
    inputs = [read_array(path) for path in options.input] or random_inputs(program)
    result = program(*inputs)
    outputs = result if isinstance(result, tuple) else (result,)
    how = _run_how(program, inputs, " on random numbers" * (not options.input))
    if options.output is not None:
        _write_arrays(options.output, outputs)
    for spec, array in zip(program.info.outputs, outputs, strict=True):
        out.print(Text(f"{spec.name}: {array.dtype}{list(array.shape)}"))
        if options.output is None:
            out.print(Text(str(array)))
    err.print(Text(f"{how}, {program.variant.arch}"))
    return OK


def _opened(options: argparse.Namespace) -> Program:
    """The program, made ready to run as the options say.

    Raises:
        QCompileError: this machine cannot run it so.
    """
    from qcompile.program import load

    return load(options.program, arch=options.arch, emulate=options.emulate)


def _run_how(program: Program, inputs: Sequence[Any], kind: str) -> str:
    """How long a call takes on such inputs, and on what; an emulation's time is nobody's."""
    if program.emulates is not None:
        return f"emulated on the CPU as sm_{program.emulates}{kind}"
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        program(*inputs)
        seconds.append(time.perf_counter() - start)
    on_gpu = program.variant.machine == CUDA
    where = "copies to the GPU and back included" if on_gpu else f"{program.num_threads} thread(s)"
    return f"{median(seconds) * 1e3:.3f} ms{kind}, {where}"


def read_array(path: Path) -> Any:
    """The array of a .npy file.

    Raises:
        QCompileError: it cannot be read.
    """
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise QCompileError(
            f"cannot read an array: {error}", where=str(path), hint="save it with numpy.save"
        ) from error


def random_inputs(program: Program, batch: int = 1) -> list[Any]:
    """Random numbers that a program takes, the same each time."""
    import numpy as np

    generator = np.random.default_rng(0)
    return [
        generator.standard_normal((batch, *spec.shape)).astype(spec.dtype)
        for spec in program.info.inputs
    ]


def _write_arrays(path: Path, arrays: Sequence[Any]) -> None:
    import numpy as np

    try:
        with path.open("wb") as file:
            if len(arrays) == 1:
                np.save(file, arrays[0])
            else:
                np.savez(file, *arrays)
    except OSError as error:
        raise QCompileError(f"cannot write: {error}", where=str(path)) from error


def digits_parser() -> argparse.ArgumentParser:
    """Options of `qcompile digits`."""
    parser = command_parser("digits", "Download MNIST, 70,000 handwritten digits, and check it.")
    parser.add_argument("folder", type=Path, nargs="?", help="default: the user's cache")
    return parser


def digits(options: argparse.Namespace, out: Console, err: Console) -> int:
    """Download MNIST; prints the line that makes it known."""
    from qcompile import digits

    folder = digits.download(options.folder)
    err.print(Text("MNIST is there; to use it:"))
    out.print(Text(f"export QCOMPILE_DATA={folder}"), soft_wrap=True)
    return OK
