"""CUDA C as g++ takes it, and what is kept of what g++ made."""

from __future__ import annotations

import os
import platform
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from emulated_gpu import CudaFailure, Kernels, gpu, needs_emulator

from qcompile import emulator
from qcompile.emulator import build
from qcompile.emulator.source import translated
from qcompile.errors import QCompileError

pytestmark = needs_emulator

KERNEL = 'extern "C" __global__ void'
TRICKY = f"""
// {KERNEL} not_me(int *x) {{ __shared__ int a[3]; }}
/* {KERNEL} nor_me(int *x) {{
*/
#define uint unsigned int
static const char *text() {{ return "}} // {{ /* __shared__ \\" ;"; }}
static inline int sum(int a, int b) {{ if (a) {{ return a + b; }} return b; }}
{KERNEL} __launch_bounds__((64)) first(uint* __restrict__ x, int n);
{KERNEL}
__launch_bounds__(128, 2)
first(uint* __restrict__ x, int n)
{{
  __shared__ alignas(16) uint a[2][8 * 4], b; __shared__ unsigned char c[3];
  // __shared__ int nothing[5];
  if (threadIdx.x == 0) {{ b = (uint)text()[0]; c[2] = 4; }}
  a[threadIdx.x / 32][threadIdx.x % 32] = threadIdx.x;
  __syncthreads();
  if ((int)threadIdx.x < n) {{ x[threadIdx.x] = a[1 - threadIdx.x / 32][threadIdx.x % 32] + b + c[2]; }}
}}
{KERNEL} second() {{}}
"""


def first_error(source: str, *, checked: bool = False) -> QCompileError:
    with pytest.raises(QCompileError) as failure:
        emulator.image(source, 80, checked=checked)
    return failure.value


def test_shared_arrays_become_members() -> None:
    source = f"{KERNEL} k(int n) {{\n  __shared__ int a[4];\n  a[0] = n;\n}}"
    text = translated(source)
    assert "struct qc_shared_k { int a[4]; };" in text
    assert "auto& a = qc_emulator::shared<qc_shared_k>().a;" in text
    assert "QC_KERNEL(k, sizeof(qc_shared_k), (1024), qc_gaps_k)" in text
    assert "int a[4]; char qc_gap_0[qc_emulator::GAP];" in translated(source, checked=True)
    assert text.splitlines()[3].strip() == "a[0] = n;"  # below #line 1


@pytest.mark.parametrize("checked", [False, True])
def test_what_looks_like_a_kernel_and_is_none(checked: bool) -> None:
    kernels = Kernels(TRICKY, checked=checked)
    x = np.zeros(64, np.uint32)
    kernels("first", (1,), (64,), x, 64)
    np.testing.assert_array_equal(x, (np.arange(64) + 32) % 64 + ord("}") + 4)
    kernels("second", (1,), (1,))
    with pytest.raises(CudaFailure, match="has no kernel not_me"):
        kernels("not_me", (1,), (1,))


@pytest.mark.parametrize(
    ("source", "what", "where"),
    [
        ("int f() { return 1; }", "the CUDA source holds no kernel", None),
        (f"{KERNEL} k(int n);", "the CUDA source holds no kernel", None),
        (f"{KERNEL} k(int n) {{ if (n) {{ }}", "the CUDA source ends within a kernel", None),
        (f"{KERNEL} k() {{ __shared__ ; }}", "the emulator does not read `__shared__ ;`", "k"),
        (f"{KERNEL} k() {{\n  missing(1);\n}}", ".*missing.* was not declared", "kernels.cu:2"),
        (
            f"{KERNEL} k() {{ __shared__ int a[12289]; a[0] = 1; }}",
            "g.. cannot compile .* the kernel uses too much shared memory",
            ".hpp:9",
        ),
    ],
)
def test_sources_that_are_refused(source: str, what: str, where: str | None) -> None:
    error = first_error(source)
    assert re.match(what, error.what) or re.search(f"kernels: {what}", error.what)
    assert (error.where or "").endswith(where or "")


def test_a_block_may_have_all_shared_memory() -> None:
    source = f"{KERNEL} k(int *x) {{ __shared__ int a[12288]; a[threadIdx.x] = 1; x[0] = a[0]; }}"
    for checked in (False, True):
        x = np.zeros(1, np.int32)
        Kernels(source, checked=checked)("k", (1,), (1,), x)
        assert x[0] == 1


# --- the cache -----------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "qcompile" / "emulator"


def test_an_image_is_compiled_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = f"{KERNEL} k() {{}}"
    one = emulator.image(source, 80)
    files = sorted(fresh.iterdir())
    assert [f.suffix for f in files] == [".so"]
    compiled: list[str] = []
    monkeypatch.setattr(build, "_compile", lambda *_: compiled.append("again"))
    assert emulator.image(source, 80) == one
    assert compiled == []
    with pytest.raises(QCompileError):  # nothing was made
        emulator.image(source, 80, checked=True)
    assert compiled == ["again"]
    assert sorted(fresh.iterdir()) == files


def test_what_was_used_last_is_kept(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [f"{KERNEL} k{i}() {{}}" for i in range(3)]
    for age, source in enumerate(sources[:2]):
        emulator.image(source, 80)
        for path in fresh.iterdir():
            os.utime(path, (age + 1, age + 1))
    first = {path.name: path.stat().st_size for path in fresh.iterdir()}
    emulator.image(sources[0], 80)  # now the other is the oldest
    monkeypatch.setattr(build, "_KEPT", sum(first.values()) + 1000)
    emulator.image(sources[2], 80)
    left = {path.name for path in fresh.iterdir()}
    assert len(left) == 2
    assert len(left & first.keys()) == 1
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("it was not kept"))
    emulator.image(sources[0], 80)


def test_a_cache_that_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    error = first_error(f"{KERNEL} k() {{}}")
    assert error.what.startswith("the emulator's cache takes no files: ")
    assert error.hint == "XDG_CACHE_HOME names another folder for caches"


# --- obstacles -----------------------------------------------------------------------------------


def test_machines_that_cannot_emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "aarch64")
        assert emulator.obstacle() == "the emulator runs on Linux on x86-64, not Linux on aarch64"
    with monkeypatch.context() as patch:
        patch.setattr(emulator, "flags", lambda: frozenset({"sse4_2"}))
        assert emulator.obstacle() == "the emulator needs a processor with SSE 4.2 and popcnt"
        assert first_error(f"{KERNEL} k() {{}}").what == emulator.obstacle()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        assert emulator.obstacle() == "the emulator needs g++ (Debian: apt install g++)"
        with pytest.raises(QCompileError, match="needs g"):
            emulator.driver()
    assert emulator.obstacle() == ""


# --- threads -------------------------------------------------------------------------------------


def test_many_threads_launch_at_once() -> None:
    kernels = Kernels(TRICKY)
    place = np.arange(64)
    right = (place + 32) % 64 + ord("}") + 4

    def work(seed: int) -> list[bool]:
        gpu()("cuCtxPushCurrent_v2", gpu().context)
        found = []
        for _ in range(20):
            x = np.full(64, seed, np.uint32)
            kernels("first", (5,), (64,), x, 40)
            found.append(np.array_equal(x, np.where(place < 40, right, seed)))
        return found

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(work, range(6)))
    assert results == [[True] * 20] * 6


def test_a_failure_is_the_launch_s_own() -> None:
    kernels = Kernels(f"{KERNEL} k(int *x, int by) {{ __syncthreads(); x[0] = 8 / by; }}")

    def work(by: int) -> list[str]:
        gpu()("cuCtxPushCurrent_v2", gpu().context)
        said = []
        for _ in range(20):
            try:
                kernels("k", (3,), (32,), np.zeros(1, np.int32), by)
                said.append("")
            except CudaFailure as failure:
                said.append(failure.message.rpartition(": ")[2])
        return said

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, [1, 0, 2, 0]))
    divides = ["divides an integer by zero, or the smallest by -1"] * 20
    assert results == [[""] * 20, divides, [""] * 20, divides]
