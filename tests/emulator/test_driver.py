"""The emulated driver's functions, and the codes with which they refuse what NVIDIA's would."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_gpu import CudaFailure, Kernels, gpu, needs_emulator

from qcompile import emulator
from qcompile.errors import QCompileError

pytestmark = needs_emulator

INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALIZED, INVALID_DEVICE = 1, 2, 3, 101
INVALID_IMAGE, INVALID_CONTEXT, NO_BINARY_FOR_GPU, OBJECT_INIT_FAILED = 200, 201, 209, 303
INVALID_HANDLE, NOT_FOUND, ILLEGAL_ADDRESS, OUT_OF_RESOURCES = 400, 500, 700, 701
DESTROYED, NOT_SUPPORTED = 709, 801
MAJOR, MINOR, THREADS_PER_BLOCK, SHARED_PER_BLOCK, WARP_SIZE = 75, 76, 1, 8, 10

SOURCE = """
KERNEL twice(int *x, int n) {
  int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) x[i] *= 2;
}
extern "C" __global__ void __launch_bounds__(64, 2) small(float *x);
extern "C" __global__ void __launch_bounds__(64, 2) small(float *x) {
  __shared__ float tile[1000];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = tile[threadIdx.x] + 1;
}
KERNEL nothing() {}
KERNEL many(signed char a, short b, long long c, double d, float e, unsigned char *y) {
  y[0] = a == -3 && b == -300 && c == -(1ll << 40) && d == 0.1 && e == 0.25f;
}
"""


@cache
def kernels() -> Kernels:
    return Kernels(SOURCE)


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
    limits = [number("cuDeviceGetAttribute", a, 0) for a in (1, SHARED_PER_BLOCK, WARP_SIZE)]
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
    for what, number, value in ((kind, 2, 2), (start, 11, there.value), (size, 12, 100)):
        gpu()("cuPointerGetAttribute", byref(what), number, inside)
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


# --- modules -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (b"nothing that is an image", INVALID_IMAGE),
        (b"", INVALID_IMAGE),
        (b"\x7fELF of a GPU, a cubin", NO_BINARY_FOR_GPU),
        (b"\x50\xed\x55\xba a fatbin", NO_BINARY_FOR_GPU),
        (b"//\n.version 8.0\n.target sm_80", INVALID_IMAGE),
    ],
)
def test_what_is_no_image_is_refused(image: bytes, code: int) -> None:
    assert refused("cuModuleLoadData", byref(c_void_p()), c_char_p(image)) == code


def test_a_damaged_image_is_refused() -> None:
    image = bytearray(emulator.image('extern "C" __global__ void k() {}', 80))
    module = c_void_p()
    for at, code in ((8, INVALID_IMAGE), (24, OBJECT_INIT_FAILED)):
        damaged = bytearray(image)
        damaged[at] ^= 0xFF
        buffer = (ctypes.c_char * len(damaged)).from_buffer(damaged)
        assert refused("cuModuleLoadData", byref(module), buffer) == code
    assert refused("cuModuleLoadData", byref(module), None) == INVALID_VALUE


def test_kernels_that_are_not_there() -> None:
    module, function = kernels().module, c_void_p()
    assert refused("cuModuleGetFunction", byref(function), module, b"thrice") == NOT_FOUND
    assert refused("cuModuleGetFunction", byref(function), c_void_p(64), b"twice") == INVALID_HANDLE
    assert refused("cuModuleGetFunction", byref(function), module, None) == INVALID_VALUE


def test_a_module_that_was_unloaded() -> None:
    own = Kernels(SOURCE)
    function, value = own.gpu.function(own.module, "nothing"), c_int()
    gpu()("cuModuleUnload", own.module)
    assert refused("cuModuleUnload", own.module) == INVALID_HANDLE
    assert refused("cuFuncGetAttribute", byref(value), 0, function) == INVALID_HANDLE
    sizes = [c_uint(1)] * 6
    launch = refused("cuLaunchKernel", function, *sizes, c_uint(0), None, None, None)
    assert launch == INVALID_HANDLE


def test_what_a_kernel_says_of_itself() -> None:
    small, twice = (gpu().function(kernels().module, n) for n in ("small", "twice"))
    assert [number("cuFuncGetAttribute", a, small) for a in (0, 1, 6)] == [64, 4000, 80]
    assert [number("cuFuncGetAttribute", a, twice) for a in (0, 1)] == [1024, 0]
    assert refused("cuFuncGetAttribute", byref(c_int()), 99, twice) == INVALID_VALUE


# --- launches ------------------------------------------------------------------------------------


def test_parameters_of_all_sizes() -> None:
    y = gpu().allocate(1)
    values = [ctypes.c_byte(-3), ctypes.c_short(-300), ctypes.c_longlong(-(1 << 40))]
    kernels().launch("many", (1,), (1,), [*values, ctypes.c_double(0.1), 0.25, y])
    found = np.zeros(1, np.uint8)
    gpu().read(y, found)
    gpu().free(y)
    assert found[0] == 1


@pytest.mark.parametrize(
    ("grid", "block", "code"),
    [
        ((0,), (1,), INVALID_VALUE),
        ((1,), (1, 0), INVALID_VALUE),
        ((1,), (1025,), INVALID_VALUE),
        ((1,), (32, 33), INVALID_VALUE),
        ((1,), (1, 1, 65), INVALID_VALUE),
        ((1, 65536), (1,), INVALID_VALUE),
        ((1, 1, 65536), (1,), INVALID_VALUE),
        ((1 << 31,), (1,), INVALID_VALUE),
    ],
)
def test_launches_that_are_too_large(
    grid: tuple[int, ...], block: tuple[int, ...], code: int
) -> None:
    with pytest.raises(CudaFailure, match="kernel nothing: ") as failure:
        kernels().launch("nothing", grid, block, [])
    assert failure.value.code == code


def test_more_threads_than_a_kernel_is_for() -> None:
    kernels()("small", (1,), (64,), np.zeros(64, np.float32))
    with pytest.raises(CudaFailure, match="it is for 64 threads a block") as failure:
        kernels()("small", (1,), (65,), np.zeros(65, np.float32))
    assert failure.value.code == OUT_OF_RESOURCES


def test_more_shared_memory_than_there_is() -> None:
    x = gpu().allocate(64 * 4)
    kernels().launch("small", (1,), (64,), [x], shared=(48 << 10) - 4000)
    for shared in ((48 << 10) - 3999, 0xFFFFFFFF):
        with pytest.raises(CudaFailure, match="of shared memory beside its own 4000") as failure:
            kernels().launch("small", (1,), (64,), [x], shared=shared)
        assert failure.value.code == INVALID_VALUE
    gpu().free(x)


def test_a_pointer_that_is_not_the_gpus() -> None:
    host = np.zeros(8, np.int32)
    freed = gpu().allocate(32)
    gpu().free(freed)
    for address in (c_uint64(host.ctypes.data), freed):
        with pytest.raises(
            CudaFailure, match=r"parameter 0, 0x[0-9a-f]+, is not the GPU"
        ) as failure:
            kernels().launch("twice", (1,), (8,), [address, 8])
        assert failure.value.code == ILLEGAL_ADDRESS


def test_a_launch_without_its_parameters() -> None:
    function = gpu().function(kernels().module, "twice")
    sizes = [c_uint(1)] * 6
    for parameters in (None, (c_void_p * 2)()):
        call = (function, *sizes, c_uint(0), None, parameters, None)
        assert refused("cuLaunchKernel", *call) == INVALID_VALUE
    call = (function, *sizes, c_uint(0), None, None, (c_void_p * 1)())
    assert refused("cuLaunchKernel", *call) == NOT_SUPPORTED


# --- streams and events --------------------------------------------------------------------------


def test_streams_that_are_none() -> None:
    stream = c_void_p()
    assert refused("cuStreamCreate", byref(stream), c_uint(5)) == INVALID_VALUE
    gpu()("cuStreamCreate", byref(stream), c_uint(0))
    kernels().launch("nothing", (1,), (1,), [], stream=stream)
    gpu()("cuStreamDestroy_v2", stream)
    assert refused("cuStreamDestroy_v2", stream) == INVALID_HANDLE
    assert refused("cuStreamSynchronize", stream) == INVALID_HANDLE
    with pytest.raises(CudaFailure, match="is no stream") as failure:
        kernels().launch("nothing", (1,), (1,), [], stream=stream)
    assert failure.value.code == INVALID_HANDLE
    for default in (0, 1, 2):
        gpu()("cuStreamSynchronize", c_void_p(default))


@pytest.mark.parametrize("version", ["", "_v2"])
def test_events_tell_how_long_it_took(version: str) -> None:
    start, end, untimed, elapsed = c_void_p(), c_void_p(), c_void_p(), c_float(-1)
    for event, flags in ((start, 0), (end, 1), (untimed, 2)):
        gpu()("cuEventCreate", byref(event), c_uint(flags))
    assert refused(f"cuEventElapsedTime{version}", byref(elapsed), start, end) == INVALID_HANDLE
    for event in (start, end, untimed):
        gpu()("cuEventRecord", event, None)
        gpu()("cuStreamWaitEvent", None, event, c_uint(0))
    gpu()("cuEventSynchronize", end)
    gpu()(f"cuEventElapsedTime{version}", byref(elapsed), start, end)
    assert 0 <= elapsed.value < 1000
    call = (f"cuEventElapsedTime{version}", byref(elapsed), start, untimed)
    assert refused(*call) == INVALID_HANDLE
    for event in (start, end, untimed):
        gpu()("cuEventDestroy_v2", event)
        assert refused("cuEventRecord", event, None) == INVALID_HANDLE


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
