"""Facts of machines that are not here: containers, ARM, many cores."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from qcompile.bench import machine_facts


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty /proc and /sys, as the strictest container has them."""
    monkeypatch.setattr(machine_facts, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine_facts, "_CPU", tmp_path / "cpu")
    monkeypatch.setattr(machine_facts, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(machine_facts, "_HYPERVISOR", tmp_path / "hypervisor")
    monkeypatch.setattr(machine_facts, "_DMI", tmp_path / "vendor")
    return tmp_path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def cache(root: Path, number: int, level: str, kind: str, size: str) -> None:
    folder = root / "cpu" / "cpu0" / "cache" / f"index{number}"
    for name, value in (("level", level), ("type", kind), ("size", size)):
        put(folder / name, f"{value}\n")


def test_here() -> None:
    found = machine_facts.facts("haswell")
    assert found.arch == "haswell"
    assert found.processors == len(os.sched_getaffinity(0))
    assert found.processor
    assert found.system.startswith("Linux ")
    assert found.memory is None or found.memory > 1 << 20
    assert machine_facts.load() >= 0


def test_where_nothing_is_told(root: Path) -> None:
    found = machine_facts.facts()
    assert (found.instructions, found.caches) == ((), ())
    assert (found.hypervisor, found.governor, found.arch) == ("", "", "")
    assert found.processor  # the machine's family
    assert machine_facts.quota() is None


def test_a_processor_of_intel(root: Path) -> None:
    put(root / "cpuinfo", "model name\t: Xeon\nflags\t\t: fpu avx2 hypervisor avx512f\n")
    put(root / "cpu" / "cpu0" / "cpufreq" / "scaling_governor", "powersave\n")
    cache(root, 0, "1", "Data", "48K")
    cache(root, 1, "1", "Instruction", "32K")
    cache(root, 2, "2", "Unified", "2048K")
    cache(root, 3, "3", "Unified", "36608K")
    found = machine_facts.facts()
    assert found.processor == "Xeon"
    assert found.instructions == ("avx2", "avx512f")
    assert found.caches == ("L1d 48 KiB", "L2 2 MiB", "L3 36608 KiB")
    assert (found.hypervisor, found.governor) == ("a virtual machine", "powersave")
    put(root / "vendor", "QEMU\n")
    assert machine_facts.facts().hypervisor == "KVM"


def test_a_processor_of_arm(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    text = "Features : fp asimd asimddp\nCPU implementer : 0x41\nCPU part : 0xd0c\n"
    put(root / "cpuinfo", text)
    found = machine_facts.facts()
    assert found.processor == "aarch64 (0x41 0xd0c)"
    assert found.instructions == ("asimd", "asimddp")


def test_a_container_of_half_a_processor(root: Path) -> None:
    put(root / "cpu.max", "50000 100000\n")
    assert machine_facts.quota() == 0.5
    put(root / "cpu.max", "max 100000\n")
    assert machine_facts.quota() is None


def test_one_thread_a_core_first(root: Path) -> None:
    for first in (0, 1):
        for processor in (first, first + 2):
            place = root / "cpu" / f"cpu{processor}" / "topology" / "thread_siblings_list"
            put(place, f"{first},{first + 2}\n")
    assert machine_facts.chosen(1, {0, 1, 2, 3}) == {3}
    assert machine_facts.chosen(2, {0, 1, 2, 3}) == {2, 3}  # not 1, on the core of 3
    assert machine_facts.chosen(3, {0, 1, 2, 3}) == {1, 2, 3}
    assert machine_facts.chosen(2, {1, 3}) == {1, 3}
    with pytest.raises(ValueError, match="3 threads were asked for, and there are 2 processors"):
        machine_facts.chosen(3, {1, 3})


def test_versions() -> None:
    found = machine_facts.versions()
    assert {"qcompile", "Python", "PyTorch", "TVM", "NumPy"} <= found.keys()
    assert all(found.values())
