"""The verb `compare`: is the program of one report slower than that of another? Needs no torch."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from rich.console import Console
from rich.text import Text

from qcompile.errors import QCompileError
from qcompile.files import check_writable, write
from qcompile.verbs import FAILED, OK, command_parser

UNSURE = 3  # exit code
EPILOG = """\
A and B are what `qcompile bench --json` wrote. B is slower where that is certain (1 % of chance, all runs
together), the noise between processes taken into account, and by the threshold at least. Where the reports have
other engines in common that did not change, what they tell of the machine is taken out.

examples:
  qcompile compare before.json after.json
  qcompile compare main.json change.json --threshold 10% --strict --markdown comment.md

exit codes: 0 no regression seen; 1 the program is slower; 2 the reports cannot be compared; with
--strict, 3 some run was too noisy to tell, or is in one report only; 130 interrupted.
"""


def parser() -> argparse.ArgumentParser:
    """Options of `qcompile compare`."""
    found = command_parser(
        "compare", "Say whether the program of report B is slower than that of A.", epilog=EPILOG
    )
    add = found.add_argument
    add("a", metavar="A.json", type=Path, help="the report before")
    add("b", metavar="B.json", type=Path, help="the report after")
    add(
        "--threshold",
        default="5%",
        metavar="N%",
        help="smaller differences are none (default: 5%%)",
    )
    add("--strict", action="store_true", help="exit code 3 where nothing can be said of a run")
    add("--across-machines", action="store_true", help="compare times of different processors too")
    add("--force", action="store_true", help="compare other networks, bits and clocks too")
    add("--json", type=Path, metavar="FILE", help="write all numbers to a file")
    add("--markdown", type=Path, metavar="FILE", help="write the tables, for a pull request")
    return found


def run(options: argparse.Namespace, out: Console, err: Console) -> int:
    """Compare, print, and write what is asked for."""
    from qcompile.bench import compare_tables, files
    from qcompile.bench.comparison import MISSING, NOISY, SLOWER, compare

    threshold = share(options.threshold)
    _check_files(options)
    found = compare(
        files.load(options.a),
        files.load(options.b),
        (str(options.a), str(options.b)),
        threshold=threshold,
        force=options.force,
        across_machines=options.across_machines,
    )
    code = FAILED if found.having(SLOWER) else OK
    doubtful = bool(found.having(NOISY, MISSING))
    if doubtful and options.strict:
        code = code or UNSURE
    out.print(compare_tables.tables(found))
    if doubtful and code == OK:
        err.print(
            Text("warning: nothing can be said of some runs; --strict refuses that", "yellow")
        )
    if options.json is not None:
        value = compare_tables.to_json(found) | {"exit_code": code}
        text = json.dumps(value, indent=1, allow_nan=False) + "\n"
        write(options.json, text.encode(), what="the comparison")
        out.print(Text.assemble("wrote ", (str(options.json), "bold")))
    if options.markdown is not None:
        write(options.markdown, compare_tables.markdown(found).encode(), what="the comparison")
        out.print(Text.assemble("wrote ", (str(options.markdown), "bold")))
    return code


def share(text: str) -> float:
    """A percentage as a share.

    Raises:
        QCompileError: it is none, or below 1 %.
    """
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = math.nan
    if not text.endswith("%") or not math.isfinite(value):
        raise QCompileError(f"--threshold {text!r} is no percentage", hint="as in --threshold 5%")
    if value < 0.01:
        raise QCompileError(
            f"--threshold is {text}, it must be 1% or more",
            hint="less than that, machines differ from one report to the next",
        )
    return value


def _check_files(options: argparse.Namespace) -> None:
    """Raises: QCompileError: one file is to be two things, or one cannot be written."""
    given = {"A": options.a, "B": options.b, "--json": options.json}
    known: dict[Path, str] = {}
    for name, path in (given | {"--markdown": options.markdown}).items():
        if path is None:
            continue
        other = known.setdefault(path.resolve(), name)
        if other != name:
            raise QCompileError(f"{other} and {name} are one file", where=str(path))
    for path in (options.json, options.markdown):
        if path is not None:
            check_writable(path)
