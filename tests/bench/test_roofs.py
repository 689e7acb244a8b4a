"""Roofs: which loops bound which program, what is read from where, and why something is missing."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from qcompile.bench import limits, machine_facts, roofs
from qcompile.bench.limits import InstructionSet, Limit, Loop, Reading
from qcompile.bench.machine_facts import Cache

K = 4608


def loop(isa: str, method: str) -> Loop:
    return Loop(isa, method, K, 1000, ctypes.CDLL(None), 0)


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"avx2": 300.0, "avx512": 500.0, "avx512_vnni": 0.0, "avx512_vpopcntdq": 900.0}

    def found(isa: InstructionSet) -> list[Loop]:
        return [loop(isa.name, "1 bit: a"), loop(isa.name, "fp32: b")]

    def measured(found: Sequence[Loop], seconds: float) -> list[Limit]:
        return [Limit(x, rates[x.isa] / (1 if x.kind == "1 bit" else 10), 0.0) for x in found]

    monkeypatch.setattr(limits, "loops", found)
    monkeypatch.setattr(limits, "measured", measured)
    monkeypatch.setattr(
        limits, "reading", lambda sizes, seconds: [Reading(size, 1e9) for size in sizes]
    )


@pytest.mark.usefixtures("loops")
def test_a_program_is_held_against_what_it_may_use() -> None:
    old, _ = roofs.roofs({"avx2", "fma"})
    new, why = roofs.roofs({f for isa in limits.SETS if isa.name != "avx_vnni" for f in isa.flags})
    assert [(r.name, r.rate) for r in old if r.kind == "macs"] == [
        ("1-bit products", 300e9),
        ("float32 products", 30e9),
    ]
    assert next(r for r in new if r.name == "1-bit products").rate == 900e9
    assert next(r for r in new if r.name == "1-bit products").methods == ("xnor-popcount",)
    assert why == ()


@pytest.mark.usefixtures("loops")
def test_other_processors_have_no_loops() -> None:
    found, why = roofs.roofs({"asimd"})
    assert not [r for r in found if r.kind == "macs"]
    assert why == ("there are reference loops for x86-64 with AVX2 or newer alone",)


@pytest.mark.usefixtures("loops")
def test_caches_are_those_that_linux_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = (Cache(1, "Data", 48), Cache(2, "Unified", 2048))
    monkeypatch.setattr(machine_facts, "caches", lambda: told)
    free = tmp_path / "meminfo"
    free.write_text("MemTotal:  9999999 kB\nMemAvailable:  1048576 kB\n")
    monkeypatch.setattr(roofs, "_MEMINFO", free)
    assert roofs._levels() == {"L1": 24 << 10, "L2": 1 << 20, "memory": 1 << 26}
    free.write_text("MemAvailable:  10000 kB\n")
    assert "memory" not in roofs._levels()  # there is not so much of it
    monkeypatch.setattr(machine_facts, "caches", tuple)
    _, why = roofs.roofs({"avx2", "fma"})
    assert why == ("Linux tells no sizes of caches: there are no bandwidths",)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    limits._library.cache_clear()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found, why = roofs.roofs({"avx2", "fma"})
    assert found == ()
    assert any("there is no C compiler" in reason for reason in why)


@pytest.mark.skipif(
    shutil.which("cc") is None and shutil.which("gcc") is None, reason="there is no C compiler"
)
def test_memory_is_read() -> None:
    found = limits.reading([1 << 13, 1 << 20], 0)
    assert [r.bytes for r in found] == [1 << 13, 1 << 20]
    assert all(1e8 < r.rate < 1e13 for r in found)
