"""What `inspect` refuses."""

from __future__ import annotations

import platform
import shutil
import struct
import sys
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from toy_library import affine_program

from qcompile import QCompileError, cli, inspect_code
from qcompile.cuda.launches import Launch
from qcompile.debug_info import places
from qcompile.inspect_code import cuda_listings, disassembler, kernels_of
from qcompile.program_info import KernelInfo

MODEL = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
example_inputs = torch.randn(2, 8)
"""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL)
    affine_program().save("net.qcp")


def refusal(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said; nothing is printed besides."""
    assert cli.main(["inspect", *words]) == cli.REFUSED
    out, err = capsys.readouterr()
    assert out == ""
    return " ".join(err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("absent.qcp", "absent.qcp: there is no such file"),
        ("absent:net", "there is no module 'absent'"),
        ("absent.py", "there is no file 'absent.py'"),
        ("net.qcp --bits 2", "net.qcp: --bits is for a MODEL"),
        ("net.qcp --equalize", "net.qcp: --equalize is for a MODEL"),
        ("net.qcp --override 0=8", "net.qcp: --override is for a MODEL"),
        ("net.qcp --passes", "net.qcp: --passes is for a MODEL"),
        ("net.qcp --pass convert", "net.qcp: --pass is for a MODEL"),
        ("net.qcp --diff 1 2", "net.qcp: --diff is for a MODEL"),
        ("net.qcp --input-shape 1,8", "net.qcp: --input-shape is for a MODEL"),
        ("net.py --batch 2", "net.py: --batch is for a PROGRAM"),
        ("net.py --json", "net.py: --json is for a PROGRAM"),
        ("net.qcp --arch generic", "--arch goes with --target cuda, --code or --kernels"),
        ("net.qcp --code scale --batch 2", "--batch goes with --target cuda"),
        ("net.qcp --target cpu", "--target cpu: of a program, it is cuda --arch names a variant"),
        ("net.qcp --target cuda:sm_86", "did you mean --target cuda --arch sm_86?"),
        ("net.qcp --target cuda --code scale", "--code and --target cuda are two things"),
        ("net.qcp --target cuda --kernels", "--kernels and --target cuda are two things"),
        ("net.qcp --code scale --arch generik", "no variant 'generik' did you mean generic?"),
        ("net.qcp --kernels --arch generik", "no variant 'generik' did you mean generic?"),
        ("net.qcp --code scales", "is called 'scales' did you mean scale?"),
        ("net.qcp --code fc*", "is called 'fc*' there are scale"),
        ("net.qcp --code scale", "net.qcp: the library does not say where times is"),
    ],
)
def test_what_is_said_at_once(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refusal(words.split(), capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--threads 0", "--threads is 0"),
        ("--bits 9", "bits must be 1 to 8"),
        ("--weights absent.safetensors", "absent.safetensors"),
        ("--target cpu:nonsense", "unknown processor 'nonsense'"),
        ("--kernel 1=nonsense", "no kernel is called 'nonsense'"),
    ],
)
def test_what_a_model_shows(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refusal(["net.py", *words.split()], capsys)


def test_layers_that_a_hint_names() -> None:
    kernels = [KernelInfo("f", (), f"layer{i}.conv") for i in range(12)]
    with pytest.raises(QCompileError) as caught:
        kernels_of("stem", kernels)
    assert str(caught.value.hint).endswith("layer7.conv and 4 more, which --kernels lists")
    assert [number for number, _ in kernels_of("layer1*", kernels)] == [1, 10, 11]


# --- tools ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "package"),
    [("aarch64", "binutils-aarch64-linux-gnu"), ("x86_64", "binutils-x86-64-linux-gnu")],
)
def test_no_disassembler(family: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(QCompileError, match=f"disassembles code for {family}") as caught:
        disassembler(family)
    assert f"apt-get install {package}) or llvm-objdump" in str(caught.value.hint)
    monkeypatch.setattr(platform, "machine", lambda: family)
    with pytest.raises(QCompileError) as caught:
        disassembler(family)
    assert "apt-get install binutils) or" in str(caught.value.hint)


def test_which_disassembler(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = {"objdump", "llvm-objdump-15"}
    monkeypatch.setattr(shutil, "which", lambda name: name if name in there else None)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert disassembler("x86_64") == "objdump"
    assert disassembler("aarch64") == "llvm-objdump-15"  # it takes all; the other its own
    there.add("aarch64-linux-gnu-objdump")
    assert disassembler("aarch64") == "aarch64-linux-gnu-objdump"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("#!/bin/sh\necho 'not an object' >&2\nexit 1\n", "fails: not an object"),
        ("#!/bin/sh\nexit 1\n", "fails: it says nothing"),
        ("#!/no/such/interpreter\n", "cannot be run"),
    ],
)
def test_a_disassembler_that_does_not_work(
    script: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "objdump"
    tool.write_text(script)
    tool.chmod(0o755)
    monkeypatch.setattr(inspect_code, "disassembler", lambda family: str(tool))
    with pytest.raises(QCompileError, match=message):
        inspect_code._disassembled(b"", "x86_64")


def test_a_source_without_a_function() -> None:
    kernel = KernelInfo("f", (), "fc")
    with pytest.raises(QCompileError, match="the CUDA source has no function f"):
        cuda_listings("", [Launch("f", 0, (), 1, 1)], [kernel], [(0, kernel)])


# --- debug information ---------------------------------------------------------------------------


def elf(sections: dict[str, bytes], flags: int = 0) -> bytes:
    """A 64-bit ELF file of nothing but sections with these flags, and their names."""
    names, bodies = b"\0", b""
    headers = [(0, 0, 0)]
    for name, body in [*sections.items(), ("shstrtab", b"")]:
        headers.append((len(names), 64 + len(bodies), len(body)))
        names += f".{name}".encode() + b"\0"
        bodies += body
    headers[-1] = (headers[-1][0], 64 + len(bodies), len(names))
    table = 64 + len(bodies) + len(names)
    head = b"\x7fELF\x02\x01".ljust(0x28, b"\0") + struct.pack("<Q", table)
    head = head.ljust(0x3A, b"\0") + struct.pack("<3H", 64, len(headers), len(headers) - 1)
    flagged = [0, *[flags] * len(sections), 0]
    rows = [
        struct.pack("<IIQQQQ24x", at, 1, flag, 0, start, size)
        for flag, (at, start, size) in zip(flagged, headers, strict=True)
    ]
    return head + bodies + names + b"".join(rows)


# A unit without children: DW_TAG_compile_unit of a name, whose form is to be given.
def unit(form: int, value: bytes, version: int = 4) -> dict[str, bytes]:
    entry = b"\1" + value
    info = struct.pack("<IHIB", 7 + len(entry), version, 0, 8) + entry
    return {"debug_info": info, "debug_abbrev": bytes([1, 0x11, 0, 3, form, 0, 0, 0])}


def compressed(sections: dict[str, bytes]) -> bytes:
    """As linkers compress them."""
    packed = {
        name: struct.pack("<IIQQ", 1, 0, len(body), 1) + zlib.compress(body)
        for name, body in sections.items()
    }
    return elf(packed, 0x800)


@cache
def whole() -> bytes:
    return elf(unit(0x08, b"name\0"))


def test_debug_information_that_can_be_read() -> None:
    assert places(whole()) == {}
    assert places(compressed(unit(0x08, b"name\0"))) == {}


@pytest.mark.parametrize(
    ("library", "message"),
    [
        (b"", "it is no 64-bit ELF file"),
        (b"\x7fELF\x01\x01" + bytes(100), "it is no 64-bit ELF file"),
        (b"\x7fELF\x02\x01", "unpack_from requires a buffer"),
        (elf({"text": b"code"}), "there is none"),
        (elf(unit(0x08, b"name\0", version=5)), "DWARF 5 instead of 4"),
        (elf(unit(0x7F, b"name\0")), "form 0x7f"),
        (elf(unit(0x08, b"name")), "subsection not found"),
        (elf(unit(0x08, b"") | {"debug_abbrev": b"\1"}), "index out of range"),
        (elf({"debug_info": b""}, 0x800), "unpack_from requires a buffer"),
        (elf({"debug_info": bytes([1]).ljust(40, b"\0")}, 0x800), "while decompressing data"),
        (
            elf({"debug_info": bytes([2]).ljust(40, b"\0")}, 0x800),
            "it is compressed in another way",
        ),
        (whole()[:100], "unpack_from requires a buffer"),
    ],
)
def test_debug_information_that_cannot(library: bytes, message: str) -> None:
    with pytest.raises(QCompileError, match="does not say where its kernels are") as caught:
        places(library)
    assert message in str(caught.value)
    assert "compile the model again" in str(caught.value.hint)


def test_a_library_cut_anywhere_ends_in_our_error() -> None:
    library = whole()
    for size in range(len(library) - 24):  # at the end is what nobody reads
        with pytest.raises(QCompileError):
            places(library[:size])
