"""From object code to a shared library, with whatever linker this machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from qcompile.errors import QCompileError

_COMPILERS = ("g++", "gcc", "clang++", "clang", "c++", "cc")
_LINKERS = ("ld", "ld.lld", "ld.gold", "lld")


def find_linker() -> list[str]:
    """The command that links object files to a shared library, without its output and inputs.

    Raises:
        QCompileError: there is none.
    """
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


def link(executable: Any, path: Path) -> None:
    """Write the executable as a shared library.

    Raises:
        QCompileError: there is no linker, or it fails.
    """
    command = find_linker()

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
