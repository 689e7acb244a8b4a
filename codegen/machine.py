"""The machine that code is written for: vector width, registers, and instructions beyond the common.

Target("cpu", "haswell") -> Machine(arch="haswell", lanes=8, dot="pair", ...)
"""

from __future__ import annotations

import difflib
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm.target import codegen as llvm

from qcompile.errors import QCompileError
from qcompile.ir.target import Target

_CPUINFO = Path("/proc/cpuinfo")

# What LLVM may emit from arithmetic on vectors and bits, by LLVM's name; Linux's where another.
_EMITTED = {
    "sse3": "pni",
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "popcnt": "popcnt",
    "movbe": "movbe",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "lzcnt": "abm",
    "gfni": "gfni",
    "avxvnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512fp16": "avx512_fp16",
    "neon": "asimd",
    "dotprod": "asimddp",
}


@dataclass(frozen=True)
class Machine:
    """What the schedules need to know.

    Attributes:
        target: what TVM is given.
        arch: LLVM's name of the processor.
        features: the instructions that the code may use, in Linux's spelling, sorted.
        lanes: 32-bit lanes of a vector register.
        registers: how many vector registers there are.
        dot: how int8 products are summed: "quad" (four in one instruction, unsigned by signed),
            "pair" (two, of 16 bits), or "single".
    """

    target: Any
    arch: str
    features: tuple[str, ...]
    lanes: int
    registers: int
    dot: str


def machine_of(target: Target) -> Machine:
    """Describe the processor of a target; no name means this machine's.

    Raises:
        QCompileError: LLVM does not know the processor.
    """
    host = str(llvm.llvm_get_system_cpu())
    arch = target.arch or host
    if target.arch and not llvm.llvm_is_valid_cpu(arch, llvm.llvm_get_system_triple()):
        # An unknown name only logs an error in TVM, and silently gives code for a generic processor.
        raise QCompileError(f"unknown processor {arch!r}", hint=_suggestion(arch))
    plain = tvm.target.Target({"kind": "llvm", "mcpu": arch})
    has = {str(f) for f in llvm.llvm_get_cpu_features(plain)}
    mattr: list[str] = []
    if not target.arch:
        # Virtual machines hide instructions of the processor that they name.
        hidden = {f for f in has & _EMITTED.keys() if _EMITTED[f] not in _host_flags()}
        mattr = sorted(f"-{feature}" for feature in hidden)
        has -= hidden
    options = {"kind": "llvm", "mcpu": arch, **({"mattr": mattr} if mattr else {})}
    lanes = 16 if {"avx512f", "avx512bw"} <= has else 8 if "avx2" in has else 4
    return Machine(
        target=tvm.target.Target(options),
        arch=arch,
        features=tuple(sorted(_EMITTED[f] for f in has & _EMITTED.keys())),
        lanes=lanes,
        registers=32 if lanes == 16 or not _is_x86() else 16,
        dot=_dot(has, lanes),
    )


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def _dot(has: set[str], lanes: int) -> str:
    if not _is_x86():
        return "single"
    return "quad" if lanes == 16 and "avx512vnni" in has else "pair"


def _host_flags() -> set[str]:
    """What Linux says that this processor has; all of it where there is no Linux to ask."""
    if not _CPUINFO.exists():
        return set(_EMITTED.values())
    flags: set[str] = set()
    for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags.update(value.split())
    return flags


def _suggestion(arch: str) -> str:
    known = [str(name) for name in llvm.llvm_get_cpu_archlist(_generic())]
    close = difflib.get_close_matches(arch, known, n=3, cutoff=0.5)
    some = close or [n for n in ("x86-64-v2", "haswell", "x86-64-v4", "znver4") if n in known]
    return f"LLVM's names are meant, as {', '.join(some or known[:8])}; none means this machine's"


def _generic() -> Any:
    return tvm.target.Target({"kind": "llvm"})
