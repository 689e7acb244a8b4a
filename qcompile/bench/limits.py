"""The limits of this processor: dot products and reading memory, by loops in C that are compiled here.

`limit/*.c` has the known methods for each instruction set, apart from the project's own code
generator: all data in the first cache, finishing a sum and storing it included. What a method cannot
do in such a loop, no convolution does. Each is checked against plain C before it is timed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from statistics import median

from qcompile import cpuinfo
from qcompile.rivals.turns import take_turns

SOURCES = Path(__file__).parent / "limit"
BINARY, INT8, FLOAT = "1 bit", "int8", "fp32"
_PASS = 1 << 24  # bytes that are read at a time, at least
_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd")


@dataclass(frozen=True)
class InstructionSet:
    """One file of loops.

    Attributes:
        name: also of its source.
        flags: what /proc/cpuinfo must list.
        options: for the compiler.
        contains: sets whose loops a processor with this one runs too.
    """

    name: str
    flags: tuple[str, ...]
    options: tuple[str, ...]
    contains: tuple[str, ...] = ()


AVX2 = InstructionSet("avx2", ("avx2", "fma"), ("-mavx2", "-mfma"))
AVX_VNNI = InstructionSet("avx_vnni", ("avx_vnni",), ("-mavx2", "-mavxvnni"), ("avx2",))
AVX512 = InstructionSet(
    "avx512", _AVX512, ("-march=skylake-avx512", "-mprefer-vector-width=512"), ("avx2",)
)
AVX512_VNNI = InstructionSet(
    "avx512_vnni", (*_AVX512, "avx512_vnni"), ("-march=cascadelake",), ("avx512", "avx2")
)
AVX512_VPOPCNTDQ = InstructionSet(
    "avx512_vpopcntdq",
    (*_AVX512, "avx512_vpopcntdq"),
    ("-march=skylake-avx512", "-mavx512vpopcntdq"),
    ("avx512_vnni", "avx512", "avx2"),
)
SETS = (AVX2, AVX_VNNI, AVX512, AVX512_VNNI, AVX512_VPOPCNTDQ)


@dataclass(frozen=True)
class Loop:
    """A loop that is compiled, checked, and can be called.

    Attributes:
        method: its kind of numbers, a colon, and how.
        macs: multiply-accumulates of one repetition.
    """

    isa: str
    method: str
    k: int
    macs: int
    library: ctypes.CDLL = field(repr=False, compare=False)
    index: int

    @property
    def kind(self) -> str:
        """`BINARY`, `INT8` or `FLOAT`."""
        return self.method.partition(":")[0]

    def run(self, repeats: int) -> None:
        """Run it so many times."""
        self.library.limit_run(self.index, repeats)


@dataclass(frozen=True)
class Limit:
    """The rate of one loop, in GMAC/s: median and best of the rounds."""

    loop: Loop
    rate: float
    best: float


def loops(isa: InstructionSet) -> list[Loop]:
    """The loops of a set, each checked against plain C.

    Raises:
        Unlimited: they cannot be had here, or one of them computes something else.
    """
    library = _library(isa)
    library.limit_method.restype = ctypes.c_char_p
    found = []
    for i in range(library.limit_count()):
        loop = Loop(
            isa.name,
            library.limit_method(i).decode(),
            library.limit_k(i),
            library.limit_macs(i),
            library,
            i,
        )
        if not library.limit_check(i):
            raise Unlimited(f"wrong result: {loop.method}, K = {loop.k}")
        found.append(loop)
    return found


class Unlimited(Exception):
    """Why the loops of a set cannot be had."""


@cache
def _library(isa: InstructionSet) -> ctypes.CDLL:
    missing = [f for f in isa.flags if f not in cpuinfo.flags()]
    if missing:
        raise Unlimited(f"this processor lacks {', '.join(missing)}")
    return compiled(f"{isa.name}.c", isa.options)


def compiled(source: str, options: Sequence[str]) -> ctypes.CDLL:
    """One of the sources, as a library.

    Raises:
        Unlimited: there is no compiler, or it refuses.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Unlimited("there is no C compiler: install one, or name it in CC")
    with tempfile.TemporaryDirectory(prefix="qcompile-limit-") as folder:
        made = Path(folder, "limit.so")
        command = [*compiler.split(), "-O3", *options, "-shared", "-fPIC", str(SOURCES / source)]
        done = subprocess.run(
            [*command, "-o", str(made)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            first = next((s for s in done.stderr.splitlines() if "error" in s), "no message")
            raise Unlimited(f"{compiler} refuses it: {first}")
        return ctypes.CDLL(str(made))


def measured(found: Sequence[Loop], seconds: float = 0.2) -> list[Limit]:
    """Rates of loops, which take turns; in time of this process, as the loops use one thread."""
    repeats = [max(1, round(2e8 / loop.macs)) for loop in found]
    calls = [partial(loop.run, n) for loop, n in zip(found, repeats, strict=True)]
    samples = take_turns(calls, seconds=seconds, clock=time.process_time)
    rates = []
    for loop, count, taken in zip(found, repeats, samples, strict=True):
        work = loop.macs * count / 1e9
        rates.append(Limit(loop, work / median(taken), work / min(taken)))
    return rates


@dataclass(frozen=True)
class Reading:
    """Bytes that one core reads in a second, in order, of so many bytes again and again."""

    bytes: int
    rate: float


def reading(sizes: Sequence[int], seconds: float = 0.1) -> list[Reading]:
    """What is read from memory of each size; they take turns.

    Args:
        sizes: bytes, multiples of 512.

    Raises:
        Unlimited: there is no compiler, or not so much memory.
    """
    library = compiled("bandwidth.c", ("-march=native",))
    library.bandwidth_open.argtypes = [ctypes.c_int64]
    library.bandwidth_read.argtypes = [ctypes.c_int64, ctypes.c_int64]
    if not library.bandwidth_open(max(sizes)):
        raise Unlimited(f"there is no memory of {max(sizes):,} bytes")
    try:
        repeats = [max(1, _PASS // size) for size in sizes]
        calls = [
            partial(library.bandwidth_read, size, count)
            for size, count in zip(sizes, repeats, strict=True)
        ]
        samples = take_turns(calls, seconds=seconds, clock=time.process_time)
    finally:
        library.bandwidth_close()
    return [
        Reading(size, size * count / median(taken))
        for size, count, taken in zip(sizes, repeats, samples, strict=True)
    ]


def limits(found: Sequence[Limit], kind: str = BINARY) -> dict[str, dict[int, float]]:
    """GMAC/s by instruction set and K: the best method of that set, and of those it contains."""
    table: dict[str, dict[int, float]] = {}
    for isa in SETS:
        for limit in found:
            if limit.loop.isa in (isa.name, *isa.contains) and limit.loop.kind == kind:
                row = table.setdefault(isa.name, {})
                row[limit.loop.k] = max(row.get(limit.loop.k, 0.0), limit.rate)
    return table


def best_loop(found: Sequence[Limit], isa: str, k: int) -> Loop | None:
    """The fastest binary loop for a K that a processor with this set runs, if there is one."""
    own = next(s for s in SETS if s.name == isa)
    fit = [x for x in found if x.loop.isa in (isa, *own.contains) and x.loop.kind == BINARY]
    ranked = sorted((x for x in fit if x.loop.k == k), key=lambda x: x.rate)
    return ranked[-1].loop if ranked else None
