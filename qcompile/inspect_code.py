"""The code of some layers: assembly of their kernels on processors, CUDA C on GPUs."""

from __future__ import annotations

import difflib
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from qcompile.cuda.launches import Launch
from qcompile.debug_info import Place, places
from qcompile.errors import QCompileError
from qcompile.inspect_kernels import Kernel
from qcompile.program_file import Archive
from qcompile.program_info import CUDA, Variant

_NAMED = 8  # layers that a hint names; of more it says how many
_LLVM = ("llvm-objdump", *(f"llvm-objdump-{version}" for version in range(22, 13, -1)))
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(.*?)\s*$", re.MULTILINE)
# Functions without symbols: the nearest one, that is named there, is another.
_NEAREST = re.compile(r"\s*<[^>@]*>")
_KERNEL = re.compile(
    r'^extern "C" __global__ [^;{]*?(\w+)\([^();{]*\) \{$.*?^\}$', re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Listing:
    """The code of a kernel's function.

    Attributes:
        title: which layer's kernel it is, and how it computes.
        lines: of the code.
        language: "asm" or "cuda".
    """

    title: str
    lines: tuple[str, ...]
    language: str

    def __str__(self) -> str:
        mark = "//" if self.language == CUDA else "#"
        return "\n".join([f"{mark} {self.title}", *self.lines])


AnyKernel = TypeVar("AnyKernel", bound=Kernel)


def kernels_of(pattern: str, kernels: Sequence[AnyKernel]) -> list[tuple[int, AnyKernel]]:
    """The kernels of a layer, or of all that a glob matches, with their numbers.

    Raises:
        QCompileError: there is no such layer.
    """
    found = [
        (number, kernel)
        for number, kernel in enumerate(kernels)
        if pattern == kernel.layer or fnmatchcase(kernel.layer, pattern)
    ]
    if not found:
        layers = list(dict.fromkeys(kernel.layer for kernel in kernels if kernel.layer))
        raise QCompileError(
            f"no layer that has a kernel is called {pattern!r}", hint=_which(pattern, layers)
        )
    return found


def _which(pattern: str, layers: Sequence[str]) -> str:
    """Which layers may have been meant, or which there are."""
    near = difflib.get_close_matches(pattern, layers, n=3) if not pattern.isdecimal() else []
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = (
        f" and {len(layers) - _NAMED} more, which --kernels lists" if len(layers) > _NAMED else ""
    )
    return f"there are {', '.join(layers[:_NAMED])}{more}"


def listings(archive: Archive, variant: Variant, pattern: str) -> list[Listing]:
    """The code of the layers of a program that a path or glob names.

    Raises:
        QCompileError: there is no such layer; no tool to disassemble with; or the library does not
            say where its kernels are.
    """
    chosen = kernels_of(pattern, variant.kernels)
    if variant.machine == CUDA:
        return cuda_listings(archive.source(variant), variant.launches, variant.kernels, chosen)
    library = archive.library(variant)
    where = places(library)
    missing = sorted({kernel.name for _, kernel in chosen} - where.keys())
    if missing:
        raise QCompileError(
            f"the library does not say where {missing[0]} is",
            where=archive.where,
            hint="compile the model again",
        )
    code = _disassembled(library, variant.machine)
    return [
        Listing(
            titled(kernel, _found(where[kernel.name]), variant.kernels),
            _between(code, where[kernel.name]),
            "asm",
        )
        for kernel in _once(kernel for _, kernel in chosen)
    ]


def cuda_listings(
    source: str,
    launches: Sequence[Launch],
    kernels: Sequence[Kernel],
    chosen: Iterable[tuple[int, Kernel]],
) -> list[Listing]:
    """The functions of some of the kernels, in CUDA C.

    Args:
        kernels: all of them; `chosen` are some, with their numbers.
    """
    texts = {match[1]: match[0] for match in _KERNEL.finditer(source)}
    found: dict[str, Listing] = {}
    for number, kernel in chosen:
        for launch in launches:
            if launch.kernel == number and launch.symbol not in found:
                if launch.symbol not in texts:
                    raise QCompileError(f"the CUDA source has no function {launch.symbol}")
                more = [f"function {launch.symbol}", f"{launch.threads} threads a block"]
                title = titled(kernel, ", ".join([*more, *_samples(launch)]), kernels)
                lines = tuple(texts[launch.symbol].splitlines())
                found[launch.symbol] = Listing(title, lines, CUDA)
    return list(found.values())


def _samples(launch: Launch) -> list[str]:
    """For which batches it runs, where not for all."""
    if launch.most:
        return [f"for {launch.least} to {launch.most} samples"]
    return [f"from {launch.least} samples on"] if launch.least > 1 else []


def titled(kernel: Kernel, where: str, kernels: Sequence[Kernel] = ()) -> str:
    """The first line: whose kernel it is, and who else calls it."""
    layers = dict.fromkeys(k.layer for k in kernels if k.name == kernel.name)
    others = ", ".join(layer for layer in layers if layer != kernel.layer)
    shared = f"; also of {others}" if others else ""
    return f"{kernel.layer or kernel.name}: {how_of(kernel)}; {where}{shared}"


def how_of(kernel: Kernel) -> str:
    """What the arithmetic is, and how it is done where there was a choice."""
    tile = kernel.method.removeprefix(kernel.kind).strip()
    return " ".join(filter(None, (kernel.kind, tile)))


def _once(kernels: Iterable[AnyKernel]) -> list[AnyKernel]:
    """The first of those that call one function."""
    found: dict[str, AnyKernel] = {}
    for kernel in kernels:
        found.setdefault(kernel.name, kernel)
    return list(found.values())


def _found(place: Place) -> str:
    """A place in words."""
    size = f"{place.size:,} bytes"
    return f"{size}, inlined into {place.within}" if place.within else size


def _between(code: Mapping[int, str], place: Place) -> tuple[str, ...]:
    """The instructions of a function, with a line between what does not follow one another."""
    lines: list[str] = []
    for start, stop in place.ranges:
        lines += ["  ..."] * bool(lines)
        lines += [f"{at:8x}:  {code[at]}" for at in range(start, stop) if at in code]
    return tuple(lines)


# --- disassembling -------------------------------------------------------------------------------


def disassembler(family: str) -> str:
    """The path of a program that disassembles code for a family of processors.

    Raises:
        QCompileError: there is none.
    """
    own = ("objdump",) if family == platform.machine() else ()
    names = (f"{family.replace('_', '-')}-linux-gnu-objdump", *own, *_LLVM)
    for path in filter(None, map(shutil.which, (f"{family}-linux-gnu-objdump", *names))):
        return path
    package = "binutils" if own else f"binutils-{family.replace('_', '-')}-linux-gnu"
    raise QCompileError(
        f"no program was found that disassembles code for {family}",
        hint=f"install objdump (Debian: apt-get install {package}) or llvm-objdump (llvm)",
    )


def _disassembled(library: bytes, family: str) -> dict[int, str]:
    """All instructions of a library, by address."""
    tool = disassembler(family)
    every = ["--mattr=+all"] if "llvm" in Path(tool).name and family == "aarch64" else []
    with tempfile.TemporaryDirectory(prefix="qcompile-asm-") as folder:
        path = Path(folder, "library.so")
        path.write_bytes(library)
        command = [tool, "-d", "--no-show-raw-insn", *every, str(path)]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        except OSError as error:
            raise QCompileError(f"{tool} cannot be run: {error}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise QCompileError(f"{tool} fails: {said[0] if said else 'it says nothing'}")
    return {
        int(match[1], 16): _NEAREST.sub("", match[2].replace("\t", " "))
        for match in _INSTRUCTION.finditer(done.stdout)
    }
