"""The verb `explain`: what a network would be compiled to, and why. Loads torch when it runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from rich.console import Console
from rich.text import Text

from qcompile.options import add_recipe, add_target, check_threads, recipe_of, shape, targets
from qcompile.verbs import OK, command_parser

EPILOG = """\
Nothing is trained and no code is made: kernels are those that `qcompile MODEL` would take, with the same
options; times are estimates, of one sample on one thread.

examples:
  qcompile explain net.py --bits 1
  qcompile explain net.py --bits 1 --first-last-bits 4 --override 'layer1.*=2'
  qcompile explain torchvision.models:resnet18 --input-shape 1,3,224,224 --target cpu:haswell
"""


def parser() -> argparse.ArgumentParser:
    """Options of `qcompile explain`."""
    found = command_parser(
        "explain",
        "Say what becomes of each layer, and why, before anything is trained.",
        epilog=EPILOG,
    )
    add = found.add_argument
    add("model", metavar="MODEL", help="a Python file, or package.module:name")
    add_target(found)
    add_recipe(found)
    add = found.add_argument_group("more").add_argument
    add(
        "--kernel",
        action="append",
        default=[],
        metavar="[LAYER=]NAME",
        help="force a kernel, as of `qcompile MODEL`",
    )
    add("--weights", type=Path, metavar="FILE", help="safetensors for the float network")
    add("--input-shape", metavar="N,C,H,W", help="if the model file does not say; batch first")
    add("--seed", type=int, default=0, metavar="N", help="of torch's random numbers (default: 0)")
    add("--threads", type=int, metavar="N", help="for calibration (default: all cores)")
    add("--json", type=Path, metavar="FILE", help="write everything to a file")
    return found


def run(options: argparse.Namespace, out: Console, err: Console) -> int:
    """Look at the network, print the tree, and write what is asked for."""
    import torch

    from qcompile import model_file, weights
    from qcompile.explanation import explain
    from qcompile.explanation_report import to_json
    from qcompile.files import check_writable, write
    from qcompile.steps import Steps

    recipe = recipe_of(options)
    wanted = targets(options.target, options.arch)
    check_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.json is not None:
        check_writable(options.json)
    file = model_file.read(options.model, shape(options.input_shape))
    if options.weights is not None:
        weights.load(file.model, options.weights)
    if options.mode is None and recipe.mode == "qat" and not file.has("train"):
        recipe = dataclasses.replace(recipe, mode="static")  # as `qcompile MODEL` does
    with Steps(err)("look at the network"):
        found = explain(
            file.model,
            file.example_inputs,
            recipe,
            target=wanted,
            kernel=tuple(options.kernel),
            name=file.name,
        )
    out.print(found)
    if options.json is not None:
        text = json.dumps(to_json(found), indent=1, allow_nan=False) + "\n"
        write(options.json, text.encode(), what="the explanation")
        out.print(Text.assemble("wrote ", (str(options.json), "bold")))
    return OK
