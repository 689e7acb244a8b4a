"""On what a report was measured, as Linux tells it; and the processors that a measuring process may use."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import qcompile
from qcompile.bench.results import Machine

_CPUINFO = Path("/proc/cpuinfo")
_CPU = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_HYPERVISOR = Path("/sys/hypervisor/type")
_DMI = Path("/sys/class/dmi/id/sys_vendor")
# What a hypervisor calls itself to firmware, and what people call it.
_VENDORS = {"QEMU": "KVM", "Amazon EC2": "KVM", "Google": "KVM", "VMware": "VMware"}
PACKAGES = {
    "TVM": "apache-tvm",
    "PyTorch": "torch",
    "ONNX Runtime": "onnxruntime",
    "ONNX": "onnx",
    "OpenVINO": "openvino",
    "NumPy": "numpy",
}
TELLING = (
    *("avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_vpopcntdq"),
    *("avx512_bf16", "amx_int8", "asimd", "asimddp", "asimdhp", "i8mm", "sve"),
)


def facts(arch: str = "") -> Machine:
    """Everything but the load, which is of two moments.

    Args:
        arch: LLVM's name of the processor.
    """
    flags = set(_cpu_info("flags", "Features").split())
    return Machine(
        processor=_processor(),
        arch=arch,
        processors=len(os.sched_getaffinity(0)),
        instructions=tuple(name for name in TELLING if name in flags),
        caches=tuple(map(str, caches())),
        memory=_memory(),
        system=_system(),
        hypervisor=_hypervisor(flags),
        governor=_line(_CPU / "cpu0/cpufreq/scaling_governor"),
    )


def versions() -> dict[str, str]:
    """Of Python and of the packages that matter here, where they are installed."""
    found = {"qcompile": qcompile.__version__, "Python": platform.python_version()}
    for name, package in PACKAGES.items():
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(package)
    return found


def load() -> float:
    """Of the last minute: how many processes wanted to run, on average."""
    return os.getloadavg()[0]


def quota() -> float | None:
    """Processors' time that this container may use; None where it is not limited."""
    limit, _, period = _line(_QUOTA).partition(" ")
    return int(limit) / int(period) if limit.isdecimal() and period.isdecimal() else None


def _cpu_info(*keys: str) -> str:
    """What Linux says of the first processor under one of those keys; empty if nothing."""
    for line in _text(_CPUINFO).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""


def _processor() -> str:
    name = _cpu_info("model name", "Model", "Hardware")
    if name:
        return name
    maker, part = _cpu_info("CPU implementer"), _cpu_info("CPU part")  # all that ARM tells
    numbers = f" ({maker} {part})" if maker and part else ""
    return f"{platform.machine()}{numbers}"


@dataclass(frozen=True)
class Cache:
    """One of a core's, which may be others' too.

    Attributes:
        kind: "Data" or "Unified".
        kib: its size.
    """

    level: int
    kind: str
    kib: int

    def __str__(self) -> str:
        """ "L1d 48 KiB", "L3 260 MiB"."""
        size = f"{self.kib // 1024} MiB" if self.kib % 1024 == 0 else f"{self.kib} KiB"
        return f"L{self.level}{'d' if self.kind == 'Data' else ''} {size}"


def caches() -> tuple[Cache, ...]:
    """Of data, of the first core, the nearest first."""
    found = []
    for index in (_CPU / "cpu0/cache").glob("index*"):
        level, kind, size = (_line(index / name) for name in ("level", "type", "size"))
        kib = size.removesuffix("K")
        if kind != "Instruction" and level.isdecimal() and kib.isdecimal():
            found.append(Cache(int(level), kind, int(kib)))
    return tuple(sorted(found, key=lambda cache: cache.level))


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _system() -> str:
    kernel = f"{platform.system()} {platform.release()}"
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = ""
    return f"{kernel}, {name}" if name else kernel


def _hypervisor(flags: set[str]) -> str:
    named = _line(_HYPERVISOR) or _VENDORS.get(_line(_DMI), "")
    # On ARM there is no such flag: only a name tells.
    return named or ("a virtual machine" if "hypervisor" in flags else "")


def _line(path: Path) -> str:
    return _text(path).strip()


def _text(path: Path) -> str:
    """Of a file that a container may lack."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# --- processors ----------------------------------------------------------------------------------


def pin(threads: int) -> None:
    """Leave this process, and what it starts, so many of its processors: one on each core first,
    and the last of them, since interrupts mostly go to the first.

    Raises:
        ValueError: there are not so many.
    """
    os.sched_setaffinity(0, chosen(threads, os.sched_getaffinity(0)))


def chosen(threads: int, own: set[int]) -> set[int]:
    """So many of some processors.

    Raises:
        ValueError: there are not so many.
    """
    if threads > len(own):
        raise ValueError(f"{threads} threads were asked for, and there are {len(own)} processors")
    taken: set[str] = set()
    first: list[int] = []
    second: list[int] = []
    for processor in sorted(own, reverse=True):
        core = _line(_CPU / f"cpu{processor}/topology/thread_siblings_list") or str(processor)
        (second if core in taken else first).append(processor)
        taken.add(core)
    return set((first + second)[:threads])
