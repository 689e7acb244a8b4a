"""Run a library for AArch64 on a machine of another family, under qemu, and without TVM's runtime.

`tests/codegen/run_library.c` calls it; on what, is written to a file.
"""

from __future__ import annotations

import math
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm_ffi
from compiling import Run
from torch import Tensor
from torch.fx import GraphModule

from qcompile.codegen.built import Built
from qcompile.constants import expanded

_SOURCE = Path(__file__).parent / "codegen" / "run_library.c"
_COMPILER, _EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
_ROOT = Path("/usr/aarch64-linux-gnu")  # where Debian has AArch64's C library
_CODES = {"int": 0, "uint": 1, "float": 2}  # of DLPack
_POISON = 0xA5
_THREADS = 3
# Processors that qemu has under LLVM's name: they stop at an instruction that theirs lacks.
_MODELS = ("cortex-a53", "cortex-a57", "cortex-a72", "cortex-a76", "neoverse-n1")

needs_emulator = pytest.mark.skipif(
    not (shutil.which(_COMPILER) and shutil.which(_EMULATOR) and (_ROOT / "include").is_dir()),
    reason=f"needs {_EMULATOR}, {_COMPILER} and a C library "
    "(Debian: qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross)",
)


@cache
def _driver() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """The program that calls kernels; it is removed with the folder."""
    folder = tempfile.TemporaryDirectory(prefix="qcompile-test-")
    path = Path(folder.name) / "run_library"
    headers = f"-I{Path(tvm_ffi.__file__).parent / 'include'}"
    command = [
        _COMPILER,
        "-std=c11",
        "-D_GNU_SOURCE",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pthread",
    ]
    subprocess.run(
        [*command, "-rdynamic", headers, str(_SOURCE), "-o", str(path), "-ldl"], check=True
    )
    return folder, path


class _Request:
    """The file for the driver, while it grows."""

    def __init__(self) -> None:
        self._storages: list[bytes] = []
        self._tensors: list[bytes] = []

    def store(self, data: bytes, *, returned: bool = False) -> int:
        self._storages.append(struct.pack("<qq", len(data), returned) + data)
        return len(self._storages) - 1

    def tensor(self, storage: int, dtype: str, shape: Sequence[int]) -> None:
        kind = dtype.rstrip("0123456789")
        head = (storage, _CODES[kind], int(dtype[len(kind) :]), len(shape), *shape)
        self._tensors.append(struct.pack(f"<{len(head)}q", *head))

    def data(self, workspace: int, constants: int, threads: int) -> bytes:
        parts = (self._storages, self._tensors)
        lists = b"".join(struct.pack("<q", len(part)) + b"".join(part) for part in parts)
        return lists + struct.pack("<qqq", workspace, constants, threads)


def emulated(_: GraphModule, built: Built) -> Run:
    """What runs a library: from inputs to the values that the graph returns."""

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        batch, request = inputs[0].shape[0], _Request()
        for x in inputs:
            storage = request.store(x.contiguous().numpy().tobytes())
            request.tensor(storage, str(x.dtype).removeprefix("torch."), x.shape)
        for shape, dtype in built.outputs:
            size = batch * math.prod(shape) * np.dtype(dtype).itemsize
            storage = request.store(bytes([_POISON]) * size, returned=True)
            request.tensor(storage, dtype, (batch, *shape))
        workspace = request.store(bytes([_POISON]) * built.workspace * _THREADS)
        constants = request.store(expanded(built.constants).tobytes())
        written = _emulate(built, request.data(workspace, constants, _THREADS))
        results, at = [], 0
        for shape, dtype in built.outputs:
            count = batch * math.prod(shape)
            value = np.frombuffer(bytearray(written), dtype, count, at)
            results.append(torch.from_numpy(value).reshape(batch, *shape))
            at += value.nbytes
        return results

    return run


def _emulate(built: Built, request: bytes) -> bytes:
    """What the driver writes."""
    with tempfile.TemporaryDirectory(prefix="qcompile-test-") as name:
        folder = Path(name)
        (folder / "library.so").write_bytes(built.library)
        (folder / "in").write_bytes(request)
        paths = [str(folder / file) for file in ("library.so", "in", "out")]
        model = built.arch if built.arch in _MODELS else "max"
        command = [_EMULATOR, "-cpu", model, "-L", str(_ROOT), str(_driver()[1]), *paths]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
        return (folder / "out").read_bytes()
