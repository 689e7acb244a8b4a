"""Small CUDA sources on the CPU's emulator, through the functions of the driver alone."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache
from typing import Any

import numpy as np
import pytest

from qcompile import emulator

Array = np.ndarray[Any, Any]
Value = Array | int | float | c_uint64

needs_emulator = [
    pytest.mark.cuda_emu,
    pytest.mark.skipif(bool(emulator.obstacle()), reason=emulator.obstacle() or "it runs here"),
]


class CudaFailure(Exception):
    """A function of the driver failed.

    Attributes:
        code: the driver's number.
        message: what the emulator says of it.
    """

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"{code}: {message}")


class Gpu:
    """The emulated driver, with a context that is current in the thread that made it."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(emulator.driver()))
        self.library.qc_emulator_message.restype = c_char_p
        self("cuInit", c_uint(0))
        self.context = c_void_p()
        self("cuDevicePrimaryCtxRetain", byref(self.context), c_int(0))
        self("cuCtxSetCurrent", self.context)

    def code(self, name: str, *arguments: Any) -> int:
        """What a function of the driver returns."""
        return getattr(self.library, name)(*arguments)

    def message(self) -> str:
        """What the emulator says of the last failure of this thread."""
        return self.library.qc_emulator_message().decode()

    def __call__(self, name: str, *arguments: Any) -> None:
        if code := self.code(name, *arguments):
            raise CudaFailure(code, self.message())

    def load(self, image: bytes) -> c_void_p:
        """A module."""
        module = c_void_p()
        self("cuModuleLoadData", byref(module), c_char_p(image))
        return module

    def function(self, module: c_void_p, name: str) -> c_void_p:
        """A kernel of a module."""
        function = c_void_p()
        self("cuModuleGetFunction", byref(function), module, c_char_p(name.encode()))
        return function

    def allocate(self, size: int) -> c_uint64:
        """Fresh memory of so many bytes."""
        address = c_uint64()
        self("cuMemAlloc_v2", byref(address), c_size_t(size))
        return address

    def free(self, address: c_uint64) -> None:
        self("cuMemFree_v2", address)

    def write(self, address: c_uint64, array: Array) -> None:
        """Copy a contiguous array there."""
        self("cuMemcpyHtoD_v2", address, c_void_p(array.ctypes.data), c_size_t(array.nbytes))

    def read(self, address: c_uint64, array: Array) -> None:
        """Fill a contiguous array with what is there."""
        self("cuMemcpyDtoH_v2", c_void_p(array.ctypes.data), address, c_size_t(array.nbytes))

    @contextmanager
    def ordered(self, order: int, threads: int = 0) -> Iterator[None]:
        """Kernels run in this order meanwhile."""
        self("qc_emulator_set", c_int(order), c_int(threads), c_int(0))
        try:
            yield
        finally:
            self("qc_emulator_set", c_int(0), c_int(0), c_int(0))


@cache
def gpu() -> Gpu:
    """One for all tests; its context is current in the thread that calls this first."""
    return Gpu()


class Kernels:
    """The kernels of a source, where KERNEL starts each: `kernels(name, grid, block, *values)`."""

    def __init__(self, source: str, arch: int = 80, *, checked: bool = False) -> None:
        self.gpu = gpu()
        source = re.sub(r"^KERNEL\b", 'extern "C" __global__ void', source, flags=re.MULTILINE)
        self.module = self.gpu.load(emulator.image(source, arch, checked=checked))

    def __call__(
        self, name: str, grid: Sequence[int], block: Sequence[int], *values: Value
    ) -> None:
        """Launch a kernel; arrays are copied to the GPU before, and back after it.

        Args:
            grid, block: up to three numbers each.
            values: an array or an address for a pointer, a number for an int or a float.

        Raises:
            CudaFailure: the launch failed.
        """
        arrays = {i: v for i, v in enumerate(values) if isinstance(v, np.ndarray)}
        memory = {i: self.gpu.allocate(v.nbytes) for i, v in arrays.items()}
        try:
            for i, address in memory.items():
                self.gpu.write(address, arrays[i])
            self.launch(name, grid, block, [memory.get(i, v) for i, v in enumerate(values)])
            for i, address in memory.items():
                self.gpu.read(address, arrays[i])
        finally:
            for address in memory.values():
                self.gpu.free(address)

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        values: Sequence[Any],
        *,
        shared: int = 0,
        stream: c_void_p | None = None,
    ) -> None:
        """Launch a kernel with addresses and numbers."""
        boxes = [_boxed(value) for value in values]
        pointers = (c_void_p * len(boxes))(*map(ctypes.addressof, boxes))
        sizes = [c_uint(n) for axes in (grid, block) for n in (*axes, 1, 1)[:3]]
        function = self.gpu.function(self.module, name)
        self.gpu("cuLaunchKernel", function, *sizes, c_uint(shared), stream, pointers, None)


def _boxed(value: Any) -> Any:
    if isinstance(value, float):
        return ctypes.c_float(value)
    return c_int(value) if isinstance(value, int) else value


def refused(name: str, *arguments: Any) -> int:
    """The code with which a call fails; it says why."""
    with pytest.raises(CudaFailure) as failure:
        gpu()(name, *arguments)
    assert failure.value.message
    return failure.value.code


def number(name: str, *arguments: Any) -> int:
    """What a function gives that takes a pointer to an int first."""
    found = c_int()
    gpu()(name, byref(found), *arguments)
    return found.value
