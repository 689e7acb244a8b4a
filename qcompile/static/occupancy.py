"""How many blocks of a kernel an SM holds at once: the rules of NVIDIA's cuda_occupancy.h."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qcompile.errors import QCompileError
from qcompile.static.tools import RESERVED, Resources

WARP = 32
PARTITIONS = 4  # of an SM, each with its own scheduler and registers
_REGISTERS = 65536 // PARTITIONS
_REGISTER_UNIT = 256  # registers of a warp are given out in such steps


@dataclass(frozen=True)
class Limits:
    """What an SM of an architecture holds.

    Attributes:
        threads, blocks: at once.
        shared: bytes of shared memory.
    """

    threads: int
    blocks: int
    shared: int


# CUDA C++ Programming Guide 13.0, "Technical Specifications per Compute Capability"; blocks as in
# cuda_occupancy.h.
LIMITS: Mapping[int, Limits] = {
    75: Limits(1024, 16, 64 << 10),
    80: Limits(2048, 32, 164 << 10),
    86: Limits(1536, 16, 100 << 10),
    87: Limits(1536, 16, 164 << 10),
    89: Limits(1536, 24, 100 << 10),
    90: Limits(2048, 32, 228 << 10),
    100: Limits(2048, 32, 228 << 10),
    103: Limits(2048, 32, 228 << 10),
    110: Limits(1536, 24, 228 << 10),
    120: Limits(1536, 24, 100 << 10),
    121: Limits(1536, 24, 100 << 10),
}


@dataclass(frozen=True)
class Occupancy:
    """How full an SM can be.

    Attributes:
        blocks: at once; 0 if not even one fits.
        share: of the warps that it could hold.
        limits: what there is not more of: "registers", "shared memory", "threads", "blocks".
    """

    blocks: int
    share: float
    limits: tuple[str, ...]


def limits_of(arch: int) -> Limits:
    """The limits of an architecture.

    Raises:
        QCompileError: they are not known.
    """
    if arch not in LIMITS:
        known = ", ".join(f"sm_{other}" for other in LIMITS)
        raise QCompileError(
            f"the limits of sm_{arch} are not known", hint=f"known are those of {known}"
        )
    return LIMITS[arch]


def occupancy(arch: int, threads: int, taken: Resources) -> Occupancy:
    """How many blocks of so many threads fit on an SM, all its fast memory given to shared memory.

    Raises:
        QCompileError: the architecture's limits are not known.
    """
    limits = limits_of(arch)
    warps = -(-threads // WARP)
    by = {
        "threads": limits.threads // (warps * WARP),
        "blocks": limits.blocks,
        "registers": _by_registers(warps, taken.registers),
        "shared memory": _by_shared(arch, limits, taken.shared),
    }
    blocks = min(by.values())
    tight = tuple(name for name, fit in by.items() if fit == blocks)
    return Occupancy(blocks, blocks * warps * WARP / limits.threads, tight)


def _by_registers(warps: int, registers: int) -> int:
    of_warp = _rounded(max(registers, 1) * WARP, _REGISTER_UNIT)
    if of_warp * _rounded(warps, PARTITIONS) > _REGISTERS * PARTITIONS:
        return 0  # a block is checked as if it had a multiple of four warps
    return _REGISTERS // of_warp * PARTITIONS // warps


def _by_shared(arch: int, limits: Limits, shared: int) -> int:
    reserved, unit = (RESERVED, 128) if arch >= 80 else (0, 256)
    taken = _rounded(shared + reserved, unit)
    return limits.shared // taken if taken else limits.threads


def _rounded(number: int, unit: int) -> int:
    return -(-number // unit) * unit
