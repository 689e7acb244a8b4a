"""What a processor must have to run code that was compiled for another: nothing is forgotten."""

from __future__ import annotations

import re

import pytest
import tvm
from tvm.target import codegen as llvm

from qcompile.codegen import machine
from qcompile.codegen.machine import Machine, machine_of
from qcompile.errors import QCompileError
from qcompile.ir.target import VARIANTS, Target

# LLVM's features that add no instruction to what it may emit from our code: those that every
# processor of the family has, those of the system, those that only intrinsics give, and those that
# say how a processor likes its code.
HARMLESS = {
    "x86_64": re.compile(
        r"64bit|64bit-mode|cmov|cx8|fxsr|mmx|nopl|sse|sse2|x87"
        r"|clflushopt|cldemote|clwb|clzero|enqcmd|fsgsbase|hreset|invpcid|kl|mwaitx|pconfig|pku"
        r"|ptwrite|rdpid|rdpru|rdrnd|rdseed|serialize|shstk|tsxldtrk|uintr|usermsr|waitpkg"
        r"|wbnoinvd|widekl|xsave\w*|amx-.*"
        r"|(fast|faster|slow|no-bypass|false-deps|prefer|allow|use|tuning)-.*"
        r"|idiv[lq]-to-div[bl]|lea-(sp|uses-ag)|branchfusion|macrofusion|pad-short-functions"
        r"|no-bypass-delay|sbb-dep-breaking|vzeroupper|ermsb|fsrm"
    ),
    "aarch64": re.compile(
        r"v8r|v[89](\.\da|a)|fp-armv8"
        r"|am|amvs|brbe|bti|ccdp|ccidx|ccpp|chk|clrbhb|CONTEXTIDREL2|dit|ecv|el2vmsa|el3|ete|fgt"
        r"|fpac|hcx|lor|mec|mpam|mte|nmi|nv|pan|pan-rwv|perfmon|predres|rand|ras|rme|sb|sel2|spe"
        r"|spe-eef|specres2|specrestrict|ssbs|tlb-rmi|tracev8.4|trbe|uaops|vh|wfxt|xs"
        r"|sme-.*|strict-align"
        r"|a\d+\w*|(ampere|apple-|cortex-|c1-|exynosm|neoverse|oryon-|thunderx|tsv)[\w-]*|carmel"
        r"|falkor|fujitsu-monaka|kryo|olympus|saphira"
        r"|(fuse|disable|use|slow|zcm|zcz|arith|alu|addr|aggressive|no|max)-.*"
        r"|alternate-sextload-cvt-f32-pattern|avoid-ldapur|balance-fp-ops|cmp-bcc-fusion"
        r"|enable-select-opt|exynos-cheap-as-move|force-32bit-jump-tables|ldp-aligned-only"
        r"|predictable-select-expensive|store-pair-suppress|stp-aligned-only"
    ),
}


def processors(family: str) -> list[str]:
    """All that LLVM knows, by name; of x86 those of 64 bits."""
    target = tvm.target.Target({"kind": "llvm", "mtriple": f"{family}-linux-gnu"})
    names = [str(name) for name in llvm.llvm_get_cpu_archlist(target)]
    return [n for n in names if family != "x86_64" or "64bit" in features(family, n)]


def features(family: str, arch: str) -> set[str]:
    target = {"kind": "llvm", "mcpu": arch, "mtriple": f"{family}-linux-gnu"}
    return {str(f) for f in llvm.llvm_get_cpu_features(tvm.target.Target(target))}


@pytest.mark.parametrize("family", VARIANTS)
def test_every_instruction_of_every_processor_is_asked_for_or_never_emitted(family: str) -> None:
    """A feature that a newer LLVM brings fails here: it belongs in one of the three."""
    known = machine._EMITTED.keys() | machine._NEVER
    for arch in processors(family):
        rest = features(family, arch) - known
        assert {f for f in rest if not HARMLESS[family].fullmatch(f)} == set(), arch


def test_no_instruction_is_in_two_of_them() -> None:
    assert not machine._EMITTED.keys() & machine._NEVER
    for pattern in HARMLESS.values():
        assert not [f for f in machine._EMITTED.keys() | machine._NEVER if pattern.fullmatch(f)]


@pytest.mark.parametrize("arch", ["znver5", "bdver2", "diamondrapids", "neoverse-v1"])
def test_what_is_never_emitted_is_off(arch: str) -> None:
    target = machine_of(Target("cpu", arch)).target
    assert not {str(f) for f in llvm.llvm_get_cpu_features(target)} & machine._NEVER


def distinguished(machine: Machine) -> tuple[object, ...]:
    """What the kernels make of a processor."""
    popcount = "avx512_vpopcntdq" in machine.features and machine.lanes == 16
    return machine.lanes, machine.registers, machine.dot, popcount


@pytest.mark.parametrize("family", VARIANTS)
def test_the_portable_target_has_one_variant_for_each_kind_of_processor(family: str) -> None:
    variants = [distinguished(machine_of(Target("cpu", arch))) for arch in VARIANTS[family][:-1]]
    last = VARIANTS[family][-1]
    variants += [(4, 32, "byte pair", False) if last == "generic" else (4, 16, "pair", False)]
    assert len(set(variants)) == len(variants)
    # Both families have a "generic" one, which is this machine's.
    names = [n for n in processors(family) if n != "generic"]
    assert {distinguished(machine_of(Target("cpu", n))) for n in names} == set(variants)


@pytest.mark.parametrize("arch", ["i686", "pentium4"])
def test_processors_of_32_bits(arch: str) -> None:
    with pytest.raises(QCompileError, match=f"^{arch} is a 32-bit processor"):
        machine_of(Target("cpu", arch))
