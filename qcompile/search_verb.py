"""The verb `search`: bits for each layer, for a budget. Loads torch when it runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.text import Text

from qcompile.errors import QCompileError
from qcompile.options import at_least, overrides
from qcompile.sensitivity_verb import add_common, open_network, recipe_of
from qcompile.verbs import FAILED, OK, command_parser

EPILOG = """\
Each layer's error is measured, quantized alone, after training; each layer's latency and size, in
programs of one width each, compiled for this machine. Bits are chosen so that the sum of the errors
is least. What is chosen is compiled and measured: the first row says what the sums promise, the
second what is true.

examples:
  qcompile search net.py --weights net.safetensors --max-latency 0.5ms --save net.json
  qcompile search net.py --max-size 60KB --override 'head.*=8' --plot net.png
  qcompile search net.py                            the frontier only
  qcompile net.py --recipe net.json                 train, compile and verify what was found

exit codes: 0 done; 1 what was chosen does not keep the budget, as measured; it was not saved.
"""


def parser() -> argparse.ArgumentParser:
    """Options of `qcompile search`."""
    found = command_parser(
        "search", "Choose bits for each layer, for a latency or a size.", epilog=EPILOG
    )
    found.add_argument("model", metavar="MODEL", help="a Python file, or package.module:name")
    add = found.add_argument_group("budget; without one, the frontier is shown").add_argument
    add("--max-latency", metavar="TIME", help="of a call, on this machine: 0.5ms, 200us, 1s")
    add("--max-size", metavar="SIZE", help="of the program's file: 60KB, 512KiB, 1.5MB")
    add("--batch", type=int, default=1, metavar="N", help="samples of that call (default: 1)")
    add(
        "--override",
        action="append",
        default=[],
        metavar="LAYER=BITS",
        help="keep layers at a width; as of `qcompile MODEL`",
    )
    add_common(found)
    found.add_argument(
        "--metric",
        metavar="NAME",
        help="what the sum of errors is of: sqnr, noise at the outputs (default); accuracy, what "
        "evaluate() loses, called for each layer and width",
    )
    add = found.add_argument_group("results").add_argument
    add("--save", type=Path, metavar="FILE", help="write what is chosen, for --recipe")
    add("--json", type=Path, metavar="FILE", help="write all numbers to a file")
    add("--plot", type=Path, metavar="FILE", help="draw them, to .png, .svg or .pdf")
    return found


def run(options: argparse.Namespace, out: Console, err: Console) -> int:
    """Measure, choose, print, and write what is asked for."""
    from qcompile import recipe_file, search_plot
    from qcompile.files import write
    from qcompile.report import show
    from qcompile.search_analysis import find
    from qcompile.search_budget import budget
    from qcompile.search_costs import Calls
    from qcompile.search_report import how_missed, tables, to_json
    from qcompile.sensitivity_network import widths_to_try
    from qcompile.steps import Steps

    steps = Steps(err)
    limits = budget(options.max_latency, options.max_size)
    at_least("--batch", options.batch, 1)
    recipe = recipe_of(options)
    widths = widths_to_try(options.widths, recipe)
    fixed = overrides(options.override)
    if options.save is not None and not limits.given:
        raise QCompileError(
            "--save: without a budget nothing is chosen", hint="add --max-latency or --max-size"
        )
    if options.plot is not None:
        search_plot.check(options.plot)
    files = (options.save, options.json, options.plot)
    calls = Calls(options.batch, options.threads)
    network = open_network(options, recipe, steps, files, evaluated=True, fixed=fixed)
    found = find(network, limits, widths, fixed, options.metric or "sqnr", calls, steps)
    show(out, tables(found))
    missed = found.chosen is not None and not found.within_budget
    if missed:
        steps.note(how_missed(found))
    if options.save is not None and found.recipe is not None and not missed:
        recipe_file.save(found.recipe, options.save)
        out.print(Text.assemble("wrote ", (str(options.save), "bold")))
    if options.json is not None:
        text = json.dumps(to_json(found), indent=1, allow_nan=False) + "\n"
        write(options.json, text.encode(), what="the numbers")
        out.print(Text.assemble("wrote ", (str(options.json), "bold")))
    if options.plot is not None:
        search_plot.plot(found, options.plot)
        out.print(Text.assemble("wrote ", (str(options.plot), "bold")))
    return FAILED if missed else OK
