"""NVRTC, NVIDIA's compiler as a library: CUDA C to machine code where a program runs. Needs no GPU."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable, Iterator
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from qcompile.errors import QCompileError

LIBRARY = "libnvrtc.so"
MAJORS = (13, 12)  # the versions that know sm_75 and whatever came after it
# Floats must be those of the references: no contraction, no fast math.
OPTIONS = ("--fmad=false", "--std=c++17", "-DNDEBUG")

_Program = c_void_p
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "nvrtcVersion": (POINTER(c_int), POINTER(c_int)),
    "nvrtcGetNumSupportedArchs": (POINTER(c_int),),
    "nvrtcGetSupportedArchs": (POINTER(c_int),),
    "nvrtcCreateProgram": (POINTER(_Program), c_char_p, c_char_p, c_int, c_void_p, c_void_p),
    "nvrtcCompileProgram": (_Program, c_int, POINTER(c_char_p)),
    "nvrtcGetProgramLogSize": (_Program, POINTER(c_size_t)),
    "nvrtcGetProgramLog": (_Program, c_char_p),
    "nvrtcGetCUBINSize": (_Program, POINTER(c_size_t)),
    "nvrtcGetCUBIN": (_Program, c_char_p),
    "nvrtcGetPTXSize": (_Program, POINTER(c_size_t)),
    "nvrtcGetPTX": (_Program, c_char_p),
    "nvrtcDestroyProgram": (POINTER(_Program),),
}


class Nvrtc:
    """One of its libraries.

    Attributes:
        version: of CUDA, major and minor.
        architectures: that it compiles for, as 86 for 8.6, ascending.
    """

    def __init__(self, path: str) -> None:
        """Load it.

        Raises:
            OSError: there is none, it does not load, or it is something else.
        """
        self.path = path
        # NVRTC asks the loader for these by name alone, which finds what is loaded already. Where the
        # loader finds NVRTC by its name, it finds these too: the current folder is no place for either.
        beside = Path(path).parent.glob("libnvrtc-builtins.so.*") if "/" in path else ()
        for builtins in sorted(beside):
            ctypes.CDLL(str(builtins))
        library = ctypes.CDLL(path)
        self._functions: dict[str, Callable[..., int]] = {}
        for name, types in _FUNCTIONS.items():
            function = getattr(library, name, None)
            if function is None:
                raise OSError(f"{path} has no {name}")
            function.argtypes, function.restype = types, c_int
            self._functions[name] = function
        major, minor, count = c_int(), c_int(), c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        found = (c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", found)
        self.architectures = tuple(sorted(found))

    def compile(self, source: str, arch: int) -> bytes:
        """Machine code for a GPU of this compute capability (86 for 8.6); PTX where it is a newer one
        than NVRTC knows.

        Raises:
            QCompileError: the source is not accepted; with what NVRTC says of it.
        """
        known = [a for a in self.architectures if a <= arch]
        if not known:
            raise QCompileError(f"NVRTC {self.named} does not compile for sm_{arch}", hint=INSTALL)
        form, best = ("CUBIN", f"sm_{arch}") if arch in known else ("PTX", f"compute_{known[-1]}")
        options = [f"--gpu-architecture={best}", *OPTIONS]
        program = _Program()
        text = source.encode()
        self._call("nvrtcCreateProgram", ctypes.byref(program), text, b"program.cu", 0, None, None)
        try:
            given = (c_char_p * len(options))(*(option.encode() for option in options))
            if self._functions["nvrtcCompileProgram"](program, len(options), given):
                said = self._text(program, "nvrtcGetProgramLog").decode(errors="replace")
                raise _not_compiled(said.rstrip("\0"), best)
            return self._text(program, f"nvrtcGet{form}")
        finally:
            self._functions["nvrtcDestroyProgram"](ctypes.byref(program))

    @property
    def named(self) -> str:
        return ".".join(map(str, self.version))

    def _text(self, program: c_void_p, name: str) -> bytes:
        size = c_size_t()
        self._call(f"{name}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(name, program, buffer)
        return buffer.raw

    def _call(self, name: str, *arguments: Any) -> None:
        if code := self._functions[name](*arguments):
            raise OSError(f"{name} of {self.path} failed with {code}")


INSTALL = (
    "pip install nvidia-cuda-nvrtc (nvidia-cuda-nvrtc-cu12 for drivers before R580); or compile the "
    "program where nvcc is installed, so that it holds machine code"
)


def _not_compiled(said: str, arch: str) -> QCompileError:
    lines = [line for line in said.splitlines() if line.strip()]
    first = next((line for line in lines if "error" in line), lines[0] if lines else "no reason")
    return QCompileError(
        f"NVRTC does not compile the program's CUDA source for {arch}: {first.strip()}",
        hint="all that it says:\n" + "\n".join(f"    {line}" for line in lines[:40]),
    )


def paths() -> Iterator[str]:
    """Where NVRTC may be: NVIDIA's packages, a toolkit, what the loader knows, beside torch."""
    for major in MAJORS:
        name = f"{Path(LIBRARY).name}.{major}"
        for root in _locations("nvidia"):
            yield from (str(root / part / "lib" / name) for part in (f"cu{major}", "cuda_nvrtc"))
        homes = [os.environ.get(key) for key in ("CUDA_HOME", "CUDA_PATH")]
        yield from (str(Path(home, "lib64", name)) for home in homes if home)
        yield f"{LIBRARY}.{major}"
    for root in _locations("torch"):
        yield from map(str, sorted((root / "lib").glob("libnvrtc[.-]*so*")))


def _locations(package: str) -> list[Path]:
    """A package's folders, without importing it."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # what is loaded under this name came from nowhere
        return []
    return [Path(p) for p in (spec.submodule_search_locations if spec else None) or ()]


@cache
def libraries() -> tuple[Nvrtc, ...]:
    """Those of this machine, one for each version, the newest first."""
    found: dict[tuple[int, int], Nvrtc] = {}
    for path in paths():
        if "/" in path and not Path(path).is_file():
            continue
        try:
            one = Nvrtc(path)
        except OSError:
            continue
        found.setdefault(one.version, one)
    return tuple(found[version] for version in sorted(found, reverse=True))


def nvrtc(driver: tuple[int, int]) -> Nvrtc:
    """The newest NVRTC whose machine code a driver of this version takes; else the oldest.

    Raises:
        QCompileError: there is none.
    """
    known = libraries()
    if not known:
        raise QCompileError("NVRTC (libnvrtc.so.13 or .12) is not installed", hint=INSTALL)
    fitting = [one for one in known if one.version[0] <= driver[0]]
    return fitting[0] if fitting else known[-1]
