"""The verb `bench`: a program timed beside other engines, and a report of it. Loads torch when it runs."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from qcompile.bench import files
from qcompile.bench.results import Settings
from qcompile.bench.worker import CLOCKS
from qcompile.errors import QCompileError
from qcompile.files import check_writable, write
from qcompile.options import (
    add_recipe,
    add_target,
    at_least,
    is_model,
    recipe_of,
    refuse,
    shape,
    targets,
)
from qcompile.program_summary import FLOAT_BITS
from qcompile.runtime import cores
from qcompile.verbs import OK, command_parser

if TYPE_CHECKING:
    from qcompile.bench.results import Report
    from qcompile.job import Job

EPILOG = """\
All engines take turns in one process, and so does the program a second time: what it shows beside itself is
the noise. Each number of threads, and each repetition, has a fresh process with as many processors. A MODEL is
not trained unless --train says so: that changes no times, but accuracy says nothing then, and is left out.
RESULT.json is what --json wrote: nothing is measured, and the other files are made again.

examples:
  qcompile bench net.py --bits 1 --html net.html --json net.json
  qcompile bench net.py --bits 1 --against fbgemm,openvino --batch 1,8,64 --threads 1
  qcompile bench net.py --bits 1 --train --epochs 8 --figures figures
  qcompile bench net.qcp --model net.py --weights net.safetensors
  qcompile bench net.json --markdown net.md
"""
PARTS = ("layers", "roofs", "widths", "graphs")
NONE = "none"
WIDTHS = "1,2,4,8"
_OUTPUTS = {"json", "markdown", "html", "figures"}
_ALWAYS = {"subject", "debug", "command"}
_OF_PROGRAMS = {"model"}
_OF_BOTH = {
    *("against", "batch", "threads", "seconds", "processes", "rounds", "clock", "seed"),
    *("parts", "arch", "weights", "input_shape"),
}


def parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Options of `qcompile bench`; `words` are those that the user wrote, for the report."""
    found = command_parser(
        "bench",
        "Time a program beside other engines, and write a report.",
        epilog=EPILOG,
        usage="qcompile bench MODEL|PROGRAM|RESULT.json [options]",
    )
    found.add_argument(
        "subject", metavar="MODEL|PROGRAM|RESULT.json", help="a Python file, or package.module:name"
    )
    _add_outputs(found)
    _add_measuring(found)
    add = found.add_argument_group("of a PROGRAM").add_argument
    add("--model", metavar="MODEL", help="the network that it was made of: what others run")
    add_target(found)
    add_recipe(found)
    _add_network(found)
    found.set_defaults(command=shlex.join(("qcompile", "bench", *words)))
    return found


def _add_outputs(found: argparse.ArgumentParser) -> None:
    add = found.add_argument_group("results; without these, they are shown only").add_argument
    add("--json", type=Path, metavar="FILE", help="everything, for `compare` and for other tools")
    add("--markdown", type=Path, metavar="FILE", help="tables, to be pasted")
    add("--html", type=Path, metavar="FILE", help="one page with pictures that needs no network")
    add("--figures", type=Path, metavar="FOLDER", help="the pictures by themselves: SVG and PDF")


def _add_measuring(found: argparse.ArgumentParser) -> None:
    add = found.add_argument_group("what is measured, and how").add_argument
    add("--against", metavar="LIST", help="engines (default: those of a float network), or none")
    add("--batch", default="1,8", metavar="LIST", help="samples a call (default: 1,8)")
    add("--threads", metavar="LIST", help="default: 1, and all cores")
    add("--seconds", type=float, default=1.0, metavar="S", help="an engine and run (default: 1)")
    add("--processes", type=int, default=5, metavar="N", help="fresh ones a run (default: 5)")
    add("--rounds", type=int, default=200, metavar="N", help="a process at most (default: 200)")
    add("--clock", default="wall", metavar="NAME", help="wall (default), or cpu: of one thread")
    add(
        "--parts",
        default=",".join(PARTS),
        metavar="LIST",
        help=f"beside times: of {', '.join(PARTS)} (default: all), or none",
    )
    add("--widths", default=WIDTHS, metavar="LIST", help=f"default: {WIDTHS}; or none")


def _add_network(found: argparse.ArgumentParser) -> None:
    add = found.add_argument_group("more, of a MODEL").add_argument
    add("--kernel", action="append", default=[], metavar="[LAYER=]NAME", help="force a kernel")
    add("--weights", type=Path, metavar="FILE", help="safetensors for the float network")
    add("--train", action="store_true", help="train first, as `qcompile MODEL` does")
    add("--epochs", type=int, metavar="N", help="for --train (default: the model file's own)")
    add("--input-shape", metavar="N,C,H,W", help="if the model file does not say; batch first")
    add("--seed", type=int, default=0, metavar="N", help="of all random numbers (default: 0)")


def run(options: argparse.Namespace, out: Console, err: Console) -> int:
    """Measure, or read what was measured; print it, and write what is asked for."""
    _check_outputs(options)
    if _is_report(options.subject):
        known = vars(options).keys() - _OUTPUTS - _ALWAYS
        refuse(options, parser(), known, "measuring, and this was measured already")
        report = files.load(options.subject)
    else:
        report = _measured(options, err)
    from qcompile.bench.live import tables

    out.print(tables(report))
    for path in _written(options, report):
        out.print(Text.assemble("wrote ", (str(path), "bold")))
    return OK


def _is_report(subject: str) -> bool:
    return subject.endswith(".json")


# --- results -------------------------------------------------------------------------------------


def _check_outputs(options: argparse.Namespace) -> None:
    """See that everything can be written, before anything is measured.

    Raises:
        QCompileError: it cannot, or would take the place of something else.
    """
    named = {name: getattr(options, name) for name in sorted(_OUTPUTS)}
    given = {name: path for name, path in named.items() if path is not None}
    read = (options.subject, options.model, options.weights, options.recipe)
    taken = {Path(path).resolve(): "what is read" for path in read if path is not None}
    for name, path in given.items():
        if other := taken.get(path.resolve()):
            raise QCompileError(f"--{name} would take the place of {other}", where=str(path))
        taken[path.resolve()] = f"--{name}"
    for name, path in given.items():
        if name == "figures":
            _check_folder(path)
        else:
            check_writable(path)


def _check_folder(path: Path) -> None:
    """Raises: QCompileError: it is no folder that takes files, and cannot become one."""
    if path.exists() and not path.is_dir():
        raise QCompileError("--figures names a folder, and that is none", where=str(path))
    check_writable(path / "speed.svg" if path.is_dir() else path)


def _written(options: argparse.Namespace, report: Report) -> list[Path]:
    """Write what is asked for."""
    from qcompile.bench.markdown import markdown

    if options.json is not None:
        files.save(report, options.json)
    if options.markdown is not None:
        write(options.markdown, markdown(report).encode(), what="the report")
    if options.html is not None:
        from qcompile.bench.html.page import page

        write(options.html, page(report).encode(), what="the report")
    if options.figures is not None:
        from qcompile.bench.html.charts import save

        options.figures.mkdir(exist_ok=True)
        save(report, options.figures)
    paths = (options.json, options.markdown, options.html, options.figures)
    return [path for path in paths if path is not None]


# --- measuring -----------------------------------------------------------------------------------


def _measured(options: argparse.Namespace, err: Console) -> Report:
    """Check all options, and do what they say.

    Raises:
        QCompileError: one of them does not work.
    """
    model = is_model(options.subject)
    if model:
        refuse(options, parser(), _OF_PROGRAMS, "a PROGRAM")
    else:
        known = vars(options).keys() - _OUTPUTS - _ALWAYS - _OF_PROGRAMS - _OF_BOTH
        refuse(options, parser(), known, "a MODEL")
        if options.model is None:
            refuse(options, parser(), {"weights", "input_shape"}, "a float network: give --model")
    threads = _threads(options.threads)
    batches = numbers("--batch", options.batch)
    _check_numbers(options, threads)
    from qcompile.bench.benchmark import Asked, benchmark
    from qcompile.bench.parts import Wanted

    asked = Asked(
        source=options.subject,
        command=options.command,
        target=options.target if model else "",
        arch=options.arch,
        job=_job(options) if model else None,
        train=options.train,
        model=options.model,
        weights=options.weights,
        input_shape=shape(options.input_shape),
        engines=_against(options.against),
        batches=batches,
        threads=threads,
        settings=Settings(
            options.seconds, options.processes, options.rounds, options.clock, options.seed
        ),
        parts=Wanted(
            names=_listed("--parts", options.parts, PARTS),
            widths=_widths(options.widths),
            train=options.train,
            epochs=options.epochs,
            seed=options.seed,
        ),
    )
    return benchmark(asked, err)


def _job(options: argparse.Namespace) -> Job:
    """What `qcompile MODEL` would be told."""
    from qcompile.job import Job

    recipe = recipe_of(options)
    return Job(
        model=options.subject,
        recipe=recipe,
        recipe_file=options.recipe,
        mode_given=options.mode is not None or recipe.mode != "qat",
        targets=targets(options.target, options.arch),
        weights=options.weights,
        epochs=options.epochs,
        input_shape=shape(options.input_shape),
        seed=options.seed,
        kernels=tuple(options.kernel),
    )


def _check_numbers(options: argparse.Namespace, threads: tuple[int, ...]) -> None:
    """Raises: QCompileError: a number is none, or options contradict each other."""
    at_least("--processes", options.processes, 1)
    at_least("--rounds", options.rounds, 1)
    at_least("--epochs", options.epochs, 0)
    if not 0 < options.seconds < float("inf"):
        raise QCompileError(f"--seconds is {options.seconds}", hint="a number above 0")
    if options.epochs is not None and not options.train:
        raise QCompileError("--epochs is for --train", hint="give both, or none")
    if options.clock not in CLOCKS:
        raise QCompileError(f"--clock {options.clock!r}", hint="wall or cpu")
    if options.clock == "cpu" and threads != (1,):
        raise QCompileError(
            "--clock cpu adds up what all threads take: it is right for one thread",
            hint="add --threads 1",
        )


def _widths(text: str) -> tuple[int, ...]:
    found = () if text == NONE else numbers("--widths", text)
    for bits in found:
        if bits not in (*range(1, 9), FLOAT_BITS):
            raise QCompileError(
                f"--widths: {bits} is no width", hint="1 to 8 bits, or 32 for float"
            )
    return found


def _against(text: str | None) -> tuple[str, ...]:
    from qcompile.rivals import engines

    if text is None:
        return engines.DEFAULT
    keys = _words("--against", text)
    return () if keys == (NONE,) else engines.check(keys)


def _threads(text: str | None) -> tuple[int, ...]:
    if text is None:
        return tuple(dict.fromkeys((1, cores())))
    found = numbers("--threads", text)
    if max(found) > cores():
        raise QCompileError(f"--threads is {max(found)}, this process may use {cores()} cores")
    return found


def numbers(option: str, text: str) -> tuple[int, ...]:
    """A list of numbers from 1 up, each once.

    Raises:
        QCompileError: it is none.
    """
    found = _words(option, text)
    if not all(word.isdecimal() and int(word) > 0 for word in found):
        raise QCompileError(f"{option} {text!r} is no list of numbers from 1 up", hint="as in 1,8")
    return tuple(dict.fromkeys(map(int, found)))


def _listed(option: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Some of the names that are known, each once; none for "none"."""
    found = _words(option, text)
    if found == (NONE,):
        return ()
    for word in found:
        if word not in known:
            raise QCompileError(
                f"{option}: there is no {word!r}", hint=f"of {', '.join(known)}; or {NONE}"
            )
    return tuple(dict.fromkeys(found))


def _words(option: str, text: str) -> tuple[str, ...]:
    found = tuple(word.strip() for word in text.split(","))
    if not all(found):
        raise QCompileError(f"{option} {text!r} has an empty place", hint="as in a,b,c")
    return found
