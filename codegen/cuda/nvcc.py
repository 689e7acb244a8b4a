"""CUDA C to machine code, by NVIDIA's compiler; no GPU is needed.

A source tells architectures apart by their generation alone (the macro QC_ARCH: 75, 80 to 89, 90,
100 and up), so each generation is compiled to PTX once and that is assembled for its architectures:
a third less time than seven compilations. Neither products and sums are fused nor is a division
approximated: floats are what the source says.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qcompile.errors import QCompileError
from qcompile.nvidia import find_tool

GENERATIONS = (75, 80, 90, 100)

_FLAGS = ("-O3", "-w", "--fmad=false", "--allow-unsupported-compiler")
_SMALL = "--compress-mode=size"
_SMALL_SINCE = (12, 8)
_HOST = ("PATH", "NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")  # lead to a host compiler
_NO_COMPILER = re.compile(r"preprocess|gcc|g\+\+|cc1plus|host compiler")
_NEEDS_COMPILER = "nvcc needs g++ beside it (Debian: apt install g++), or NVCC_CCBIN that names it"
_MESSAGE = re.compile(r"\b(?:error|fatal)\b")
_INSTALL = (
    'install it (pip install "qcompile[cuda]", or the CUDA toolkit) and have it on PATH or let '
    "CUDA_HOME name the toolkit"
)


def find_nvcc() -> str | None:
    """The path of an nvcc that works: of the toolkit that CUDA_HOME or CUDA_PATH names, on PATH, or of
    NVIDIA's Python package; None if there is none, or no host compiler for it."""
    nvcc = find_tool("nvcc")
    return None if nvcc is None or lacks_compiler() else nvcc


def lacks_compiler() -> bool:
    """Whether there is an nvcc, but not the host compiler (g++) that it preprocesses with."""
    nvcc = find_tool("nvcc")
    return nvcc is not None and _lacks_compiler(nvcc, *map(os.environ.get, _HOST))


def nvcc_version() -> tuple[int, int]:
    """Of CUDA, as (13, 0).

    Raises:
        QCompileError: there is no nvcc, or it does not work.
    """
    return _about(_nvcc())[0]


def known_architectures() -> tuple[int, ...]:
    """The architectures that it makes machine code for, as 75 for sm_75, sorted; none without nvcc.

    Raises:
        QCompileError: it does not work.
    """
    nvcc = find_nvcc()
    return _about(nvcc)[1] if nvcc else ()


def fatbin(source: str, arches: Sequence[int], ptx: int | None = None) -> bytes:
    """Machine code for several architectures in one image, compressed.

    Args:
        source: CUDA C, without headers.
        arches: which, as 75 for sm_75; one at least.
        ptx: PTX for GPUs from that architecture on, which the driver assembles; None for none.

    Raises:
        QCompileError: there is no nvcc, it knows not all of them, or it does not take the source.
    """
    return _compile(source, "fatbin", _codes(arches, ptx))


def check(arches: Sequence[int], ptx: int | None = None) -> None:
    """See that nvcc, where there is one, makes code for these.

    Raises:
        QCompileError: it does not.
    """
    if find_nvcc():
        _codes(arches, ptx)


def cubin(source: str, arch: int) -> bytes:
    """Machine code for one architecture, as an ELF file.

    Raises:
        QCompileError: as `fatbin`.
    """
    return _compile(source, "cubin", _codes((arch,), None))


def _codes(arches: Sequence[int], ptx: int | None) -> dict[int, list[str]]:
    """What is assembled from each generation's PTX."""
    codes: dict[int, list[str]] = {}
    for arch in sorted(set(arches)):
        codes.setdefault(_generation(arch), []).append(f"sm_{arch}")
    if ptx is not None:
        codes.setdefault(_generation(ptx), []).append(f"compute_{_generation(ptx)}")
    version, known = _about(_nvcc())
    if missing := sorted({*arches, *codes} - set(known)):
        text = ", ".join(f"sm_{arch}" for arch in missing)
        raise QCompileError(
            f"nvcc {version[0]}.{version[1]} does not know {text}",
            hint=f"it knows {', '.join(f'sm_{arch}' for arch in known)}; install another nvcc, or "
            'name an architecture, as in target="cuda:sm_86"',
        )
    return codes


def _generation(arch: int) -> int:
    return max((g for g in GENERATIONS if g <= arch), default=arch)


def _compile(source: str, kind: str, codes: dict[int, list[str]]) -> bytes:
    nvcc = _nvcc()
    command = [nvcc, f"-{kind}", *_FLAGS]
    if kind == "fatbin":
        command += ["--threads", str(len(os.sched_getaffinity(0)))]
        command += [_SMALL] if _about(nvcc)[0] >= _SMALL_SINCE else []
    for base, made in codes.items():
        command += ["-gencode", f"arch=compute_{base},code=[{','.join(made)}]"]
    with tempfile.TemporaryDirectory(prefix="qcompile-nvcc-") as folder:
        path = Path(folder, "kernels.cu")
        path.write_text(source, encoding="utf-8")
        result = path.with_suffix(f".{kind}")
        _run([*command, "-o", str(result), path.name], folder)
        return result.read_bytes()


def _run(command: Sequence[str], folder: str | None = None) -> str:
    """What a command of nvcc prints.

    Raises:
        QCompileError: it fails; with its first message.
    """
    environment = os.environ | ({"TMPDIR": folder} if folder else {})
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise QCompileError(f"{command[0]} cannot be run: {error}", hint=_INSTALL) from error
    if done.returncode:
        lines = (done.stderr + done.stdout).splitlines()
        told = next(filter(_MESSAGE.search, lines), lines[0] if lines else "it says nothing")
        hint = _NEEDS_COMPILER if _NO_COMPILER.search(told) else None
        raise QCompileError(f"{command[0]} fails: {told.strip()}", hint=hint)
    return done.stdout


def _nvcc() -> str:
    nvcc = find_nvcc()
    if nvcc is None and lacks_compiler():
        raise QCompileError("nvcc finds no g++", hint=_NEEDS_COMPILER)
    if nvcc is None:
        raise QCompileError("nvcc was not found", hint=_INSTALL)
    return nvcc


@functools.cache
def _lacks_compiler(nvcc: str, *_: str | None) -> bool:
    """Try it on an empty file; the rest is what the answer depends on, and lets it be kept.

    Any other fault is left to be told by what takes nvcc.
    """
    with tempfile.TemporaryDirectory(prefix="qcompile-nvcc-") as folder:
        Path(folder, "empty.cu").touch()
        try:
            _run([nvcc, "-E", "empty.cu"], folder)
        except QCompileError as error:
            return error.hint == _NEEDS_COMPILER
    return False


@functools.cache
def _about(nvcc: str) -> tuple[tuple[int, int], tuple[int, ...]]:
    """The version of an nvcc, and the architectures that it knows."""
    release = re.search(r"release (\d+)\.(\d+)", _run([nvcc, "--version"]))
    codes = re.findall(r"^sm_(\d+)$", _run([nvcc, "--list-gpu-code"]), re.MULTILINE)
    if release is None or not codes:
        raise QCompileError(f"{nvcc} says no version", hint=_INSTALL)
    return (int(release[1]), int(release[2])), tuple(sorted(map(int, codes)))
