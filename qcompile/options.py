"""Options that several verbs have: what they are called, and what their values may be."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qcompile.errors import QCompileError
from qcompile.ir.target import Target
from qcompile.quant.overrides import Override, parse

if TYPE_CHECKING:
    from qcompile.quant.recipe import Recipe


def add_target(parser: argparse.ArgumentParser) -> None:
    """For which machines."""
    add = parser.add_argument
    add(
        "--target",
        default="cpu",
        metavar="LIST",
        help="cpu for this machine (default), cpu:haswell, cpu:portable, cuda for GPUs, cuda:sm_86, or "
        "several: cuda,cpu",
    )
    add(
        "--arch",
        metavar="NAME",
        help="of the target: --target cuda --arch sm_86 is --target cuda:sm_86",
    )


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """How many bits; what `recipe_of` reads."""
    add = parser.add_argument_group("how many bits, and by which paper").add_argument
    add(
        "--mode",
        metavar="MODE",
        help="qat: train with quantizers (default, where there is train()); static: calibrate "
        "(default elsewhere); dynamic: ranges at run time, linear layers only; weight-only",
    )
    add(
        "--bits",
        type=int,
        metavar="N",
        help="1 to 8, or 32 for float; of weights alone if weight-only (default: 1, or 8 with "
        "--mode static, dynamic or weight-only)",
    )
    add("--weight-bits", type=int, metavar="N", help="of weights, where it differs from --bits")
    add("--activation-bits", type=int, metavar="N", help="of activations, likewise")
    add("--gradient-bits", type=int, metavar="N", help="in training, as DoReFa-Net (default: 32)")
    add(
        "--method",
        help="bireal, xnor, dorefa, affine, lsq or pact (default: bireal, affine above 1 bit)",
    )
    add("--observer", metavar="NAME", help="min-max, moving-average, histogram or percentile")
    add("--first-last-bits", type=int, metavar="N", help="2 to 8, or 32 (default: 8)")
    add(
        "--override",
        action="append",
        default=[],
        metavar="LAYER=BITS",
        help="layer path, glob or class; BITS is N, WEIGHTS/ACTIVATIONS as in 1/4, or float",
    )
    add(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="what `qcompile search` saved, in place of these, but --mode",
    )
    add("--equalize", action="store_true", help="even out the channels of one layer and the next")
    add("--correct-bias", action="store_true", help="of what rounding does to means (calibration)")
    add("--estimator", metavar="NAME", help="gradient through a sign: ste, approx or swish")
    add("--ternary-weights", action="store_true", help="2-bit weights of Ternary Weight Networks")
    add("--k-map", action="store_true", help="XNOR-Net's map of activation magnitudes")


def add_training(parser: argparse.ArgumentParser) -> None:
    """How the float network is had: its weights, or its training."""
    add = parser.add_argument_group("training").add_argument
    add("--weights", type=Path, metavar="FILE", help="safetensors for the float network")
    add("--save-weights", type=Path, metavar="FILE", help="keep the float network that was trained")
    add("--epochs", type=int, metavar="N", help="for train(); 0: calibrate only (default: its own)")
    add("--input-shape", metavar="N,C,H,W", help="if the model file does not say; batch first")
    add("--seed", type=int, default=0, metavar="N", help="of torch's random numbers (default: 0)")


def is_model(subject: str) -> bool:
    """Whether it names what `qcompile MODEL` would compile."""
    return subject.endswith(".py") or (":" in subject and not Path(subject).exists())


def refuse(
    options: argparse.Namespace, parser: argparse.ArgumentParser, names: Collection[str], kind: str
) -> None:
    """See that options which are for something else are not given.

    Args:
        names: of those, as of attributes.
        kind: what they are for.

    Raises:
        QCompileError: one is given.
    """
    for name in sorted(names):
        if getattr(options, name) != parser.get_default(name):
            option = name.rstrip("_").replace("_", "-")
            raise QCompileError(f"--{option} is for {kind}", where=options.subject)


def at_least(option: str, value: int | None, least: int) -> None:
    """Raises: QCompileError: the option's value is less."""
    if value is not None and value < least:
        raise QCompileError(f"{option} is {value}, it must be {least} or more")


def check_threads(value: int | None) -> None:
    """Raises: QCompileError: --threads is not a number of cores that there are."""
    from qcompile.runtime import cores

    at_least("--threads", value, 1)
    if value is not None and value > cores():
        raise QCompileError(f"--threads is {value}, this process may use {cores()} cores")


def recipe_of(options: argparse.Namespace) -> Recipe:
    """What the options of `add_recipe` say, or the file that they name.

    Raises:
        QCompileError: they say it twice, or what no recipe has.
    """
    from qcompile import recipe_file
    from qcompile.quant.recipe import Recipe

    names = [field.name for field in dataclasses.fields(Recipe) if field.name != "mode"]
    given = {name: getattr(options, name, None) for name in names}
    # Options have no defaults of their own here: None, and False of a flag, say nothing.
    fields = {k: v for k, v in given.items() if v is not None and v is not False}
    if options.override:
        fields["overrides"] = overrides(options.override)
    mode = {} if options.mode is None else {"mode": options.mode}
    if options.recipe is None:
        return Recipe(**{"bits": _default_bits(options.mode), **fields, **mode})
    if fields:
        name = next(iter(fields)).replace("_", "-").replace("overrides", "override")
        raise QCompileError(
            f"--{name} and --recipe are both given", hint="the file says it: edit it there"
        )
    return dataclasses.replace(recipe_file.load(options.recipe), **mode)


def _default_bits(mode: str | None) -> int:
    """One bit is for training; what was trained in float keeps its accuracy at eight."""
    return 1 if mode in (None, "qat") else 8


def overrides(texts: Sequence[str]) -> dict[str, Override]:
    """A Recipe's overrides, the last word on a pattern in the last place.

    Raises:
        QCompileError: one of them is not LAYER=BITS.
    """
    found: dict[str, Override] = {}
    for pattern, bits in map(override, texts):
        found.pop(pattern, None)
        found[pattern] = bits
    return found


def override(text: str) -> tuple[str, Override]:
    """Layers and their bits: one item of a Recipe's overrides.

    Raises:
        QCompileError: it is not LAYER=BITS.
    """
    pattern, _, bits = text.rpartition("=")
    read = parse(bits)
    if pattern and read is not None:
        return pattern, read
    raise QCompileError(
        f"--override {text!r} is not LAYER=BITS",
        hint="as in --override fc=8, --override 'layer1.*=1/4' or --override Linear=float",
    )


def shape(text: str | None) -> tuple[int, ...] | None:
    """The sizes of --input-shape.

    Raises:
        QCompileError: they are none.
    """
    if text is None:
        return None
    sizes = text.replace("x", ",").split(",")
    if not all(size.strip().isdecimal() for size in sizes):
        raise QCompileError(
            f"--input-shape {text!r} is no list of sizes", hint="as in --input-shape 1,3,224,224"
        )
    return tuple(map(int, sizes))


def targets(text: str, arch: str | None) -> tuple[Target, ...]:
    """What --target and --arch say.

    Raises:
        QCompileError: they name no targets, or two architectures, or of which target is open.
    """
    found = Target.parse_all(text)
    if arch is None:
        return found
    first, *others = found
    if others:
        raise QCompileError(
            f"--arch {arch} is for one target, and --target {text} is several",
            hint="put them all into --target, as in --target cuda:sm_86,cpu:haswell",
        )
    if first.arch is not None and first.arch != arch:
        raise QCompileError(
            f"--target {first} and --arch {arch} name two architectures",
            hint=f"name one; or, for code for both, --target {first},{first.kind}:{arch}",
        )
    if first.kind == "cpu" and arch.startswith("sm_"):
        raise QCompileError(
            f"--arch {arch} is of GPUs, and the target is {first}",
            hint=f"did you mean --target cuda --arch {arch}?",
        )
    return (Target.parse(f"{first.kind}:{arch}"),)
