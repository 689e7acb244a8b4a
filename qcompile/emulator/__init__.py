"""A GPU that is the CPU: CUDA C runs through g++, behind the functions of NVIDIA's driver.

    library = ctypes.CDLL(str(driver()))  # cuInit, cuModuleLoadData, cuLaunchKernel, ...
    code = image(source, 80)              # what cuModuleLoadData takes there

Threads of a block take turns, so that barriers, warp-wide instructions and asynchronous copies mean
what they mean on a GPU; a kernel that breaks their rules, or touches what is not its own, ends with
an error code, and `qc_emulator_message()` says what it did. Orders (`driver`) move what a GPU leaves
open: a kernel that is right gives the same in all of them.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from pathlib import Path

from qcompile.cpuinfo import flags
from qcompile.emulator import build
from qcompile.emulator.source import translated
from qcompile.errors import QCompileError

ORDERS = 4
_HEADER = struct.Struct("<8sIIQ")  # `Header` of native/abi.hpp
_MAGIC, _VERSION = b"QCEMULAT", 1
_NEEDED = {"popcnt", "sse4_2"}
_DRIVER = ("-O2", "-pthread", "-Wl,-soname,libcuda-emulated.so")
_IMAGE = (
    "-O1",
    "-w",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-strict-aliasing",
    "-fwrapv",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-builtin",  # a kernel may be called as a function of C
    "-fno-gnu-unique",  # or the library stays for good
    "-fcf-protection=none",
    "-fstack-clash-protection",  # a large frame does not step over the page that ends a stack
    "-include",
    "cuda.hpp",
)
_CHECKS = ("-fsanitize=bounds-strict,alignment,shift-exponent",)


def obstacle() -> str:
    """Why nothing can be emulated on this machine, or ""."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return (
            f"the emulator runs on Linux on x86-64, not {platform.system()} on {platform.machine()}"
        )
    if not flags() >= _NEEDED:
        return "the emulator needs a processor with SSE 4.2 and popcnt"
    if not build.found():
        return "the emulator needs g++ (Debian: apt install g++)"
    return ""


def driver(order: int = 0, threads: int | None = None) -> Path:
    """The emulated libcuda.so.1; how its kernels run from now on.

    The process has one: `qc_emulator_set(order, threads, architecture)` of the library does the same.

    Args:
        order: bit 0: threads, warps and blocks run in reversed order; bit 1: asynchronous copies
            are done at once, else as late as the kernel allows.
        threads: of this machine for a launch; None: one for each core, up to 8.

    Raises:
        QCompileError: nothing can be emulated here, or the arguments are out of range.
    """
    _check()
    source = '#include "driver.cpp"\n'
    path = build.made("libcuda", source, _DRIVER, ("-ldl",))
    library = ctypes.CDLL(str(path))
    if library.qc_emulator_set(order, threads or 0, 0):
        library.qc_emulator_message.restype = ctypes.c_char_p
        raise QCompileError(f"the emulator refuses {library.qc_emulator_message().decode()}")
    return path


def image(source: str, arch: int, *, checked: bool = False) -> bytes:
    """Kernels for the emulated driver's cuModuleLoadData.

    Args:
        source: CUDA C without includes; single instructions are called as `qc_ptx_*`
            (native/ptx.hpp).
        arch: 80 for sm_80; QC_EMULATED is 800.
        checked: array indices, alignment and shifts are checked as the kernels run.

    Raises:
        QCompileError: nothing can be emulated here, or g++ refuses the source.
    """
    _check()
    options = [*_IMAGE, f"-DQC_EMULATED={arch * 10}"]
    if build.fills_variables():  # or what another thread left on the stack is read, often 0
        options.append("-ftrivial-auto-var-init=pattern")
    if checked:
        options += ["-DQC_CHECKED", *_CHECKS]
    path = build.made("image", translated(source, checked=checked), options, ("-lm",))
    code = path.read_bytes()
    return _HEADER.pack(_MAGIC, _VERSION, arch, len(code)) + code


def _check() -> None:
    if why := obstacle():
        raise QCompileError(why)
