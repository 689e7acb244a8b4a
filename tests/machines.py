"""Which processors this one can stand for: the targets that kernel tests are forced to."""

from __future__ import annotations

from functools import cache

import pytest

from qcompile.codegen.machine import machine_of
from qcompile.ir.target import Target
from qcompile.machine import obstacle
from qcompile.program_info import Variant

_NEWEST = "cpu:icelake-server"
# SSE4; AVX2; AVX-512; with VNNI; AVX2 with VNNI; with VPOPCNTDQ, unless this machine is such a one;
# whatever this machine has.
TARGETS = (
    "cpu:x86-64-v2",
    "cpu:haswell",
    "cpu:skylake-avx512",
    "cpu:cascadelake",
    "cpu:alderlake",
    *([] if "avx512_vpopcntdq" in machine_of(Target()).features else [_NEWEST]),
    "cpu",
)


@cache
def why_not(target: str) -> str:
    """Why this machine cannot run code for a target; empty where it can."""
    machine = machine_of(Target.parse(target))
    return obstacle(Variant(machine.family, machine.arch, machine.features, ()))


def runnable(target: str) -> str:
    """The target; skips the test where this machine cannot run its code."""
    reason = why_not(target)
    if reason:
        pytest.skip(f"code for {target} {reason}")
    return target
