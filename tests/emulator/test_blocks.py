"""Blocks: barriers, shared memory, and the orders that show a barrier that is not there."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from emulated_gpu import Array, CudaFailure, Kernels, gpu, needs_emulator

from qcompile import emulator

pytestmark = needs_emulator

ROWS, DEPTH, TILE = 16, 40, 8
LAUNCH_FAILED = 719


def product(name: str, first: str = "__syncthreads();", second: str = "__syncthreads();") -> str:
    """c = a b of 16 x 40 and 40 x 16, through tiles in shared memory, with two barriers a step."""
    return f"""
KERNEL {name}(int *a, int *b, int *c) {{
  __shared__ int left[{ROWS} * {TILE}], right[{TILE}][{ROWS}];
  int row = (int)threadIdx.y, column = (int)threadIdx.x, sum = 0;
  for (int k = 0; k < {DEPTH}; k += {TILE}) {{
    if (column < {TILE}) left[row * {TILE} + column] = a[row * {DEPTH} + k + column];
    if (row < {TILE}) right[row][column] = b[(k + row) * {ROWS} + column];
    {first}
    for (int i = 0; i < {TILE}; i++) sum += left[row * {TILE} + i] * right[i][column];
    {second}
  }}
  c[row * {ROWS} + column] = sum;
}}"""


WRONG = {
    "no_barrier_before": product("no_barrier_before", first=""),
    "no_barrier_after": product("no_barrier_after", second=""),
}
OTHERS = """
KERNEL places(unsigned *y) {
  unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  unsigned *mine = y + (block * blockDim.x * blockDim.y * blockDim.z + thread) * 6;
  mine[0] = blockIdx.x, mine[1] = blockIdx.y, mine[2] = blockIdx.z;
  mine[3] = threadIdx.x, mine[4] = threadIdx.y, mine[5] = threadIdx.z;
}

KERNEL fresh_shared(unsigned *y) {
  __shared__ unsigned words[64];
  __shared__ unsigned char bytes[3], more;
  __shared__ float number;
  y[blockIdx.x * 64 + threadIdx.x] = words[threadIdx.x];
  words[threadIdx.x] = blockIdx.x;
  bytes[threadIdx.x % 3] = more = 1;
  number = 2;
}

KERNEL order_of_blocks(int *next, int *y) { y[blockIdx.x] = atomicAdd(next, 1); }

KERNEL order_of_threads(int *y) {
  __shared__ int next;
  if (threadIdx.x == 0) next = 0;
  __syncthreads();
  y[threadIdx.x] = next++;
}

KERNEL divergent(int *x, int which) {
  int i = (int)threadIdx.x;
  x[i] = i;
  if (which == 0 && i < 3) __syncthreads();
  if (which == 1 && i >= 40) return;
  if (which == 1) __syncthreads();
  if (which == 2) {
    if (i < 32)
      __syncthreads();
    else
      __syncthreads();
  }
  for (int k = 0; which == 3 && k < i / 32 + 1; k++) __syncthreads();
}

KERNEL last_block(int *x, unsigned *arrived, int *y) {  // the block that comes last adds up all
  __shared__ bool last;
  int *partial = x + gridDim.x;
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = x[blockIdx.x] * 2;
    __threadfence();
    last = atomicAdd(arrived, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    for (unsigned i = 0; i < gridDim.x; i++) y[0] += partial[i];
  }
}
"""


@cache
def kernels() -> Kernels:
    return Kernels(product("right") + "".join(WRONG.values()) + OTHERS)


def products(name: str, order: int) -> tuple[Array, Array]:
    """What a kernel gives, and what it should."""
    rng = np.random.default_rng(5)
    a = rng.integers(-9, 10, (ROWS, DEPTH)).astype(np.int32)
    b = rng.integers(-9, 10, (DEPTH, ROWS)).astype(np.int32)
    c = np.zeros((ROWS, ROWS), np.int32)
    with gpu().ordered(order):
        kernels()(name, (1,), (ROWS, ROWS), a, b, c)
    return c, a @ b


@pytest.mark.parametrize("order", range(emulator.ORDERS))
def test_threads_share_tiles(order: int) -> None:
    np.testing.assert_array_equal(*products("right", order))


@pytest.mark.parametrize("name", WRONG)
def test_a_dropped_barrier_shows(name: str) -> None:
    assert any(not np.array_equal(*products(name, order)) for order in (0, 1))


def test_every_thread_has_its_place() -> None:
    grid, block = (3, 2, 2), (5, 3, 2)
    y = np.zeros((2, 2, 3, 2, 3, 5, 6), np.uint32)
    kernels()("places", grid, block, y)
    expected = np.moveaxis(np.indices(y.shape[:-1]), 0, -1)[..., [2, 1, 0, 5, 4, 3]]
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_shared_memory_is_not_what_a_block_before_left(threads: int) -> None:
    y = np.zeros((9, 64), np.uint32)
    with gpu().ordered(0, threads):
        kernels()("fresh_shared", (9,), (64,), y)
    np.testing.assert_array_equal(y, 0xC5C5C5C5)


def test_blocks_and_threads_run_in_the_order_asked_for() -> None:
    for order in (0, 1):
        blocks, threads = np.zeros(10, np.int32), np.zeros(96, np.int32)
        with gpu().ordered(order, 1):
            kernels()("order_of_blocks", (10,), (1,), np.zeros(1, np.int32), blocks)
            kernels()("order_of_threads", (1,), (96,), threads)
        step = -1 if order else 1
        np.testing.assert_array_equal(blocks, np.arange(10)[::step])
        np.testing.assert_array_equal(threads, np.arange(96)[::step])


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    ("which", "what"),
    [
        (0, "divergent: thread 3 has ended"),
        (1, "divergent: thread 40 has ended"),
        (2, "is divergent: thread 32 is at that of line [0-9]+"),
        (3, "divergent: thread 0 has ended"),
    ],
)
def test_a_barrier_that_not_all_threads_reach_ends_the_launch(
    order: int, which: int, what: str
) -> None:
    with gpu().ordered(order), pytest.raises(CudaFailure, match=what) as failure:
        kernels()("divergent", (1,), (64,), np.zeros(64, np.int32), which)
    assert failure.value.code == LAUNCH_FAILED
    assert "kernel divergent, block (0, 0, 0), thread " in failure.value.message
    assert ": the barrier of line " in failure.value.message


@pytest.mark.parametrize("order", [0, 1])
def test_a_block_sees_what_others_wrote_before_its_atomic(order: int) -> None:
    x, y = np.arange(200, dtype=np.int32), np.zeros(1, np.int32)
    with gpu().ordered(order):
        kernels()("last_block", (100,), (64,), x, np.zeros(1, np.uint32), y)
    assert y[0] == 2 * sum(range(100))


def test_the_largest_block() -> None:
    y = np.zeros(1024, np.int32)
    kernels()("order_of_threads", (1,), (1024,), y)
    np.testing.assert_array_equal(y, np.arange(1024))
