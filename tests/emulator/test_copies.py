"""cp.async: what is copied when, and that a wait that is too weak shows in one of the orders."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from emulated_gpu import Array, CudaFailure, Kernels, gpu, needs_emulator

pytestmark = needs_emulator

THREADS, STEPS = 64, 6
LATE, EARLY = 0, 2


def pipeline(
    name: str, *, wait: int = 1, last: int = 0, barrier: bool = True, reuse: bool = True
) -> str:
    """Sums of what other threads copied, in two buffers that take turns.

    Args:
        wait: how many groups may be in flight where a buffer is read, but in the last step.
        last: and there.
        barrier: the copies of all threads have come, before a buffer is read.
        reuse: all threads have read a buffer, before it is written again.
    """
    return f"""
KERNEL {name}(int *x, int *y) {{
  __shared__ __align__(16) int tile[2][{THREADS} * 4];
  int i = (int)threadIdx.x, other = (i + 33) % {THREADS}, sum = 0;
  qc_ptx_cp_async_16(&tile[0][i * 4], x + i * 4);
  qc_ptx_cp_async_commit();
  for (int step = 0; step < {STEPS}; step++) {{
    if (step + 1 < {STEPS}) {{
      qc_ptx_cp_async_16(&tile[(step + 1) % 2][i * 4], x + ((step + 1) * {THREADS} + i) * 4);
      qc_ptx_cp_async_commit();
      qc_ptx_cp_async_wait_{wait}();
    }} else {{
      qc_ptx_cp_async_wait_{last}();
    }}
    {"__syncthreads();" if barrier else ""}
    for (int k = 0; k < 4; k++) sum += (step + 1) * tile[step % 2][other * 4 + k];
    {"__syncthreads();" if reuse else ""}
  }}
  y[i] = sum;
}}"""


RIGHT = pipeline("right")
WRONG = {
    "waits_too_weakly": pipeline("waits_too_weakly", wait=2),
    "waits_too_weakly_at_the_end": pipeline("waits_too_weakly_at_the_end", last=1),
    "reads_before_the_barrier": pipeline("reads_before_the_barrier", barrier=False),
    "writes_before_the_barrier": pipeline("writes_before_the_barrier", reuse=False),
}
OTHERS = """
KERNEL sizes(unsigned *x, unsigned *y) {
  __shared__ __align__(16) unsigned tile[7];
  tile[threadIdx.x] = 0;
  __syncthreads();
  if (threadIdx.x == 0) {
    qc_ptx_cp_async_4(tile + 6, x + 6);
    qc_ptx_cp_async_8(tile + 4, x + 4);
    qc_ptx_cp_async_16(tile, x);
    qc_ptx_cp_async_commit();
    qc_ptx_cp_async_wait_0();
  }
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}

KERNEL groups(int *x, int *seen) {  // what has come after waits for all but 2, 1 and 0 groups
  __shared__ int tile[4];
  for (int i = 0; i < 4; i++) tile[i] = -1;
  for (int i = 0; i < 3; i++) {
    qc_ptx_cp_async_4(tile + i, x + i);
    qc_ptx_cp_async_commit();
  }
  qc_ptx_cp_async_4(tile + 3, x + 3);  // of no group yet
  qc_ptx_cp_async_wait_2();
  for (int i = 0; i < 4; i++) seen[i] = tile[i];
  qc_ptx_cp_async_wait_1();
  for (int i = 0; i < 4; i++) seen[4 + i] = tile[i];
  qc_ptx_cp_async_wait_0();
  for (int i = 0; i < 4; i++) seen[8 + i] = tile[i];
  qc_ptx_cp_async_commit();
  qc_ptx_cp_async_wait_0();
  for (int i = 0; i < 4; i++) seen[12 + i] = tile[i];
}

KERNEL wrong(int *x, int which) {
  __shared__ __align__(16) int tile[8];
  tile[threadIdx.x] = 0;
  if (which == 0) qc_ptx_cp_async_16(tile + 1, x);
  if (which == 1) qc_ptx_cp_async_8(tile, x + 1);
  if (which == 2) qc_ptx_cp_async_4(tile + 8, x);
  if (which == 3) qc_ptx_cp_async_4(tile - 1, x);
  if (which == 4) qc_ptx_cp_async_4(x, x + 1);
  if (which == 5) qc_ptx_cp_async_16(tile, x + 4096);
  qc_ptx_cp_async_commit();
  qc_ptx_cp_async_wait_0();
  x[threadIdx.x] = tile[threadIdx.x];
}
"""


@cache
def kernels() -> Kernels:
    return Kernels(RIGHT + "".join(WRONG.values()) + OTHERS)


def sums(name: str, order: int) -> tuple[Array, Array]:
    """What a pipeline gives, and what it should."""
    x = np.random.default_rng(4).integers(-1000, 1000, (STEPS, THREADS, 4)).astype(np.int32)
    y = np.zeros(THREADS, np.int32)
    with gpu().ordered(order):
        kernels()(name, (1,), (THREADS,), x, y)
    weights = np.arange(1, STEPS + 1)[:, None, None]
    return y, np.roll((weights * x).sum((0, 2)), -33)


@pytest.mark.parametrize("order", range(4))
def test_copies_that_are_waited_for_have_come(order: int) -> None:
    np.testing.assert_array_equal(*sums("right", order))


@pytest.mark.parametrize("name", WRONG)
def test_a_copy_that_is_not_waited_for_shows(name: str) -> None:
    assert any(not np.array_equal(*sums(name, order)) for order in range(4))


@pytest.mark.parametrize("name", ["waits_too_weakly", "waits_too_weakly_at_the_end"])
def test_late_copies_show_what_early_ones_hide(name: str) -> None:
    assert np.array_equal(*sums(name, EARLY))
    assert not np.array_equal(*sums(name, LATE))


def test_sizes() -> None:
    x, y = np.arange(1, 8, dtype=np.uint32), np.zeros(7, np.uint32)
    kernels()("sizes", (1,), (7,), x, y)
    np.testing.assert_array_equal(y, x)


def test_groups_come_in_their_order() -> None:
    x, late, early = np.arange(4, dtype=np.int32), np.zeros((2, 16), np.int32), None
    for order, seen in zip((LATE, EARLY), late, strict=True):
        with gpu().ordered(order):
            kernels()("groups", (1,), (1,), x, seen)
    late, early = late.reshape(2, 4, 4)
    np.testing.assert_array_equal(early, [[0, 1, 2, 3]] * 4)
    np.testing.assert_array_equal(
        late, [[0, -1, -1, -1], [0, 1, -1, -1], [0, 1, 2, -1], [0, 1, 2, 3]]
    )


@pytest.mark.parametrize("order", [LATE, EARLY])
@pytest.mark.parametrize(
    ("which", "code", "what"),
    [
        (0, 716, "cp.async of 16 bytes is misaligned"),
        (1, 716, "cp.async of 8 bytes is misaligned"),
        (2, 700, "cp.async to byte 32 of 32 of shared memory"),
        (3, 700, "cp.async to byte -4 of 32 of shared memory"),
        (4, 700, "cp.async to no shared memory"),
        (
            5,
            700,
            "reads address 0x[0-9a-f]+ \\(16352 bytes behind the end of an allocation of 32\\)",
        ),
    ],
)
def test_copies_from_and_to_where_there_is_nothing(
    order: int, which: int, code: int, what: str
) -> None:
    with gpu().ordered(order), pytest.raises(CudaFailure, match=what) as failure:
        kernels()("wrong", (1,), (8,), np.zeros(8, np.int32), which)
    assert failure.value.code == code
