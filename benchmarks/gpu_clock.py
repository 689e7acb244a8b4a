"""Times on a GPU, by its own events, and what is known of the GPU."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from qcompile.cuda.diagnosis import diagnose
from qcompile.rivals.entrant import Call
from timed_rows import Settings

_SAMPLE = 3e-3  # seconds of a sample, about: events tell half a microsecond
_ASKED = ("driver_version", "clocks.max.sm", "clocks.sm", "power.limit", "persistence_mode")


def obstacle() -> str:
    """Why nothing can be measured here, or ""."""
    reason = diagnose()
    if not reason and not torch.cuda.is_available():
        reason = "this PyTorch is built without CUDA: install one with it, see pytorch.org"
    return reason


@dataclass(frozen=True)
class GpuSettings(Settings):
    """How long is measured; the clock is the GPU's."""

    def take_turns(self, calls: Sequence[Call]) -> list[list[float]]:
        """Seconds of each function in each round, between two events of torch's current stream.

        Where the GPU waits for the CPU to launch, that time counts.
        """
        samples: list[list[float]] = [[] for _ in calls]
        with torch.no_grad():
            repeats = [self._repeats(call) for call in calls]
            end = time.perf_counter() + self.seconds * len(calls)
            while calls and (
                len(samples[0]) < 5 or (time.perf_counter() < end and len(samples[0]) < self.rounds)
            ):
                for call, count, taken in zip(calls, repeats, samples, strict=True):
                    taken.append(_seconds(call, count))
        return samples

    def _repeats(self, call: Call) -> int:
        _seconds(call, 1)
        return max(1, round(_SAMPLE / max(_seconds(call, 3), 1e-7)))


def _seconds(call: Call, count: int) -> float:
    """Of one of so many calls, after one that is not counted."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    call()
    first.record()
    for _ in range(count):
        call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3 / count


def facts() -> dict[str, str]:
    """The GPU, its driver and its clocks."""
    device = torch.cuda.get_device_properties(0)
    found = {
        "GPU": f"{device.name}, sm_{device.major}{device.minor}",
        "multiprocessors": str(device.multi_processor_count),
        "memory": f"{device.total_memory / 2**30:.0f} GiB",
        "CUDA of PyTorch": str(torch.version.cuda),
    }
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return found
    query = [f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader", "--id=0"]
    told = subprocess.run([tool, *query], check=False, capture_output=True, text=True).stdout
    return found | dict(zip(_ASKED, (part.strip() for part in told.split(",")), strict=False))


def arch() -> int:
    """The GPU's architecture, as 80 for sm_80."""
    major, minor = torch.cuda.get_device_capability(0)
    return 10 * major + minor
