"""Modules, launches, streams and events of the emulated driver, and how it refuses others."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_float, c_int, c_uint, c_uint64, c_void_p
from functools import cache

import numpy as np
import pytest
from emulated_gpu import CudaFailure, Kernels, gpu, needs_emulator, number, refused

from qcompile import emulator

pytestmark = needs_emulator

INVALID_VALUE, INVALID_IMAGE, NO_BINARY_FOR_GPU, OBJECT_INIT_FAILED = 1, 200, 209, 303
INVALID_HANDLE, NOT_FOUND, ILLEGAL_ADDRESS, OUT_OF_RESOURCES, NOT_SUPPORTED = (
    400,
    500,
    700,
    701,
    801,
)

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
