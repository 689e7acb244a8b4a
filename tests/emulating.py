"""Run a library for AArch64 on a machine of another family, under qemu, and without TVM's runtime.

`tests/codegen/run_kernels.c` calls the kernels; in what order, and on what, is written to a file.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tvm_ffi
from compiling import Run
from torch import Tensor
from torch.fx import GraphModule, Node

from qcompile.codegen.build import Built
from qcompile.codegen.groups import FLATTEN, form
from qcompile.codegen.layout import DTYPES, layout_of
from qcompile.codegen.machine import machine_of
from qcompile.codegen.schedules.cpu import kernel_of
from qcompile.ir.target import Target

_SOURCE = Path(__file__).parent / "codegen" / "run_kernels.c"
_COMPILER, _EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
_ROOT = Path("/usr/aarch64-linux-gnu")  # where Debian has AArch64's C library
_CODES = {"int": 0, "uint": 1, "float": 2}  # of DLPack
_POISON = 0xA5
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
    path = Path(folder.name) / "run_kernels"
    headers = f"-I{Path(tvm_ffi.__file__).parent / 'include'}"
    command = [_COMPILER, "-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(
        [*command, "-rdynamic", headers, str(_SOURCE), "-o", str(path), "-ldl"], check=True
    )
    return folder, path


class _Request:
    """The file for the driver, while it grows."""

    def __init__(self) -> None:
        self._storages: list[bytes] = []
        self._tensors: list[bytes] = []
        self._calls: list[bytes] = []

    def store(self, data: bytes, *, returned: bool = False) -> int:
        self._storages.append(struct.pack("<qq", len(data), returned) + data)
        return len(self._storages) - 1

    def tensor(self, storage: int, dtype: str, shape: Sequence[int]) -> int:
        kind = dtype.rstrip("0123456789")
        head = (storage, _CODES[kind], int(dtype[len(kind) :]), len(shape), *shape)
        self._tensors.append(struct.pack(f"<{len(head)}q", *head))
        return len(self._tensors) - 1

    def call(self, name: str, tensors: Sequence[int]) -> None:
        count = struct.pack(f"<q{len(tensors)}q", len(tensors), *tensors)
        self._calls.append(struct.pack("<128s", name.encode()) + count)

    def data(self) -> bytes:
        parts = (self._storages, self._tensors, self._calls)
        return b"".join(struct.pack("<q", len(part)) + b"".join(part) for part in parts)


class _Values:
    """Where the values of a graph lie, for one batch."""

    def __init__(self, request: _Request, batch: int) -> None:
        self._request, self._batch = request, batch
        self.storages: dict[Node, int] = {}

    def put(self, node: Node, value: Tensor) -> None:
        self.storages[node] = self._request.store(value.contiguous().numpy().tobytes())

    def tensor(self, node: Node) -> int:
        layout, whole = layout_of(node), _whole(node)
        if whole not in self.storages:
            size = self._batch * layout.size * np.dtype(layout.dtype).itemsize
            self.storages[whole] = self._request.store(bytes([_POISON]) * size, returned=True)
        shape = (self._batch, *layout.shape)
        return self._request.tensor(self.storages[whole], layout.dtype, shape)

    def constant(self, value: np.ndarray[Any, Any]) -> int:
        storage = self._request.store(value.tobytes())
        return self._request.tensor(storage, str(value.dtype), value.shape)

    def read(self, node: Node, written: bytes) -> Tensor:
        """A value from what the driver gives back: all that kernels wrote, in their order."""
        before = [n for n, i in self.storages.items() if i < self.storages[_whole(node)]]
        at = sum(self._batch * _bytes(n) for n in before if n.op != "placeholder")
        data = bytearray(written[at : at + self._batch * _bytes(node)])
        dtype = next(t for t, name in DTYPES.items() if name == layout_of(node).dtype)
        return torch.frombuffer(data, dtype=dtype).reshape(self._batch, *layout_of(node).shape)


def _whole(node: Node) -> Node:
    """The value that a node is a view of."""
    while node.target is FLATTEN:
        node = node.args[0]  # type: ignore[assignment]
    return node


def _bytes(node: Node) -> int:
    """Of one sample."""
    layout = layout_of(node)
    return layout.size * np.dtype(layout.dtype).itemsize


def emulated(gm: GraphModule, built: Built) -> Run:
    """What runs a library: from inputs to the values that the graph returns."""
    groups, machine = form(gm), machine_of(Target("cpu", built.arch))
    constants = [kernel_of(gm, group, machine).constants for group in groups]
    outputs: Any = gm.graph.output_node().args[0]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        request = _Request()
        values = _Values(request, inputs[0].shape[0])
        for node, value in zip(gm.graph.find_nodes(op="placeholder"), inputs, strict=True):
            values.put(node, value)
        for group, own, info in zip(groups, constants, built.kernels, strict=True):
            arguments = [values.tensor(n) for n in group.inputs]
            arguments += [values.constant(v) for v in own]
            request.call(info.name, [*arguments, values.tensor(group.result)])
        written = _emulate(built, request.data())
        return [values.read(node, written) for node in outputs]

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
