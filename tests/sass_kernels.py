"""Machine code of CUDA kernels, compiled once for each architecture."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from qcompile.codegen.cuda import nvcc
from qcompile.nvidia import find_tool
from qcompile.static.sass import Function, functions
from qcompile.static.tools import Resources, disassembled, resources

SOURCE = Path(__file__).parent / "static" / "kernels.cu"
# Of each generation one, and what is known of GPUs.
ARCHITECTURES = tuple(a for a in (75, 80, 86, 89, 90, 120) if a in nvcc.known_architectures())

needs_disassembler = pytest.mark.skipif(
    not all(map(find_tool, ("nvcc", "nvdisasm", "cuobjdump"))),
    reason="nvcc, nvdisasm and cuobjdump are needed",
)


@functools.cache
def compiled(arch: int) -> tuple[dict[str, Function], dict[str, Resources]]:
    """The fixture's kernels."""
    cubin = nvcc.cubin(SOURCE.read_text(encoding="utf-8"), arch)
    return functions(disassembled(cubin)), resources(cubin, arch)
