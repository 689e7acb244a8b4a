"""The command line. Nothing heavy is imported before it is needed: `qcompile run` needs no torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

import qcompile
from qcompile import explain_verb, inspect_verb, profile_verb, search_verb, sensitivity_verb, verbs
from qcompile.bench import compare_verb
from qcompile.bench import verb as bench_verb
from qcompile.errors import QCompileError
from qcompile.options import (
    add_recipe,
    add_target,
    add_training,
    at_least,
    check_threads,
    recipe_of,
    shape,
    targets,
)
from qcompile.verbs import FAILED, INTERRUPTED, OK, REFUSED, command_parser

if TYPE_CHECKING:
    from qcompile.tuning import Tuning

__all__ = ["FAILED", "INTERRUPTED", "OK", "REFUSED", "compile_parser", "main"]

EPILOG = """\
examples:
  qcompile examples/mnist.py                        train, binarize, compile, verify
  qcompile net.py --mode static                     8 bits by calibration alone
  qcompile net.py --mode dynamic                    8 bits, linear layers only, no calibration
  qcompile net.py --mode weight-only --bits 4       4-bit weights, float activations
  qcompile net.py --bits 4 --method lsq             train 4 bits with learned steps
  qcompile net.py --weight-bits 2 --activation-bits 4
  qcompile net.py --method xnor --override 'head.*=8' --override stem=float
  qcompile net.py --weights net.safetensors -o net.qcp --benchmark
  qcompile net.py --target cpu:portable             one file for new and old processors
  qcompile net.py --target cuda                     for GPUs; verified without one too
  qcompile torchvision.models:resnet18 --input-shape 1,3,224,224
  qcompile net.py --tune                            find the fastest kernels for this machine
  qcompile net.py --kernel int8 --kernel 'layer1.*=lookup'
  qcompile run net.qcp --input x.npy -o y.npy       needs neither torch nor the compiler

MODEL is a Python file that defines
  model                 a torch.nn.Module, or build_model() that returns one
  example_inputs        a tensor or a tuple of tensors, or input_shape = (1, 3, 224, 224)
and, if it can,
  train(model, epochs=..., progress=...)    trains in place; called for the float network (unless
                                            --weights has it), and in mode qat for the quantized one
  calibration_data()                        batches of inputs, to find the range of activations
                                            in mode static
  evaluate(model)                           accuracy, 0 to 1

other verbs, each with its own --help:
  qcompile run PROGRAM       run a saved program
  qcompile inspect PROGRAM   say what is in it, or of a MODEL what each pass makes of it
  qcompile profile PROGRAM   how long each of its kernels takes
  qcompile explain MODEL     what becomes of each layer, and why, before training
  qcompile bench MODEL       times beside other engines, and a report of them
  qcompile compare A B       whether the program of report B is slower than that of A
  qcompile sensitivity MODEL what each layer costs in accuracy, at each width
  qcompile search MODEL      bits for each layer, for a latency or a size
  qcompile digits [FOLDER]   download all of MNIST, for the examples

exit codes: 0 done; 1 the program did not verify, nothing was written; 2 the command line or the
model file is wrong, or something in it cannot be compiled; 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    known: dict[str, tuple[Callable[[], argparse.ArgumentParser], Callable[..., int]]] = {
        "compile": (compile_parser, _compile),
        "run": (verbs.run_parser, verbs.run),
        "inspect": (inspect_verb.parser, inspect_verb.run),
        "explain": (explain_verb.parser, explain_verb.run),
        "profile": (profile_verb.parser, profile_verb.run),
        "bench": (lambda: bench_verb.parser(words), bench_verb.run),
        "compare": (compare_verb.parser, compare_verb.run),
        "digits": (verbs.digits_parser, verbs.digits),
        "search": (search_verb.parser, search_verb.run),
        "sensitivity": (sensitivity_verb.parser, sensitivity_verb.run),
    }
    verb = words.pop(0) if words and words[0] in known else "compile"
    parser, action = known[verb]
    options = parser().parse_args(words)
    err = _console(stderr=True)
    try:
        return action(options, _console(), err)
    except QCompileError as error:
        if options.debug:
            raise
        err.print(Text.assemble(("error: ", "bold red"), (str(error), "red")))
        return REFUSED
    except KeyboardInterrupt:
        if options.debug:
            raise
        err.print(Text("interrupted, nothing was written", "yellow"))
        return INTERRUPTED


class _Output(Console):
    """Results: where they cannot be written, a sentence says so. Rich sees to pipes that nobody reads."""

    def print(self, *objects: Any, **more: Any) -> None:
        """As Console does.

        Raises:
            QCompileError: they cannot be written, for want of space for instance.
        """
        try:
            super().print(*objects, **more)
        except OSError as error:
            # What is left in the stream's buffer would fail once more when Python ends.
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), self.file.fileno())
            why = error.strerror or str(error)
            raise QCompileError(f"cannot write to standard output: {why}") from error


def _console(stderr: bool = False) -> Console:
    stream, kind = (sys.stderr, Console) if stderr else (sys.stdout, _Output)
    # A file or a pipe has no width: tables keep whole lines there.
    return kind(stderr=stderr, width=None if stream.isatty() else 120, highlight=False)


# --- qcompile MODEL ------------------------------------------------------------------------------


def compile_parser() -> argparse.ArgumentParser:
    """Options of the main command."""
    parser = command_parser(
        "",
        "Compile a PyTorch network to a program that computes with 1 to 8 bits.",
        epilog=EPILOG,
        usage="qcompile MODEL [--bits N] [options]",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a Python file, or package.module:name")
    add("--version", action="version", version=f"qcompile {qcompile.__version__}")
    add("-o", "--output", type=Path, metavar="FILE", help="default: MODEL-w1a1.qcp in this folder")
    add_target(parser)
    add_recipe(parser)

    add = parser.add_argument_group("speed").add_argument
    add(
        "--tune",
        nargs="?",
        const="all",
        metavar="BUDGET",
        help="measure how kernels run fastest: all ways, or 200 of them, or for 90s, 10m, 1h; 0: "
        "only use what the cache knows",
    )
    add("--tune-cache", type=Path, metavar="FILE", help="what tuning found (default: in the cache)")
    add("--tune-batch", type=int, metavar="N", help="batch that is tuned for (default: 1)")
    add("--tune-rpc", metavar="HOST:PORT", help="measure on the servers of this TVM RPC tracker")
    add("--tune-key", metavar="KEY", help="those servers' key")
    add(
        "--kernel",
        action="append",
        default=[],
        metavar="[LAYER=]NAME",
        help="force int8, lookup, bit-planes or xnor-popcount (or a way to count signs: docs/cli.md), on "
        "all layers that can have it, or on those of a path, glob or class (default: the fastest by "
        "a model of their costs)",
    )

    add_training(parser)

    add = parser.add_argument_group("checks and views").add_argument
    add(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare the program with its fake-quant model, bit for bit (default: yes)",
    )
    add("--benchmark", action="store_true", help="take longer over the comparison with PyTorch")
    add("--threads", type=int, metavar="N", help="for training and running (default: all cores)")
    add("--dump-dir", type=Path, metavar="DIR", help="save the graph after each pass")
    add("--print-after-each", action="store_true", help="print the graph after each pass")
    return parser


def _compile(options: argparse.Namespace, out: Console, err: Console) -> int:
    from qcompile.job import Job, run

    recipe = recipe_of(options)
    at_least("--epochs", options.epochs, 0)
    check_threads(options.threads)
    job = Job(
        model=options.model,
        recipe=recipe,
        recipe_file=options.recipe,
        mode_given=options.mode is not None or recipe.mode != "qat",
        targets=targets(options.target, options.arch),
        output=options.output,
        weights=options.weights,
        save_weights=options.save_weights,
        epochs=options.epochs,
        input_shape=shape(options.input_shape),
        seed=options.seed,
        threads=options.threads,
        verify=options.verify,
        benchmark=options.benchmark,
        dump_dir=options.dump_dir,
        print_after_each=options.print_after_each,
        tuning=_tuning(options),
        kernels=tuple(options.kernel),
    )
    return OK if run(job, out, err) else FAILED


def _tuning(options: argparse.Namespace) -> Tuning | None:
    """What is to be tuned; a cache that is named without a budget is only read."""
    from qcompile.tuning import Tuning, budget

    more = ("tune_batch", "tune_rpc", "tune_key")
    if options.tune is None:
        for name in more:
            if getattr(options, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise QCompileError(f"{option} is for --tune", hint="give both, or none")
        if options.tune_cache is None:
            return None
    trials, seconds = budget(options.tune or "0")
    return Tuning(
        trials,
        seconds,
        options.tune_cache,
        batch=1 if options.tune_batch is None else options.tune_batch,
        threads=options.threads,
        rpc=options.tune_rpc,
        key=options.tune_key,
    )
