"""CUDA C to machine code, and what is said where that cannot be done."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qcompile.codegen.cuda import nvcc
from qcompile.errors import QCompileError
from qcompile.nvidia import find_tool

COPY = 'extern "C" __global__ void copy(int *x, const int *y) { x[threadIdx.x] = y[threadIdx.x]; }'
GENERATION = 'extern "C" __global__ void told(int *x) { x[0] = __CUDA_ARCH__; }'
needs_nvcc = pytest.mark.skipif(nvcc.find_nvcc() is None, reason="there is no nvcc")
needs_cuobjdump = pytest.mark.skipif(find_tool("cuobjdump") is None, reason="there is no cuobjdump")


def listed(image: bytes, folder: Path, *options: str) -> str:
    """What cuobjdump says of an image."""
    path = folder / "image"
    path.write_bytes(image)
    command = [str(find_tool("cuobjdump")), *options, str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@needs_nvcc
@needs_cuobjdump
def test_a_fatbin_holds_code_for_each_architecture_and_ptx_for_those_to_come(
    tmp_path: Path,
) -> None:
    image = nvcc.fatbin(COPY, (90, 75, 80, 86), 100)
    assert re.findall(r"sm_(\d+)\.cubin", listed(image, tmp_path, "-lelf")) == [
        "75",
        "80",
        "86",
        "90",
    ]
    assert re.findall(r"sm_(\d+)\.ptx", listed(image, tmp_path, "-lptx")) == ["100"]
    assert re.findall(r"ptx", listed(nvcc.fatbin(COPY, (75,)), tmp_path, "-lptx")) == []


@needs_nvcc
@needs_cuobjdump
def test_a_source_sees_the_generation_of_an_architecture(tmp_path: Path) -> None:
    for arch, base in {75: 75, 86: 80, 89: 80, 90: 90, 120: 100}.items():
        image = nvcc.fatbin(GENERATION, (), arch)
        assert re.findall(r"mov\.\w+ *%r\d+, (\d+);", listed(image, tmp_path, "-ptx")) == [
            f"{base}0"
        ]


@needs_nvcc
def test_a_source_gives_the_same_bytes_every_time() -> None:
    assert nvcc.fatbin(COPY, (75, 90), 90) == nvcc.fatbin(COPY, (90, 75, 75), 90)
    assert nvcc.cubin(COPY, 80) == nvcc.cubin(COPY, 80)
    assert nvcc.cubin(COPY, 80)[:4] == b"\x7fELF"


@needs_nvcc
def test_similar_kernels_are_small_in_an_image() -> None:
    many = "\n".join(COPY.replace("copy", f"copy{i}") for i in range(50))
    assert len(nvcc.fatbin(many, (80, 90), 90)) < 5 * len(nvcc.fatbin(COPY, (80, 90), 90))


@needs_nvcc
@needs_cuobjdump
def test_floats_are_what_the_source_says(tmp_path: Path) -> None:
    source = 'extern "C" __global__ void f(float *x) { x[0] = x[1] * x[2] + x[3] / x[4]; }'
    text = listed(nvcc.fatbin(source, (), 80), tmp_path, "-ptx")
    assert "mul.rn.f32" in text
    assert "div.rn.f32" in text
    assert "fma.rn" not in text


@needs_nvcc
def test_architectures_and_version() -> None:
    assert nvcc.known_architectures() == tuple(sorted(nvcc.known_architectures()))
    assert {80, 86, 89, 90} <= set(nvcc.known_architectures())
    assert nvcc.nvcc_version() >= (11, 8)


@needs_nvcc
def test_a_source_that_is_wrong_is_refused_with_the_first_message() -> None:
    with pytest.raises(
        QCompileError, match=r'nvcc fails: kernels\.cu\(1\): error: .*"y" is undefined'
    ):
        nvcc.cubin('extern "C" __global__ void f(int *x) { x[0] = y; x[1] = z; }', 80)


@needs_nvcc
def test_what_the_assembler_refuses() -> None:
    source = '__global__ void f() { asm("nonsense %r1;"); }'
    with pytest.raises(QCompileError, match=r"nvcc fails: ptxas .*line \d+"):
        nvcc.cubin(source, 80)


@needs_nvcc
def test_an_architecture_that_it_does_not_know() -> None:
    for refused in (lambda: nvcc.cubin(COPY, 999), lambda: nvcc.fatbin(COPY, (80, 20, 999))):
        with pytest.raises(QCompileError, match=r"nvcc \d+\.\d+ does not know .*sm_\d+") as caught:
            refused()
        assert "sm_80" in str(caught.value.hint)


def test_without_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvcc, "find_tool", lambda name: None)
    assert nvcc.find_nvcc() is None
    assert nvcc.known_architectures() == ()
    with pytest.raises(QCompileError, match="nvcc was not found") as caught:
        nvcc.fatbin(COPY, (80,))
    assert 'pip install "qcompile[cuda]"' in str(caught.value.hint)


def program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


OLD = """
import sys
if "--version" in sys.argv:
    print("Cuda compilation tools, release 11.8, V11.8.89")
elif "--list-gpu-code" in sys.argv:
    print("sm_75\\nsm_80\\nsm_90\\nsm_90a")
else:
    assert "--compress-mode=size" not in sys.argv
    open(sys.argv[sys.argv.index("-o") + 1], "w").write("image")
"""


def test_an_nvcc_that_is_too_old_for_an_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "nvcc", OLD)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert nvcc.known_architectures() == (75, 80, 90)
    with pytest.raises(QCompileError, match=r"nvcc 11\.8 does not know sm_100") as caught:
        nvcc.fatbin(COPY, (80, 100))
    assert "install another nvcc" in str(caught.value.hint)
    with pytest.raises(QCompileError, match="does not know sm_100"):
        nvcc.fatbin(COPY, (80,), 120)
    assert nvcc.fatbin(COPY, (75,)) == b"image"  # without what it does not know either


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise SystemExit('fatal : Failed to preprocess')", r"nvcc finds no g\+\+"),
        ("raise SystemExit(3)", "fails: it says nothing"),
        ("print('hello')", "says no version"),
    ],
)
def test_an_nvcc_that_does_not_work(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "nvcc", text)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(QCompileError, match=message):
        nvcc.cubin(COPY, 80)


def test_an_nvcc_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path / "bin", "nvcc", "")
    path.write_text("no program", encoding="utf-8")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(QCompileError, match="cannot be run"):
        nvcc.cubin(COPY, 80)


@needs_nvcc
def test_an_nvcc_without_a_host_compiler_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, compiler = str(find_tool("nvcc")), shutil.which("g++")
    shell = shutil.which("sh", path="/bin:/usr/bin")
    assert shell is not None
    (tmp_path / "sh").symlink_to(shell)
    assert not nvcc.lacks_compiler()
    monkeypatch.setattr(nvcc, "find_tool", lambda name: found)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvcc.lacks_compiler()
    assert nvcc.find_nvcc() is None
    assert nvcc.known_architectures() == ()
    nvcc.check((80,))
    with pytest.raises(QCompileError, match=r"nvcc finds no g\+\+") as caught:
        nvcc.cubin(COPY, 80)
    assert "apt install g++" in str(caught.value.hint)
    assert compiler is not None
    monkeypatch.setenv("NVCC_CCBIN", compiler)
    assert nvcc.find_nvcc() == found


def test_without_nvcc_no_compiler_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvcc, "find_tool", lambda name: None)
    assert not nvcc.lacks_compiler()


def test_where_tools_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places: dict[str, Callable[[Path], None]] = {
        "home": lambda root: monkeypatch.setenv("CUDA_HOME", str(root)),
        "path": lambda root: monkeypatch.setenv("CUDA_PATH", str(root)),
        "system": lambda root: monkeypatch.setenv("PATH", str(root / "bin")),
    }
    for variable in ("CUDA_HOME", "CUDA_PATH", "PATH"):
        monkeypatch.setenv(variable, "")
    for name in reversed(places):  # what comes last is found first
        path = program(tmp_path / name / "bin", "qc_tool", "")
        assert find_tool("qc_tool") != str(path)
        places[name](tmp_path / name)
        assert find_tool("qc_tool") == str(path)
