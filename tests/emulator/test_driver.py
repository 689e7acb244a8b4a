"""The emulated device, its context and memory, and the codes with which calls are refused."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_gpu import gpu, needs_emulator, number, refused

from qcompile import emulator
from qcompile.errors import QCompileError

pytestmark = needs_emulator

INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALIZED, INVALID_DEVICE = 1, 2, 3, 101
INVALID_CONTEXT, INVALID_HANDLE, ILLEGAL_ADDRESS, DESTROYED = 201, 400, 700, 709
MAJOR, MINOR, THREADS_PER_BLOCK, SHARED_PER_BLOCK, WARP_SIZE = 75, 76, 1, 8, 10


def in_a_thread(work: Callable[[], Any]) -> Any:
    """What a call gives in a thread of its own, where no context is current."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


# --- the device ----------------------------------------------------------------------------------


def test_a_driver_that_was_not_made_ready() -> None:
    library = ctypes.CDLL(str(emulator.driver()))
    copy = Path(library._name).with_suffix(".copy")  # another library to the loader
    shutil.copy(library._name, copy)
    fresh = ctypes.CDLL(str(copy))
    copy.unlink()
    found = c_int()
    assert fresh.cuDriverGetVersion(byref(found)) == 0
    assert found.value == 13000
    assert fresh.cuDeviceGetCount(byref(found)) == NOT_INITIALIZED
    assert fresh.cuInit(1) == INVALID_VALUE
    assert fresh.cuInit(0) == 0
    assert fresh.cuCtxSynchronize() == INVALID_CONTEXT
    assert fresh.cuDevicePrimaryCtxRelease_v2(0) == INVALID_CONTEXT
    _a_context_of_its_own(fresh)


def _a_context_of_its_own(library: ctypes.CDLL) -> None:
    """Made, used, and released: what was in it is gone."""
    context, found = c_void_p(), c_void_p()
    assert library.cuDevicePrimaryCtxRetain(byref(context), 0) == 0
    assert library.cuCtxPushCurrent_v2(None) == INVALID_CONTEXT
    assert library.cuCtxPushCurrent_v2(context) == 0
    assert library.cuCtxGetCurrent(byref(found)) == 0
    assert found.value == context.value
    memory, module = c_uint64(), c_void_p()
    assert library.cuMemAlloc_v2(byref(memory), c_size_t(8)) == 0
    image = emulator.image('extern "C" __global__ void k() {}', 75)
    assert library.cuModuleLoadData(byref(module), c_char_p(image)) == 0
    assert library.cuDevicePrimaryCtxRelease_v2(0) == 0
    assert library.cuCtxSynchronize() == DESTROYED
    assert library.cuDevicePrimaryCtxRetain(byref(context), 0) == 0
    assert library.cuMemFree_v2(memory) == INVALID_VALUE
    assert library.cuModuleUnload(module) == INVALID_HANDLE
    assert library.cuCtxPopCurrent_v2(byref(found)) == 0
    assert library.cuCtxPopCurrent_v2(None) == INVALID_CONTEXT


def test_what_the_device_says_of_itself() -> None:
    name, total = ctypes.create_string_buffer(100), c_size_t()
    assert number("cuDeviceGetCount") == 1
    assert number("cuDeviceGet", 0) == 0
    gpu()("qc_emulator_set", 0, 0, 120)
    gpu()("cuDeviceGetName", name, len(name), 0)
    assert name.value == b"sm_120, emulated on the CPU"
    assert [number("cuDeviceGetAttribute", a, 0) for a in (MAJOR, MINOR)] == [12, 0]
    gpu()("qc_emulator_set", 0, 0, 86)
    assert [number("cuDeviceGetAttribute", a, 0) for a in (MAJOR, MINOR)] == [8, 6]
    gpu()("qc_emulator_set", 0, 0, 80)
    limits = [
        number("cuDeviceGetAttribute", a, 0)
        for a in (THREADS_PER_BLOCK, SHARED_PER_BLOCK, WARP_SIZE)
    ]
    assert limits == [1024, 48 << 10, 32]
    gpu()("cuDeviceTotalMem_v2", byref(total), 0)
    assert total.value == 16 << 30


def test_another_device_or_attribute_is_refused() -> None:
    assert refused("cuDeviceGet", byref(c_int()), 1) == INVALID_DEVICE
    assert refused("cuDeviceGetAttribute", byref(c_int()), 1, 7) == INVALID_DEVICE
    assert refused("cuDeviceGetAttribute", byref(c_int()), 9999, 0) == INVALID_VALUE
    assert refused("cuDeviceGetAttribute", None, 1, 0) == INVALID_VALUE
    assert refused("cuDevicePrimaryCtxRetain", byref(c_void_p()), -1) == INVALID_DEVICE


@pytest.mark.parametrize("settings", [(4, 0, 80), (-1, 0, 80), (0, -1, 80), (0, 0, 70)])
def test_settings_out_of_range_are_refused(settings: tuple[int, int, int]) -> None:
    assert refused("qc_emulator_set", *map(c_int, settings)) == INVALID_VALUE


def test_the_driver_in_an_order_that_there_is_not() -> None:
    with pytest.raises(QCompileError, match="the emulator refuses order 4"):
        emulator.driver(4)


def test_errors_have_names() -> None:
    text = c_char_p()
    for code, name in ((0, b"CUDA_SUCCESS"), (700, b"CUDA_ERROR_ILLEGAL_ADDRESS")):
        gpu()("cuGetErrorName", code, byref(text))
        assert text.value == name
    gpu()("cuGetErrorString", 209, byref(text))
    assert text.value == b"no kernel image is available for execution on the device"
    assert refused("cuGetErrorName", 12345, byref(text)) == INVALID_VALUE
    assert text.value is None


def test_a_thread_has_its_own_context_and_message() -> None:
    def work() -> tuple[int, str, int, int]:
        code = gpu().code("cuCtxSynchronize")
        message = gpu().message()
        gpu()("cuCtxPushCurrent_v2", gpu().context)
        pushed = gpu().code("cuCtxSynchronize")
        gpu()("cuCtxSetCurrent", None)
        return code, message, pushed, gpu().code("cuCtxSynchronize")

    message = "no context is current in this thread"
    assert in_a_thread(work) == (INVALID_CONTEXT, message, 0, INVALID_CONTEXT)
    gpu()("cuCtxSynchronize")
    assert refused("cuCtxSetCurrent", c_void_p(64)) == INVALID_CONTEXT


# --- memory --------------------------------------------------------------------------------------


def test_memory_is_aligned_and_holds_what_is_copied_there() -> None:
    stream = c_void_p()
    gpu()("cuStreamCreate", byref(stream), 1)
    x = np.random.default_rng(6).integers(0, 256, 1001).astype(np.uint8)
    there, other = gpu().allocate(x.nbytes), c_uint64()
    gpu()("cuMemAllocAsync", byref(other), c_size_t(x.nbytes), stream)
    assert there.value % 256 == other.value % 256 == 0
    size, y = c_size_t(x.nbytes), np.zeros_like(x)
    gpu()("cuMemcpyHtoDAsync_v2", there, c_void_p(x.ctypes.data), size, stream)
    gpu()("cuMemcpyDtoDAsync_v2", other, there, size, stream)
    gpu()("cuMemsetD8Async", c_uint64(other.value + 1000), c_uint(7), c_size_t(1), stream)
    gpu()("cuMemcpyDtoHAsync_v2", c_void_p(y.ctypes.data), other, size, stream)
    gpu()("cuStreamSynchronize", stream)
    np.testing.assert_array_equal(y, [*x[:-1], 7])
    gpu()("cuMemFreeAsync", other, stream)
    gpu().free(there)
    gpu()("cuStreamDestroy_v2", stream)


def test_what_a_pointer_is() -> None:
    there, kind, start, size = gpu().allocate(100), c_uint(), c_uint64(), c_size_t()
    inside = c_uint64(there.value + 99)
    for what, attribute, value in ((kind, 2, 2), (start, 11, there.value), (size, 12, 100)):
        gpu()("cuPointerGetAttribute", byref(what), attribute, inside)
        assert what.value == value
    assert refused("cuPointerGetAttribute", byref(kind), 77, inside) == INVALID_VALUE
    host = c_uint64(np.zeros(8).ctypes.data)
    assert refused("cuPointerGetAttribute", byref(kind), 2, host) == INVALID_VALUE
    gpu().free(there)
    assert refused("cuPointerGetAttribute", byref(kind), 2, inside) == INVALID_VALUE


def test_memory_that_cannot_be_had() -> None:
    assert refused("cuMemAlloc_v2", byref(c_uint64()), c_size_t(0)) == INVALID_VALUE
    assert refused("cuMemAlloc_v2", byref(c_uint64()), c_size_t(17 << 30)) == OUT_OF_MEMORY
    assert refused("cuMemAlloc_v2", None, c_size_t(1)) == INVALID_VALUE


def test_memory_that_is_not_there_is_neither_freed_nor_copied() -> None:
    x = np.zeros(100, np.uint8)
    there, host = gpu().allocate(x.nbytes), c_void_p(x.ctypes.data)
    behind, foreign = c_uint64(there.value + 1), c_uint64(x.ctypes.data)
    copies = (("cuMemcpyHtoD_v2", behind, host), ("cuMemcpyDtoH_v2", host, behind))
    for name, to, start in copies:
        gpu()(name, to, start, c_size_t(99))
        assert refused(name, to, start, c_size_t(100)) == INVALID_VALUE
    assert refused("cuMemcpyHtoD_v2", foreign, host, c_size_t(1)) == INVALID_VALUE
    assert refused("cuMemcpyHtoD_v2", there, None, c_size_t(1)) == INVALID_VALUE
    assert refused("cuMemFree_v2", behind) == INVALID_VALUE
    gpu().free(there)
    assert refused("cuMemFree_v2", there) == INVALID_VALUE
    assert refused("cuMemcpyHtoD_v2", there, host, c_size_t(1)) == INVALID_VALUE
    gpu().free(c_uint64(0))


def test_damage_by_the_host_is_told_when_memory_is_freed() -> None:
    there = gpu().allocate(100)
    ctypes.memset(there.value + 100, 0, 1)
    assert refused("cuMemFree_v2", there) == ILLEGAL_ADDRESS
    assert "byte 100 of an allocation of 100 was written" in gpu().message()
    assert refused("cuMemFree_v2", there) == INVALID_VALUE


# --- NVIDIA's header -----------------------------------------------------------------------------


def _toolkit() -> Path | None:
    """The folder with NVIDIA's cuda.h, as nvcc tells it."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    command = [nvcc, "--dryrun", "-E", "-x", "cu", "/dev/null"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    folders = map(Path, re.findall(r'-I"?([^"\s]+)', told))
    return next((folder for folder in folders if (folder / "cuda.h").is_file()), None)


def test_signatures_and_numbers_are_nvidias() -> None:
    folder = _toolkit()
    if folder is None:
        pytest.skip("needs CUDA's cuda.h")
    native = Path(emulator.__file__).parent / "native"
    types = (native / "driver" / "types.hpp").read_text(encoding="utf-8")
    numbers = re.findall(r"\b(CUD?A?_\w+) = (\d+)", types)
    assert len(numbers) > 60
    checks = "\n".join(f'static_assert({name} == {value}, "");' for name, value in numbers)
    options = ["-std=c++17", "-fsyntax-only", "-msse4.2", "-DQC_NVIDIA_HEADER", f"-I{folder}"]
    done = subprocess.run(
        ["g++", *options, "-x", "c++", "-"],
        input=f'#include "driver.cpp"\n{checks}\n',
        capture_output=True,
        text=True,
        cwd=native,
        check=False,
    )
    assert done.returncode == 0, done.stderr
