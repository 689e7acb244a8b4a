"""What is said where no GPU can be used: libraries that stand for drivers which do not work."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from toy_gpu import INFO, VARIANT, gpu_program
from toy_library import affine_variant

from qcompile import QCompileError
from qcompile.cuda import diagnosis, driver
from qcompile.cuda.diagnosis import covers, diagnose, obstacle
from qcompile.machine import choose, runnable
from qcompile.program_info import ProgramInfo

FAKE = """
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *v) { *v = VERSION; return 0; }
int cuDeviceGetCount(int *n) { *n = COUNT; return COUNT < 0 ? 3 : 0; }
int cuDeviceGet(int *d, int n) { *d = n; return n < COUNT ? 0 : 101; }
int cuDeviceGetName(char *s, int n, int d) { strcpy(s, "Toy GPU"); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? ARCH / 10 : ARCH % 10; return 0; }
int cuGetErrorName(int e, const char **s) { *s = e == 46 ? "CUDA_ERROR_BUSY" : 0; return 0; }
int cuGetErrorString(int e, const char **s) { *s = e == 46 ? "it is busy" : 0; return 0; }
"""

Fake = Callable[..., str]


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Fake:
    """Builds a libcuda whose cuInit gives `init`, with so many GPUs of an architecture."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("drivers")

    def build(init: int = 0, version: int = 13000, count: int = 1, arch: int = 86) -> str:
        path = folder / f"libcuda-{init}-{version}-{count}-{arch}.so"
        values = {"INIT": init, "VERSION": version, "COUNT": count, "ARCH": arch}
        options = [f"-D{name}={value}" for name, value in values.items()]
        command = [compiler, "-w", "-shared", "-fPIC", *options, "-xc", "-", "-o", str(path)]
        subprocess.run(command, input=FAKE, text=True, check=True)
        return str(path)

    return build


# --- no library ----------------------------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine that is no container and has no kernel module."""
    monkeypatch.setattr(diagnosis, "_CONTAINERS", (tmp_path / ".dockerenv",))
    monkeypatch.setattr(diagnosis, "_KERNEL_MODULE", tmp_path / "version")
    return tmp_path


def test_no_driver(bare: Path) -> None:
    said = diagnose(str(bare / "libcuda.so.1"))
    assert said.startswith(
        "there is no NVIDIA driver (libcuda.so.1): install the NVIDIA driver R580"
    )


def test_a_driver_without_its_library(bare: Path) -> None:
    (bare / "version").touch()
    said = diagnose(str(bare / "libcuda.so.1"))
    assert said.startswith("the NVIDIA driver is running, but its library libcuda.so.1 is not here")


def test_a_container(bare: Path) -> None:
    (bare / ".dockerenv").touch()
    said = diagnose(str(bare / "libcuda.so.1"))
    assert said.startswith("this container has no NVIDIA driver (libcuda.so.1): start it with acc")
    assert "--gpus all" in said


def test_something_that_does_not_load(tmp_path: Path) -> None:
    path = tmp_path / "libcuda.so.1"
    path.write_bytes(b"no library")
    said = diagnose(str(path))
    assert said.startswith("the NVIDIA driver's library does not load (")
    assert said.endswith("): install the driver again")


# --- a driver that does not work -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (100, "the NVIDIA driver finds no GPU: `nvidia-smi -L` lists"),
        (34, "libcuda.so.1 is the toolkit's stub and no driver: take"),
        (802, "the GPUs are not ready: start NVIDIA's fabric manager"),
        (
            803,
            "the NVIDIA driver's library and its kernel module are of different versions: restart",
        ),
        (804, "the CUDA compatibility library does not work on this GPU: take its folder"),
        (999, "the NVIDIA driver does not start (unknown error): load its module again"),
        (46, "cuInit failed on the GPU: CUDA_ERROR_BUSY (it is busy): run `nvidia-smi`"),
        (7, "cuInit failed on the GPU: error 7: run `nvidia-smi`"),
    ],
)
def test_a_driver_that_does_not_start(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    said = diagnose(fake(init=code))
    assert said.startswith(message)
    assert "\n" not in said


@pytest.mark.parametrize("value", ["", "-1", "7"])
def test_gpus_that_are_hidden(fake: Fake, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    said = diagnose(fake(init=100))
    assert (
        said == f"CUDA_VISIBLE_DEVICES is {value!r}, which leaves no GPU: set it to 0, or unset it"
    )


def test_an_old_driver(fake: Fake) -> None:
    said = diagnose(fake(version=11080))
    assert said.startswith(
        "the NVIDIA driver is too old, it knows CUDA 11.8: install the NVIDIA dr"
    )
    assert diagnose(fake(version=12020)) == ""


def test_an_old_gpu(fake: Fake) -> None:
    message = "the GPU is too old: Toy GPU (sm_61), programs need sm_75 (Turing) or newer"
    assert diagnose(fake(arch=61)) == message
    assert diagnose(fake(arch=75)) == ""
    assert diagnose(fake(arch=121)) == ""


def test_a_process_that_was_forked(fake: Fake) -> None:
    """What the parent made ready is not, in the child."""
    said = diagnose(fake(count=-1))
    assert said.startswith(
        "this process was forked from one that used the GPU, which it cannot: st"
    )


def test_no_gpu(fake: Fake) -> None:
    assert diagnose(fake(count=0)).startswith("the NVIDIA driver finds no GPU")


# --- a GPU that does not fit ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "runs_on"),
    [
        ("sm_75", {75}),
        ("sm_80", {80, 86, 89}),
        ("sm_86", {86, 89}),
        ("sm_87", {87}),
        ("sm_90", {90}),
        ("sm_90a", {90}),
        ("sm_100", {100, 103}),
        ("sm_100a", {100}),
        ("sm_100f", {100, 103}),
        ("sm_120", {120, 121}),
        ("compute_75", {75, 80, 86, 87, 89, 90, 100, 103, 120, 121}),
        ("compute_90", {90, 100, 103, 120, 121}),
        ("compute_90a", {90}),
        ("compute_120", {120, 121}),
        ("avx2", set()),
    ],
)
def test_which_gpus_code_is_for(feature: str, runs_on: set[int]) -> None:
    gpus = (75, 80, 86, 87, 89, 90, 100, 103, 120, 121)
    assert {gpu for gpu in gpus if covers(feature, gpu)} == runs_on


def has_nvrtc(monkeypatch: pytest.MonkeyPatch, *majors: int) -> None:
    """Let these versions of NVRTC be installed."""
    found = tuple(SimpleNamespace(version=(major, 0)) for major in majors)
    monkeypatch.setattr(diagnosis, "libraries", lambda: found)


@pytest.mark.parametrize(
    ("toolkit", "version", "features", "runs"),
    [
        ("13.0", 13000, ("sm_80",), True),
        ("13.2", 13000, ("sm_80",), True),
        ("13.2", 13000, ("compute_80",), False),
        ("13.2", 13020, ("compute_80",), True),
        ("13.0", 12040, ("sm_80", "compute_80"), False),
        ("12.8", 13000, ("sm_80",), True),
        ("12.8", 12040, ("sm_80",), True),
        ("", 12040, ("sm_80",), True),
    ],
)
def test_an_old_driver_and_new_code(
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
    toolkit: str,
    version: int,
    features: tuple[str, ...],
    runs: bool,
) -> None:
    path = fake(version=version)
    has_nvrtc(monkeypatch)
    said = obstacle("cuda", features, toolkit, path=path)
    assert bool(said) != runs
    if said:
        knows = f"{version // 1000}.{version % 1000 // 10}"
        start = f"was compiled by CUDA {toolkit}, the driver knows CUDA {knows}: install the NVIDIA"
        assert said.startswith(start)
    has_nvrtc(monkeypatch, 13)
    assert bool(obstacle("cuda", features, toolkit, path=path)) == (bool(said) and version < 13000)
    has_nvrtc(monkeypatch, 13, 12)
    assert obstacle("cuda", features, toolkit, path=path) == ""


def test_what_a_variant_lacks(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    has_nvrtc(monkeypatch)
    path = fake(arch=86)
    assert obstacle("cuda", ("sm_80",), "", path=path) == ""
    assert obstacle("cuda", ("compute_75",), "", path=path) == ""
    assert obstacle("sm_86", ("sm_86",), "", path=path) == ""
    assert obstacle("sm_90", ("sm_90",), "", path=path) == "is for sm_90, GPU 0, Toy GPU, is sm_86"
    said = obstacle("cuda", ("sm_90", "compute_100"), "", path=path)
    assert said.startswith("holds sm_90, compute_100, GPU 0, Toy GPU, is sm_86, and NVRTC, which w")
    assert "pip install nvidia-cuda-nvrtc" in said
    said = obstacle("cuda", (), "", path=path)
    assert said.startswith("holds CUDA source alone, GPU 0, Toy GPU, is sm_86, and NVRTC")
    has_nvrtc(monkeypatch, 13)
    assert obstacle("cuda", (), "", path=path) == ""
    old = obstacle("cuda", ("sm_80",), "", path=fake(arch=70))
    assert old.startswith("needs an NVIDIA GPU, and the GPU is too old: Toy GPU (sm_70)")


# --- which variant -------------------------------------------------------------------------------

BOTH = ProgramInfo(
    **{**vars(INFO), "variants": (VARIANT, affine_variant())}  # as a target "cuda,cpu" gives
)


def test_the_first_variant_that_runs(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fake(arch=86)
    has_nvrtc(monkeypatch, 13)
    original = driver.driver
    monkeypatch.setattr(diagnosis, "driver", lambda _: original(found))
    assert [v.arch for v in runnable(BOTH)] == ["cuda", "generic"]
    assert choose(BOTH).arch == "cuda"
    assert choose(BOTH, "generic").arch == "generic"
    found = fake(init=100)
    assert [v.arch for v in runnable(BOTH)] == ["generic"]
    assert choose(BOTH).arch == "generic"
    with pytest.raises(QCompileError) as caught:
        choose(BOTH, "cuda")
    assert str(caught.value).startswith("the code for cuda needs an NVIDIA GPU, and the NVIDIA dri")
    assert str(caught.value).endswith("\n  this machine runs generic")


def test_a_program_for_gpus_alone(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(diagnosis, "driver", missing)
    with pytest.raises(QCompileError) as caught:
        gpu_program().library()
    said = str(caught.value)
    assert said.startswith("the code for cuda needs an NVIDIA GPU, and there is no NVIDIA driver")
    assert 'target="cuda,cpu"' in said
    assert "emulate=80" in said
