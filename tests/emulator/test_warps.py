"""What the threads of a warp do together: votes, shuffles, ldmatrix, and what goes wrong there."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from emulated_gpu import CudaFailure, Kernels, gpu, needs_emulator

pytestmark = needs_emulator

FULL = 0xFFFFFFFF
LAUNCH_FAILED, ILLEGAL_ADDRESS = 719, 700

SOURCE = """
#define ALL 0xffffffffu

KERNEL ballot(int *x, unsigned *votes) {
  int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  votes[i] = __ballot_sync(ALL, x[i] > 3);
  votes[i] ^= (unsigned)__any_sync(ALL, x[i] > 100) << 1 ^ (unsigned)__all_sync(ALL, x[i] > -100);
}

KERNEL shuffles(int *x, int *y, int by, int width) {
  int i = (int)threadIdx.x, v = x[i];
  y[i] = __shfl_sync(ALL, v, by, width);
  y[32 + i] = __shfl_up_sync(ALL, v, (unsigned)by, width);
  y[64 + i] = __shfl_down_sync(ALL, v, (unsigned)by, width);
  y[96 + i] = __shfl_xor_sync(ALL, v, by, width);
}

KERNEL wide_shuffle(long long *x, double *y) {
  int i = (int)threadIdx.x;
  x[i] = __shfl_sync(ALL, x[i], i + 5);
  y[i] = __shfl_xor_sync(ALL, y[i], 3);
}

KERNEL sum(float *x, float *y) {
  float v = x[blockIdx.x * 32 + threadIdx.x];
  for (int by = 16; by > 0; by /= 2) v += __shfl_down_sync(ALL, v, (unsigned)by);
  if (threadIdx.x == 0) y[blockIdx.x] = v;
}

KERNEL some_lanes(int *x) {
  int lane = (int)threadIdx.x;
  if (lane < 8) {
    x[lane] = __shfl_sync(0xffu, lane, lane + 1, 8);
  } else if (lane >= 30) {
    x[lane] = (int)__ballot_sync(0xc0000000u, lane == 31);
  }
  __syncwarp();
  if (lane == 9) x[9] = x[31];
}

KERNEL after_an_early_end(int *x) {
  if (threadIdx.x < 4) return;
  x[threadIdx.x] = (int)__ballot_sync(ALL, 1);
}

KERNEL exchange(int *x) {  // through memory, in step
  int lane = (int)threadIdx.x;
  int v = x[lane];
  __syncwarp();
  x[31 - lane] = v;
}

KERNEL exchange_too_early(int *x) {
  int lane = (int)threadIdx.x;
  x[31 - lane] = x[lane];
}

KERNEL read_from_nobody(int *x) { x[threadIdx.x] = __shfl_down_sync(ALL, 7, 8); }

KERNEL matrices(unsigned *from, unsigned *to) {
  __shared__ __align__(16) unsigned tile[32 * 8];
  int lane = (int)threadIdx.x;
  for (int i = 0; i < 8; i++) tile[lane * 8 + i] = from[lane * 8 + i];
  __syncthreads();
  unsigned r[4];
  qc_ptx_ldmatrix_x4(r, &tile[lane * 8 + lane % 2 * 4]);
  for (int i = 0; i < 4; i++) to[i * 32 + lane] = r[i];
  qc_ptx_ldmatrix_x2(r, &tile[(lane % 16) * 8]);
  for (int i = 0; i < 2; i++) to[(4 + i) * 32 + lane] = r[i];
}

KERNEL misplaced(unsigned *global, int by, int outside) {
  __shared__ __align__(16) unsigned tile[32 * 4];
  unsigned r[4], *row = outside ? global : tile + threadIdx.x * 4;
  tile[threadIdx.x] = 0;
  qc_ptx_ldmatrix_x4(r, row + (threadIdx.x == 5 ? by : 0));
  global[threadIdx.x] = r[0];
}

KERNEL divergent(int *x, int which) {
  int lane = (int)threadIdx.x, d[4] = {0, 0, 0, 0};
  if (which == 1) {
    if (lane < 3) __syncthreads();
    else __syncwarp();
  }
  if (which == 2) {
    if (lane == 7) __syncwarp();
    else x[lane] = (int)__ballot_sync(ALL, 1);
  }
  if (which == 3) x[lane] = __shfl_sync(lane < 31 ? ALL : 0xc0000000u, lane, 0);
  if (which == 4) x[lane] = __shfl_sync(0x7fffffffu, lane, 0);
  if (which == 5 && lane < 31) qc_ptx_mma_m16n8k32_s8s8(d, 0, 0, 0, 0, 0, 0);
  if (which == 6) x[lane] = __shfl_sync(ALL, lane, 0, 12);
  x[lane] += d[0];
}
"""


@cache
def kernels() -> Kernels:
    return Kernels(SOURCE)


def test_votes_are_of_the_warp() -> None:
    x = np.random.default_rng(1).integers(0, 8, 192).astype(np.int32)
    votes = np.zeros(192, np.uint32)
    kernels()("ballot", (2,), (96,), x, votes)
    expected = [
        sum(int(v > 3) << i for i, v in enumerate(x[w : w + 32])) for w in range(0, 192, 32)
    ]
    np.testing.assert_array_equal(votes ^ 1, np.repeat(np.array(expected, np.uint32), 32))


@pytest.mark.parametrize("width", [32, 16, 8, 2])
@pytest.mark.parametrize("by", [0, 1, 5, 15, 31])
def test_shuffles(by: int, width: int) -> None:
    x, y = np.arange(32, dtype=np.int32) * 3, np.zeros(128, np.int32)
    kernels()("shuffles", (1,), (32,), x, y, by, width)
    lane = np.arange(32)
    first = lane // width * width
    up, down, other = lane - by, lane + by, lane ^ by
    sources = (
        first + by % width,
        np.where(up >= first, up, lane),
        np.where(down < first + width, down, lane),
        np.where(other < first + width, other, lane),
    )
    np.testing.assert_array_equal(y, 3 * np.concatenate(sources))


def test_shuffles_of_eight_bytes_and_of_distances_beyond_the_warp() -> None:
    x, y = np.arange(32, dtype=np.int64) << 33, np.arange(32) / 3
    kernels()("wide_shuffle", (1,), (32,), x, y)
    np.testing.assert_array_equal(x >> 33, (np.arange(32) + 5) % 32)
    np.testing.assert_array_equal(y, (np.arange(32) ^ 3) / 3)


def test_a_sum_over_a_warp_adds_in_the_order_of_the_shuffles() -> None:
    x, y = np.random.default_rng(2).standard_normal((5, 32), np.float32), np.zeros(5, np.float32)
    kernels()("sum", (5,), (32,), x, y)
    expected = x.copy()
    for by in (16, 8, 4, 2, 1):
        expected[:, :by] += expected[:, by : 2 * by]
    np.testing.assert_array_equal(y, expected[:, 0])


@pytest.mark.parametrize("order", [0, 1])
def test_lanes_may_part_and_name_each_other(order: int) -> None:
    x = np.full(32, -1, np.int32)
    with gpu().ordered(order):
        kernels()("some_lanes", (1,), (32,), x)
    expected = np.full(32, -1, np.int64)
    expected[:8] = (np.arange(8) + 1) % 8
    expected[[9, 30, 31]] = 1 << 31
    np.testing.assert_array_equal(x, expected.astype(np.uint32).astype(np.int32))


def test_lanes_that_ended_are_not_waited_for() -> None:
    x = np.zeros(32, np.uint32)
    kernels()("after_an_early_end", (1,), (32,), x)
    np.testing.assert_array_equal(x[4:], FULL - 15)


@pytest.mark.parametrize("order", [0, 1])
def test_lanes_that_are_in_step_exchange_values(order: int) -> None:
    x = np.arange(32, dtype=np.int32)
    with gpu().ordered(order):
        kernels()("exchange", (1,), (32,), x)
    np.testing.assert_array_equal(x, np.arange(32)[::-1])


def test_a_missing_syncwarp_is_seen() -> None:
    for order in (0, 1):
        x = np.arange(32, dtype=np.int32)
        with gpu().ordered(order):
            kernels()("exchange_too_early", (1,), (32,), x)
        assert not np.array_equal(x, np.arange(32)[::-1])


def test_what_a_shuffle_reads_from_nobody_is_no_plausible_number() -> None:
    x = np.zeros(16, np.uint32)
    kernels()("read_from_nobody", (1,), (16,), x)
    np.testing.assert_array_equal(x, [7] * 8 + [0xC5C5C5C5] * 8)


def test_ldmatrix_takes_rows_from_the_lanes_and_gives_each_a_word() -> None:
    tile = np.random.default_rng(3).integers(0, 1 << 32, (32, 8)).astype(np.uint32)
    found = np.zeros((6, 32), np.uint32)
    kernels()("matrices", (1,), (32,), tile, found)
    lane = np.arange(32)
    for matrix in range(4):
        row = 8 * matrix + lane // 4
        np.testing.assert_array_equal(found[matrix], tile[row, row % 2 * 4 + lane % 4])
    for matrix in range(2):
        np.testing.assert_array_equal(found[4 + matrix], tile[8 * matrix + lane // 4, lane % 4])


@pytest.mark.parametrize(
    ("by", "outside", "what"),
    [
        (1, 0, "the address of a row is no multiple of 16"),
        (27 * 4, 0, "a row is not in the kernel's shared memory"),
        (-6 * 4, 0, "a row is not in the kernel's shared memory"),
        (0, 1, "a row is not in the kernel's shared memory"),
    ],
)
def test_ldmatrix_refuses_rows_elsewhere(by: int, outside: int, what: str) -> None:
    x = np.zeros(512, np.uint32)
    with pytest.raises(CudaFailure, match=f"ldmatrix.x4: {what}") as failure:
        kernels()("misplaced", (1,), (32,), x, by, outside)
    assert failure.value.code == LAUNCH_FAILED


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    ("which", "what"),
    [
        (1, "__syncwarp of lanes 0xffffffff is divergent: lane 0 is at a barrier"),
        (2, "is divergent: lane [07] is at __(ballot_sync|syncwarp)$"),
        (3, "is divergent: lane 30 names other lanes"),
        (4, "__shfl_sync of lanes 0x7fffffff, and this is none of them"),
        (5, "mma.m16n8k32.s8.s8 of lanes 0xffffffff is divergent: lane 31 has ended"),
        (6, "the width is no power of 2 up to 32"),
    ],
)
def test_divergent_operations_end_the_launch(order: int, which: int, what: str) -> None:
    x = np.zeros(32, np.int32)
    with gpu().ordered(order), pytest.raises(CudaFailure, match=what) as failure:
        kernels()("divergent", (1,), (32,), x, which)
    assert failure.value.code == LAUNCH_FAILED
    assert "kernel divergent, block (0, 0, 0), thread " in failure.value.message


def test_an_instruction_of_a_warp_needs_a_whole_warp() -> None:
    with pytest.raises(CudaFailure, match="lane 20 is not in the block"):
        kernels()("divergent", (1,), (20,), np.zeros(32, np.int32), 5)
