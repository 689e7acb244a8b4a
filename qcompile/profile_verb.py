"""The verb `profile`: how long each kernel of a program takes. Needs neither torch nor the compiler."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.text import Text

from qcompile.errors import QCompileError
from qcompile.options import at_least
from qcompile.verbs import OK, add_input, command_parser, random_inputs, read_array


def parser() -> argparse.ArgumentParser:
    """Options of `qcompile profile`."""
    found = command_parser("profile", "Say how long each kernel of a saved program takes.")
    add = found.add_argument
    add("program", metavar="PROGRAM", help="what qcompile wrote, for processors")
    add_input(found)
    add("--batch", type=int, metavar="N", help="samples of random numbers (default: 1)")
    add("--arch", metavar="NAME", help="the variant to run (default: the best for this machine)")
    add("--seconds", type=float, default=2.0, metavar="S", help="to measure, about (default: 2)")
    add("--trace", type=Path, metavar="FILE", help="for chrome://tracing or Perfetto")
    add("--json", type=Path, metavar="FILE", help="write all numbers to a file")
    return found


def run(options: argparse.Namespace, out: Console, err: Console) -> int:
    """Measure, print, and write what is asked for."""
    from qcompile.program import load

    _check(options)
    program = load(options.program, arch=options.arch)
    inputs = [read_array(path) for path in options.input]
    found = program.profile(
        *(inputs or random_inputs(program, options.batch or 1)), seconds=options.seconds
    )
    out.print(found)
    for path, write in ((options.trace, found.chrome_trace), (options.json, found.save)):
        if path is not None:
            write(path)
            out.print(Text.assemble("wrote ", (str(path), "bold")))
    return OK


def _check(options: argparse.Namespace) -> None:
    """See that options fit each other, before anything is measured.

    Raises:
        QCompileError: they do not.
    """
    at_least("--batch", options.batch, 1)
    if options.batch is not None and options.input:
        raise QCompileError("--batch is for random numbers, and --input is given", hint="drop one")
    if options.trace is not None and options.trace == options.json:
        raise QCompileError("--trace and --json name one file", where=str(options.trace))
    for path in (options.trace, options.json):
        if path is not None and path.resolve() == Path(options.program).resolve():
            raise QCompileError("that would take the program's place", where=str(path))
