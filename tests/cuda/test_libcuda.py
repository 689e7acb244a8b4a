"""The driver's API: contexts, memory, errors, processes; through the emulated driver."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_gpu import cuda_emu, gpu_program, toy_inputs

from qcompile import QCompileError, emulator
from qcompile.cuda import driver as api
from qcompile.cuda.driver import Context, CudaError, Driver, Memory, Stream
from qcompile.gpu import Gpu
from qcompile.program import Program

pytestmark = cuda_emu


@pytest.fixture
def driver() -> Driver:
    """One of its own, so that it may be changed."""
    made = Driver(str(emulator.driver()))
    made.init()
    return made


def fails(driver: Driver, monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> None:
    """Let a function of the driver give this error."""
    monkeypatch.setitem(driver._functions, name, lambda *_: code)


def test_what_the_driver_says_of_itself(driver: Driver) -> None:
    assert driver.version == (13, 0)
    assert driver.devices == 1
    assert "emulated on the CPU" in driver.name(0)
    assert driver.arch(0) >= 75
    with pytest.raises(CudaError, match="cuDeviceGet failed on the GPU: CUDA_ERROR_INVALID_DEVICE"):
        driver.name(1)


def test_a_context_is_current_within_a_call_alone(
    driver: Driver, request: pytest.FixtureRequest
) -> None:
    def current() -> int | None:
        found = ctypes.c_void_p()
        assert driver.library.cuCtxGetCurrent(ctypes.byref(found)) == 0
        return found.value

    context, before = Context(driver), current()
    request.addfinalizer(lambda: driver.library.cuCtxSetCurrent(ctypes.c_void_p(before)))
    assert driver.library.cuCtxSetCurrent(None) == 0  # another test may have left one
    assert current() is None
    with context:
        assert current() == context.handle
        with context:
            assert current() == context.handle
        assert current() == context.handle
    with pytest.raises(ZeroDivisionError), context:
        _ = 1 // 0
    assert current() is None
    program = gpu_program().emulated()
    program(*toy_inputs(3))
    assert current() is None
    del program
    gc.collect()
    assert current() is None


def test_memory_goes_there_and_back(driver: Driver) -> None:
    context = Context(driver)
    stream, memory = Stream(context), Memory(context, 1000)
    assert memory.address % 256 == 0
    there, back = np.arange(250, dtype=np.int32), np.zeros(200, np.int32)
    with context:
        stream.write(memory.address, there.ctypes.data, there.nbytes)
        stream.read(back.ctypes.data, memory.address + 40, 800)
        stream.write(0, 0, 0)
        stream.wait()
    assert np.array_equal(back, there[10:210])
    assert Memory(context, 0).address


# --- errors --------------------------------------------------------------------------------------


def test_too_little_memory(driver: Driver) -> None:
    with pytest.raises(CudaError) as caught:
        Memory(Context(driver), 1 << 60)
    assert caught.value.code == api.OUT_OF_MEMORY
    said = str(caught.value)
    assert said.startswith(
        "allocating 1,152,921,504,606,846,976 bytes failed on the GPU: CUDA_ERROR_O"
    )
    assert "pass a smaller batch" in said


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (
            700,
            "a kernel failed, of this call or of an earlier one of this process, which cannot use",
        ),
        (
            719,
            "a kernel failed, of this call or of an earlier one of this process, which cannot use",
        ),
        (3, "a process that was forked cannot use the GPU that its parent used: start processes"),
        (46, "another process has the GPU for itself"),
        (1, None),
    ],
)
def test_what_to_do(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, code: int, hint: str | None
) -> None:
    context = Context(driver)
    stream = Stream(context)
    fails(driver, monkeypatch, "cuStreamSynchronize", code)
    with pytest.raises(CudaError, match="running the program failed on the GPU: ") as caught:
        stream.wait()
    assert caught.value.code == code
    assert (caught.value.hint or "").startswith(hint or "")
    assert bool(caught.value.hint) == bool(hint)


def test_an_error_without_a_name(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_message", lambda: b"")
    assert driver.describe(700).startswith("CUDA_ERROR_ILLEGAL_ADDRESS (")
    assert driver.describe(123456) == "error 123456"


def test_a_driver_without_a_function(driver: Driver) -> None:
    assert driver._function("cuFromTheFuture", ())() == 500
    assert driver._untyped("cuFromTheFuture")() == 500


def test_what_is_no_library(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Driver(str(tmp_path / "libcuda.so.1"))


def failing(program: Program, change: Callable[[Driver], None]) -> str:
    """What a program says where the driver fails; it runs again when it does not."""
    inputs = toy_inputs(3)
    wanted = program(*inputs)
    gpu = program.library()
    assert isinstance(gpu, Gpu)
    driver = gpu._libraries[0].context.driver
    before = driver.launch, dict(driver._functions)
    try:
        change(driver)
        with pytest.raises(QCompileError) as caught:
            program(*inputs)
    finally:
        driver.launch = before[0]
        driver._functions.update(before[1])
    assert gpu._idle[0] == []  # what failed is not used again
    for got, value in zip(program(*inputs), wanted, strict=True):
        assert np.array_equal(got, value)
    return str(caught.value)


def test_a_call_that_fails_leaves_the_program_usable() -> None:
    program = gpu_program().emulated()

    def launch(driver: Driver) -> None:
        driver.launch = lambda *_: 701

    def wait(driver: Driver) -> None:
        driver._functions["cuStreamSynchronize"] = lambda *_: 719

    def memory(driver: Driver) -> None:
        gpu = program.library()
        assert isinstance(gpu, Gpu)
        gpu._idle[0].clear()
        driver._functions["cuMemAlloc_v2"] = lambda *_: 2

    assert failing(program, launch).startswith("launching times failed on the GPU: CUDA_ERROR_LAUN")
    said = failing(program, wait)
    assert said.startswith("running the program failed on the GPU: CUDA_ERROR_LAUNCH_FAILED")
    assert "compute-sanitizer" in said
    assert failing(program, memory).startswith("allocating 288 bytes failed on the GPU: CUDA_ERROR")


# --- processes -----------------------------------------------------------------------------------

SCRIPT = """
import os, sys
sys.modules["torch"] = sys.modules["tvm_ffi"] = None
sys.path.insert(0, "tests")
import numpy as np
import qcompile
program = qcompile.load(sys.argv[1], emulate=80)
x, b = np.ones((3, 3, 8), np.float32), np.ones((3, 4), np.int32)
assert program(x, b)[0].sum() == 9 * (28 + 8)
"""


@pytest.fixture
def saved(tmp_path: Path) -> str:
    path = tmp_path / "toy.qcp"
    gpu_program().save(path)
    return str(path)


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", SCRIPT + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_needs_neither_torch_nor_tvm(saved: str) -> None:
    done = run_python('print(sorted({"tvm", "rich"} & set(sys.modules)))', saved)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_a_forked_process_leaves_the_gpu_of_its_parent_alone(saved: str) -> None:
    code = """
import gc
touched = []
from qcompile.cuda.driver import Driver
Driver.try_ = lambda self, name, *arguments: touched.append(name) or 0
child = os.fork()
if child == 0:
    del program
    gc.collect()
    os._exit(len(touched))
assert os.waitpid(child, 0)[1] == 0
del program
gc.collect()
print("cuMemFree_v2" in touched)
"""
    done = run_python(code, saved)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_nothing_is_touched_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    api._if_own(os.getpid(), called.append, 1)
    api._if_own(os.getpid() + 1, called.append, 2)
    assert called == [1]
