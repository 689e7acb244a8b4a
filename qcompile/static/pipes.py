"""Which part of an SM an instruction of a warp keeps busy, and for how many cycles at least.

Throughputs: CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions"; which pipe
takes what: Nsight Compute's documentation, "Pipelines". An SM has four partitions, each with a
scheduler, a tensor core, and a quarter of the lanes; shared memory and the first cache are one for
all four.
"""

from __future__ import annotations

from collections.abc import Mapping

from qcompile.static.gpus import Gpu
from qcompile.static.occupancy import PARTITIONS, WARP
from qcompile.static.sass import Instruction

OF_PARTITION = ("tensor", "xu", "alu", "fma", "imad", "issue")
OF_SM = ("l1",)

_L1_BYTES = 128  # in a clock of an SM, to or from registers
_TENSOR = ("BMMA", "IMMA")
_XU = frozenset(("POPC", "MUFU", "I2F", "F2I", "FRND", "FLO", "BREV"))
_FLOAT = frozenset(("FFMA", "FMUL", "FADD"))
_MULTIPLY = frozenset(("IMAD", "IDP"))  # taken by half of the lanes of "fma" from sm_86 on
_ALU = frozenset(
    (
        *("LOP3", "PLOP3", "SHF", "PRMT", "SGXT", "BMSK", "LEA", "MOV", "SEL", "FSEL", "VOTE"),
        *("IADD3", "IADD", "VIADD", "IABS", "ISETP", "FSETP", "IMNMX", "VIMNMX", "FMNMX"),
        *("I2FP", "F2FP", "I2IP"),
    )
)
_MEMORY = frozenset(("LDS", "STS", "LDG", "STG", "LDGSTS", "LD", "ST", "LDL", "STL"))
_ATOMIC = frozenset(("ATOMG", "ATOMS", "RED", "REDG", "ATOM", "SHFL"))
_LOADED_BYTES = {"128": 16, "64": 8, "U8": 1, "S8": 1, "U16": 2, "S16": 2}


def lanes(arch: int, pipe: str) -> int:
    """Results in a clock of an SM."""
    if pipe == "xu":
        return 16
    if pipe == "fma":
        return 64 if arch <= 80 else 128
    return 128 if pipe == "alu" and arch >= 120 else 64


def macs(one: Instruction) -> tuple[str, int]:
    """The type and the number of multiply-accumulates of an instruction of a tensor core, for a warp;
    ("", 0) of others."""
    if one.name not in _TENSOR or not one.modifiers:
        return "", 0
    shape = one.modifiers[0]
    rows, k = (16, shape[3:]) if shape.startswith("168") else (8, shape[2:])
    four = one.name == "IMMA" and any(m in ("U4", "S4") for m in one.modifiers)
    kind = "b1" if one.name == "BMMA" else "s4" if four else "s8"
    return kind, rows * 8 * int(k)


def loaded_bytes(one: Instruction) -> int:
    """Bytes that a thread loads or stores with an instruction; 0 if none."""
    if one.name == "LDSM":
        last = one.modifiers[-1]
        return 4 * (int(last) if last in ("2", "4") else 1)
    if one.name in _ATOMIC:
        return 4
    if one.name not in _MEMORY:
        return 0
    return next((_LOADED_BYTES[m] for m in one.modifiers if m in _LOADED_BYTES), 4)


def cycles(one: Instruction, gpu: Gpu) -> Mapping[str, float]:
    """Cycles for which a warp's instruction keeps parts of its partition, or of the SM, busy."""
    busy = {"issue": 1.0}
    kind, products = macs(one)
    if kind:
        # Without a rate of its own, a type is at most as fast as bytes.
        busy["tensor"] = products * PARTITIONS / gpu.tensor.get(kind, gpu.tensor["s8"])
    if size := loaded_bytes(one):
        busy["l1"] = max(1.0, WARP * size / _L1_BYTES)
    for pipe, names in (("xu", _XU), ("alu", _ALU), ("fma", _FLOAT), ("imad", _MULTIPLY)):
        if one.name in names:
            busy[pipe] = WARP * PARTITIONS / lanes(gpu.arch, pipe)
    if "imad" in busy:  # its lanes are among those of "fma"
        busy["fma"] = WARP * PARTITIONS / lanes(gpu.arch, "fma")
    return busy
