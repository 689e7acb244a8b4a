"""Published figures of GPUs, one for each architecture that they are known for.

Rates of tensor cores are multiply-accumulates in a clock of an SM, from the vendor's operations per
second (two each), SMs and clock. Where a figure is derived, or is somebody's measurement, it says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qcompile.errors import QCompileError


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        arch: as 80 for sm_80.
        multiprocessors: SMs.
        clock: of the SMs, boosted, in GHz.
        memory: bytes per second.
        l2: bytes that its second cache holds.
        l2_clock: bytes that it gives in a clock to all SMs, at most.
        tensor: multiply-accumulates in a clock of an SM, dense, by type: "b1", "s8", "s4".
        sources: where the figures are from.
    """

    name: str
    arch: int
    multiprocessors: int
    clock: float
    memory: float
    l2: int
    l2_clock: int
    tensor: Mapping[str, int]
    sources: tuple[str, ...]

    def rate(self, kind: str) -> float:
        """Multiply-accumulates of a type in a second, at most."""
        return self.tensor[kind] * self.multiprocessors * self.clock * 1e9


_L2 = "L2: derived, 64 bytes in a clock to each SM"
_B1 = "b1: derived, 8 times s8 as on A100; no published figure"
GPUS: tuple[Gpu, ...] = (
    Gpu(
        *("T4", 75, 40, 1.59, 320e9, 4 << 20, 40 * 64),
        {"b1": 8192, "s8": 1024, "s4": 2048},
        ("NVIDIA T4 datasheet: 130 TOPS int8, 260 int4, 320 GB/s", _B1, _L2),
    ),
    Gpu(
        *("A100", 80, 108, 1.41, 1555e9, 40 << 20, 5120),
        {"b1": 16384, "s8": 2048, "s4": 4096},
        (
            "NVIDIA A100 whitepaper: 624 TOPS int8, 1248 int4, 4992 binary, 1555 GB/s, L2 5120 B/clk",
        ),
    ),
    Gpu(
        *("RTX 3090", 86, 82, 1.695, 936e9, 6 << 20, 82 * 64),
        {"b1": 8192, "s8": 1024, "s4": 2048},
        ("NVIDIA GA102 whitepaper: 284 TOPS int8, 568 int4, 936 GB/s", _B1, _L2),
    ),
    Gpu(
        *("RTX 4090", 89, 128, 2.52, 1008e9, 72 << 20, 128 * 64),
        {"b1": 8192, "s8": 1024, "s4": 2048},
        ("NVIDIA Ada whitepaper: 660.6 TOPS int8, 1321.2 int4, 1008 GB/s", _B1, _L2),
    ),
    Gpu(
        *("H100 SXM", 90, 132, 1.83, 3350e9, 50 << 20, 132 * 64),
        {"b1": 17694, "s8": 4096},
        (
            "NVIDIA H100 datasheet: 1979 TOPS int8 (by wgmma, which mma.sync does not reach), 3.35 TB/s",
            "b1: measured by others on a GH200, 0.54 BMMA.168256.AND in a clock of an SM",
            _L2,
        ),
    ),
    Gpu(
        *("RTX 5090", 120, 170, 2.407, 1792e9, 96 << 20, 170 * 64),
        {"s8": 1024},
        ("NVIDIA RTX Blackwell whitepaper: 838 TOPS int8, 1792 GB/s; no binary instructions", _L2),
    ),
)


def gpu_of(arch: int) -> Gpu:
    """The GPU that stands for an architecture.

    Raises:
        QCompileError: no figures are known for one.
    """
    for gpu in GPUS:
        if gpu.arch == arch:
            return gpu
    known = ", ".join(f"sm_{gpu.arch} ({gpu.name})" for gpu in GPUS)
    raise QCompileError(
        f"no figures are known of a GPU of sm_{arch}", hint=f"known are those of {known}"
    )
