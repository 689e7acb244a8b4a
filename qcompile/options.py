"""Options that several verbs have: what they are called, and what their values may be."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qcompile.errors import QCompileError
from qcompile.ir.target import Target
from qcompile.quant.overrides import Override, parse


def add_training(parser: argparse.ArgumentParser) -> None:
    """How the float network is had: its weights, or its training."""
    add = parser.add_argument_group("training").add_argument
    add("--weights", type=Path, metavar="FILE", help="safetensors for the float network")
    add("--save-weights", type=Path, metavar="FILE", help="keep the float network that was trained")
    add("--epochs", type=int, metavar="N", help="for train(); 0: calibrate only (default: its own)")
    add("--input-shape", metavar="N,C,H,W", help="if the model file does not say; batch first")
    add("--seed", type=int, default=0, metavar="N", help="of torch's random numbers (default: 0)")


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
        QCompileError: they name no targets, or an architecture twice, or of which target is open.
    """
    found = Target.parse_all(text)
    if arch is None:
        return found
    if len(found) > 1 or found[0].arch is not None:
        what = "several targets" if len(found) > 1 else "one with its architecture"
        raise QCompileError(
            f"--arch {arch} is for one target without, and --target {text} is {what}",
            hint="put them all into --target, as in --target cuda:sm_86,cpu:haswell",
        )
    return (Target.parse(f"{found[0].kind}:{arch}"),)
