"""The verb `sensitivity`, and what it has in common with `search`. Loads torch when it runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from qcompile.errors import QCompileError
from qcompile.options import add_training, at_least, check_threads, shape
from qcompile.verbs import OK, command_parser

if TYPE_CHECKING:
    from qcompile.model_file import ModelFile
    from qcompile.quant.overrides import Override
    from qcompile.quant.recipe import Recipe
    from qcompile.sensitivity_network import Network
    from qcompile.steps import Steps

METRICS = ("sqnr", "accuracy")
EPILOG = """\
Each layer is quantized alone, after training, by calibration; all others stay float. MODEL is what
`qcompile MODEL` takes: its train() makes the float network unless --weights gives it, its
calibration_data() is what noise is measured on, and evaluate(model), if there is one, gives the
accuracy; --samples is passed to it if it has an argument `samples`.

examples:
  qcompile sensitivity net.py --weights net.safetensors
  qcompile sensitivity net.py --widths 8,4,1/4 --sort error --json net.json
"""


def parser() -> argparse.ArgumentParser:
    """Options of `qcompile sensitivity`."""
    found = command_parser(
        "sensitivity", "Say what each layer costs in accuracy, at each width.", epilog=EPILOG
    )
    found.add_argument("model", metavar="MODEL", help="a Python file, or package.module:name")
    add_common(found)
    found.add_argument(
        "--metric",
        metavar="NAME",
        help="sqnr: signal to noise only; accuracy: that, and evaluate() (default: accuracy, where "
        "the model file has evaluate)",
    )
    add = found.add_argument_group("results").add_argument
    add("--sort", default="network", metavar="ORDER", help="network (default), or error first")
    add("--json", type=Path, metavar="FILE", help="write all numbers to a file")
    return found


def add_common(found: argparse.ArgumentParser) -> None:
    """What decides which numbers are measured, and on what network."""
    add = found.add_argument_group("what is measured").add_argument
    add(
        "--widths",
        metavar="LIST",
        help="to try: bits, WEIGHTS/ACTIVATIONS, or float (default: what the method has of "
        "8,4,2,1/4,1)",
    )
    add("--method", default="bireal", help="as of `qcompile MODEL` (default: bireal)")
    add("--observer", metavar="NAME", help="how calibration finds ranges, likewise")
    add("--samples", type=int, metavar="N", help="measure on so many at most (default: all)")
    add("--threads", type=int, metavar="N", help="for training and running (default: all cores)")
    add_training(found)


def run(options: argparse.Namespace, out: Console, err: Console) -> int:
    """Measure, print, and write what is asked for."""
    from qcompile.files import write
    from qcompile.report import show
    from qcompile.sensitivity_analysis import ORDERS, measure
    from qcompile.sensitivity_network import widths_to_try
    from qcompile.sensitivity_report import tables, to_json
    from qcompile.steps import Steps

    steps = Steps(err)
    recipe = recipe_of(options)
    widths = widths_to_try(options.widths, recipe)
    if options.sort not in ORDERS:
        raise QCompileError(f"--sort {options.sort!r}", hint=f"one of {', '.join(ORDERS)}")
    network = open_network(
        options, recipe, steps, (options.json,), evaluated=options.metric != "sqnr"
    )
    layers = len(network.quantizable)
    title = f"quantize {layers} layer{'s'[: layers != 1]}, one by one"
    with steps(title) as advance:
        found = measure(network, widths, advance)
    show(out, tables(found, options.sort))
    if options.json is not None:
        text = json.dumps(to_json(found), indent=1, allow_nan=False) + "\n"
        write(options.json, text.encode(), what="the numbers")
        out.print(Text.assemble("wrote ", (str(options.json), "bold")))
    return OK


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The method that the options of `add_common` name."""
    from qcompile.quant.recipe import Recipe

    return Recipe(32, method=options.method, observer=options.observer)


def open_network(
    options: argparse.Namespace,
    recipe: Recipe,
    steps: Steps,
    outputs: tuple[Path | None, ...],
    *,
    evaluated: bool,
    fixed: Mapping[str, Override] | None = None,
) -> Network:
    """The float network of the model file, trained or loaded, with its data.

    Args:
        options: those of `add_common`, and `--metric`.
        outputs: files that will be written.
        evaluated: whether accuracy is wanted, where the file can give it.
        fixed: overrides that have to match layers.

    Raises:
        QCompileError: something that was given does not work; most of it is found before training.
    """
    import torch

    from qcompile import job as jobs
    from qcompile import model_file
    from qcompile.files import check_writable
    from qcompile.ir.target import Target
    from qcompile.sensitivity_network import Network
    from qcompile.trial import calibration_of

    at_least("--epochs", options.epochs, 0)
    at_least("--samples", options.samples, 1)
    check_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    file = model_file.read(options.model, shape(options.input_shape))
    check_metric(options.metric, file)
    evaluate = _evaluate(options, file, steps) if evaluated else None
    job = jobs.Job(
        options.model,
        dataclasses.replace(recipe, overrides=fixed or {}),
        (Target("cpu"),),
        weights=options.weights,
        save_weights=options.save_weights,
        epochs=options.epochs,
    )
    jobs.check(job, file, None)
    for path in outputs:
        if path is not None:
            check_writable(path)
    jobs.train_float(job, file, steps)
    if not file.has("calibration_data"):
        steps.note(
            "The model file has no calibration_data(): ranges and noise are those of "
            "example_inputs alone."
        )
    with steps("run the float network"):
        return Network(
            file.model,
            file.example_inputs,
            recipe=recipe,
            calibration=calibration_of(file),
            evaluate=evaluate,
            samples=options.samples,
            name=file.name,
        )


def check_metric(metric: str | None, file: ModelFile) -> None:
    """See that there is such a metric, and that the file can give it.

    Raises:
        QCompileError: there is not, or it cannot.
    """
    if metric is not None and metric not in METRICS:
        raise QCompileError(f"unknown --metric {metric!r}", hint=f"one of {', '.join(METRICS)}")
    if metric == "accuracy" and not file.has("evaluate"):
        raise QCompileError(
            "--metric accuracy needs evaluate(model)",
            where=str(file.path),
            hint="define it in the model file, or take --metric sqnr",
        )


def _evaluate(
    options: argparse.Namespace, file: ModelFile, steps: Steps
) -> Callable[[Any], float] | None:
    """What measures accuracy, if the file can."""
    if not file.has("evaluate"):
        return None
    if options.samples is not None and not file.takes_samples():
        steps.note(
            "The model file's evaluate has no argument samples: it takes all that it has each time."
        )
    return partial(file.evaluate, samples=options.samples)
