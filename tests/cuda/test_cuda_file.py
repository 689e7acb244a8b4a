"""The file of a program for GPUs: fatbin and source, checked as libraries are."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest

from qcompile.constants import Constant
from qcompile.cuda.launches import Argument, Launch
from qcompile.errors import QCompileError
from qcompile.program_file import Archive, pack, unpack
from qcompile.program_info import InfoError, KernelInfo, ProgramInfo, ValueInfo, Variant

LAUNCH = Launch(
    "f", 0, (Argument("input", 0), Argument("constants", 0), Argument("output", 0)), 3, 1
)
GPU = Variant("cuda", "cuda", ("sm_80",), (KernelInfo("f", ("a",)),), launches=(LAUNCH,))
ONE_GPU = replace(GPU, arch="sm_75", features=())
CPU = Variant("x86_64", "haswell", (), (KernelInfo("f", ("a",)),))
VALUE = ValueInfo("x", (3,))
INFO = ProgramInfo("Net", "cuda,cpu", (GPU, CPU, ONE_GPU), (VALUE,), (VALUE,), False, ())
CONSTANT = Constant(np.arange(3, dtype=np.float32))
SOURCE = "// cuda ü\n" + 'extern "C" __global__ void f() {}\n' * 9
CODE = [b"fatbin" * 50, b"elf", b""]


def packed(info: ProgramInfo = INFO, sources: list[str] | None = None) -> Archive:
    texts = [SOURCE, "", "// 75"] if sources is None else sources
    return pack(info, CODE, [[CONSTANT]] * 3, texts)


def test_code_and_source_of_each_variant() -> None:
    archive = unpack(packed().data, "net.qcp")
    assert archive.info == INFO
    assert [archive.library(v) for v in INFO.variants] == CODE
    assert [archive.source(v) for v in INFO.variants] == [SOURCE, "", "// 75"]
    assert [c.value().tolist() for c in archive.constants(GPU)] == [[0, 1, 2]]


def test_members() -> None:
    with zipfile.ZipFile(BytesIO(packed().data)) as file:
        names = file.namelist()
        sizes = {entry.filename: entry.compress_size for entry in file.infolist()}
        assert file.read("cuda.cu") == SOURCE.encode()
    assert names[:2] == ["program.json", "constants"]
    assert names[2:] == ["cuda.fatbin", "haswell.so", "sm_75.fatbin", "cuda.cu", "sm_75.cu"]
    assert sizes["cuda.cu"] < len(SOURCE.encode())
    found = packed().sizes
    code = [sizes[n] for n in names[2:]]
    assert found.code == (code[0] + code[3], code[1], code[2] + code[4])
    assert sum(found.code) + found.constants + found.rest == len(packed().data)


def test_the_same_program_gives_the_same_bytes() -> None:
    assert packed().data == packed().data


def changed(name: str, change: Callable[[bytes], bytes]) -> bytes:
    """The file with a member changed, all checksums of zip being right."""
    buffer = BytesIO()
    with zipfile.ZipFile(BytesIO(packed().data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry.filename, change(content) if entry.filename == name else content)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["cuda.fatbin", "cuda.cu"])
def test_what_was_changed_is_refused(name: str) -> None:
    longer = changed(name, lambda data: data + b"x")
    with pytest.raises(QCompileError, match=f"{name} is not the one that was saved: it has ano"):
        unpack(longer, "net.qcp")
    archive = unpack(changed(name, lambda data: data[:-1] + b"x"), "net.qcp")
    with pytest.raises(QCompileError, match=f"{name} is not the one .* its SHA-256 differs"):
        _ = archive.library(GPU), archive.source(GPU)


def test_what_would_be_refused_is_not_packed() -> None:
    bad = replace(GPU, launches=(replace(LAUNCH, threads=0),))
    with pytest.raises(InfoError, match="cuda: launch 0 has blocks of 0 threads"):
        packed(replace(INFO, variants=(bad, CPU, ONE_GPU)))


def test_what_launches_refer_to_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompile.program_file.check_cuda", lambda *_: None)
    far = replace(LAUNCH, arguments=(Argument("constants", 64),))
    for launch, message in (
        (far, "cuda.fatbin reads 65 bytes of constants, of 64"),
        (replace(far, threads=0), "cuda: launch 0 has blocks of 0 threads"),
    ):
        info = replace(INFO, variants=(replace(GPU, launches=(launch,)), CPU, ONE_GPU))
        data = packed(info).data
        with pytest.raises(QCompileError, match=message):
            unpack(data, "net.qcp")


def test_a_source_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written by somebody who knows how: sizes and digests fit."""

    class Text(str):
        def encode(self, *_: str) -> bytes:
            return b"\xff"

    archive = unpack(packed(sources=[Text(), "", ""]).data, "net.qcp")
    with pytest.raises(QCompileError, match=r"cuda\.cu is damaged"):
        archive.source(GPU)
