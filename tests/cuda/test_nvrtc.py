"""CUDA C is compiled where a program runs: by NVRTC if it is installed, by stand-ins otherwise."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_gpu import (
    INFO,
    SOURCE,
    VARIANT,
    cuda_emu,
    toy_code,
    toy_constants,
    toy_inputs,
    toy_outputs,
)

from qcompile import QCompileError, emulator
from qcompile.cuda import code_cache, library, nvrtc
from qcompile.cuda.driver import Context, driver
from qcompile.cuda.library import Code
from qcompile.cuda.nvrtc import Nvrtc
from qcompile.gpu import Gpu, Native

real = pytest.mark.skipif(
    not nvrtc.libraries(), reason="NVRTC is not installed (pip install nvidia-cuda-nvrtc)"
)

# --- the library itself --------------------------------------------------------------------------


@real
def test_code_for_every_architecture() -> None:
    compiler = nvrtc.libraries()[0]
    for arch in (75, 80, 90):
        assert arch in compiler.architectures
        code = compiler.compile(SOURCE, arch)
        assert code.startswith(b"\x7fELF")
        assert b"times" in code


@real
def test_ptx_for_what_it_does_not_know() -> None:
    compiler = nvrtc.libraries()[0]
    newest = compiler.architectures[-1]
    ptx = compiler.compile(SOURCE, 990).decode().rstrip("\0")
    assert f".target sm_{newest}" in ptx
    assert ".entry times" in ptx


@real
def test_floats_are_not_contracted() -> None:
    source = """extern "C" __global__ void f(float *x) { x[0] = x[1] * x[2] + x[3]; }"""
    ptx = nvrtc.libraries()[0].compile(source, 990).decode()
    assert "mul.f32" in ptx or "mul.rn.f32" in ptx
    assert "fma" not in ptx


@real
def test_a_source_that_is_wrong() -> None:
    with pytest.raises(QCompileError) as caught:
        nvrtc.libraries()[0].compile("__global__ void f() { missing(); }", 80)
    said = str(caught.value)
    assert said.startswith(
        "NVRTC does not compile the program's CUDA source for sm_80: program.cu(1)"
    )
    assert "all that it says:" in said


@real
def test_a_gpu_that_is_too_old() -> None:
    with pytest.raises(QCompileError, match="does not compile for sm_20"):
        nvrtc.libraries()[0].compile(SOURCE, 20)


# --- which one -----------------------------------------------------------------------------------

FAKE = """
#include <stdio.h>
#include <string.h>
static char text[100];
int nvrtcVersion(int *a, int *b) { *a = MAJOR; *b = 1; return 0; }
int nvrtcGetNumSupportedArchs(int *n) { *n = 2; return FAILS; }
int nvrtcGetSupportedArchs(int *a) { a[0] = 90; a[1] = 75; return 0; }
int nvrtcCreateProgram(void **p, const char *s, const char *n, int h, void *a, void *b) { *p = text; return 0; }
int nvrtcCompileProgram(void *p, int n, const char **o) { snprintf(text, 100, "%s %s", o[0], o[1]); return 0; }
int nvrtcGetProgramLogSize(void *p, size_t *n) { *n = 1; return 0; }
int nvrtcGetProgramLog(void *p, char *s) { *s = 0; return 0; }
int nvrtcGetCUBINSize(void *p, size_t *n) { *n = 6 + strlen(text); return 0; }
int nvrtcGetCUBIN(void *p, char *s) { sprintf(s, "cubin %s", text); return 0; }
int nvrtcGetPTXSize(void *p, size_t *n) { *n = 4 + strlen(text); return 0; }
int nvrtcGetPTX(void *p, char *s) { sprintf(s, "ptx %s", text); return 0; }
int nvrtcDestroyProgram(void **p) { *p = 0; return 0; }
"""


def build(path: Path, major: int = 13, fails: int = 0, source: str = FAKE) -> Path:
    """A library that stands for NVRTC."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    path.parent.mkdir(parents=True, exist_ok=True)
    options = [f"-DMAJOR={major}", f"-DFAILS={fails}", "-w", "-shared", "-fPIC", "-xc", "-"]
    command = [compiler, *options, "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)
    return path


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A machine without NVRTC; in the folder, `nvidia` and `torch` are found."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    folders = {name: tmp_path / name for name in ("nvidia", "torch")}
    monkeypatch.setattr(nvrtc, "_locations", lambda name: [folders[name]])
    monkeypatch.setattr(nvrtc, "LIBRARY", str(tmp_path / "libnvrtc.so"))
    nvrtc.libraries.cache_clear()
    yield tmp_path
    nvrtc.libraries.cache_clear()


def test_it_is_not_installed(nowhere: Path) -> None:
    assert nvrtc.libraries() == ()
    with pytest.raises(QCompileError) as caught:
        nvrtc.nvrtc((13, 0))
    said = str(caught.value)
    assert said.startswith(
        "NVRTC (libnvrtc.so.13 or .12) is not installed\n  pip install nvidia-cu"
    )
    assert "or compile the program where nvcc is installed" in said


@pytest.mark.parametrize(
    "place",
    [
        "nvidia/cu13/lib/libnvrtc.so.13",
        "nvidia/cuda_nvrtc/lib/libnvrtc.so.13",
        "toolkit/lib64/libnvrtc.so.13",
        "torch/lib/libnvrtc-672ee683.so.13",
        "libnvrtc.so.13",
    ],
)
def test_where_it_is_found(nowhere: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    build(nowhere / place)
    monkeypatch.setenv("CUDA_HOME", str(nowhere / "toolkit"))
    assert [one.path for one in nvrtc.libraries()] == [str(nowhere / place)]


def test_the_newest_that_the_driver_takes(nowhere: Path) -> None:
    build(nowhere / "nvidia/cu13/lib/libnvrtc.so.13", 13)
    build(nowhere / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12", 12)
    assert [one.named for one in nvrtc.libraries()] == ["13.1", "12.1"]
    assert nvrtc.nvrtc((13, 2)).named == "13.1"
    assert nvrtc.nvrtc((14, 0)).named == "13.1"
    assert nvrtc.nvrtc((12, 4)).named == "12.1"
    assert nvrtc.nvrtc((11, 8)).named == "12.1"


def test_what_is_broken_is_passed_over(nowhere: Path) -> None:
    build(nowhere / "nvidia/cu13/lib/libnvrtc.so.13", fails=3)
    build(nowhere / "nvidia/cuda_nvrtc/lib/libnvrtc.so.13", source="int nvrtcVersion;")
    (nowhere / "libnvrtc.so.13").write_bytes(b"no library")
    build(nowhere / "libnvrtc.so.12", 12)
    assert [one.path for one in nvrtc.libraries()] == [str(nowhere / "libnvrtc.so.12")]


def test_nothing_is_loaded_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("libnvrtc-builtins.so.13.0").write_bytes(b"anybody's")
    with pytest.raises(OSError, match=r"^libnvrtc\.so\.0: cannot open shared object file"):
        Nvrtc("libnvrtc.so.0")


def test_machine_code_or_ptx(tmp_path: Path) -> None:
    compiler = Nvrtc(str(build(tmp_path / "libnvrtc.so.13")))
    assert compiler.architectures == (75, 90)
    assert compiler.compile("", 90) == b"cubin --gpu-architecture=sm_90 --fmad=false"
    assert compiler.compile("", 86) == b"ptx --gpu-architecture=compute_75 --fmad=false"
    assert compiler.compile("", 120) == b"ptx --gpu-architecture=compute_90 --fmad=false"


def test_looking_for_it_imports_nothing() -> None:
    code = """
import sys
from qcompile.cuda.nvrtc import paths
assert any(path.endswith(".so.13") for path in paths())
print(sorted({"torch", "nvidia"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() in ("[]", "['nvidia']")


# --- where a program's file holds nothing for the GPU --------------------------------------------


class Compiler:
    """Stands for NVRTC, and makes what the emulator runs."""

    named = "13.0"

    def __init__(self, image: bytes) -> None:
        self.image = image
        self.asked: list[tuple[str, int]] = []

    def compile(self, source: str, arch: int) -> bytes:
        self.asked.append((source, arch))
        return self.image


def made(code: Code) -> Gpu:
    return Gpu(INFO, VARIANT, code, toy_constants(), Native(str(emulator.driver())))


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr(code_cache, "folder", lambda: tmp_path)
    found = Compiler(toy_code().image)
    monkeypatch.setattr(library, "nvrtc", lambda _: found)
    return found


class TestWithoutCode:
    pytestmark = cuda_emu

    @pytest.mark.parametrize("image", [b"", b"\x50\xed\x55\xba" + bytes(60)])
    def test_the_source_is_compiled(self, compiler: Compiler, image: bytes) -> None:
        gpu, inputs = made(Code(image, SOURCE, ("sm_90",))), toy_inputs(3)
        assert np.array_equal(gpu.call(inputs)[0], toy_outputs(*inputs)[0])
        context = Context(driver(str(emulator.driver())))
        assert compiler.asked == [(SOURCE, context.driver.arch(0))]
        made(Code(image, SOURCE)).load()
        assert len(compiler.asked) == 1
        made(Code(image, SOURCE + " ")).load()
        assert len(compiler.asked) == 2

    def test_the_image_is_taken_if_it_can_be(self, compiler: Compiler) -> None:
        made(Code(toy_code().image, SOURCE)).load()
        assert compiler.asked == []

    def test_nvrtc_is_missing(self, nowhere: Path) -> None:
        for image, features, message in (
            (b"", (), "the program holds CUDA source alone, nothing for sm_"),
            (b"no code", ("sm_90",), "the program holds sm_90, nothing for sm_"),
        ):
            with pytest.raises(QCompileError) as caught:
                made(Code(image, SOURCE, features)).load()
            said = str(caught.value)
            assert said.startswith(message)
            assert "with a driver for CUDA 13.0)" in said
            assert "NVRTC (libnvrtc.so.13 or .12) is not installed\n  pip install nvidia-c" in said
        assert "CUDA_ERROR_" in said

    def test_the_driver_does_not_take_it(self, compiler: Compiler) -> None:
        compiler.image = b"for another driver"
        with pytest.raises(
            QCompileError, match=r"does not take the code of NVRTC 13\.0: CUDA_ERROR_"
        ):
            made(Code(b"", SOURCE)).load()

    def test_no_code_at_all(self) -> None:
        with pytest.raises(
            QCompileError, match="loading the program's code failed on the GPU: CUDA"
        ):
            made(Code(b"no code", "")).load()
