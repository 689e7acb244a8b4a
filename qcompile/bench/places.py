"""Paths in a report, told so that it can be published: none says where this machine's user keeps things."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

import qcompile
from qcompile.bench.results import Report


def told(report: Report, model: str | None) -> Report:
    """The report with its paths from the model's folder on, or the working one, or that of a package; else from ~.

    The command keeps what it needs to be run again where it was run.

    Args:
        model: the file of the float network, as the user named it.
    """
    own = {} if model is None else dict.fromkeys(_both(Path(model).absolute().parent), "")
    packages = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    code = (*map(Path, packages), Path(qcompile.__file__).parents[1])
    near = dict.fromkeys((*own, *(path for folder in code for path in _both(folder))), "")
    user = dict.fromkeys(_both(Path.home()), "~") | dict.fromkeys(_both(Path.cwd()), "")
    command = shortened(report.command, user)
    short = _each(msgspec.to_builtins(report), near | user)
    return replace(msgspec.convert(short, Report), command=command)


def shortened(text: str, folders: Mapping[str, str]) -> str:
    """A text in which folders have other names; of "" only what is in it stays."""
    known = sorted((f for f in folders if f != "/"), key=len, reverse=True)
    if not known:
        return text
    names = "|".join(map(re.escape, known))

    def short(match: re.Match[str]) -> str:
        name, inside = folders[match[1]], match[2]
        return name + inside if name else "" if inside else "."

    return re.sub(rf"(?<![\w.~-])({names})(/|(?![\w-]|\.\w))", short, text)


def _both(folder: Path) -> Iterable[str]:
    """As it is named, and where links lead to."""
    return (str(folder), str(folder.resolve()))


def _each(value: Any, folders: Mapping[str, str]) -> Any:
    """Every text in plain values."""
    if isinstance(value, str):
        return shortened(value, folders) if "/" in value else value
    if isinstance(value, dict):
        return {key: _each(part, folders) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_each(part, folders) for part in value]
    return value
