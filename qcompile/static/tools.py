"""NVIDIA's disassemblers: machine code to text, and what it takes of a GPU."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qcompile.errors import QCompileError
from qcompile.nvidia import find_tool

RESERVED = 1024  # bytes of shared memory of each block, from sm_80 on
_COUNTED_FROM = 90  # from here on, cuobjdump counts them as the kernel's, where it has others

_USAGE = re.compile(r"Function (\S+):\n\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Resources:
    """What a kernel takes.

    Attributes:
        registers: of a thread.
        stack: bytes of local memory of a thread: spilled registers, and arrays indexed by variables.
        shared: bytes of static shared memory of a block, without what the system reserves.
    """

    registers: int
    stack: int
    shared: int


def disassembled(cubin: bytes) -> str:
    """The text of an ELF file of machine code.

    Raises:
        QCompileError: nvdisasm is missing, or does not take it.
    """
    with tempfile.TemporaryDirectory(prefix="qcompile-sass-") as folder:
        Path(folder, "code.cubin").write_bytes(cubin)
        return _run("nvdisasm", ["-c", "code.cubin"], folder)


def resources(cubin: bytes, arch: int) -> dict[str, Resources]:
    """What each kernel of an ELF file of machine code for an architecture takes, by its name.

    Raises:
        QCompileError: cuobjdump is missing, or does not take it.
    """
    with tempfile.TemporaryDirectory(prefix="qcompile-sass-") as folder:
        Path(folder, "code.cubin").write_bytes(cubin)
        text = _run("cuobjdump", ["-res-usage", "code.cubin"], folder)
    found: dict[str, Resources] = {}
    for usage in _USAGE.finditer(text):
        registers, stack, shared, local = map(int, usage.groups()[1:])
        reserved = RESERVED if shared and arch >= _COUNTED_FROM else 0
        found[usage[1]] = Resources(registers, stack + local, shared - reserved)
    return found


def extracted(fatbin: bytes, arch: int) -> bytes | None:
    """The ELF file for an architecture in an image of several; None if it holds none.

    Raises:
        QCompileError: cuobjdump is missing, or does not take the image.
    """
    with tempfile.TemporaryDirectory(prefix="qcompile-sass-") as folder:
        Path(folder, "code.fatbin").write_bytes(fatbin)
        if f".sm_{arch}.cubin" not in _run("cuobjdump", ["-lelf", "code.fatbin"], folder):
            return None
        _run("cuobjdump", ["-xelf", f".sm_{arch}.cubin", "code.fatbin"], folder)
        return next(Path(folder).glob(f"*.sm_{arch}.cubin")).read_bytes()


def _run(tool: str, arguments: Sequence[str], folder: str) -> str:
    path = find_tool(tool)
    if path is None:
        raise QCompileError(
            f"{tool} was not found",
            hint=f'install it: pip install "qcompile[cuda]", or nvidia-cuda-{tool}',
        )
    try:
        done = subprocess.run(
            [path, *arguments],
            check=False,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise QCompileError(f"{path} cannot be run: {error}") from error
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines()
        raise QCompileError(f"{path} fails: {lines[0] if lines else 'it says nothing'}")
    return done.stdout
