"""Kernels that touch what is not theirs, or do what a GPU does otherwise: each ends its launch."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from emulated_gpu import CudaFailure, Kernels, gpu, needs_emulator

from qcompile.emulator import build

pytestmark = needs_emulator

ILLEGAL_ADDRESS, OUT_OF_RESOURCES, ILLEGAL_INSTRUCTION = 700, 701, 715
MISALIGNED, LAUNCH_FAILED = 716, 719

SOURCE = """
KERNEL shifted_store(int *x, int by) { x[(int)threadIdx.x + by] = 1; }

KERNEL shifted_read(int *x, int by) {
  int v = x[(int)threadIdx.x + by];
  x[threadIdx.x] = v;
}

KERNEL shared_store(int *x, int at) {
  __shared__ int tile[16], more[16];
  int i = (int)threadIdx.x;
  tile[i] = more[i] = i;
  __syncthreads();
  if (i == 0) more[at] = 7;
  __syncthreads();
  x[i] = tile[i];
}

KERNEL through_a_pointer(int *x, int at) {
  __shared__ __align__(16) int tile[16], more[16];
  int i = (int)threadIdx.x, *place = tile;
  tile[i] = more[i] = i;
  __syncthreads();
  if (i == 0) place[at] = 7;
  __syncthreads();
  x[i] = tile[i];
}

KERNEL own_array(int *x, int at) {
  int mine[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  x[threadIdx.x] = mine[at];
}

KERNEL not_initialised(int *x) {
  int sum, sums[4];
  float total;
  for (int i = 0; i < 4; i++) sums[i] += i;
  x[threadIdx.x] = sum + 1;
  x[threadIdx.x + 4] = sums[threadIdx.x];
  x[threadIdx.x + 8] = total < -1e30f;
}

KERNEL vector(int *x, int by) {
  int4 v = *(int4 *)(x + by);
  v.x++;
  *(int4 *)(x + by) = v;
}

KERNEL shift(int *x, int by) { x[0] = 1 << by; }

KERNEL divide(int *x, int by) { x[threadIdx.x] = 100 / by; }

KERNEL null(int *x, int *nothing) { x[0] = nothing[0]; }

KERNEL trap(int *x) { __builtin_trap(); }

static int fill(int *x, int depth) {
  int own[4096];
  for (int i = 0; i < 4096; i++) own[i] = x[0] + i;
  int sum = depth > 0 ? fill(own, depth - 1) : 0;
  for (int i = 0; i < 4096; i += 64) sum += own[i];
  return sum;
}

KERNEL deep(int *x, int depth) { x[threadIdx.x] = fill(x, depth); }

KERNEL one_block_fails(int *x, int which) {
  __syncthreads();
  if ((int)blockIdx.x == which) x[1 << 16] = 1;
}
"""


@cache
def kernels(*, checked: bool = False) -> Kernels:
    return Kernels(SOURCE, checked=checked)


def failing(what: str, name: str, *values: object, checked: bool = False, threads: int = 16) -> int:
    """The code with which a launch on 16 ints fails, with a message that holds `what`."""
    x = np.zeros(16, np.int32)
    with pytest.raises(CudaFailure, match=what) as failure:
        kernels(checked=checked)(name, (1,), (threads,), x, *values)  # type: ignore[arg-type]
    return failure.value.code


@pytest.mark.parametrize(
    ("by", "what"),
    [
        (1, "kernel shifted_store: byte 64 of an allocation of 64 was written"),
        (-1, "kernel shifted_store: byte -4 of an allocation of 64 was written"),
        (40, "byte 160 of an allocation of 64 was written"),
        (64, r"writes address 0x[0-9a-f]+ \(192 bytes behind the end of an allocation of 64\)"),
        (-2000, r"writes address 0x[0-9a-f]+ \(8000 bytes before an allocation of 64\)"),
    ],
)
def test_a_write_beside_an_allocation(by: int, what: str) -> None:
    assert failing(what, "shifted_store", by) == ILLEGAL_ADDRESS


def test_a_read_behind_an_allocation() -> None:
    assert failing("thread 0: reads address", "shifted_read", 64) == ILLEGAL_ADDRESS


def test_a_read_of_what_nobody_wrote_is_no_plausible_number() -> None:
    x = gpu().allocate(64)
    y = np.zeros(16, np.uint32)
    gpu().read(x, y)
    gpu().free(x)
    np.testing.assert_array_equal(y, 0xCDCDCDCD)


@pytest.mark.skipif(not build.fills_variables(), reason="needs GCC 12, which fills variables")
def test_a_sum_that_does_not_start_at_0() -> None:
    x = np.zeros(16, np.int32)
    kernels()("not_initialised", (1,), (4,), x)
    pattern = np.full(4, 0xFEFEFEFE, np.uint32).view(np.int32)
    expected = np.concatenate([pattern + 1, pattern + np.arange(4), np.ones(4), np.zeros(4)])
    np.testing.assert_array_equal(x, expected)


def test_a_null_pointer() -> None:
    null = ctypes.c_uint64(0)
    assert failing("thread 0: reads address 0x0$", "null", null) == ILLEGAL_ADDRESS


@pytest.mark.parametrize(
    ("at", "code", "what"),
    [
        (16, ILLEGAL_ADDRESS, "writes byte 128 of 128 of shared memory"),
        (30, ILLEGAL_ADDRESS, "writes byte 184 of 128 of shared memory"),
        (-33, ILLEGAL_ADDRESS, "writes byte -68 of 128 of shared memory"),
        (1 << 16, ILLEGAL_ADDRESS, "writes byte 262208 of 128 of shared memory"),
    ],
)
def test_a_write_beside_shared_memory(at: int, code: int, what: str) -> None:
    assert failing(what, "shared_store", at) == code


@pytest.mark.parametrize("at", [-1, 16])
def test_a_checked_image_sees_an_index_that_an_array_has_not(at: int) -> None:
    what = rf"thread 0: kernels.cu:\d+: index {at} of an array 'int \[16\]'"
    assert failing(what, "shared_store", at, checked=True) == ILLEGAL_ADDRESS
    what = rf"kernels.cu:\d+: index {at} of an array 'int \[8\]'"
    assert failing(what, "own_array", at, checked=True) == ILLEGAL_ADDRESS


def test_a_checked_image_sees_a_write_between_arrays() -> None:
    x = np.zeros(16, np.int32)
    kernels()("through_a_pointer", (1,), (16,), x, 16)  # the other array's
    what = "writes byte 64 of .* of shared memory, between arrays"
    assert failing(what, "through_a_pointer", 16, checked=True) == ILLEGAL_ADDRESS


@pytest.mark.parametrize("checked", [False, True])
def test_arrays_that_are_kept_to_are_fine(checked: bool) -> None:
    for name in ("shared_store", "through_a_pointer", "own_array"):
        x = np.zeros(16, np.int32)
        kernels(checked=checked)(name, (1,), (16,), x, 3)
        assert x[3] == {"shared_store": 3, "through_a_pointer": 7, "own_array": 4}[name]


def test_misaligned_vectors() -> None:
    what = "kernels.cu:[0-9]+: 0x[0-9a-f]+ is no address of .*int4.*: no multiple of 16"
    assert failing(what, "vector", 1, checked=True) == MISALIGNED
    x = np.zeros(16, np.int32)
    kernels(checked=True)("vector", (1,), (1,), x, 4)
    assert x[4] == 1


@pytest.mark.parametrize("by", [32, -1])
def test_a_shift_by_more_than_there_are_bits(by: int) -> None:
    assert failing(f"a shift of 'int' by {by} bits", "shift", by, checked=True) == LAUNCH_FAILED


def test_a_division_by_zero() -> None:
    assert failing("divides an integer by zero", "divide", 0) == LAUNCH_FAILED
    x = np.zeros(16, np.int32)
    kernels()("divide", (1,), (16,), x, 7)
    np.testing.assert_array_equal(x, 14)


def test_a_trap() -> None:
    assert failing("thread 0: traps", "trap") == ILLEGAL_INSTRUCTION


def test_a_stack_that_is_too_small() -> None:
    assert failing("needs more than 122880 bytes of stack", "deep", 9) == OUT_OF_RESOURCES
    x = np.zeros(16, np.int32)
    kernels()("deep", (1,), (16,), x, 4)  # 80 KiB are there
    assert x[0] > 0


@pytest.mark.parametrize("threads", [1, 3])
def test_one_block_of_many_fails(threads: int, capfd: pytest.CaptureFixture[str]) -> None:
    with gpu().ordered(0, threads), pytest.raises(CudaFailure) as failure:
        kernels()("one_block_fails", (50,), (64,), np.zeros(16, np.int32), 17)
    assert "kernel one_block_fails, block (17, 0, 0), thread" in failure.value.message
    said = capfd.readouterr().err.splitlines()
    assert said == [f"qcompile emulator: {failure.value.message}"]


def test_the_process_keeps_its_own_handlers() -> None:
    before = (
        [signal.getsignal(s) for s in (signal.SIGFPE, signal.SIGBUS)],
        faulthandler.is_enabled(),
    )
    failing("divides", "divide", 0)
    assert before == (
        [signal.getsignal(s) for s in (signal.SIGFPE, signal.SIGBUS)],
        faulthandler.is_enabled(),
    )
    own = "import ctypes, sys; from emulated_gpu import *; k = Kernels(sys.argv[1]); ctypes.string_at(16)"
    done = run_python(own, SOURCE)
    assert done.returncode == -signal.SIGSEGV


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, with the modules of this one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
