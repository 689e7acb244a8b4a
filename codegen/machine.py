"""The machine that code is written for: vector width, registers, and instructions beyond the common.

Target("cpu", "haswell") -> Machine(family="x86_64", arch="haswell", lanes=8, dot="pair", ...)

The processor may be of another family than this machine's: the name tells.
"""

from __future__ import annotations

import difflib
import platform
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.target import codegen as llvm

from qcompile import cpuinfo
from qcompile.errors import QCompileError
from qcompile.ir.target import Target

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
    "fullfp16": "asimdhp",
    "fp16fml": "asimdfhm",
    "rdm": "asimdrdm",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sha3": "sha3",
    "sve": "sve",
    "sve2": "sve2",
    "cssc": "cssc",
    "mops": "mops",
}

# What LLVM is not to emit, since nothing asks for it where a program is loaded. All that it might
# emit, and that is in neither table, is part of every processor of the family.
_NOT_EMITTED = (
    "sse4a fma4 xop tbm lwp crc32 cx16 sahf pclmul vpclmulqdq aes vaes sha sha512 sm3 sm4 adx prfchw "
    "prefetchi movrs movdiri movdir64b cmpccxadd avx512bf16 avx512vp2intersect avxifma "
    "avxneconvert avxvnniint8 avxvnniint16 avx10.1 avx10.2 egpr ndd nf ccmp zu ppx push2pop2 "
    "branch-hint "
    # AArch64
    "sha2 sve-aes sve-sha3 sve-sm4 sve-bitperm sve-b16b16 crc lse lse2 rcpc rcpc-immo rcpc3 jsconv "
    "complxnum fptoint faminmax fp8 fp8fma fp8dot2 fp8dot4 lut sme sme2 sme2p1 flagm altnzcv hbc "
    "ls64 pauth"
)
_NEVER = frozenset(_NOT_EMITTED.split())

# What LLVM takes as the triple of a family that is not this machine's.
_TRIPLES = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}
_SPELLINGS = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Machine:
    """What the schedules need to know.

    Attributes:
        target: what TVM is given.
        family: of processors, as `platform.machine()` spells it on Linux: "x86_64", "aarch64".
        arch: LLVM's name of the processor.
        features: the instructions that the code may use, in Linux's spelling, sorted.
        lanes: 32-bit lanes of a vector register.
        registers: how many vector registers there are.
        dot: how int8 products are summed: "quad" (four in one instruction, unsigned by signed),
            "signed quad" (four, signed by signed), "mixed quad" (four, either), "pair" (two, of 16
            bits), "byte pair" (two, of 8 bits), or "single".
    """

    target: Any
    family: str
    arch: str
    features: tuple[str, ...]
    lanes: int
    registers: int
    dot: str

    @property
    def fuses(self) -> bool:
        """Whether it multiplies and adds in one instruction, of one rounding."""
        return self.family != "x86_64" or "fma" in self.features

    @property
    def multiplies_integers(self) -> bool:
        """Whether products of 32-bit integers cost no more than those of floats, as on GPUs."""
        return self.family == "cuda"


def machine_of(target: Target) -> Machine:
    """Describe the processor of a target; no name means this machine's.

    Raises:
        QCompileError: LLVM does not know the processor, or it has 32 bits; or Linux does not say
            what this one has.
    """
    arch = target.arch or str(llvm.llvm_get_system_cpu())
    family = _family(arch) if target.arch else host_family()
    options = {"kind": "llvm", "mcpu": arch}
    if family != host_family():
        options["mtriple"] = _TRIPLES[family]
    has = {str(f) for f in llvm.llvm_get_cpu_features(tvm.target.Target(options))}
    if family == "x86_64" and "64bit" not in has:  # at which LLVM ends the process
        raise QCompileError(f"{arch} is a 32-bit processor", hint=_suggestion(arch))
    off = has & _NEVER
    if not target.arch:
        # Virtual machines hide instructions of the processor that they name.
        off |= {f for f in has & _EMITTED.keys() if _EMITTED[f] not in cpuinfo.flags()}
    has -= off
    mattr = sorted(f"-{feature}" for feature in off)
    lanes = 16 if {"avx512f", "avx512bw"} <= has else 8 if "avx2" in has else 4
    return Machine(
        target=tvm.target.Target({**options, **({"mattr": mattr} if mattr else {})}),
        family=family,
        arch=arch,
        features=tuple(sorted(_EMITTED[f] for f in has & _EMITTED.keys())),
        lanes=lanes,
        registers=32 if lanes == 16 or family == "aarch64" else 16,
        dot=_dot(family, has, lanes),
    )


def host_family() -> str:
    """The family of this machine's processor, as Linux spells it."""
    name = platform.machine().lower()
    return _SPELLINGS.get(name, name)


def _family(arch: str) -> str:
    """The family of a processor; this machine's, if both have one of that name.

    Raises:
        QCompileError: no family has it.
    """
    host = host_family()
    if llvm.llvm_is_valid_cpu(arch, llvm.llvm_get_system_triple()):
        return host
    for family, triple in _TRIPLES.items():
        if family != host and llvm.llvm_is_valid_cpu(arch, triple):
            return family
    # An unknown name only logs an error in TVM, and silently gives code for a generic processor.
    raise QCompileError(f"unknown processor {arch!r}", hint=_suggestion(arch))


def _dot(family: str, has: set[str], lanes: int) -> str:
    if family == "x86_64":
        vnni = "avx512vnni" if lanes == 16 else "avxvnni"
        return "quad" if vnni in has else "pair"
    if family != "aarch64":
        return "single"
    return "mixed quad" if "i8mm" in has else "signed quad" if "dotprod" in has else "byte pair"


def _suggestion(arch: str) -> str:
    own = _known({"kind": "llvm"})
    known = own + [n for triple in _TRIPLES.values() for n in _known({"mtriple": triple})]
    close = difflib.get_close_matches(arch, dict.fromkeys(known), n=3, cutoff=0.5)
    some = close or [n for n in ("x86-64-v2", "haswell", "x86-64-v4", "znver4") if n in own]
    return f"LLVM's names are meant, as {', '.join(some or own[:8])}; none means this machine's"


def _known(options: dict[str, str]) -> list[str]:
    target = tvm.target.Target({"kind": "llvm", **options})
    return [str(name) for name in llvm.llvm_get_cpu_archlist(target)]
