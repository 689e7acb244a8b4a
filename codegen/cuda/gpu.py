"""The GPUs that a CUDA program is for, as schedules and compilers see them."""

from __future__ import annotations

from collections.abc import Collection

from qcompile.codegen.cuda.nvcc import GENERATIONS
from qcompile.codegen.cuda.source import cuda_target
from qcompile.codegen.machine import Machine
from qcompile.ir.target import Target

FAMILY = "cuda"
# Turing, Ampere (data centre, consumer), Ada, Hopper, Blackwell (data centre, consumer): machine code
# runs on later minor versions of its major version. Code that a driver compiles for what is between
# and after them.
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
_REGISTERS = 255  # of a thread


def gpu_of(target: Target) -> Machine:
    """A GPU as a Machine: one lane, since each element has its thread."""
    return Machine(
        target=cuda_target(),
        family=FAMILY,
        arch=target.arch or FAMILY,
        features=(),
        lanes=1,
        registers=_REGISTERS,
        dot="single",
    )


def architectures_of(target: Target, known: Collection[int]) -> tuple[tuple[int, ...], int]:
    """The architectures that machine code is compiled for, and the one of the PTX.

    Args:
        known: those that nvcc knows; of all GPUs, those that it does not know run the PTX.
    """
    if target.arch is None:
        some = tuple(number for number in ARCHITECTURES if number in known)
        bases = [base for base in GENERATIONS if base in known]
        return (some, max(bases)) if some and bases else (ARCHITECTURES, max(GENERATIONS))
    return (target.number,), max(base for base in GENERATIONS if base <= target.number)
