"""NVIDIA's architectures, and where this machine has its command line tools: nvcc, nvdisasm, cuobjdump."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

# The architectures that code can be made for, ten times the compute capability. No compiler of CUDA 13
# knows older ones.
ARCHITECTURES = (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121)
_VARIABLES = ("CUDA_HOME", "CUDA_PATH")


def find_tool(name: str) -> str | None:
    """The path of a tool: of the toolkit that CUDA_HOME or CUDA_PATH names, on PATH, or from NVIDIA's
    Python packages, in that order; None if there is none."""
    toolkits = [Path(os.environ[key], "bin") for key in _VARIABLES if os.environ.get(key)]
    for folder in (*map(str, toolkits), None, *map(str, _wheels())):
        if found := shutil.which(name, path=folder):
            return found
    return None


def _wheels() -> list[Path]:
    """The folders where NVIDIA's packages put programs."""
    try:
        spec = importlib.util.find_spec("nvidia")
    except ValueError:  # something else of that name is loaded
        return []
    roots = [Path(p) for p in (spec.submodule_search_locations if spec else None) or ()]
    return [root / "cu13" / "bin" for root in roots]
