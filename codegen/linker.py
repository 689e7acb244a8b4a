"""From object code to a shared library, with whatever linker this machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from qcompile.codegen.machine import host_family
from qcompile.errors import QCompileError

_COMPILERS = ("g++", "gcc", "clang++", "clang", "c++", "cc")
_LINKERS = ("ld", "ld.lld", "ld.gold", "lld")
_FOREIGN = ("{}-linux-gnu-gcc", "{}-linux-gnu-g++", "{}-linux-gnu-ld", "ld.lld")


def find_linker(family: str | None = None) -> list[str]:
    """The command that links object files to a shared library, without its output and inputs.

    Args:
        family: of the processor that the objects are for ("aarch64"); None means this machine's.

    Raises:
        QCompileError: there is none.
    """
    if family not in (None, host_family()):
        return _find_foreign(str(family))
    for variable in ("CXX", "CC"):
        chosen = shutil.which(os.environ.get(variable, ""))
        if chosen:
            return [chosen, "-shared", "-fPIC"]
    for name in (*_COMPILERS, *_LINKERS):
        found = shutil.which(name)
        if found:
            return [found, "-shared", *(["-fPIC"] if name in _COMPILERS else [])]
    raise QCompileError(
        "no linker found",
        hint=f"install one of {', '.join((*_COMPILERS, 'ld'))} (Debian: apt-get install binutils)",
    )


def _find_foreign(family: str) -> list[str]:
    """A linker for another family's objects: that family's own, or LLVM's, which takes them all."""
    names = [name.format(family) for name in _FOREIGN]
    for found in filter(None, map(shutil.which, names)):
        return [found, "-shared"]
    package = f"binutils-{family.replace('_', '-')}-linux-gnu"
    raise QCompileError(
        f"no linker for {family} found",
        hint=f"install one of {', '.join(names)} (Debian: apt-get install {package}, or lld)",
    )


def link(executable: Any, path: Path, family: str | None = None) -> None:
    """Write the executable, whose code is for a family of processors, as a shared library.

    Raises:
        QCompileError: there is no linker, or it fails.
    """
    command = find_linker(family)

    def run(output: str, objects: list[str], **_: object) -> None:
        try:
            subprocess.run(
                [*command, "-o", output, *map(str, objects)],
                check=True,
                capture_output=True,
                text=True,
            )
        except subprocess.CalledProcessError as error:
            raise QCompileError(f"{command[0]} fails: {error.stderr.strip()}") from error

    run.object_format = "o"  # type: ignore[attr-defined]
    executable.export_library(str(path), fcompile=run)
