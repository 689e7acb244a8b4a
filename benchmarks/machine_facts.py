"""On what a table was measured, and the processors that the measuring process may use."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_PACKAGES = ("torch", "apache-tvm", "onnxruntime", "onnx", "openvino", "numpy")
_TELLING = (
    *("avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_vpopcntdq"),
    *("avx512_bf16", "amx_int8", "asimd", "asimddp"),
)


def pin(threads: int) -> None:
    """Leave this process, and the threads it starts, that many processors: the last it may use.

    Raises:
        SystemExit: there are not so many.
    """
    own = sorted(os.sched_getaffinity(0))
    if threads > len(own):
        raise SystemExit(f"{threads} threads were asked for, and there are {len(own)} processors")
    os.sched_setaffinity(0, own[-threads:])


def facts() -> dict[str, str]:
    """Processor, its telling instructions, how busy it is, versions, date."""
    flags = set(cpu_info("flags", "Features").split())
    return {
        "date": datetime.date.today().isoformat(),
        "processor": cpu_info("model name", "CPU part") or platform.machine(),
        "processors": str(os.cpu_count()),
        "instructions": " ".join(f for f in _TELLING if f in flags),
        "load": " ".join(f"{v:.1f}" for v in os.getloadavg()),
        "system": f"{platform.system()} {platform.release()}",
        "versions": ", ".join(_versions()),
    }


def cpu_info(*keys: str) -> str:
    """What Linux says of the first processor under one of those keys; empty if nothing."""
    if not _CPUINFO.exists():
        return ""
    for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""


def _versions() -> list[str]:
    found = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    return found
