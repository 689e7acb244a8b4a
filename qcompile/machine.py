"""What this machine's processor has, and whether that is what a program needs."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

from qcompile.errors import QCompileError
from qcompile.program_info import ProgramInfo

_CPUINFO = Path("/proc/cpuinfo")
# Linux's name of a flag where LLVM has another; both without punctuation.
_LLVM_NAME = {
    "3dnowprefetch": "prfchw",
    "abm": "lzcnt",
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdhp": "fullfp16",
    "bmi1": "bmi",
    "fpu": "x87",
    "lahflm": "sahf",
    "lm": "64bit",
    "pclmulqdq": "pclmul",
    "pni": "sse3",
    "rdrand": "rdrnd",
    "shani": "sha",
    "sse42": "crc32",
}


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


@cache
def features() -> frozenset[str]:
    """The processor's flags, lower case without punctuation, in Linux's spelling and in LLVM's."""
    flags: set[str] = set()
    for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags.update(map(_plain, value.split()))
    return frozenset(flags | {_LLVM_NAME[flag] for flag in flags & _LLVM_NAME.keys()})


def check_machine(info: ProgramInfo, where: str | None = None) -> None:
    """Make sure that this processor runs the program's code.

    Raises:
        QCompileError: it is another family, or lacks instructions; the message names them.
    """
    hint = f'compile it for this machine: qcompile.compile(..., target="{info.target}") here'
    if info.machine != platform.machine():
        what = f"compiled for {info.machine}, this machine is {platform.machine()}"
        raise QCompileError(what, where=where, hint=hint)
    missing = [f for f in info.features if _plain(f.lstrip("+")) not in features()]
    if missing:
        arch = f"{info.arch}, with " if info.arch else ""
        what = f"compiled for {arch}instructions that this machine lacks: {', '.join(missing)}"
        raise QCompileError(what, where=where, hint=hint)
