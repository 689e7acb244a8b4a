"""The verbs beside the main one: run a program, look into it, get the digits. None needs torch."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qcompile.errors import QCompileError
from qcompile.files import read
from qcompile.ir.target import Target
from qcompile.machine import obstacle, runnable
from qcompile.program_file import Archive, unpack
from qcompile.program_info import CUDA
from qcompile.program_summary import Summary

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


def run_parser() -> argparse.ArgumentParser:
    """Options of `qcompile run`."""
    parser = command_parser("run", "Run a saved program; torch and the compiler are not needed.")
    add = parser.add_argument
    add("program", metavar="PROGRAM", help="what qcompile wrote")
    add(
        "--input",
        type=Path,
        action="append",
        default=[],
        metavar="X.npy",
        help="once for each input, the batch first; without it, random numbers",
    )
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

    emulate = None if options.emulate is None else Target("cuda", options.emulate).number
    return load(options.program, arch=options.arch, emulate=emulate)


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


def inspect_parser() -> argparse.ArgumentParser:
    """Options of `qcompile inspect`."""
    parser = command_parser("inspect", "Say what is in a saved program.")
    parser.add_argument("program", metavar="PROGRAM", help="what qcompile wrote")
    parser.add_argument("--kernels", action="store_true", help="list the kernels too")
    parser.add_argument(
        "--target",
        choices=[CUDA],
        help="say instead how fast its kernels can be on a GPU at most, from their machine code",
    )
    parser.add_argument("--arch", metavar="NAME", help="of that GPU, as sm_90 (default: sm_80)")
    parser.add_argument("--batch", type=int, metavar="N", help="samples for it (default: 1)")
    parser.add_argument("--json", action="store_true", help="print that as JSON")
    return parser


def inspect(options: argparse.Namespace, out: Console, err: Console) -> int:
    """Print what a program says about itself; its code is not touched, and may be for others."""
    archive = unpack(read(options.program), options.program)
    if options.target is not None:
        return _inspect_gpu(archive, options, out)
    given = [name for name in ("arch", "batch", "json") if getattr(options, name)]
    if given:
        raise QCompileError(f"--{given[0]} goes with --target {CUDA}", where=options.program)
    info = archive.info
    out.print(Summary(info, len(archive.data)))
    out.print(Text(f"takes    {', '.join(f'{v.name} {v}' for v in info.inputs)}"))
    out.print(Text(f"gives    {', '.join(f'{v.name} {v}' for v in info.outputs)}"))
    out.print(Text(f"made by  {', '.join(f'{k} {v}' for k, v in info.versions.items())}"))
    sizes = archive.sizes
    parts = {"code": sum(sizes.code), "constants": sizes.constants, "metadata": sizes.rest}
    out.print(Text(f"holds    {', '.join(f'{n:,} bytes of {what}' for what, n in parts.items())}"))
    out.print(_variants(archive))
    for line in _gpu_code(archive):
        out.print(Text(line))
    if options.kernels:
        for variant in info.variants:
            out.print(Text(f"kernels of {variant.arch}"))
            for kernel in variant.kernels:
                method = f"  {kernel.method}" if kernel.method else ""
                method = f"  tuned: {kernel.tuned}" if kernel.tuned else method
                out.print(Text(f"  {kernel.name}  {kernel.kind}  {kernel.layer}{method}"))
    return OK


def _inspect_gpu(archive: Archive, options: argparse.Namespace, out: Console) -> int:
    from qcompile.cuda_report import report

    found = report(archive, options.arch, 1 if options.batch is None else options.batch)
    if options.json:
        out.print(Text(found.json()), soft_wrap=True)
    else:
        out.print(found)
    return OK


def _variants(archive: Archive) -> Table:
    """One row a variant: for what, how large, whether it is used on this machine."""
    table = Table("variant", "processors", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("bytes of code", justify="right")
    table.add_column("tuned kernels", justify="right")
    table.add_column("here")
    chosen = next(iter(runnable(archive.info)), None)
    for variant, code in zip(archive.info.variants, archive.sizes.code, strict=True):
        here = obstacle(variant) or ("used" if variant is chosen else "would run")
        size = f"{code:,}"
        tuned = str(sum(bool(kernel.tuned) for kernel in variant.kernels))
        table.add_row(*map(Text, (variant.arch, variant.machine, size, tuned, here)))
    return table


def _gpu_code(archive: Archive) -> list[str]:
    """What the variants for GPUs hold, a line each."""
    lines = []
    for variant in archive.info.variants:
        if variant.machine != CUDA:
            continue
        source, image = archive.source(variant), archive.library(variant)
        exact = [f for f in variant.features if f.startswith("sm_")]
        ptx = [f for f in variant.features if not f.startswith("sm_")]
        held = f"{len(source.encode()):,} bytes of CUDA source"
        if image:
            newer = f" and, as PTX ({', '.join(ptx)}), newer ones" if ptx else ""
            held += f", {len(image):,} of machine code for {', '.join(exact)}{newer}"
        else:
            held += " alone, which NVRTC compiles where the program is loaded"
        lines.append(f"{variant.arch} holds {held}")
    return lines


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
