"""Why no program can run on a GPU here, and what to install."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from qcompile.cuda.driver import (
    LIBCUDA,
    NO_DEVICE,
    NOT_INITIALIZED,
    CudaError,
    Driver,
    driver,
)
from qcompile.cuda.nvrtc import INSTALL, libraries

OLDEST = 75  # compute capability: Turing, the oldest that CUDA 13 compiles for
OLDEST_DRIVER = (12, 0)
ALL_GPUS = "cuda"  # the name of a variant for all of them

_UPDATE = "install the NVIDIA driver R580 or newer (R525 is enough with nvidia-cuda-nvrtc-cu12)"
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_CONTAINERS = (Path("/.dockerenv"), Path("/run/.containerenv"))
_EXPOSE = "start it with access to the GPU (docker run --gpus all, NVIDIA's container toolkit)"
_REASONS = {
    NO_DEVICE: "the NVIDIA driver finds no GPU: `nvidia-smi -L` lists those there are, and a "
    "container must be started with access to them (docker run --gpus all)",
    NOT_INITIALIZED: "this process was forked from one that used the GPU, which it cannot: start "
    "processes with multiprocessing's `spawn`, or load programs after the fork",
    34: "libcuda.so.1 is the toolkit's stub and no driver: take the folder `stubs` off LD_LIBRARY_PATH",
    802: "the GPUs are not ready: start NVIDIA's fabric manager (systemctl start nvidia-fabricmanager)",
    803: "the NVIDIA driver's library and its kernel module are of different versions: restart the "
    "machine, or the container with the library of its host",
    804: "the CUDA compatibility library does not work on this GPU: take its folder `compat` off "
    "LD_LIBRARY_PATH, and " + _UPDATE,
    999: "the NVIDIA driver does not start (unknown error): load its module again (modprobe -r "
    "nvidia_uvm && modprobe nvidia_uvm), which helps after a suspend, or restart the machine",
}


def diagnose(path: str = LIBCUDA) -> str:
    """Why no GPU can be used here and what to do about it, in one sentence; "" if one can."""
    try:
        return _fault(driver(path))
    except OSError as error:
        return _not_loaded(str(error))
    except CudaError as error:
        if error.code == NO_DEVICE and "CUDA_VISIBLE_DEVICES" in os.environ:
            hidden = os.environ["CUDA_VISIBLE_DEVICES"]
            return (
                f"CUDA_VISIBLE_DEVICES is {hidden!r}, which leaves no GPU: set it to 0, or unset it"
            )
        return _REASONS.get(error.code, f"{error.what}: run `nvidia-smi`, and restart the machine")


def _fault(found: Driver) -> str:
    """What a driver that works lacks, or "".

    Raises:
        CudaError: it does not work after all.
    """
    if found.version < OLDEST_DRIVER:
        named = ".".join(map(str, found.version))
        return f"the NVIDIA driver is too old, it knows CUDA {named}: {_UPDATE}"
    if found.devices < 1:
        return _REASONS[NO_DEVICE]
    numbers = range(found.devices)
    if all(found.arch(number) < OLDEST for number in numbers):
        old = ", ".join(f"{found.name(number)} (sm_{found.arch(number)})" for number in numbers)
        return f"the GPU is too old: {old}, programs need sm_{OLDEST} (Turing) or newer"
    return ""


def _not_loaded(said: str) -> str:
    if "No such file" not in said:
        return f"the NVIDIA driver's library does not load ({said}): install the driver again"
    if any(path.exists() for path in _CONTAINERS):
        return f"this container has no NVIDIA driver ({LIBCUDA}): {_EXPOSE}"
    if _KERNEL_MODULE.exists():
        return f"the NVIDIA driver is running, but its library {LIBCUDA} is not here: {_UPDATE}"
    return f"there is no NVIDIA driver ({LIBCUDA}): {_UPDATE}"


def obstacle(
    arch: str, features: Sequence[str], toolkit: str, device: int = 0, path: str = LIBCUDA
) -> str:
    """Why a GPU cannot run a variant, to follow its name; "" if it can.

    Where the file holds no code that it runs, NVRTC is to compile the source.

    Args:
        arch: "cuda" for all GPUs, or the one it is for ("sm_86").
        features: what the program's file holds code for ("sm_80", "compute_90").
        toolkit: the version of CUDA that compiled it, "13.0"; "" if it is not known.
    """
    if why := diagnose(path):
        return f"needs an NVIDIA GPU, and {why}"
    found = driver(path)
    own = found.arch(device)
    named = f"GPU {device}, {found.name(device)}, is sm_{own}"
    if own < OLDEST:
        return f"needs sm_{OLDEST} (Turing) or newer, {named}"
    if arch != ALL_GPUS and not covers(arch, own):
        return f"is for {arch}, {named}"
    fitting = [one for one in features if covers(one, own)]
    if any(_takes(found.version, one, toolkit) for one in fitting):
        return ""
    if any(one.version[0] <= found.version[0] for one in libraries()):
        return ""
    if fitting:
        version = ".".join(map(str, found.version))
        return f"was compiled by CUDA {toolkit}, the driver knows CUDA {version}: {_UPDATE}"
    holds = ", ".join(features) or "CUDA source alone"
    return f"holds {holds}, {named}, and NVRTC, which would compile it, is missing: {INSTALL}"


def _takes(driver: tuple[int, int], feature: str, toolkit: str) -> bool:
    """Whether a driver takes code of a toolkit: machine code of its major version, and older PTX."""
    if not toolkit:
        return True
    major, minor = map(int, toolkit.split("."))
    return driver >= ((major, minor) if feature.startswith("compute") else (major, 0))


_EMBEDDED = (87, 88)
_NAME = re.compile(r"(sm|compute)_(\d+)([af]?)")


def covers(feature: str, gpu: int) -> bool:
    """Whether code like "sm_80" or PTX like "compute_80" runs on a GPU of a compute capability.

    Machine code runs where the major version is the same and the minor one not less, but neither
    from nor on the GPUs of embedded systems; "a" on that GPU alone, "f" on its family; PTX on
    everything that is not older. (CUDA C++ Programming Guide, "Binary Compatibility".)
    """
    match = _NAME.fullmatch(feature)
    if match is None:
        return False
    kind, number, suffix = match[1], int(match[2]), match[3]
    if suffix == "a" or (kind == "sm" and not {number, gpu}.isdisjoint(_EMBEDDED)):
        return number == gpu
    same = number // 10 == gpu // 10 or (kind == "compute" and not suffix)
    return same and number <= gpu
