"""The verb `inspect`: what is in a program, or what becomes of a network on its way to one.

A program needs neither torch nor the compiler.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from qcompile import inspect_kernels
from qcompile.errors import QCompileError
from qcompile.files import read
from qcompile.inspect_code import Listing, listings
from qcompile.machine import named, obstacle, runnable
from qcompile.options import (
    add_recipe,
    add_target,
    check_threads,
    is_model,
    recipe_of,
    refuse,
    shape,
    targets,
)
from qcompile.program_file import Archive, unpack
from qcompile.program_info import CUDA, Variant
from qcompile.program_summary import Summary
from qcompile.verbs import OK, command_parser

if TYPE_CHECKING:
    from qcompile.inspect_model import Inspected

EPILOG = """\
A PROGRAM is what qcompile wrote; a MODEL is a Python file, or package.module:name. A MODEL is not trained:
it is prepared, converted and lowered with the weights that it has, calibrated on its example inputs.

examples:
  qcompile inspect net.qcp                                what it holds, and how large each part is
  qcompile inspect net.qcp --kernels                      every kernel, and why it was chosen
  qcompile inspect net.qcp --code layer1.0.conv1          assembly, or with --arch cuda CUDA C
  qcompile inspect net.qcp --target cuda --arch sm_90     how fast it can be on a GPU at most
  qcompile inspect net.py --bits 1 --passes               what each pass did, and declined to do
  qcompile inspect net.py --bits 1 --pass fold-threshold  the graph after a pass
  qcompile inspect net.py --bits 1 --diff converted lowered
"""
_OF_PROGRAMS = {"batch", "json"}
_OF_BOTH = {"subject", "kernels", "code", "target", "arch", "debug"}
_SHOWN = ("passes", "pass_", "diff", "kernels", "code")


def parser() -> argparse.ArgumentParser:
    """Options of `qcompile inspect`."""
    found = command_parser(
        "inspect",
        "Say what is in a saved program, or what becomes of a model on its way to one.",
        epilog=EPILOG,
        usage="qcompile inspect PROGRAM|MODEL [options]",
    )
    add = found.add_argument
    add("subject", metavar="PROGRAM|MODEL", help="what qcompile wrote, or what it would compile")
    add("--kernels", action="store_true", help="list the kernels: layer, method, stored bytes, why")
    add(
        "--code",
        action="append",
        default=[],
        metavar="LAYER",
        help="the code of a layer's kernels, assembly or CUDA C; a path or a glob",
    )
    add = found.add_argument_group("graphs, of a MODEL").add_argument
    add("--passes", action="store_true", help="list the passes: what they rewrote and declined")
    add("--pass", dest="pass_", metavar="NAME", help="the graph after a pass: its name or number")
    add(
        "--diff",
        nargs=2,
        metavar=("A", "B"),
        help="between two passes, or stages: converted lowered",
    )
    add_target(found)
    # Of a program, it says another thing, and nothing where it is not given.
    found.set_defaults(target=None)
    add = found.add_argument_group(
        f"of a PROGRAM, with --target {CUDA}: bounds of its speed"
    ).add_argument
    add("--batch", type=int, metavar="N", help="samples (default: 1)")
    add("--json", action="store_true", help="print them as JSON")
    add_recipe(found)
    add = found.add_argument_group("more, of a MODEL").add_argument
    add("--kernel", action="append", default=[], metavar="[LAYER=]NAME", help="force a kernel")
    add("--weights", type=Path, metavar="FILE", help="safetensors for the float network")
    add("--input-shape", metavar="N,C,H,W", help="if the model file does not say; batch first")
    add("--seed", type=int, default=0, metavar="N", help="of torch's random numbers (default: 0)")
    add("--threads", type=int, metavar="N", help="for calibration (default: all cores)")
    return found


def run(options: argparse.Namespace, out: Console, err: Console) -> int:
    """Look into a program or a model, and print what is asked for; nothing of it runs."""
    if is_model(options.subject):
        refuse(options, parser(), _OF_PROGRAMS, "a PROGRAM")
        _model(options, out, err)
    else:
        refuse(options, parser(), vars(options).keys() - _OF_PROGRAMS - _OF_BOTH, "a MODEL")
        _program(options, out)
    return OK


def _print_code(found: Sequence[Listing], out: Console) -> None:
    for i, listing in enumerate(found):
        out.print("\n" * bool(i), end="")
        if not out.is_terminal:
            out.print(Text(str(listing)), soft_wrap=True)
            continue
        lexer = "gas" if listing.language == "asm" else "cuda"
        out.print(Text(listing.title, "bold"))
        code = "\n".join(listing.lines)
        out.print(Syntax(code, lexer, background_color="default", word_wrap=True))


# --- a program -----------------------------------------------------------------------------------


def _program(options: argparse.Namespace, out: Console) -> None:
    archive = unpack(read(options.subject), options.subject)
    if options.target is not None:
        _bounds(archive, options, out)
        return
    given = [name for name in ("batch", "json") if getattr(options, name)]
    if options.arch is not None and not (options.code or options.kernels):
        given.insert(0, "arch")
    if given:
        more = ", --code or --kernels" if given[0] == "arch" else ""
        what = f"--{given[0]} goes with --target {CUDA}{more}"
        raise QCompileError(what, where=options.subject)
    found = []
    if options.code:  # before anything is printed: there may be no such layer
        variant = _variant(archive, options.arch)
        found = [x for pattern in options.code for x in listings(archive, variant, pattern)]
    if options.kernels or not options.code:
        _whole(archive, options, out)
    _print_code(list(dict.fromkeys(found)), out)


def _whole(archive: Archive, options: argparse.Namespace, out: Console) -> None:
    """What a program holds, and its kernels where they are asked for."""
    variants = archive.info.variants
    if options.arch is not None:
        variants = (_variant(archive, options.arch),)
    _contents(archive, out)
    for variant in variants if options.kernels else ():
        # What is known of choices is known of the first variant's.
        whys = variant is archive.info.variants[0]
        title, layers = f"kernels of {variant.arch}", archive.info.layers
        out.print(inspect_kernels.table(title, variant.kernels, layers, whys=whys))


def _variant(archive: Archive, arch: str | None) -> Variant:
    """The one of this name; else the one that is used here, or else the first."""
    if arch is not None:
        return named(archive.info, arch, archive.where)
    return next(iter((*runnable(archive.info), *archive.info.variants)))


def _bounds(archive: Archive, options: argparse.Namespace, out: Console) -> None:
    """How fast a program's kernels can be on a GPU."""
    from qcompile.cuda_report import report

    if options.target != CUDA:
        kind, _, arch = options.target.partition(":")
        raise QCompileError(
            f"--target {options.target}: of a program, it is {CUDA}",
            where=options.subject,
            hint=f"did you mean --target {CUDA} --arch {arch}?"
            if kind == CUDA
            else "--arch names a variant, for --code and --kernels",
        )
    if shown := next((name for name in ("code", "kernels") if getattr(options, name)), ""):
        raise QCompileError(
            f"--{shown} and --target {CUDA} are two things",
            where=options.subject,
            hint=f"--{shown} with --arch {CUDA}" + " LAYER" * (shown == "code"),
        )
    found = report(archive, options.arch, 1 if options.batch is None else options.batch)
    if options.json:
        out.print(Text(found.json()), soft_wrap=True)
    else:
        out.print(found)


def _contents(archive: Archive, out: Console) -> None:
    """What a program says of itself."""
    info = archive.info
    out.print(Summary(info, archive.sizes))
    out.print(Text(f"takes    {', '.join(f'{v.name} {v}' for v in info.inputs)}"))
    out.print(Text(f"gives    {', '.join(f'{v.name} {v}' for v in info.outputs)}"))
    out.print(Text(f"made by  {', '.join(f'{k} {v}' for k, v in info.versions.items())}"))
    out.print(_variants(archive))
    for line in _gpu_code(archive):
        out.print(Text(line))


def _variants(archive: Archive) -> Table:
    """One row a variant: for what, how large, whether it is used on this machine."""
    table = Table("variant", "runs on", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("bytes of code, packed", justify="right")
    table.add_column("tuned kernels", justify="right")
    table.add_column("here")
    chosen = next(iter(runnable(archive.info)), None)
    for variant, code in zip(archive.info.variants, archive.sizes.code, strict=True):
        here = obstacle(variant) or ("used" if variant is chosen else "would run")
        size = f"{code:,}"
        tuned = str(sum(bool(kernel.tuned) for kernel in variant.kernels))
        machine = "NVIDIA GPUs" if variant.machine == CUDA else variant.machine
        table.add_row(*map(Text, (variant.arch, machine, size, tuned, here)))
    return table


def _gpu_code(archive: Archive) -> list[str]:
    """What the variants for GPUs hold, a line each."""
    lines = []
    for variant, packed in zip(archive.info.variants, archive.sizes.code, strict=True):
        if variant.machine != CUDA:
            continue
        source, image = archive.source(variant), archive.library(variant)
        exact = [f for f in variant.features if f.startswith("sm_")]
        ptx = [f for f in variant.features if not f.startswith("sm_")]
        held = f"{len(source.encode()):,} bytes of CUDA source"
        if image:
            newer = f" and, as PTX ({', '.join(ptx)}), newer ones" if ptx else ""
            held += f" and {len(image):,} of machine code for {', '.join(exact)}{newer}"
        else:
            held += " alone, which NVRTC compiles where the program is loaded"
        lines.append(f"{variant.arch} holds {packed:,} bytes, packed; unpacked {held}")
    return lines


# --- a model -------------------------------------------------------------------------------------


def _model(options: argparse.Namespace, out: Console, err: Console) -> None:
    shown = [name for name in _SHOWN if getattr(options, name)] or ["passes", "kernels"]
    found = _inspected(options, err)
    for name in shown:
        value = getattr(options, name)
        if name == "passes":
            out.print(found.snapshots.table())
        elif name == "pass_":
            out.print(Text(found.snapshots.find(value).text), soft_wrap=True, end="")
        elif name == "diff":
            _print_diff(found, value, out)
        elif name == "code":
            _print_code([x for pattern in value for x in found.code(pattern)], out)
        else:
            title = f"kernels for {found.arch}"
            out.print(inspect_kernels.table(title, found.kernels, found.layers))


def _inspected(options: argparse.Namespace, err: Console) -> Inspected:
    import torch

    from qcompile import model_file, weights
    from qcompile.inspect_model import inspected, without_training
    from qcompile.steps import Steps

    recipe = recipe_of(options)
    wanted = targets(options.target or "cpu", options.arch)
    check_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    file = model_file.read(options.subject, shape(options.input_shape))
    if options.weights is not None:
        weights.load(file.model, options.weights)
    recipe = without_training(recipe, file, mode_given=options.mode is not None)
    steps = Steps(err)
    with steps("prepare, convert and lower"):
        found = inspected(file, recipe, wanted, options.kernel)
    weights_of = "the model file" if options.weights is None else f"{options.weights}"
    steps.note(
        f"Nothing is trained: weights are those of {weights_of}, ranges those of the example inputs."
    )
    return found


def _print_diff(found: Inspected, words: Sequence[str], out: Console) -> None:
    from qcompile.inspect_graphs import coloured, difference

    before, after = map(found.snapshots.find, words)
    lines = difference(before, after)
    if lines:
        out.print(coloured(lines), soft_wrap=True)
    else:
        out.print(Text(f"{before.title} and {after.title} read the same"))
